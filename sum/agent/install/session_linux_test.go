package install_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
)

// bench is a directory for a session that updates this host: journal, agents, and
// what stands for an installed version.
type bench struct {
	t   *testing.T
	dir string
}

// byCommands is without any agent.
const byCommands = "by commands alone"

func sessionWays() map[string]*install.Installer {
	all := ways()
	all[byCommands] = &install.Installer{Agentless: true}
	return all
}

func (b bench) path(name string) string { return filepath.Join(b.dir, name) }

func resolveLocal(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	return &local.Transport{}, transport.Endpoint{}, nil
}

func (b bench) open(way string) *sum.Session {
	b.t.Helper()
	s, err := sum.Open(context.Background(), sum.Config{
		Resolve: resolveLocal, Journal: b.path("journal"), Installer: sessionWays()[way], BaseDirs: []string{b.path("base")},
	})
	require.NoError(b.t, err)
	return s
}

func (b bench) node(s *sum.Session) *sum.Node {
	b.t.Helper()
	n, err := s.Node(sum.Target{Kind: sum.Local})
	require.NoError(b.t, err)
	return n
}

// component is version 2.0 of something that any user can install. Its installer
// waits for the file "gate".
func (b bench) component() *component.Component {
	install := transport.BytesFile("install.sh", []byte(`#!/bin/sh
echo run >>"$RM_DIR/runs"
i=0; while [ ! -e "$RM_DIR/gate" ] && [ $i -lt 1200 ]; do sleep 0.1; i=$((i+1)); done
echo 2.0 >"$RM_DIR/version"
`))
	return &component.Component{
		Name: "thing", Version: "2.0", Scheme: version.Numeric, Kinds: []string{"local"}, Match: component.Match{Probe: "thing"},
		ProbeArgv: []string{"/bin/cat", b.path("version")}, Env: []string{"RM_DIR=" + b.dir},
		Payload: transport.Payload{Name: "thing", Version: "2.0", Files: []transport.File{install}},
		Install: []string{"./install.sh"}, Profile: agent.ProfileZeroOK,
	}
}

func (b bench) write(name, text string) {
	b.t.Helper()
	require.NoError(b.t, os.WriteFile(b.path(name), []byte(text), 0o600))
}

func (b bench) read(name string) string {
	data, _ := os.ReadFile(b.path(name))
	return string(data)
}

// deploy is inventory, plan and deployment.
func (b bench) deploy(s *sum.Session) sum.Outcome {
	b.t.Helper()
	ctx, c, n := context.Background(), b.component(), b.node(s)
	inv, err := sum.Inventory(ctx, n, c)
	require.NoError(b.t, err)
	plan := sum.MakePlan(n.Target(), inv, []*component.Component{c}, sum.PlanOptions{})
	out, err := sum.Deploy(ctx, n, plan, []*component.Component{c}, sum.DeployOptions{})
	require.NoError(b.t, err)
	require.Len(b.t, out, 1)
	return out[0]
}

// requireClean: nothing is pending, nothing runs, and nothing is left but logs.
func (b bench) requireClean() {
	b.t.Helper()
	s := b.open(onItsOwn)
	require.Empty(b.t, s.Pending())
	require.NoError(b.t, s.Close(context.Background()))
	l := &lab{t: b.t, base: b.path("base")}
	require.Eventually(b.t, func() bool { return len(l.processes()) == 0 }, time.Minute, 20*time.Millisecond)
	for _, name := range files(b.t, l.base) {
		dir := filepath.Base(filepath.Dir(name))
		require.True(b.t, filepath.Base(name) == agent.LogName || dir == "jobs", "left behind: %s", name)
	}
}

// TestSessionOnTheOwnHost: Updated, then NotNeeded, without an agent binary.
func TestSessionOnTheOwnHost(t *testing.T) {
	t.Parallel()
	for way := range sessionWays() {
		t.Run(way, func(t *testing.T) {
			b := bench{t, t.TempDir()}
			b.write("version", "1.0\n")
			b.write("gate", "")
			s := b.open(way)
			o := b.deploy(s)
			require.Equal(t, sum.Updated, o.Kind, o.Text)
			require.Equal(t, []string{"1.0", "2.0"}, []string{o.From(), o.To()})
			require.Equal(t, sum.NotNeeded, b.deploy(s).Kind)
			require.NoError(t, s.Close(context.Background()))
			b.requireClean()

			s = b.open(way)
			into := t.TempDir()
			logs, err := sum.Logs(t.Context(), b.node(s), into)
			require.NoError(t, err)
			require.NotEmpty(t, logs)
			require.NoError(t, s.Close(context.Background()))
			require.Equal(t, "run\n", b.read("runs"))
		})
	}
}

const sessionVariable = "INSTALL_TEST_SESSION"

// TestSessionProcess is no test of its own: it is the manager that
// TestSessionKilledInMidJob kills.
func TestSessionProcess(t *testing.T) {
	way := os.Getenv(sessionVariable)
	if way == "" {
		t.Skip("this is for copies of the test program")
	}
	b := bench{t, os.Getenv(managerDir)}
	fmt.Println("\noutcome", b.deploy(b.open(way)).Kind)
}

// TestSessionKilledInMidJob: the next session finds the directory by the journal,
// waits for the program, and says by an inventory what came of it.
func TestSessionKilledInMidJob(t *testing.T) {
	t.Parallel()
	for way := range sessionWays() {
		for _, works := range []bool{true, false} {
			t.Run(fmt.Sprint(way, ", the installer works: ", works), func(t *testing.T) {
				b := bench{t, t.TempDir()}
				b.write("version", "1.0\n")
				cmd := exec.Command(os.Args[0], "-test.run=^TestSessionProcess$", "-test.v")
				cmd.Env = append(os.Environ(), sessionVariable+"="+way, managerDir+"="+b.dir)
				out, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				said := make(chan string, 1)
				go func() {
					var all []string
					for sc := bufio.NewScanner(out); sc.Scan(); {
						all = append(all, sc.Text())
					}
					said <- strings.Join(all, "\n")
				}()
				require.Eventually(t, func() bool { return b.read("runs") != "" }, time.Minute, time.Millisecond)
				require.NoError(t, cmd.Process.Kill())
				_ = cmd.Wait()
				require.NotContains(t, <-said, "outcome")

				s := b.open(way)
				require.Equal(t, []sum.Target{{Kind: sum.Local}}, s.Pending())
				type recovery struct {
					sum.Recovery
					err error
				}
				done := make(chan recovery, 1)
				go func() {
					r, err := sum.Recover(context.Background(), b.node(s), sum.DeployOptions{})
					done <- recovery{r, err}
				}()
				if !works {
					require.NoError(t, os.Mkdir(b.path("version.new"), 0o700))
					require.NoError(t, os.Rename(b.path("version"), b.path("version.old")))
					require.NoError(t, os.Symlink(b.path("version.new"), b.path("version"))) // it cannot be written to
				}
				b.write("gate", "")
				r := <-done
				require.NoError(t, r.err)
				require.Len(t, r.Outcomes, 1)
				o := r.Outcomes[0]
				require.True(t, o.Recovered)
				switch {
				case works:
					require.Equal(t, sum.Updated, o.Kind, o.Text)
					require.Equal(t, "2.0", o.To())
				case hasShims(way):
					require.Equal(t, sum.Failed, o.Kind, o.Text)
				default:
					require.Equal(t, sum.Unverified, o.Kind, o.Text)
					require.Contains(t, o.Text, "interrupted")
				}
				require.Equal(t, "run\n", b.read("runs"), "installed twice")
				require.NoError(t, s.Close(context.Background()))
				b.requireClean()
			})
		}
	}
}

// TestSessionKilledAnywhere kills the manager wherever it happens to be. What
// began is not begun again, and nothing is left.
func TestSessionKilledAnywhere(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run with -short: it starts many processes")
	}
	for _, way := range []string{withShims, onItsOwn, byCommands} {
		t.Run(way, func(t *testing.T) {
			states := map[sum.OutcomeKind]int{}
			for i := range 16 {
				b := bench{t, t.TempDir()}
				b.write("version", "1.0\n")
				b.write("gate", "")
				cmd := exec.Command(os.Args[0], "-test.run=^TestSessionProcess$")
				cmd.Env = append(os.Environ(), sessionVariable+"="+way, managerDir+"="+b.dir)
				require.NoError(t, cmd.Start())
				require.Eventually(t, func() bool { _, err := os.Stat(b.path("base")); return err == nil }, time.Minute, time.Millisecond)
				// From the making of the directory to the end of the session.
				time.Sleep(time.Duration(i) * 25 * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				s := b.open(way)
				r, err := sum.Recover(t.Context(), b.node(s), sum.DeployOptions{})
				require.NoError(t, err)
				for _, o := range r.Outcomes {
					states[o.Kind]++
					require.Contains(t, []sum.OutcomeKind{sum.Updated, sum.Cancelled, sum.Unverified}, o.Kind, o.Text)
					require.Equal(t, o.Kind == sum.Updated, b.read("version") == "2.0\n", o.Text)
				}
				require.LessOrEqual(t, len(b.read("runs")), len("run\n"), "installed twice")
				require.NoError(t, s.Close(context.Background()))
				b.requireClean()
			}
			t.Log(states)
		})
	}
}
