package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
)

// real runs a command with the program's own way to targets, which reads no file of the
// user.
func (b *bench) real(env []string, args ...string) int {
	b.t.Helper()
	b.out.Reset()
	b.errs.Reset()
	args = append(args, "--ssh-config", "none", "--journal", filepath.Join(b.dir, "journal"))
	return (&app{installer: b.fake}).run(b.t.Context(), args, strings.NewReader(""), &b.out, &b.errs, append(env, "HOME="+b.dir))
}

// TestPasswordMissing: that nobody gave a password is said as such, and how to give it,
// before anything is dialled.
func TestPasswordMissing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dialled := make(chan struct{}, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialled <- struct{}{}
			c.Close()
		}
	}()
	target := "windows://LAB;ops@" + l.Addr().String()
	b := newBench(t)
	for _, args := range [][]string{{"inventory", target}, {"preflight", "--probe", target}} {
		require.Equal(t, exitFailed, b.real(nil, args...), b.errs.String())
		require.Contains(t, b.out.String(), "--password-file FILE")
		require.Contains(t, b.out.String(), "ROUNDSMAN_PASSWORD")
		require.NotContains(t, b.out.String(), "refused")
		require.Equal(t, exitFailed, b.real(nil, append(args, "--json")...))
		require.Contains(t, b.out.String(), `"code":"no-password"`)
	}
	require.Empty(t, dialled)
	require.Equal(t, exitFailed, b.real([]string{"ROUNDSMAN_PASSWORD=x"}, "inventory", "--json", target))
	require.NotContains(t, b.out.String(), "no-password")
	require.NotEmpty(t, dialled)
}

// TestPasswordsOfFleet: each target of a fleet may have a password of its own, in a file
// that the fleet file names. It is read before anything is dialled.
func TestPasswordsOfFleet(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fleetFile := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(fleetFile, []byte(`
defaults: {kind: windows, user: 'LAB;ops', password_file: lab.txt}
targets:
  - address: 127.0.0.1:1
  - {address: '127.0.0.1:2', password_file: own.txt}
`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "lab.txt"), []byte("of-the-lab\n"), 0o600))
	require.Equal(t, exitUsage, b.real(nil, "inventory", "--fleet", fleetFile))
	require.Contains(t, b.errs.String(), "own.txt")
	require.Contains(t, b.errs.String(), "127.0.0.1:2")
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "own.txt"), []byte("its-own\n"), 0o600))
	f := sessionFlags{fleet: fleetFile}
	list, err := f.targets(nil)
	require.NoError(t, err)
	own, err := (&app{}).ownPasswords(&f)
	require.NoError(t, err)
	require.Equal(t, "of-the-lab", own[list[0].String()].Reveal())
	require.Equal(t, "its-own", own[list[1].String()].Reveal())
	require.Equal(t, exitFailed, b.real(nil, "inventory", "--json", "--fleet", fleetFile))
	require.Equal(t, 2, strings.Count(b.out.String(), `"code":"refused"`), "they are tried with a password: %s", b.out.String())
}

// TestFleetOfPlan: beside a plan a fleet file names passwords, and no further targets.
func TestFleetOfPlan(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	plan, file := filepath.Join(b.dir, "plan.json"), filepath.Join(b.dir, "fleet.yaml")
	require.Equal(t, exitFine, b.run(t.Context(), "plan", "--component", b.component(nil), db1, "-o", plan), b.errs.String())
	require.NoError(t, os.WriteFile(file, []byte("targets:\n  - {url: '"+db1+"', password_file: pw}\n  - url: linux://root@db3\n"), 0o600))
	require.Equal(t, exitUsage, b.run(t.Context(), "deploy", "--plan", plan, "--fleet", file))
	require.Contains(t, b.errs.String(), "password file")
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "pw"), []byte("x\n"), 0o600))
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--plan", plan, "--fleet", file), b.errs.String())
	require.Len(t, b.of("outcome"), 1)
	require.Zero(t, b.fake.Host("linux://root@db3").Calls(agenttest.AnyOp))
	b.clean()
}

// TestFleetErrors: all that is wrong with a fleet file is told, a line for each.
func TestFleetErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	file := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("targets:\n  - {kind: vax, address: a}\n  - {kind: linux}\n"), 0o600))
	require.Equal(t, exitUsage, b.run(t.Context(), "inventory", "--fleet", file))
	require.Contains(t, b.errs.String(), "roundsman: "+file+":2: ")
	require.Contains(t, b.errs.String(), "\nroundsman: "+file+":3: ")
}

// TestVersion: the program says what the go command has put into it.
func TestVersion(t *testing.T) {
	t.Parallel()
	require.Equal(t, "roundsman v1.2.3, revision abc and changes, "+newVersionEvent(nil).Go+", "+newVersionEvent(nil).System,
		newVersionEvent(&debug.BuildInfo{Main: debug.Module{Path: "m", Version: "v1.2.3"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}).String())
	require.Equal(t, "(devel)", newVersionEvent(nil).Version)
	var out strings.Builder
	require.Equal(t, exitFine, run(t.Context(), []string{"version"}, nil, &out, &out, nil))
	require.True(t, strings.HasPrefix(out.String(), "roundsman "), out.String())
	out.Reset()
	require.Equal(t, exitFine, run(t.Context(), []string{"version", "--json"}, nil, &out, &out, nil))
	require.Contains(t, out.String(), `{"v":1,"event":"version",`)
	require.Contains(t, out.String(), `"go":"go`)
}

// inventoryWire has an inventory of its own, as a Windows server by WMI.
type inventoryWire struct{ wire }

func (w inventoryWire) Caps() transport.Caps { return transport.CapInventory }
func (w inventoryWire) Dial(context.Context, transport.Endpoint) (transport.Conn, error) {
	return w, nil
}
func (w inventoryWire) Inventory(context.Context) (*transport.Inventory, error) {
	return &transport.Inventory{Identity: transport.Identity{Name: "by-wmi"}}, nil
}

// TestInventoryByWMI: with --wmi no agent is started on a Windows server.
func TestInventoryByWMI(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const db2 = "windows://LAB;ops@db2"
	var out strings.Builder
	a := &app{installer: b.fake, resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
		return inventoryWire{wire{t.Address}}, transport.Endpoint{Address: t.Address}, nil
	}}
	args := []string{"inventory", "--journal", filepath.Join(b.dir, "journal"), "--json", "--wmi"}
	require.Equal(t, exitFine, a.run(t.Context(), append(args, db1, db2), strings.NewReader(""), &out, &out, nil), out.String())
	require.Equal(t, 1, strings.Count(out.String(), "by-wmi"))
	require.Zero(t, b.fake.Host(db2).Calls(agenttest.Start))
	require.Equal(t, 1, b.fake.Host(db1).Calls(agenttest.Start))
	require.Equal(t, exitUsage, b.run(t.Context(), "inventory", "--wmi", db1))
	require.Contains(t, b.errs.String(), "--wmi is for Windows servers")
}

// TestHelp: every command that takes targets says what those are, how to quote them and
// where passwords come from; version is among the commands.
func TestHelp(t *testing.T) {
	t.Parallel()
	help := func(args ...string) string {
		var out strings.Builder
		require.Equal(t, exitFine, run(t.Context(), append(args, "--help"), nil, &out, &out, nil))
		return out.String()
	}
	require.Contains(t, help(), "\n  version ")
	require.Contains(t, help(), "takes ; for the end")
	for _, c := range (&app{}).command().Commands() {
		if c.Flags().Lookup("fleet") != nil {
			require.Contains(t, help(c.Name()), sessionHelp, c.Name())
		}
	}
	require.Contains(t, sessionHelp, `"windows://LAB;ops@db2"`)
	require.Contains(t, sessionHelp, "takes ; for the end")
}
