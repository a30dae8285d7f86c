package transporttest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

func dial(t *testing.T, target *transporttest.Target) transport.Conn {
	t.Helper()
	conn, err := target.Fake().Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	return conn
}

func closed(t *testing.T, fake *transporttest.Fake) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, fake.Close()) })
}

func TestFakeIsStrict(t *testing.T) {
	for name, tt := range map[string]struct {
		make func() (*transporttest.Fake, *transporttest.Target)
		do   func(ctx context.Context, f *transporttest.Fake, conn transport.Conn) error
		kind error
	}{
		"no such target": {transporttest.NewShellServer, func(ctx context.Context, f *transporttest.Fake, _ transport.Conn) error {
			_, err := f.Dial(ctx, transport.Endpoint{Address: "nobody.example"})
			return err
		}, transport.ErrUnreachable},
		"no such object": {transporttest.NewShellServer, func(ctx context.Context, f *transporttest.Fake, _ transport.Conn) error {
			_, err := f.Dial(ctx, transport.Endpoint{Address: "shell.example", Object: "bay-1"})
			return err
		}, transport.ErrUnreachable},
		"command without a script": {transporttest.NewShellServer, func(ctx context.Context, _ *transporttest.Fake, conn transport.Conn) error {
			_, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"rm", "-rf", "/"}})
			return err
		}, transport.ErrRejected},
		"service without a script": {transporttest.NewServiceServer, func(ctx context.Context, _ *transporttest.Fake, conn transport.Conn) error {
			return transport.CreateService(ctx, conn, transport.ServiceConfig{Name: "x", Argv: []string{"x.exe"}})
		}, transport.ErrRejected},
		"capability called past Caps": {transporttest.NewServiceServer, func(ctx context.Context, _ *transporttest.Fake, conn transport.Conn) error {
			_, err := conn.(transport.Runner).Run(ctx, transport.Command{Argv: []string{"id"}})
			return err
		}, errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			fake, target := tt.make()
			err := tt.do(t.Context(), fake, dial(t, target))
			require.ErrorIs(t, err, tt.kind)
			require.Len(t, fake.Violations(), 1)
			require.ErrorContains(t, err, fake.Violations()[0].Error())
			require.Equal(t, fake.Err().Error(), fake.Close().Error())
		})
	}
}

func TestFakeJournal(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	closed(t, fake)
	target.OnRun(transporttest.Argv("uname", "-*", "..."), transporttest.Answer("x86_64\n", "", 0))
	conn := dial(t, target)
	var out bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"uname", "-m"}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{}, exit)
	require.Equal(t, "x86_64\n", out.String())
	_, err = transport.Put(t.Context(), conn, "/tmp/x", transport.BytesFile("x", []byte("content")), transport.PutOptions{})
	require.NoError(t, err)
	_, err = transport.Stat(t.Context(), conn, "/tmp/y")
	require.Error(t, err)
	require.NoError(t, conn.Close(t.Context()))

	require.Equal(t, []string{"dial", "run", "put", "stat", "close"}, fake.Ops(target))
	calls := fake.Calls()
	require.Equal(t, []string{"uname", "-m"}, calls[1].Argv)
	require.Equal(t, int64(7), calls[2].Bytes)
	require.Equal(t, "/tmp/y", calls[3].Path)
	require.True(t, transport.IsNotExist(calls[3].Err))
	for _, c := range calls {
		require.True(t, c.Done, "%+v", c)
	}
}

func TestArgv(t *testing.T) {
	for _, tt := range []struct {
		patterns, argv []string
		want           bool
	}{
		{[]string{"ls"}, []string{"ls"}, true},
		{[]string{"ls"}, []string{"ls", "-l"}, false},
		{[]string{"ls", "..."}, []string{"ls", "-l"}, true},
		{[]string{"ls", "..."}, []string{"ls"}, true},
		{[]string{"ls", "-?"}, []string{"ls", "-l"}, true},
		{[]string{"ls", "-?"}, []string{"ls"}, false},
		{[]string{"[x"}, []string{"[x"}, true},
		{[]string{"cat", "*"}, []string{"cat", "/etc/passwd"}, true},
		{[]string{"*"}, []string{""}, true},
		{[]string{"a*b*c"}, []string{"a-b-b-c"}, true},
		{[]string{"a*b*c"}, []string{"a-b-b"}, false},
		{[]string{"a*"}, []string{"ba"}, false},
		{[]string{"?"}, []string{"é"}, true},
		{[]string{"?"}, []string{""}, false},
		{nil, nil, true},
	} {
		require.Equal(t, tt.want, transporttest.Argv(tt.patterns...)(tt.argv), "%q %q", tt.patterns, tt.argv)
	}
}

func TestDialFaults(t *testing.T) {
	for _, kind := range []error{transport.ErrUnreachable, transport.ErrAuth, transport.ErrTrust, transport.ErrBusy} {
		fake, target := transporttest.NewPushDevice()
		fault := target.Inject(transporttest.Fault{Op: "dial", Times: 2, Err: kind})
		for range 2 {
			_, err := fake.Dial(t.Context(), target.Endpoint())
			require.ErrorIs(t, err, kind)
		}
		require.Equal(t, 2, fault.Hits())
		require.NoError(t, dial(t, target).Close(t.Context()))
		require.NoError(t, fake.Close())
	}
}

func TestAnotherMachineAtTheAddress(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	closed(t, fake)
	known := target.Endpoint()
	conn := dial(t, target)
	other := target.Identity()
	other.Serial = "SN-OTHER"
	target.SetIdentity(other)
	id, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, "SN-OTHER", id.Serial)

	target.SetHostKey("ssh-ed25519 bmV3IGtleQ==")
	_, err = fake.Dial(t.Context(), known)
	require.ErrorIs(t, err, transport.ErrTrust)
	target.SetPassword(transport.NewSecret("rotated"))
	known.Trust = target.Endpoint().Trust
	_, err = fake.Dial(t.Context(), known)
	require.ErrorIs(t, err, transport.ErrAuth)
}

// TestCutAtByte: a cut takes effect at exactly the byte that was asked for, and
// the next Put goes on from there.
func TestCutAtByte(t *testing.T) {
	const size, cut = 300_000, 123_457
	for _, do := range []transporttest.Effect{transporttest.Cut, transporttest.Reboot} {
		fake, target := transporttest.NewShellServer()
		target.Inject(transporttest.Fault{Op: "put", After: cut, Do: do})
		content := bytes.Repeat([]byte("abc"), size/3)
		f := transport.BytesFile("x", content)
		conn := dial(t, target)
		_, err := transport.Put(t.Context(), conn, "/var/tmp/x", f, transport.PutOptions{})
		require.ErrorIs(t, err, transport.ErrConnLost)
		_, err = target.ReadFile("/var/tmp/x")
		require.Error(t, err)
		require.Len(t, target.Files(), 1, "the partial file")
		part, err := target.ReadFile(target.Files()[0])
		require.NoError(t, err)
		require.Len(t, part, cut)

		res, err := transport.Put(t.Context(), dial(t, target), "/var/tmp/x", f, transport.PutOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(cut), res.Kept)
		require.Equal(t, int64(size-cut), res.Sent)
		got, err := target.ReadFile("/var/tmp/x")
		require.NoError(t, err)
		require.Equal(t, content, got)
		require.Equal(t, []string{"/var/tmp/x"}, target.Files())

		target.Inject(transporttest.Fault{Op: "get", After: 1000, Do: do})
		var b bytes.Buffer
		n, err := transport.Get(t.Context(), dial(t, target), "/var/tmp/x", &b, transport.GetOptions{})
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.Equal(t, int64(1000), n)
		require.Equal(t, content[:1000], b.Bytes())
		require.NoError(t, fake.Close())
	}
}

func TestNoSpace(t *testing.T) {
	fake := transporttest.New()
	closed(t, fake)
	small := fake.Add(transporttest.TargetConfig{Address: "small", Caps: transport.CapFiles, Space: 100_000})
	conn := dial(t, small)
	f := transport.BytesFile("x", make([]byte, 150_000))
	_, err := transport.Put(t.Context(), conn, "/x", f, transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrNoSpace)
	_, err = transport.Stat(t.Context(), conn, "/x")
	require.True(t, transport.IsNotExist(err))
	require.NoError(t, transport.RemoveAll(t.Context(), conn, small.Files()[0]))
	_, err = transport.Put(t.Context(), conn, "/x", transport.BytesFile("x", make([]byte, 100_000)), transport.PutOptions{})
	require.NoError(t, err)
}

// TestStallInBubble: stalls end with the context, with the connection and when
// they are released; the fake works inside a synctest bubble.
func TestStallInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, target := transporttest.NewPushDevice()
		conn := dial(t, target)
		fault := target.Inject(transporttest.Fault{Op: "inventory", Do: transporttest.Stall, Times: -1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := transport.ReadInventory(ctx, conn)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(start))

		var wg sync.WaitGroup
		var inv *transport.Inventory
		wg.Go(func() { inv, err = transport.ReadInventory(t.Context(), conn) })
		synctest.Wait()
		require.Equal(t, 2, fault.Hits())
		fault.Release()
		wg.Wait()
		require.NoError(t, err)
		require.Len(t, inv.Devices, 3)

		target.Inject(transporttest.Fault{Do: transporttest.Stall, Times: -1})
		wg.Go(func() { _, err = conn.Identify(t.Context()) })
		synctest.Wait()
		require.NoError(t, fake.Close())
		wg.Wait()
		require.ErrorIs(t, err, transport.ErrConnLost)
	})
}

func TestReboot(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	closed(t, fake)
	started := make(chan struct{})
	target.OnRun(transporttest.Argv("daemon"), func(ctx context.Context, _ *transporttest.Process) transport.Exit {
		close(started)
		<-ctx.Done()
		return transport.Exit{Code: -1, Signal: "KILL"}
	})
	conn := dial(t, target)
	require.NoError(t, target.WriteFile("/run/volatile", []byte("x")))
	require.NoError(t, target.WriteFile("/etc/kept", []byte("x")))
	l, err := target.Listen("unix", "/run/agent.sock")
	require.NoError(t, err)
	_, err = target.Listen("unix", "/run/agent.sock")
	require.Error(t, err, "address in use")
	tunnel, err := transport.Dial(t.Context(), conn, "unix", "/run/agent.sock")
	require.NoError(t, err)
	ran := make(chan error, 1)
	go func() {
		_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"daemon"}})
		ran <- err
	}()
	background := make(chan struct{})
	target.Go(func(ctx context.Context) { <-ctx.Done(); close(background) })
	<-started
	boot := target.Identity().BootID

	target.RebootNow(2)
	require.ErrorIs(t, <-ran, transport.ErrConnLost)
	<-background
	_, err = l.Accept()
	require.Error(t, err)
	_, err = tunnel.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	for range 2 {
		_, err = fake.Dial(t.Context(), target.Endpoint())
		require.ErrorIs(t, err, transport.ErrUnreachable)
	}
	id, err := dial(t, target).Identify(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, boot, id.BootID)
	require.Equal(t, []string{"/etc/kept"}, target.Files())
	require.Empty(t, target.Listening())
}

// TestLostReply: the target did it, the caller does not know.
func TestLostReply(t *testing.T) {
	fake, target := transporttest.NewServiceServer()
	closed(t, fake)
	target.OnService(func(transport.ServiceConfig) bool { return true },
		func(ctx context.Context, _ *transporttest.Target, _ transport.ServiceConfig, args []string) transport.Code {
			if len(args) > 0 {
				return transport.Code{Space: "win32", Value: args[0]}
			}
			<-ctx.Done()
			return transport.Code{Space: "win32", Value: "0"}
		})
	target.Inject(transporttest.Fault{Op: "create service", Do: transporttest.LoseReply})
	cfg := transport.ServiceConfig{Name: "Agent", Argv: []string{"agent.exe"}}
	require.ErrorIs(t, transport.CreateService(t.Context(), dial(t, target), cfg), transport.ErrConnLost)
	conn := dial(t, target)
	err := transport.CreateService(t.Context(), conn, cfg)
	require.ErrorContains(t, err, "file already exists")
	require.Equal(t, transport.Code{Space: "win32", Value: "1073"}, transport.CodeOf(err))

	// A service that ends by itself says why; one that runs is deleted when it stops.
	require.NoError(t, transport.StartService(t.Context(), conn, "AGENT", "5"))
	require.Eventually(t, func() bool {
		st, err := transport.QueryService(t.Context(), conn, "agent")
		return err == nil && st.State == transport.ServiceStopped && st.Exit.Value == "5"
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, transport.StartService(t.Context(), conn, "agent"))
	require.NoError(t, transport.DeleteService(t.Context(), conn, "agent"))
	require.Equal(t, []string{"Agent"}, target.Services())
	require.ErrorIs(t, transport.CreateService(t.Context(), conn, cfg), transport.ErrBusy)
	require.NoError(t, transport.StopService(t.Context(), conn, "agent"))
	require.Empty(t, target.Services())
}

func TestTunnelBuffersAsSocketsDo(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	closed(t, fake)
	l, err := target.Listen("tcp", "127.0.0.1:62286")
	require.NoError(t, err)
	conn := dial(t, target)
	near, err := transport.Dial(t.Context(), conn, "tcp", "127.0.0.1:62286")
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	// Said before it hung up, with nobody reading.
	_, err = near.Write([]byte("goodbye"))
	require.NoError(t, err)
	require.NoError(t, near.Close())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "goodbye", string(got))
	_, err = far.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NoError(t, far.Close())

	// A full buffer blocks until its deadline, or until the line is cut.
	near, err = transport.Dial(t.Context(), conn, "tcp", "127.0.0.1:62286")
	require.NoError(t, err)
	require.NoError(t, near.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	n, err := near.Write(make([]byte, 1<<20))
	require.ErrorContains(t, err, "i/o timeout")
	require.Less(t, n, 1<<20)
	require.NoError(t, near.SetWriteDeadline(time.Time{}))
	time.AfterFunc(time.Millisecond, target.Cut)
	_, err = near.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, l.Close())
}

func TestHostGroup(t *testing.T) {
	fake, login, hosts := transporttest.NewHostGroup(3)
	closed(t, fake)
	conn := dial(t, login)
	require.Empty(t, conn.Path().CallbackFrom, "the vCenter dials nobody")
	n := 0
	for child, err := range transport.Children(t.Context(), conn) {
		require.NoError(t, err)
		ep := login.Endpoint()
		ep.Object = child.Object
		host, err := fake.Dial(t.Context(), ep)
		require.NoError(t, err)
		p := host.Path()
		require.Equal(t, conn.Path().Local, p.Local)
		require.Equal(t, []netip.Prefix{netip.PrefixFrom(p.Remote.Addr(), 32)}, p.CallbackFrom)
		id, err := host.Identify(t.Context())
		require.NoError(t, err)
		require.Equal(t, child.Name, id.Name)
		n++
	}
	require.Equal(t, 3, n)
	// A reboot of a host does not break the connection to its vCenter.
	host := dial(t, hosts[0])
	before := hosts[0].Identity().BootID
	require.NoError(t, transport.Reboot(t.Context(), host, transport.RebootOptions{}))
	id, err := host.Identify(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, before, id.BootID)
}

func TestEnclosure(t *testing.T) {
	fake, oa, bays := transporttest.NewEnclosure()
	closed(t, fake)
	i := 0
	for child, err := range transport.Children(t.Context(), dial(t, oa)) {
		require.NoError(t, err)
		if child.Address != "" {
			require.Equal(t, child.Address, bays[i].Address())
			require.Empty(t, bays[i].Object())
		} else {
			require.Equal(t, oa.Address(), bays[i].Address())
			require.Equal(t, child.Object, bays[i].Object())
		}
		inv, err := transport.ReadInventory(t.Context(), dial(t, bays[i]))
		require.NoError(t, err)
		require.NotEmpty(t, inv.Devices)
		i++
	}
	require.Equal(t, len(bays), i)
}
