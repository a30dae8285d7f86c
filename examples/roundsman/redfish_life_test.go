package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// tellsResets puts a service before the lab's that is the same, and tells when its host was
// last restarted, as newer ones do.
func (l *redfishLab) tellsResets() {
	l.t.Helper()
	to, err := url.Parse(l.srv.URL())
	require.NoError(l.t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	proxy.Transport = tr
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.HasPrefix(r.Request.URL.Path, "/redfish/v1/Systems") {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		var v any
		if json.Unmarshal(body, &v) == nil {
			l.stamp(v)
			if body, err = json.Marshal(v); err != nil {
				return err
			}
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	front := httptest.NewUnstartedServer(proxy)
	front.Config.ErrorLog = proxy.ErrorLog
	front.StartTLS()
	l.t.Cleanup(func() {
		front.Close()
		tr.CloseIdleConnections()
	})
	addr := front.Listener.Addr().String()
	l.target = string(l.kind) + "://" + l.srv.User() + "@" + addr
	require.NoError(l.t, os.WriteFile(l.flags[2], []byte(addr+" "+transport.Fingerprint(front.Certificate().RawSubjectPublicKeyInfo)+"\n"), 0o600))
}

// stamp says in each ComputerSystem when it was last restarted.
func (l *redfishLab) stamp(v any) {
	switch v := v.(type) {
	case map[string]any:
		if kind, _ := v["@odata.type"].(string); strings.HasPrefix(kind, "#ComputerSystem.") {
			v["LastResetTime"] = time.Date(2026, 1, 1, 0, l.srv.Boots(), 0, 0, time.UTC).Format(time.RFC3339)
		}
		for _, e := range v {
			l.stamp(e)
		}
	case []any:
		for _, e := range v {
			l.stamp(e)
		}
	}
}

// TestRedfishReboot restarts a host by its management processor, after which what was staged
// is the version that runs.
func TestRedfishReboot(t *testing.T) {
	t.Parallel()
	l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	// One that does not tell when its host was restarted cannot prove that it was.
	require.Equal(t, exitFailed, l.run("reboot", l.target), l.output)
	require.Contains(t, l.output, "tells no boot ID")
	l.tellsResets()
	for want, args := range map[string][]string{
		"shows no message": {"--message", "ファームウェア更新のため再起動します"},
		"at once":          {"--delay", "5m"},
		"(--reset-type)":   {"--reset-type", "Sideways"},
	} {
		require.Equal(t, exitFailed, l.run(append([]string{"reboot", l.target}, args...)...), l.output)
		require.Contains(t, l.output, want)
		require.NotRegexp(t, goField, l.output)
	}
	require.Equal(t, exitUsage, l.run("reboot", "linux://root@127.0.0.1:1", "--reset-type", "PowerCycle"), l.output)
	require.Equal(t, 1, l.srv.Boots(), "nothing was restarted")

	require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
	rom := l.srv.Inventory()[slices.IndexFunc(l.srv.Inventory(), func(f redfishtest.Firmware) bool { return f.Activation == transport.ActivationReboot })]
	comp := l.component(rom.Image("rom.bin", "U30 v9.99", 1<<20), "hpe-target:"+strings.ToLower(rom.Targets[0]), "U30 v9.99")
	manifest := filepath.Join(comp, "component.json")
	text, err := os.ReadFile(manifest)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(manifest, bytes.Replace(text, []byte(`"class":"bmc"`), []byte(`"class":"bios"`), 1), 0o600))
	require.Equal(t, exitReboot, l.run(append([]string{"deploy", "--detailed-exitcode", "--rewrite", "--component", comp, l.target}, redfishPorts...)...), l.output)
	require.Equal(t, "UpdatedNeedsReboot", l.of("outcome")[0]["outcome"], l.output)
	require.Equal(t, rom.Version, l.srv.Firmware(rom.ID).Version)
	for boots, args := range [][]string{nil, {"--reset-type", "ForceRestart"}} {
		require.Equal(t, exitFine, l.run(append([]string{"reboot", l.target}, args...)...), l.output)
		require.NotEmpty(t, l.of("rebooted")[0]["boot_id"])
		require.Equal(t, boots+2, l.srv.Boots())
		require.Equal(t, "U30 v9.99", l.srv.Firmware(rom.ID).Version)
	}
	require.True(t, slices.ContainsFunc(l.srv.Requests(), func(r redfishtest.Request) bool { return strings.Contains(r.JSON, "ForceRestart") }))
	require.Zero(t, l.srv.Sessions())
}

// TestRedfishLogs: a device has no agent that left logs. It is told so, and where its own
// are, and it is not dialled.
func TestRedfishLogs(t *testing.T) {
	t.Parallel()
	l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	out := filepath.Join(t.TempDir(), "logs")
	require.Equal(t, exitUsage, l.run("logs", l.target, "--out", out), l.output)
	require.Contains(t, l.output, "has no agent and so no logs of one")
	require.Contains(t, l.output, "roundsman capture --logs")
	require.NoDirExists(t, out)
	require.Zero(t, l.srv.Total(), "nothing was dialled")

	b := newBench(t)
	require.Equal(t, exitFailed, b.run(t.Context(), "logs", db1, l.target, "--out", out), "the fake has no files")
	require.Contains(t, b.out.String(), "2 targets, 2 targets failed")
	require.Contains(t, b.out.String(), "has no agent and so no logs of one")
	require.Zero(t, l.srv.Total())
}

// TestRedfishLeftovers: what another program left in the update queue stops an update before
// anything is sent, and is left alone; --ignore-queue passes it by.
func TestRedfishLeftovers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(s *redfishtest.Server)
		want string
	}{
		"a task in the queue": {func(s *redfishtest.Server) {
			s.Enqueue(redfishtest.QueueItem{Name: "theirs", Filename: "theirs.bin", UpdatableBy: []string{"Uefi"}})
		}, "theirs"},
		"an update under way": {func(s *redfishtest.Server) { s.LeaveState("Writing", "") }, "an update is under way: Writing"},
		"managed by OneView":  {func(s *redfishtest.Server) { s.Inject(redfishtest.Fault{Kind: redfishtest.OneViewManaged}) }, "HPE OneView"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
			require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
			comp := l.component(l.srv.Inventory()[0].Image("new.bin", "9.99", 1<<20), l.hardware("bmc"), "9.99")
			tt.make(l.srv)
			args := append([]string{"deploy", "--component", comp, l.target}, redfishPorts...)
			require.Equal(t, exitFailed, l.run(args...), l.output)
			require.Contains(t, l.output, tt.want)
			require.NotRegexp(t, goField, l.output)
			require.Empty(t, l.srv.Flashes())
			if name == "an update under way" { // which nothing passes by
				return
			}
			require.Contains(t, l.output, "(--ignore-queue)")
			queue := len(l.srv.Queue())
			require.Equal(t, exitFine, l.run(append([]string{"recover"}, redfishPorts...)...), l.output)
			require.Len(t, l.srv.Queue(), queue, "what is another's stays")
			require.Equal(t, exitFine, l.run(append(args, "--ignore-queue")...), l.output)
			l.writtenOnce()

			// The same, said of this target alone.
			file := filepath.Join(t.TempDir(), "fleet.yaml")
			require.NoError(t, os.WriteFile(file, []byte("targets: [{url: '"+l.target+"', ignore_queue: true}]"), 0o600))
			require.Equal(t, exitFine, l.run(append([]string{"deploy", "--component", comp, "--fleet", file}, redfishPorts...)...), l.output)
			require.Equal(t, "NotNeeded", l.of("outcome")[0]["outcome"], l.output)
		})
	}
}
