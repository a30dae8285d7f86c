package install_test

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

func win32(code string) transport.Code { return transport.Code{Space: "win32", Value: code} }

// TestWindowsStartFaults: what Windows says of a service that does not start becomes what
// the operator must know, and nothing is left.
func TestWindowsStartFaults(t *testing.T) {
	t.Parallel()
	const native = `C:\Windows\roundsman\m1-win1\roundsman-agent.exe`
	for name, tt := range map[string]struct {
		faults smbtest.Faults
		run    func(l *winLab) error            // what the service does
		hook   func(l *winLab, op string) error // before a call
		source install.Source
		kinds  []error
		code   transport.Code
		says   []string
		never  string // it says
		before bool   // nothing was changed at all
	}{
		"start takes too long": {faults: smbtest.Faults{StartError: smbtest.ErrStartTimeout},
			kinds: []error{agent.ErrStart, transport.ErrTimeout}, code: win32("1053"), says: []string{"within 30 seconds"}},
		"no rights at all": {faults: smbtest.Faults{Denied: true}, before: true,
			kinds: []error{fs.ErrPermission}, code: win32("5"), says: []string{"UAC"}},
		"no right to create": {faults: smbtest.Faults{CreateDenied: true},
			kinds: []error{fs.ErrPermission}, code: win32("5"), says: []string{"UAC"}},
		"a virus scanner says so": {faults: smbtest.Faults{StartError: 225},
			kinds: []error{agent.ErrQuarantined}, code: win32("225"), says: []string{"except " + native}},
		"a virus scanner took it": {run: func(l *winLab) error { _ = os.Remove(l.dir(agent.WindowsBinaryName)); return smbtest.ErrFileNotFound },
			kinds: []error{agent.ErrQuarantined}, says: []string{"except " + native}},
		"a policy forbids it": {faults: smbtest.Faults{StartError: 1260},
			kinds: []error{agent.ErrPolicy}, code: win32("1260"), says: []string{"must allow " + native + " with the SHA-256 "}},
		"an application control policy forbids it": {faults: smbtest.Faults{StartError: 4551},
			kinds: []error{agent.ErrPolicy}, code: win32("4551"), says: []string{"must allow " + native + " with the SHA-256 "}},
		"something denies the program": {faults: smbtest.Faults{StartError: smbtest.ErrAccessDenied},
			kinds: []error{agent.ErrStart, fs.ErrPermission}, code: win32("5"), says: []string{"except " + native}, never: "UAC"},
		"the program ends at once": {run: func(l *winLab) error { l.say("because of this"); l.exit(1); return nil },
			kinds: []error{agent.ErrStart}, code: transport.Code{Space: "service", Value: "1"}, says: []string{"because of this", `see C:\Windows\roundsman\m1-win1\agent.log`}},
		"the program crashes": {faults: smbtest.Faults{ExitCode: smbtest.ErrProcessAborted},
			kinds: []error{agent.ErrStart}, code: win32("1067"), never: agent.LogName},
		"the program ends without a word of note": {run: func(l *winLab) error { l.say("time=1 level=INFO msg=begun"); l.exit(1); return nil },
			kinds: []error{agent.ErrStart}, says: []string{"msg=begun"}},
		"the program finds no room": {run: func(l *winLab) error { l.exit(agent.ExitNoSpace); return nil },
			kinds: []error{agent.ErrStart, transport.ErrNoSpace}, code: transport.Code{Space: "service", Value: "4"}, says: []string{"make room"}},
		"somebody deletes the service": {run: func(l *winLab) error {
			conn := l.dial()
			l.wg.Go(func() { _ = transport.DeleteService(context.Background(), conn, agent.ServiceName(l.id)); l.exit(0) })
			return nil
		}, kinds: []error{agent.ErrStart}},
		"the disk is full": {hook: func(_ *winLab, op string) error {
			if op == "put "+agent.WindowsBinaryName {
				return &transport.Error{Op: "put", Kind: transport.ErrNoSpace, Code: transport.Code{Space: "ntstatus", Value: "0xC000007F"}}
			}
			return nil
		}, kinds: []error{agent.ErrNoDir, transport.ErrNoSpace}},
		"no room for the rest": {hook: func(_ *winLab, op string) error {
			if op == "put "+agent.BootstrapName {
				return &transport.Error{Op: "put", Kind: transport.ErrNoSpace}
			}
			return nil
		}, kinds: []error{transport.ErrNoSpace}},
		"gone after the copy": {hook: func(l *winLab, op string) error {
			if op == "stat "+path.Join(l.place().Dir, agent.WindowsBinaryName) {
				return os.Remove(l.dir(agent.WindowsBinaryName))
			}
			return nil
		}, kinds: []error{agent.ErrQuarantined}, says: []string{"except " + native}},
		"for another processor": {source: winSource{0x014c}, before: true, kinds: []error{agent.ErrNoBinary}, says: []string{"0x014c"}},
		"of another system":     {source: elfSource{}, before: true, kinds: []error{agent.ErrNoBinary}},
		"the journal fails":     {before: true, kinds: []error{errInjected}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newWinLab(t, false)
			if tt.run != nil {
				l.act = func(string) error { return tt.run(l) }
			}
			l.scm.SetFaults(tt.faults)
			conn := l.dial()
			conn.hook = func(op string) error {
				if tt.hook != nil {
					return tt.hook(l, op)
				}
				return nil
			}
			in := winInstaller()
			if tt.source != nil {
				in.Source = tt.source
			}
			o := l.opts()
			o.Opened = func(context.Context, agent.Place) error {
				if name == "the journal fails" {
					return errInjected
				}
				return nil
			}
			_, err := in.Start(t.Context(), conn, o)
			require.Error(t, err)
			for _, kind := range tt.kinds {
				require.ErrorIs(t, err, kind)
			}
			if tt.code != (transport.Code{}) {
				require.Equal(t, tt.code, transport.CodeOf(err))
			}
			for _, text := range tt.says {
				require.ErrorContains(t, err, text)
			}
			require.NotContains(t, err.Error(), "could not be removed")
			if tt.never != "" {
				require.NotContains(t, err.Error(), tt.never)
			}
			if tt.before {
				require.Zero(t, conn.count("mkdir")+conn.count("put")+conn.count("create"))
			}
			l.scm.SetFaults(smbtest.Faults{})
			l.requireClean()
			if len(files(t, l.dir())) == 0 { // there is no log
				l.requireNothing()
			}
		})
	}
}

type elfSource struct{}

func (elfSource) Open(context.Context, string, string) (transport.File, error) {
	return transport.BytesFile("x", []byte("\x7fELF"+strings.Repeat("x", 100))), nil
}

// TestWindowsTakesLeftoversOver: services and files of a manager that died are replaced.
func TestWindowsTakesLeftoversOver(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(l *winLab){
		"stopped": func(l *winLab) { l.add(agent.ServiceName(l.id), smbtest.Stopped) },
		"running": func(l *winLab) { l.add(agent.ServiceName(l.id), smbtest.Running) },
		"marked, until somebody closes it": func(l *winLab) {
			l.add(agent.ServiceName(l.id), smbtest.Stopped)
			release, err := l.scm.Hold(agent.ServiceName(l.id))
			require.NoError(l.t, err)
			conn := l.dial()
			require.NoError(l.t, transport.DeleteService(l.t.Context(), conn, agent.ServiceName(l.id)))
			l.wg.Go(func() {
				// When the installer has found it in the way.
				for !strings.Contains(strings.Join(l.scm.Calls(), "\n"), "CreateServiceW ") {
					time.Sleep(10 * time.Millisecond)
				}
				release()
			})
		},
		"files": func(l *winLab) {
			l.write(agent.WindowsBinaryName, agent.ReadyName, "blobs/x")
		},
		"a live agent": func(l *winLab) { require.NoError(l.t, l.start(l.dial()).Close(l.t.Context())) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newWinLab(t, true)
			prepare(l)
			conn := l.dial()
			a := l.start(conn)
			// A program that runs could not be replaced.
			require.Less(t, slices.Index(conn.calls, "stop "+agent.ServiceName(l.id)), slices.Index(conn.calls, "put "+agent.WindowsBinaryName))
			require.Contains(t, conn.calls, "stop "+agent.ServiceName(l.id))
			_, err := a.Jobs(t.Context())
			require.NoError(t, err)
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireNothing()
		})
	}
}

// newerSource is the winSource of a manager that was updated.
type newerSource struct{}

func (newerSource) Open(context.Context, string, string) (transport.File, error) {
	return transport.BytesFile(agent.BinaryName, append(portable(0x8664), "newer"...)), nil
}

// TestWindowsProgramOfARunningJob: the shim of a job runs the program that is there, which
// a newer manager puts aside for its own. Where somebody has it open, so that it cannot, it
// goes on with that one, and brings its own when the job is over.
func TestWindowsProgramOfARunningJob(t *testing.T) {
	t.Parallel()
	const program = `roundsman/m1-win1/` + agent.WindowsBinaryName
	ours := append(portable(0x8664), "newer"...)
	for name, tt := range map[string]struct {
		hold func(l *winLab) (release func())
		want []byte // the program of the agent meanwhile
	}{
		"it runs": {func(l *winLab) func() {
			release, err := l.srv.Execute("ADMIN$", program)
			require.NoError(t, err)
			return func() { require.NoError(t, release()) }
		}, ours},
		"sharing violation": {func(l *winLab) func() {
			release, err := l.srv.Hold("ADMIN$", strings.ReplaceAll(program, "/", `\`))
			require.NoError(t, err)
			return release
		}, portable(0x8664)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newWinLab(t, true)
			a := l.start(l.dial())
			gate := filepath.Join(t.TempDir(), "gate")
			job := script(t, a, "while [ ! -e "+gate+" ]; do sleep 0.05; done; echo done")
			_, err := a.Install(t.Context(), job)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				s, err := a.Status(t.Context(), job.ID, 0)
				return err == nil && s.State == agent.Running
			}, 20*time.Second, 20*time.Millisecond)
			require.NoError(t, a.Close(t.Context()))
			release := tt.hold(l)

			newer := &install.Installer{Source: newerSource{}}
			a, err = newer.Start(t.Context(), l.dial(), l.opts())
			require.NoError(t, err)
			data, err := os.ReadFile(l.dir(agent.WindowsBinaryName))
			require.NoError(t, err)
			require.Equal(t, tt.want, data)
			require.NoError(t, os.WriteFile(gate, nil, 0o600))
			st, said := finish(t, a, job.ID)
			require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
			require.Equal(t, "done\n", said)
			require.NoError(t, a.Close(t.Context()))

			release()
			a, err = newer.Start(t.Context(), l.dial(), l.opts())
			require.NoError(t, err)
			data, err = os.ReadFile(l.dir(agent.WindowsBinaryName))
			require.NoError(t, err)
			require.Equal(t, ours, data)
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
		})
	}
}

// A program that is in use without a job is no reason to start it: it may be anything.
func TestWindowsProgramInUseWithoutAJob(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	l.write(agent.WindowsBinaryName, "blobs/x")
	release, err := l.srv.Hold("ADMIN$", `roundsman\m1-win1\`+agent.WindowsBinaryName)
	require.NoError(t, err)
	conn := l.dial()
	_, err = winInstaller().Start(t.Context(), conn, l.opts())
	require.ErrorContains(t, err, "somebody has the file open, or it runs")
	require.Zero(t, conn.count("create "+agent.ServiceName(l.id)))
	release()
	_, err = winInstaller().Sweep(t.Context(), l.dial(), l.place())
	require.NoError(t, err)
	l.requireNothing()
}

// A service of that name that does not go is said to be in the way.
func TestWindowsServiceThatStays(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	l.add(agent.ServiceName(l.id), smbtest.Stopped)
	release, err := l.scm.Hold(agent.ServiceName(l.id))
	require.NoError(t, err)
	_, err = winInstaller().Start(t.Context(), l.dial(), l.opts())
	require.ErrorContains(t, err, "an earlier run left the service "+agent.ServiceName(l.id))
	require.Equal(t, win32("1072"), transport.CodeOf(err))
	require.ErrorContains(t, err, "services.msc")
	release()
	l.requireNothing()
}

// What is no agent's directory is not touched.
func TestWindowsForeignDirectory(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, false)
	l.write("somebody's")
	conn := l.dial()
	_, err := winInstaller().Start(t.Context(), conn, l.opts())
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.ErrorContains(t, err, "no agent's")
	require.Equal(t, []string{"somebody's"}, files(t, l.dir()))
	require.Zero(t, conn.count("put")+conn.count("remove")+conn.count("create"))
}

// TestWindowsImpostor: whoever is not the agent that said ready is refused.
func TestWindowsImpostor(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	conn := l.dial()
	conn.hook = func(op string) error {
		if strings.HasPrefix(op, "dial ") {
			return nil
		}
		if op == "get "+agent.ReadyName {
			data, err := os.ReadFile(l.dir(agent.ReadyName))
			if err != nil { // it might be there, as the agent wrote it, a moment later
				return &transport.Error{Op: "get", Kind: fs.ErrNotExist}
			}
			i := strings.Index(string(data), `"fingerprint": "`) + len(`"fingerprint": "`)
			copy(data[i:], strings.Repeat("ab", 32))
			return os.WriteFile(l.dir(agent.ReadyName), data, 0o600)
		}
		return nil
	}
	_, err := winInstaller().Start(t.Context(), conn, l.opts())
	require.ErrorIs(t, err, transport.ErrTrust)
	l.requireClean()
}

// TestWindowsCancelled ends the caller's context at every call of a Start: it returns
// the context's error, and nothing is left.
func TestWindowsCancelled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run: slow")
	}
	l := newWinLab(t, true)
	for n := 1; ; n++ {
		conn := l.dial()
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		conn.hook = func(string) error {
			if calls++; calls == n {
				cancel()
			}
			return nil
		}
		a, err := winInstaller().Start(ctx, conn, l.opts())
		cancel()
		if err == nil {
			require.Greater(t, n, 12)
			_, err := a.Remove(t.Context())
			require.NoError(t, err)
			l.requireNothing()
			return
		}
		require.ErrorIs(t, err, context.Canceled, "call %d: %s", n, last(conn.tap))
		require.NotContains(t, err.Error(), "could not be removed")
		l.requireClean()
	}
}

// TestWindowsTCP: the agent's own port, as HP SUM had it.
func TestWindowsTCP(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	in := winInstaller()
	in.Network, in.Listen = "tcp", "127.0.0.1:0"
	conn := l.dial()
	a, err := in.Start(t.Context(), conn, l.opts())
	require.NoError(t, err)
	_, err = a.Jobs(t.Context())
	require.NoError(t, err)
	require.Zero(t, conn.count("dial"))
	require.True(t, strings.HasPrefix(a.Place().Addr, "127.0.0.1:"), a.Place().Addr)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireNothing()
}

// TestWindowsClassic: the ports of HP SUM, in both directions. Whoever calls the manager and
// is not the agent that was started is refused, also before it is known which key that has.
func TestWindowsClassic(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	var callbacks channel.Callbacks
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- callbacks.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		require.NoError(t, callbacks.Close(context.Background()))
		require.ErrorIs(t, <-served, channel.ErrClosed)
	})
	told := &told{reports: make(chan *channel.ReportRequest, 100)}
	var manager *channel.ManagerCredentials
	stranger := func(ctx context.Context) error {
		key, err := channel.NewOwnKey()
		require.NoError(t, err)
		creds, err := key.Agent(manager.Fingerprint())
		require.NoError(t, err)
		c := &channel.CallbackClient{Credentials: creds, Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		}}
		defer c.Close(ctx)
		_, err = c.Contact(ctx, &channel.ContactRequest{})
		return err
	}
	o, released := l.opts(), 0
	o.Classic = &agent.Classic{Callback: func(_ context.Context, m *channel.ManagerCredentials) ([]string, func(), error) {
		remove, err := callbacks.Add("win1", m, told)
		manager = m
		return []string{ln.Addr().String()}, func() { remove(); released++ }, err
	}}
	conn := l.dial()
	conn.hook = func(op string) error {
		if op == "start "+agent.ServiceName(l.id) {
			require.Zero(t, manager.Peer())
			require.ErrorIs(t, stranger(t.Context()), channel.ErrAuth)
		}
		return nil
	}
	a, err := winInstaller().Start(t.Context(), conn, o)
	require.NoError(t, err)
	require.NotZero(t, manager.Peer())
	require.ErrorIs(t, stranger(t.Context()), channel.ErrAuth)
	job := script(t, a, "echo done")
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	for done, late := false, time.After(time.Minute); !done; {
		select {
		case q := <-told.reports:
			require.Equal(t, job.ID, q.JobID)
			done = q.State == channel.StateDone
		case <-late:
			require.Fail(t, "the manager was not told of the end of the job")
		}
	}
	require.EqualValues(t, 1, told.contacts.Load())
	log, err := os.ReadFile(l.dir(agent.LogName))
	require.NoError(t, err)
	require.NotContains(t, string(log), "the manager is not reached")
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, released)
	l.requireClean()

	// Where the manager cannot receive anybody it says so, and brings nobody.
	o.Classic.Callback = func(context.Context, *channel.ManagerCredentials) ([]string, func(), error) {
		return nil, nil, errInjected
	}
	_, err = winInstaller().Start(t.Context(), l.dial(), o)
	require.ErrorIs(t, err, errInjected)
	l.requireClean()
}

// told is a manager that agents tell of news.
type told struct {
	contacts atomic.Int32
	reports  chan *channel.ReportRequest
}

// Contact implements channel.CallbackHandler.
func (m *told) Contact(context.Context, *channel.ContactRequest) (*channel.ContactResponse, error) {
	m.contacts.Add(1)
	return &channel.ContactResponse{}, nil
}

// Report implements channel.CallbackHandler.
func (m *told) Report(_ context.Context, q *channel.ReportRequest) (*channel.ReportResponse, error) {
	m.reports <- q
	return &channel.ReportResponse{}, nil
}

// TestWindowsAgentDies: of an agent that ends after it has said that it is ready the error
// says how, and what it wrote.
func TestWindowsAgentDies(t *testing.T) {
	t.Parallel()
	l := newWinLab(t, true)
	conn := l.dial()
	conn.hook = func(op string) error {
		if !strings.HasPrefix(op, "dial ") {
			return nil
		}
		for _, pid := range l.processes() {
			l.say("panic: out of paper")
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		require.Eventually(t, func() bool {
			svc, ok := l.scm.Lookup(agent.ServiceName(l.id))
			return ok && svc.State == smbtest.Stopped
		}, 20*time.Second, 10*time.Millisecond)
		return nil
	}
	_, err := winInstaller().Start(t.Context(), conn, l.opts())
	require.ErrorContains(t, err, "the agent had begun, and its service has ended")
	require.ErrorContains(t, err, "panic: out of paper")
	require.ErrorContains(t, err, `see C:\Windows\roundsman\m1-win1\agent.log`)
	require.NotContains(t, err.Error(), "agent serves", "that is no news")
	l.requireClean()
}
