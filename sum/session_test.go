package sum_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestSession runs the whole life of an update on each personality, bare and
// behind each decorator.
func TestSession(t *testing.T) {
	decorators := map[string]func(transport.Transport) transport.Transport{
		"bare":  nil,
		"retry": func(tr transport.Transport) transport.Transport { return transport.Retry(tr, transport.RetryOptions{}) },
		"limit": func(tr transport.Transport) transport.Transport {
			return transport.Limit(tr, transport.LimitOptions{Dials: 1, Conns: 2, Calls: 1})
		},
		"log": func(tr transport.Transport) transport.Transport {
			return transport.Log(tr, slog.New(slog.DiscardHandler))
		},
	}
	for _, personality := range personalities {
		for name, decorate := range decorators {
			t.Run(personality+"/"+name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, personality)
				l.decorate = decorate
				s := l.open()
				c := l.component("7.0", 100_000)
				for _, n := range l.nodes(s) {
					o := deploy(t, n, c)
					require.Contains(t, []sum.OutcomeKind{sum.Updated, sum.UpdatedNeedsReboot}, o.Kind, "%+v", o)
					require.Equal(t, 1, l.applied(n.Target().Name))
					if o.Kind == sum.UpdatedNeedsReboot {
						l.at[n.Target().Name].Activate(o.Activation)
					} else {
						require.Equal(t, "7.0", o.To())
					}
					require.Equal(t, sum.NotNeeded, deploy(t, n, c).Kind)
					require.Equal(t, 1, l.applied(n.Target().Name), "applied a second time")

					verified, err := sum.Verify(t.Context(), n, plan(t, n, c, sum.PlanOptions{Rewrite: true}), []*component.Component{c})
					require.NoError(t, err)
					require.Equal(t, sum.Updated, verified[0].Kind, "%+v", verified[0])
				}
				l.clean(s)
			})
		}
	}
}

// TestLineLost cuts the line at each step of a deployment, before the request
// arrives and before its answer does: the work goes on and is done once.
func TestLineLost(t *testing.T) {
	serverOps := []agenttest.Op{agenttest.Start, agenttest.Inventory, agenttest.Stage, agenttest.Install, agenttest.Status, agenttest.Remove}
	for _, op := range serverOps {
		for _, after := range []bool{false, true} {
			name := "server/" + string(op)
			if after {
				name += " answer"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, server)
				s := l.open()
				n := l.nodes(s)[0]
				struck := false
				l.agents.Host(n.Target().Name).Fault(agenttest.Fault{Op: op, Call: 1, After: after, Bytes: 1000, Err: transport.ErrConnLost,
					Do: func() {
						struck = true
						l.at[n.Target().Name].Cut()
					}})
				o := deploy(t, n, l.component("7.0", 100_000))
				require.Equal(t, sum.Updated, o.Kind, "%+v", o)
				require.Equal(t, 1, l.applied(n.Target().Name))
				l.clean(s)
				require.True(t, struck, "the fault did not strike")
			})
		}
	}
	for _, personality := range []string{push, pull} {
		for _, fault := range []transporttest.Fault{
			{Op: "inventory", Do: transporttest.Cut},
			{Op: "update.upload", After: 5000, Do: transporttest.Cut},
			{Op: "update.flash", Do: transporttest.Cut},
			{Op: "update.flash", Do: transporttest.LoseReply},
			{Op: "update.flash", Do: transporttest.Reboot},
		} {
			if personality == pull && fault.Op == "update.upload" {
				continue // the target fetches; there is no upload
			}
			t.Run(personality+"/"+fault.Op, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, personality)
				s := l.open()
				n := l.nodes(s)[0]
				at := l.at[n.Target().Name]
				hit := at.Inject(fault)
				o := deploy(t, n, l.component("7.0", 100_000))
				require.Equal(t, 1, hit.Hits(), "the fault did not strike")
				require.Truef(t, o.Kind.OK(), "%+v", o)
				require.Equal(t, 1, l.applied(n.Target().Name))
				l.clean(s)
			})
		}
	}
}

// TestDeviceClaims shows that the version that is read decides, not the device's word.
func TestDeviceClaims(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flash transporttest.Flash
		want  sum.OutcomeKind
	}{
		{"lies", transporttest.Flash{Lie: true}, sum.Unverified},
		{"fails", transporttest.Flash{Fail: transport.Code{Space: "redfish", Value: "UpdateSignatureValidationFailed"}, Text: "bad signature"}, sum.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, push)
			s := l.open()
			n := l.nodes(s)[0]
			l.at[n.Target().Name].NextFlash(tt.flash)
			o := deploy(t, n, l.component("7.0", 100))
			require.Equal(t, tt.want, o.Kind, "%+v", o)
			if !tt.flash.Fail.IsZero() {
				require.Equal(t, tt.flash.Fail, o.Code)
				require.Contains(t, o.Text, tt.flash.Text)
			}
			l.clean(s)
		})
	}
}

// TestDeviceRewritten writes the version again that is there: nothing can prove
// that, so it is not claimed.
func TestDeviceRewritten(t *testing.T) {
	l := newLab(t, push)
	s := l.open()
	n := l.nodes(s)[0]
	c := l.component("7.0", 100)
	require.Equal(t, sum.Updated, deploy(t, n, c).Kind)
	p := plan(t, n, c, sum.PlanOptions{Rewrite: true})
	require.Equal(t, 1, p.Installs())
	out, err := sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.Equal(t, 2, l.applied(n.Target().Name))
	l.clean(s)
}

// TestInstallerFails keeps what dpkg said.
func TestInstallerFails(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	l.agents.Host(n.Target().Name).OnInstall("thing", agenttest.Job{Log: []string{"disk full\n"}, Exit: transport.Exit{Code: 2}})
	o := deploy(t, n, l.component("7.0", 100))
	require.Equal(t, sum.Failed, o.Kind)
	require.Equal(t, transport.Code{Space: "dpkg", Value: "2"}, o.Code)
	require.Equal(t, "1.0", o.To())
	l.clean(s)
}

// TestAgentDies kills the agent while its job runs.
func TestAgentDies(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	l.agents.Host(n.Target().Name).OnInstall("thing", agenttest.Job{Log: []string{"a\n", "b\n"}, AgentDies: true})
	require.Equal(t, sum.Updated, deploy(t, n, l.component("7.0", 100)).Kind)
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestManagerDies abandons a session while a job or a flash runs. The next one
// finds from the journal alone what is to be done, and does nothing twice.
func TestManagerDies(t *testing.T) {
	for _, personality := range []string{server, push, pull} {
		for _, second := range []string{"recover", "deploy"} {
			t.Run(personality+"/"+second, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, personality)
				name := l.targets[0].Name
				c := l.component("7.0", 100_000)
				s := l.open()
				n := l.nodes(s)[0]
				p := plan(t, n, c, sum.PlanOptions{})

				l.begin(n, p, c, transporttest.Flash{}).die(s)

				s = l.open()
				require.Equal(t, []string{name}, []string{s.Pending()[0].Name})
				n = l.nodes(s)[0]
				var outcomes []sum.Outcome
				if second == "recover" {
					rec, err := sum.Recover(t.Context(), n, sum.DeployOptions{}, c)
					require.NoError(t, err)
					outcomes = rec.Outcomes
				} else {
					var err error
					outcomes, err = sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
					require.NoError(t, err)
				}
				require.Len(t, outcomes, 1)
				require.Truef(t, outcomes[0].Kind.OK(), "%+v", outcomes[0])
				require.True(t, outcomes[0].Recovered)
				require.Equal(t, 1, l.applied(name))
				require.Equal(t, sum.NotNeeded, deploy(t, n, c).Kind)
				require.Equal(t, 1, l.applied(name))
				l.clean(s)
			})
		}
	}
}

// TestRecoverUnreachable keeps what it cannot finish.
func TestRecoverUnreachable(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	s.Abandon()

	s = l.open()
	away := l.at[l.targets[0].Name].Inject(transporttest.Fault{Op: "dial", Times: -1, Err: transport.ErrUnreachable})
	_, err = sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPending)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.NoError(t, s.Close(t.Context()))
	away.Release()

	s = l.open()
	rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, rec.Removed, 1)
	l.clean(s)
}

// TestStopped ends the context of a deployment while the installer runs: it is
// left to end, and its result is fetched by the next run.
func TestStopped(t *testing.T) {
	synctest.Test(t, testStopped) // it waits for transport.CloseGrace
}

func testStopped(t *testing.T) {
	l := newLab(t, server)
	name := l.targets[0].Name
	hold := make(chan struct{})
	l.agents.Host(name).OnInstall("thing", agenttest.Job{Log: []string{"begun\n"}, Hold: hold})
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	out, err := sum.Deploy(ctx, n, p, []*component.Component{c}, sum.DeployOptions{Events: func(e sum.Event) {
		if e.Phase == "install" {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, out, 1)
	require.Equal(t, sum.Unverified, out[0].Kind, "%+v", out[0])
	require.Error(t, s.Close(context.Background()), "the agent cannot go while its job runs, and that is said")
	close(hold)

	s = l.open()
	rec, err := sum.Recover(t.Context(), l.nodes(s)[0], sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Updated, rec.Outcomes[0].Kind)
	require.Equal(t, 1, l.applied(name))
	l.clean(s)
}

// TestStoppedBefore ends the context before a component begins.
func TestStoppedBefore(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	n := l.nodes(s)[0]
	c := l.component("7.0", 100)
	p := plan(t, n, c, sum.PlanOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	out, err := sum.Deploy(ctx, n, p, []*component.Component{c}, sum.DeployOptions{Events: func(e sum.Event) {
		if e.Phase == "stage" {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, sum.Cancelled, out[0].Kind, "%+v", out[0])
	require.Zero(t, l.applied(n.Target().Name))
	l.clean(s)
}

func TestPlanStale(t *testing.T) {
	l := newLab(t, server)
	name := l.targets[0].Name
	c := l.component("7.0", 100)
	s := l.open()
	n := l.nodes(s)[0]
	p := plan(t, n, c, sum.PlanOptions{})

	t.Run("payload", func(t *testing.T) {
		_, err := sum.Deploy(t.Context(), n, p, []*component.Component{l.component("7.0", 200)}, sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPlanStale)
	})
	t.Run("version", func(t *testing.T) {
		l.agents.Host(name).SetSoftware(transport.Software{Name: "thing", Version: "2.0", Source: "dpkg"})
		_, err := sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPlanStale)
		l.agents.Host(name).SetSoftware(transport.Software{Name: "thing", Version: "1.0", Source: "dpkg"})
	})
	t.Run("machine", func(t *testing.T) {
		id := l.at[name].Identity()
		other := id
		other.Serial = "another"
		l.agents.Host(name).SetIdentity(other)
		_, err := sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
		require.ErrorIs(t, err, sum.ErrPlanStale)
		l.agents.Host(name).SetIdentity(id)
	})
	require.Zero(t, l.applied(name))
	out, err := sum.Deploy(t.Context(), n, p, []*component.Component{c}, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Updated, out[0].Kind)
	l.clean(s)
}

// TestNoSecrets looks for the password in everything that outlives a run.
func TestNoSecrets(t *testing.T) {
	const canary = "canary-3f9c1"
	for _, personality := range []string{server, push} {
		l := newLab(t, personality)
		at := l.at[l.targets[0].Name]
		at.SetPassword(transport.NewSecret(canary))
		l.decorate = func(tr transport.Transport) transport.Transport {
			return transport.Log(tr, slog.New(slog.NewTextHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
		}
		s := l.open()
		n := l.nodes(s)[0]
		require.True(t, deploy(t, n, l.component("7.0", 100)).Kind.OK())
		at.SetPassword(transport.NewSecret("another"))
		at.Cut()
		_, err := sum.Inventory(t.Context(), n)
		if err != nil {
			require.NotContains(t, err.Error(), canary)
		}
		at.SetPassword(transport.NewSecret(canary))
		require.NoError(t, s.Close(t.Context()))
		require.NotContains(t, l.logs.String(), canary)
		require.NotEmpty(t, l.logs.String())
		files, err := filepath.Glob(filepath.Join(l.journal, "*"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			require.NotContains(t, string(b), canary, f)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	_, err := sum.Open(t.Context(), sum.Config{Journal: t.TempDir()})
	require.ErrorIs(t, err, sum.ErrInvalid)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = sum.Open(t.Context(), sum.Config{Journal: file, Resolve: func(context.Context, sum.Target) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, errors.New("never called")
	}})
	require.ErrorIs(t, err, sum.ErrJournal)
}
