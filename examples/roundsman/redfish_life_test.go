package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestRedfishReboot restarts a host by its management processor, after which what was staged
// is the version that runs.
func TestRedfishReboot(t *testing.T) {
	t.Parallel()
	// One that does not tell when its host was restarted cannot prove that it was.
	l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	require.Equal(t, exitFailed, l.run("reboot", l.target), l.output)
	require.Contains(t, l.output, "tells no boot ID")
	require.Equal(t, 1, l.srv.Boots())
	l = newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true})
	require.Equal(t, exitFailed, l.run("reboot", l.target, "--reset-type", "FullPowerCycle"), l.output)
	require.Contains(t, l.output, "(--reset-type)")
	require.NotRegexp(t, goField, l.output)
	sent := l.srv.Total()
	for want, args := range map[string][]string{
		"shows no message": {"--message", "ファームウェア更新のため再起動します"},
		"at once":          {"--delay", "5m"},
		"--reset-type: ":   {"--reset-type", "Sideways"},
		`"PowerCycle"`:     {"--reset-type", "powercycle"},
		"no --delay":       {"linux://root@127.0.0.1:1", "--delay", "5m"},
	} {
		require.Equal(t, exitUsage, l.run(append([]string{"reboot", l.target}, args...)...), l.output)
		require.Contains(t, l.output, want)
	}
	require.Equal(t, sent, l.srv.Total(), "nothing was dialled")
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
