package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// manyILOs is the name of a program that is as many iLOs as its argument says, until its
// input ends. It prints address and pin of each, and at the end how often each was written.
const manyILOs = "rm-ilos"

func runILOs() int {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	servers := make([]*redfishtest.Server, n)
	for i := range servers {
		if servers[i], err = redfishtest.NewServer(redfishtest.Config{Profile: redfishtest.ILO5, Password: canary}); err != nil {
			panic(err)
		}
		pin := servers[i].SPKI()
		fmt.Println(servers[i].Addr(), hex.EncodeToString(pin[:]))
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, s := range servers {
		fmt.Println(len(s.Flashes()), s.Inventory()[0].Version, s.Sessions())
	}
	return 0
}

// TestRedfishFleet updates many iLOs with one process, 16 at a time: 500, and 50 under the
// race detector. They are in another process, so that the memory is that of the manager.
// With -v it says how much of the heap was in use at most.
func TestRedfishFleet(t *testing.T) {
	n := 500
	if raceEnabled {
		n = 50 // the detector makes TLS some ten times slower, and its memory is not the program's
	}
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = []string{manyILOs, strconv.Itoa(n)}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	out := bufio.NewScanner(stdout)
	pins := map[string][32]byte{}
	var targets []sum.Target
	for range n {
		require.True(t, out.Scan(), "the iLOs have ended: %v", out.Err())
		addr, text, _ := strings.Cut(out.Text(), " ")
		pin, err := hex.DecodeString(text)
		require.NoError(t, err)
		pins[addr] = [32]byte(pin)
		targets = append(targets, sum.Target{Kind: sum.ILO, User: "admin", Address: addr})
	}

	dir := t.TempDir()
	fw := redfishtest.ILO5.Firmware()[0]
	image := fw.Image("ilo5_299.bin", "2.99", 4<<20)
	r, err := image.Open(t.Context())
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, image.Name), data, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "component.json"), fmt.Appendf(nil, `{"name": "iLO 5", "version": "2.99", "scheme": "hpe", "kinds": ["ilo"],
		"device": {"class": "bmc", "hardware_ids": ["hpe-target:%s"], "part": "firmware"}, "files": [{"name": %q}]}`, fw.Targets[0], image.Name), 0o600))
	comp, err := component.Load(t.Context(), dir)
	require.NoError(t, err)

	tr := &redfish.Transport{}
	session, err := sum.Open(t.Context(), sum.Config{Journal: filepath.Join(dir, "journal"),
		Resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
			return tr, transport.Endpoint{Address: t.Address, Options: quick,
				Credentials: transport.Credentials{User: t.User, Password: transport.NewSecret(canary)},
				Trust:       transport.Trust{SPKI: [][32]byte{pins[t.Address]}}}, nil
		}})
	require.NoError(t, err)
	var nodes []*sum.Node
	for _, target := range targets {
		node, err := session.Node(target)
		require.NoError(t, err)
		nodes = append(nodes, node)
	}
	stop := make(chan struct{})
	var peak atomic.Uint64
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		var m runtime.MemStats
		for {
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	began := time.Now()
	updated := 0
	for r := range sum.Each(t.Context(), nodes, sum.EachOptions{Parallel: 16}, func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {

		inv, err := sum.Inventory(ctx, n, comp)
		if err != nil {
			return nil, err
		}
		plan := sum.MakePlan(n.Target(), inv, []*component.Component{comp}, sum.PlanOptions{})
		return sum.Deploy(ctx, n, plan, []*component.Component{comp}, sum.DeployOptions{})
	}) {
		require.NoError(t, r.Err, r.Node.Target().String())
		require.Len(t, r.Value, 1)
		require.Equal(t, sum.Updated, r.Value[0].Kind, "%+v", r.Value[0])
		updated++
	}
	close(stop)
	<-sampled
	require.Equal(t, n, updated)
	require.NoError(t, session.Close(t.Context()))
	t.Logf("%d iLOs, 16 at a time: %v, peak heap %d MiB", n, time.Since(began).Round(time.Second), peak.Load()>>20)
	require.NoError(t, in.Close())
	for range n {
		require.True(t, out.Scan())
		require.Equal(t, "1 2.99 0", out.Text(), "written once, and no session is left")
	}
	require.NoError(t, cmd.Wait())
}
