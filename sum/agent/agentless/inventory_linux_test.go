package agentless

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/internal/inventory"
	"github.com/roundsman-go/roundsman/transport"
)

// TestInventory compares with what an agent would read here.
func TestInventory(t *testing.T) {
	l := newLab(t)
	a := l.start(0)
	got, err := a.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{
		{Name: "version", Argv: []string{"sh", "-c", "echo; echo ' 1.2 '"}},
		{Name: "missing", Argv: []string{"no-such-program"}},
		{Name: "fails", Argv: []string{"sh", "-c", "echo 1; exit 1"}},
		{Name: "hangs", Argv: []string{"sleep", "600"}, Timeout: 200 * time.Millisecond},
	}})
	require.NoError(t, err)
	want := inventory.Collect(t.Context())
	require.Equal(t, want.Identity, got.Identity)
	var software []transport.Software
	probed := map[string]string{}
	for _, s := range got.Software {
		if s.Source == agent.ProbeSource {
			probed[s.Name] = s.Version
		} else {
			software = append(software, s)
		}
	}
	require.Equal(t, map[string]string{"version": "1.2"}, probed)
	require.Equal(t, want.Software, software)
	require.Len(t, got.Problems, 1+len(want.Problems), "%v", got.Problems)
	for i := range want.Devices { // what the kernel alone tells
		want.Devices[i].Firmware, want.Devices[i].DriverVersion = "", ""
	}
	for i := range got.Devices {
		got.Devices[i].Firmware, got.Devices[i].DriverVersion = "", ""
	}
	require.Equal(t, want.Devices, got.Devices)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.onlyLogs()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+strconv.Itoa(os.Getpid())+"-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A probe tells the same without an agent as with one.
func TestProbes(t *testing.T) {
	l := newLab(t)
	a := l.start(0)
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("no program\n"), 0o600))
	inv, err := a.Inventory(t.Context(), agent.InventoryRequest{Probes: []agent.Probe{
		{Name: "missing", Argv: []string{"/no/such/program"}},
		{Name: "fails", Argv: []string{"sh", "-c", "echo no such thing >&2; exit 3"}},
		{Name: "silent", Argv: []string{"true"}},
		{Name: "there", Argv: []string{"echo", "1.0"}},
		{Name: "plain", Argv: []string{plain}},
	}})
	require.NoError(t, err)
	said := map[string]string{}
	for _, n := range inv.Notes {
		said[n.Part] = n.Text
	}
	require.Len(t, said, 3)
	require.Contains(t, said[agent.ProbePart("missing")], "exit status 127")
	require.Equal(t, `it ended with exit status 3 and printed "no such thing"`, said[agent.ProbePart("fails")])
	require.Equal(t, "it ended with exit status 0 and printed nothing", said[agent.ProbePart("silent")])
	require.Contains(t, inv.Software, transport.Software{Name: "there", Version: "1.0", Source: agent.ProbeSource})
	var problems []string
	for _, p := range inv.Problems {
		if p.Part == agent.ProbePart("plain") {
			problems = append(problems, p.Text)
		}
	}
	require.Len(t, problems, 1)
	require.Contains(t, problems[0], "cannot be executed")
}
