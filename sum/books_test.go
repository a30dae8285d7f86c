package sum_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// runFile returns the one file of a run in the journal.
func (l *lab) runFile() string {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(l.journal, "run-*.jsonl"))
	require.NoError(l.t, err)
	require.Len(l.t, files, 1)
	return files[0]
}

// TestDamagedJournal: what a dead run wrote can be read as far as it is whole,
// and whatever it is, the next run begins.
func TestDamagedJournal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(lines [][]byte) [][]byte
		found  bool // the agent
		said   bool // in the log
		vain   int  // jobs that are recovered although they had ended
	}{
		{"a flipped bit in the outcome", func(lines [][]byte) [][]byte { lines[len(lines)-2][20] ^= 1; return lines }, true, true, 0},
		{"a flipped bit in the end of the job", func(lines [][]byte) [][]byte { lines[len(lines)-1][20] ^= 1; return lines }, false, true, 1},
		{"garbage between lines", func(lines [][]byte) [][]byte {
			return append(append(append([][]byte{}, lines[:1]...), []byte("\x00\xff not JSON {\n")), lines[1:]...)
		}, true, true, 0},
		{"a line of a megabyte", func(lines [][]byte) [][]byte {
			return append(append(append([][]byte{}, lines[:1]...), append(bytes.Repeat([]byte("x"), 1<<20), '\n')), lines[1:]...)
		}, true, true, 0},
		{"no first line", func(lines [][]byte) [][]byte { return lines[1:] }, true, true, 0},
		{"cut short", func(lines [][]byte) [][]byte {
			return append(lines[:len(lines):len(lines)], []byte(`{"seq":9,"ti`))
		}, true, false, 0},
		{"garbage alone", func([][]byte) [][]byte { return [][]byte{[]byte("garbage\n")} }, false, true, 0},
		{"nothing", func([][]byte) [][]byte { return nil }, false, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, server)
			s := l.open()
			n := l.nodes(s)[0]
			require.Equal(t, sum.Updated, deploy(t, n, l.component("7.0", 100)).Kind)
			s.Abandon()
			file := l.runFile()
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			lines := bytes.SplitAfter(b, []byte("\n"))
			require.NoError(t, os.WriteFile(file, bytes.Join(tt.damage(lines[:len(lines)-1]), nil), 0o600))

			s = l.open()
			if tt.said {
				require.Contains(t, l.logs.String(), "damaged")
			} else {
				require.NotContains(t, l.logs.String(), "damaged")
			}
			n = l.nodes(s)[0]
			rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{})
			require.NoError(t, err)
			if tt.found {
				require.Len(t, rec.Removed, 1)
			} else {
				require.Empty(t, rec.Removed)
			}
			if tt.found || tt.vain > 0 { // else the agent is hidden, and ends with its lease
				l.clean(s)
			}
			require.Len(t, rec.Outcomes, tt.vain)
			for _, o := range rec.Outcomes {
				require.Equal(t, sum.Updated, o.Kind)
			}
			require.Equal(t, 1, l.applied(n.Target().Name), "nothing is installed again")
			require.NoError(t, s.Close(t.Context()))
			next := l.open()
			require.Empty(t, next.Pending())
			require.NoError(t, next.Close(t.Context()))
		})
	}
}

// TestTwoSessions has two managers on one journal at the same time.
func TestTwoSessions(t *testing.T) {
	l := newLab(t, server)
	name := l.targets[0].Name
	hold := make(chan struct{})
	l.agents.Host(name).OnInstall("thing", agenttest.Job{Log: []string{"begun\n"}, Hold: hold})
	c := l.component("7.0", 100)
	first := l.open()
	n := l.nodes(first)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	type result struct {
		out []sum.Outcome
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
		done <- result{out, err}
	}()
	require.Eventually(t, func() bool { return l.applied(name) == 1 }, time.Minute, time.Millisecond)

	second := l.open()
	require.Empty(t, second.Pending(), "what a live run has open is not for others")
	rec, err := sum.Recover(t.Context(), l.nodes(second)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Empty(t, rec.Outcomes)
	require.Empty(t, rec.Removed)
	require.NoError(t, second.Close(t.Context()))

	close(hold)
	r := <-done
	require.NoError(t, r.err)
	require.Equal(t, sum.Updated, r.out[0].Kind, "%+v", r.out[0])
	require.Equal(t, 1, l.applied(name))
	l.clean(first)
}

// TestOneTakesOver: of several managers that start at once one takes a dead run
// over; the others begin as if it were not there.
func TestOneTakesOver(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	s.Abandon()
	sessions := make([]*sum.Session, 6)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			sessions[i] = l.open()
			if err := sessions[i].TakeOver(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var owner *sum.Session
	for _, s := range sessions {
		if len(s.Pending()) > 0 {
			require.Nil(t, owner, "two took it over")
			owner = s
		}
	}
	require.NotNil(t, owner)
	for _, s := range sessions {
		if s != owner {
			require.NoError(t, s.Close(t.Context()))
		}
	}
	require.NotEmpty(t, l.agents.Left())
	_, err = sum.Recover(t.Context(), l.nodes(owner)[0], sum.DeployOptions{})
	require.NoError(t, err)
	l.clean(owner)
}

// TestManagerDiesTwice kills the manager that recovers, too.
func TestManagerDiesTwice(t *testing.T) {
	for _, personality := range []string{server, push, pull} {
		t.Run(personality, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, personality)
			target := l.targets[0].Name
			c := l.component("7.0", 100_000)
			hold, begun := make(chan struct{}), make(chan struct{})
			if personality == server {
				l.agents.Host(target).OnInstall("thing", agenttest.Job{Log: []string{"begun\n"}, Hold: hold})
			} else {
				l.at[target].NextFlash(transporttest.Flash{Hold: hold, Begun: begun})
			}
			// die runs f and abandons the session when it is told to.
			die := func(s *sum.Session, when func(done <-chan struct{}), f func(ctx context.Context)) {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					f(ctx)
				}()
				when(done)
				s.Abandon()
				cancel()
				<-done
			}
			s := l.open()
			n := l.nodes(s)[0]
			p := plan(t, n, c, sum.PlanOptions{})
			die(s, func(<-chan struct{}) {
				if personality == server {
					require.Eventually(t, func() bool { return l.applied(target) == 1 }, time.Minute, time.Millisecond)
				} else {
					<-begun
				}
			}, func(ctx context.Context) {
				_, _ = sum.Deploy(ctx, n, p, []*component.Component{c}, sum.DeployOptions{})
			})

			s = l.open()
			n = l.nodes(s)[0]
			recovering := make(chan struct{})
			var once sync.Once
			die(s, func(done <-chan struct{}) {
				select {
				case <-recovering:
					time.Sleep(200 * time.Millisecond) // into the waiting for the job or flash
				case <-done:
					t.Error("there was nothing to recover")
				}
			}, func(ctx context.Context) {
				_, _ = sum.Recover(ctx, n, sum.DeployOptions{Events: func(sum.Event) { once.Do(func() { close(recovering) }) }}, c)
			})
			close(hold)

			s = l.open()
			require.Len(t, s.Pending(), 1)
			n = l.nodes(s)[0]
			rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{}, c)
			require.NoError(t, err)
			require.Len(t, rec.Outcomes, 1, "%+v", rec.Outcomes)
			require.True(t, rec.Outcomes[0].Kind.OK(), "%+v", rec.Outcomes[0])
			require.Equal(t, 1, l.applied(target))
			require.Equal(t, sum.NotNeeded, deploy(t, n, c).Kind)
			l.clean(s)
		})
	}
}

func TestClosed(t *testing.T) {
	for _, personality := range []string{server, push} {
		t.Run(personality, func(t *testing.T) {
			l := newLab(t, personality)
			s := l.open()
			n := l.nodes(s)[0]
			c := l.component("7.0", 100)
			p := plan(t, n, c, sum.PlanOptions{})
			require.NoError(t, s.Close(t.Context()))
			require.NoError(t, s.Close(t.Context()), "twice is fine")
			dials := len(l.fake.Ops(nil))

			_, err := s.Node(l.targets[0])
			require.ErrorIs(t, err, sum.ErrClosed)
			var e *sum.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, l.targets[0].Name, e.Target)
			_, err = s.Node(sum.Target{Kind: sum.Linux, Address: "new"})
			require.ErrorIs(t, err, sum.ErrClosed)
			_, err = s.Node(sum.Target{Kind: "toaster"})
			require.ErrorIs(t, err, sum.ErrInvalid)

			_, err = sum.Inventory(t.Context(), n)
			require.ErrorIs(t, err, sum.ErrClosed)
			_, err = sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
			require.ErrorIs(t, err, sum.ErrClosed)
			_, err = sum.Logs(t.Context(), n, t.TempDir())
			require.ErrorIs(t, err, sum.ErrClosed)
			require.ErrorIs(t, n.WithConn(t.Context(), func(context.Context, transport.Conn) error { return errors.New("called") }), sum.ErrClosed)
			require.Len(t, l.fake.Ops(nil), dials, "nothing was dialled")
			require.Zero(t, l.applied(l.targets[0].Name))
			l.clean(s)
		})
	}
}

// TestWrongKind: what a kind of target does not have is refused before anybody
// is asked.
func TestWrongKind(t *testing.T) {
	l := newLab(t, push)
	s := l.open()
	n := l.nodes(s)[0]
	err := n.WithAgent(t.Context(), func(context.Context, agent.Ops) error { return errors.New("called") })
	require.ErrorIs(t, err, errors.ErrUnsupported)
	var e *sum.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, l.targets[0].Name, e.Target)
	require.Empty(t, l.fake.Ops(nil), "nothing was dialled")
	_, err = sum.Children(t.Context(), n)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	l.clean(s)

	l = newLab(t, server)
	s = l.open()
	n = l.nodes(s)[0]
	broken := errors.New("broken")
	calls := 0
	require.ErrorIs(t, n.WithConn(t.Context(), func(ctx context.Context, conn transport.Conn) error {
		calls++
		require.True(t, conn.Caps().Has(transport.CapRun))
		return broken
	}), broken)
	require.Equal(t, 1, calls, "what is no lost connection is not repeated")
	require.ErrorIs(t, n.WithConn(t.Context(), func(ctx context.Context, conn transport.Conn) error {
		_, err := transport.Update(ctx, conn, transport.Payload{}, transport.UpdateOptions{})
		return err
	}), errors.ErrUnsupported)
	require.Zero(t, l.agents.Open(), "a connection alone starts no agent")
	require.NoError(t, n.WithAgent(t.Context(), func(ctx context.Context, ops agent.Ops) error {
		jobs, err := ops.Jobs(ctx)
		require.Empty(t, jobs)
		return err
	}))
	require.Equal(t, 1, l.agents.Open())
	require.Equal(t, []string{"dial", "identify"}, l.fake.Ops(nil)[:2], "one connection for all of it")
	l.clean(s)
}

// TestStopOnFailure leaves alone what comes behind a failure, and only if asked.
func TestStopOnFailure(t *testing.T) {
	for _, personality := range []string{server, push} {
		for _, stop := range []bool{true, false} {
			t.Run(personality, func(t *testing.T) {
				l := newLab(t, personality)
				target := l.targets[0].Name
				first, second := l.component("7.0", 100), l.component("8.0", 200)
				second.Name = "second"
				if personality == server {
					l.agents.Host(target).SetSoftware(transport.Software{Name: "thing", Version: "1.0", Source: component.Dpkg}, transport.Software{Name: "second", Version: "1.0", Source: component.Dpkg})
					second.Match = component.Match{Package: &component.PackageMatch{Source: component.Dpkg, Name: "second"}}
					l.agents.Host(target).OnInstall("thing", agenttest.Job{Exit: transport.Exit{Code: 1}})
				} else {
					first.Match = component.Match{Device: &component.DeviceMatch{Class: transport.ClassBMC, Part: component.Firmware}}
					second.Match = component.Match{Device: &component.DeviceMatch{Class: transport.ClassNIC, Part: component.Firmware}}
					second.Version = "88.0"
					second.Payload.Version = "88.0"
					l.at[target].NextFlash(transporttest.Flash{Fail: transport.Code{Space: "x", Value: "1"}})
				}
				comps := []*component.Component{first, second}
				s := l.open()
				n := l.nodes(s)[0]
				inv, err := sum.Inventory(t.Context(), n, comps...)
				require.NoError(t, err)
				p := sum.MakePlan(n.Target(), inv, comps, sum.PlanOptions{})
				require.Equal(t, 2, p.Installs())
				out, err := sum.Deploy(t.Context(), n, p, comps, sum.DeployOptions{StopOnFailure: stop})
				require.NoError(t, err, "a component that fails is an outcome")
				require.Len(t, out, 2, "every component has an outcome")
				require.Equal(t, sum.Failed, out[0].Kind, "%+v", out[0])
				if stop {
					require.Equal(t, sum.Cancelled, out[1].Kind)
					require.Contains(t, out[1].Text, "thing")
					require.Equal(t, out[1].From(), out[1].To())
				} else {
					require.True(t, out[1].Kind.OK(), "%+v", out[1])
				}
				l.clean(s)
			})
		}
	}
}

// TestStopOnFailureKeepsSkipped: what was not needed is not called cancelled.
func TestStopOnFailureKeepsSkipped(t *testing.T) {
	l := newLab(t, server)
	target := l.targets[0].Name
	first, there := l.component("7.0", 100), l.component("1.0", 200)
	there.Name = "there"
	l.agents.Host(target).OnInstall("thing", agenttest.Job{Exit: transport.Exit{Code: 1}})
	comps := []*component.Component{first, there}
	s := l.open()
	n := l.nodes(s)[0]
	inv, err := sum.Inventory(t.Context(), n, comps...)
	require.NoError(t, err)
	out, err := sum.Deploy(t.Context(), n, sum.MakePlan(n.Target(), inv, comps, sum.PlanOptions{}), comps, sum.DeployOptions{StopOnFailure: true})
	require.NoError(t, err)
	require.Equal(t, []sum.OutcomeKind{sum.Failed, sum.NotNeeded}, []sum.OutcomeKind{out[0].Kind, out[1].Kind})
	l.clean(s)
}
