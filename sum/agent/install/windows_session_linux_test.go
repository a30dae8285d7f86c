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
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/stretchr/testify/require"
)

// winBench is a bench whose target is a Windows server.
type winBench struct {
	bench
	addr, user, password string
}

// tapping dials so that the agent of Linux passes for one of Windows.
type tapping struct{ transport.Transport }

func (d tapping) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := d.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return winTap{&tap{Forward: transport.Forward{Conn: conn}}}, nil
}

func (b winBench) open() *sum.Session {
	b.t.Helper()
	s, err := sum.Open(context.Background(), sum.Config{
		Resolve: func(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
			return tapping{&smb.Transport{}}, transport.Endpoint{
				Address: t.Address, Credentials: transport.Credentials{User: t.User, Password: transport.NewSecret(b.password)},
				Options: smb.Options{ShareRoot: `C:\Windows`},
			}, nil
		},
		Journal: b.path("journal"), Installer: winInstaller(),
	})
	require.NoError(b.t, err)
	return s
}

func (b winBench) node(s *sum.Session) *sum.Node {
	b.t.Helper()
	n, err := s.Node(sum.Target{Kind: sum.Windows, User: b.user, Address: b.addr})
	require.NoError(b.t, err)
	return n
}

func (b winBench) deploy(s *sum.Session) sum.Outcome {
	b.t.Helper()
	ctx, c, n := context.Background(), b.component(), b.node(s)
	c.Kinds = []string{"windows"}
	inv, err := sum.Inventory(ctx, n, c)
	require.NoError(b.t, err)
	plan := sum.MakePlan(n.Target(), inv, []*component.Component{c}, sum.PlanOptions{})
	out, err := sum.Deploy(ctx, n, plan, []*component.Component{c}, sum.DeployOptions{})
	require.NoError(b.t, err)
	require.Len(b.t, out, 1)
	return out[0]
}

// server starts a server, and the directory of its bench.
func newWinBench(t *testing.T) (winBench, *winLab) {
	l := newWinLab(t, true)
	b := winBench{bench{t, t.TempDir()}, l.srv.Addr(), "LAB;" + l.srv.User(), l.srv.Password()}
	b.write("version", "1.0\n")
	return b, l
}

// requireClean: nothing is pending, and nothing is left but logs.
func (b winBench) requireClean(l *winLab) {
	b.t.Helper()
	s := b.open()
	require.Empty(b.t, s.Pending())
	require.NoError(b.t, s.Close(context.Background()))
	dirs, _ := filepath.Glob(filepath.Join(l.srv.Admin(), "roundsman", "*"))
	for _, dir := range dirs {
		require.True(b.t, !strings.HasPrefix(filepath.Base(dir), "."), "left behind: %s", dir)
		l.id = filepath.Base(dir)
		l.requireClean()
	}
	l.requireClean()
}

// TestWindowsSession: Updated, then NotNeeded, with the logs fetched by a later session.
func TestWindowsSession(t *testing.T) {
	t.Parallel()
	b, l := newWinBench(t)
	b.write("gate", "")
	s := b.open()
	o := b.deploy(s)
	require.Equal(t, sum.Updated, o.Kind, o.Text)
	require.Equal(t, []string{"1.0", "2.0"}, []string{o.From(), o.To()})
	require.Equal(t, sum.NotNeeded, b.deploy(s).Kind)
	require.NoError(t, s.Close(context.Background()))
	b.requireClean(l)

	s = b.open()
	logs, err := sum.Logs(t.Context(), b.node(s), t.TempDir())
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	require.NoError(t, s.Close(context.Background()))
	require.Equal(t, "run\n", b.read("runs"))
}

const winVariable = "INSTALL_TEST_WINDOWS"

// TestWindowsSessionProcess is no test of its own: it is the manager that others kill.
func TestWindowsSessionProcess(t *testing.T) {
	at := strings.Split(os.Getenv(winVariable), " ")
	if len(at) != 4 {
		t.Skip("this is for copies of the test program")
	}
	b := winBench{bench{t, at[0]}, at[1], at[2], at[3]}
	fmt.Println("\noutcome", b.deploy(b.open()).Kind)
}

func (b winBench) manager() *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestWindowsSessionProcess$", "-test.v")
	cmd.Env = append(os.Environ(), winVariable+"="+strings.Join([]string{b.dir, b.addr, b.user, b.password}, " "))
	return cmd
}

// TestWindowsSessionKilledInMidJob: the next session finds the agent by the journal,
// waits for the program, and says by an inventory what came of it.
func TestWindowsSessionKilledInMidJob(t *testing.T) {
	t.Parallel()
	b, l := newWinBench(t)
	cmd := b.manager()
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
	all := <-said
	_ = cmd.Wait()
	require.NotContains(t, all, "outcome")

	s := b.open()
	require.Len(t, s.Pending(), 1)
	b.write("gate", "")
	r, err := sum.Recover(t.Context(), b.node(s), sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, r.Outcomes, 1)
	require.Equal(t, sum.Updated, r.Outcomes[0].Kind, r.Outcomes[0].Text)
	require.True(t, r.Outcomes[0].Recovered)
	require.Equal(t, "run\n", b.read("runs"), "installed twice")
	require.NoError(t, s.Close(context.Background()))
	b.requireClean(l)
}

// TestWindowsSessionKilledAnywhere kills the manager wherever it happens to be. What
// began is not begun again, and nothing is left.
func TestWindowsSessionKilledAnywhere(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run with -short: it starts many processes")
	}
	states := map[sum.OutcomeKind]int{}
	for i := range 12 {
		b, l := newWinBench(t)
		b.write("gate", "")
		cmd := b.manager()
		require.NoError(t, cmd.Start())
		// From the journal's first record to the end of the session.
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(l.srv.Admin(), "roundsman"))
			return err == nil
		}, time.Minute, time.Millisecond)
		time.Sleep(time.Duration(i) * 250 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s := b.open()
		r, err := sum.Recover(t.Context(), b.node(s), sum.DeployOptions{})
		require.NoError(t, err)
		for _, o := range r.Outcomes {
			states[o.Kind]++
			require.Contains(t, []sum.OutcomeKind{sum.Updated, sum.Cancelled, sum.Unverified}, o.Kind, o.Text)
			require.Equal(t, o.Kind == sum.Updated, b.read("version") == "2.0\n", o.Text)
		}
		require.LessOrEqual(t, len(b.read("runs")), len("run\n"), "installed twice")
		require.NoError(t, s.Close(context.Background()))
		b.requireClean(l)
	}
	t.Log(states)
}
