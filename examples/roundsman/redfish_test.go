package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// quick looks at simulated targets, which do in a second what others do in minutes.
var quick = redfish.Options{PollInterval: 50 * time.Millisecond, SettleTimeout: 20 * time.Second}

// redfishLab is a simulated management processor, and the program.
type redfishLab struct {
	t      *testing.T
	srv    *redfishtest.Server
	target string
	kind   sum.Kind
	flags  []string
	events []map[string]any
	output string
	fault  *redfishtest.Injected // or nil
	queued bool                  // updates go by the queue of an iLO
	text   bool                  // the output is for people
}

func newRedfishLab(t *testing.T, kind sum.Kind, cfg redfishtest.Config) *redfishLab {
	t.Helper()
	cfg.Password = canary
	srv, err := redfishtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	dir := t.TempDir()
	pins := filepath.Join(dir, "pins")
	require.NoError(t, os.WriteFile(pins, []byte(srv.Addr()+" "+transport.Fingerprint(srv.Certificate().RawSubjectPublicKeyInfo)+"\n"), 0o600))
	return &redfishLab{t: t, srv: srv, kind: kind, target: string(kind) + "://" + srv.User() + "@" + srv.Addr(),
		flags: []string{"--json", "--pins", pins, "--journal", filepath.Join(dir, "journal")}}
}

// command returns the program as a process of its own.
func (l *redfishLab) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(l.t, err)
	cmd := exec.CommandContext(l.t.Context(), self)
	cmd.Args = append(append([]string{quickLooks}, args...), l.flags...)
	cmd.Env = append(os.Environ(), passwordVariable+"="+canary)
	return cmd
}

// redfishPorts keep the tests off the ports of others.
var redfishPorts = []string{"--port", "port=20000-25999", "--port", "ssl_port=26000-31999"}

// run runs the program in this process, and returns its exit status.
func (l *redfishLab) run(args ...string) int {
	l.t.Helper()
	var out, errs bytes.Buffer
	a := &app{redfish: quick}
	status := a.run(l.t.Context(), append(args, l.flags...), strings.NewReader(""), &out, &errs, append(os.Environ(), passwordVariable+"="+canary))
	require.NotContains(l.t, out.String()+errs.String(), canary)
	l.output, l.events = out.String()+errs.String(), nil
	if l.text {
		return status
	}
	for line := range strings.Lines(out.String()) {
		var e map[string]any
		require.NoError(l.t, json.Unmarshal([]byte(line), &e), line)
		l.events = append(l.events, e)
	}
	return status
}

func (l *redfishLab) of(event string) []map[string]any {
	var out []map[string]any
	for _, e := range l.events {
		if e["event"] == event {
			out = append(out, e)
		}
	}
	return out
}

// component writes a component with one file for the first entry of the inventory, which
// is the management processor itself, and makes the entry's version the new one.
func (l *redfishLab) component(file transport.File, hardware, version string) string {
	l.t.Helper()
	dir := l.t.TempDir()
	r, err := file.Open(l.t.Context())
	require.NoError(l.t, err)
	defer r.Close()
	w, err := os.Create(filepath.Join(dir, file.Name))
	require.NoError(l.t, err)
	_, err = io.Copy(w, r)
	require.NoError(l.t, err)
	require.NoError(l.t, w.Close())
	text, err := json.Marshal(map[string]any{
		"name": "management processor", "version": version, "scheme": "hpe", "kinds": []string{string(l.kind)},
		"device": map[string]any{"class": "bmc", "hardware_ids": []string{hardware}, "part": "firmware"},
		"files":  []map[string]any{{"name": file.Name}},
	})
	require.NoError(l.t, err)
	require.NoError(l.t, os.WriteFile(filepath.Join(dir, "component.json"), text, 0o600))
	return dir
}

// writtenOnce: the management processor was, and nothing else of its bundle more often.
func (l *redfishLab) writtenOnce() {
	l.t.Helper()
	times := map[string]int{}
	for _, f := range l.srv.Flashes() {
		times[f.ID]++
		require.Equal(l.t, 1, times[f.ID], f.ID)
	}
	require.Equal(l.t, 1, times[l.srv.Inventory()[0].ID])
}

// leavesNothing: no session, subscription, queued task, install set or component is left.
func (l *redfishLab) leavesNothing() {
	l.t.Helper()
	require.Zero(l.t, l.srv.Sessions(), "every session was ended")
	require.Empty(l.t, l.srv.Subscriptions())
	require.Empty(l.t, l.srv.Queue())
	require.Empty(l.t, l.srv.InstallSets())
	require.Empty(l.t, l.srv.Components())
}

// hardware is a hardware ID of the first device of a class in the inventory.
func (l *redfishLab) hardware(class string) string {
	l.t.Helper()
	for _, d := range l.of("inventory")[0]["inventory"].(map[string]any)["devices"].([]any) {
		d := d.(map[string]any)
		if ids, _ := d["hardware_ids"].([]any); d["class"] == class && len(ids) > 0 {
			return ids[0].(string)
		}
	}
	require.Fail(l.t, "there is no device of the class "+class, l.output)
	return ""
}

// TestRedfishDeploy takes inventories and updates of each kind by push and by pull, over IPv4
// and IPv6, and once more, when nothing is needed.
func TestRedfishDeploy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		kind sum.Kind
		cfg  redfishtest.Config
		way  string
	}{
		{"iLO by push", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5, IPv6: true}, ""},
		{"iLO by pull", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5, IPv6: true}, "add-from-uri"},
		{"iLO 4", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO4}, ""},
		{"iLO by its queue", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5}, "queue"},
		{"iLO by an install set", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5}, "install-set"},
		{"Superdome Flex", sum.SuperdomeFlex, redfishtest.Config{Profile: redfishtest.RMC}, ""},
		{"Superdome Flex, IPv6", sum.SuperdomeFlex, redfishtest.Config{Profile: redfishtest.RMC, IPv6: true}, "update-all"},
		{"any, by push", sum.Redfish, redfishtest.Config{}, ""},
		{"any, by push, IPv6", sum.Redfish, redfishtest.Config{IPv6: true}, "multipart"},
		{"any, by pull", sum.Redfish, redfishtest.Config{}, "simple-update"},
		{"any, by pull, IPv6", sum.Redfish, redfishtest.Config{IPv6: true}, "simple-update"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS == "windows" {
				t.Skip("the paths of the lab are Unix's")
			}
			tt.cfg.Pace = 50 * time.Millisecond
			l := newRedfishLab(t, tt.kind, tt.cfg)
			require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
			fw := l.srv.Inventory()[0]
			comp := l.component(fw.Image("new.bin", "9.99", 1<<20), l.hardware("bmc"), "9.99")
			args := append([]string{"deploy", "--component", comp, l.target}, redfishPorts...)
			if tt.way != "" {
				args = append(args, "--way", tt.way)
			}
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Equal(t, "Updated", l.of("outcome")[0]["outcome"], l.output)
			l.writtenOnce()
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Equal(t, "NotNeeded", l.of("outcome")[0]["outcome"], l.output)
			l.writtenOnce()
			l.leavesNothing()
		})
	}
}
