package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
)

// chain is hosts in a row, of which the manager reaches the first alone. Between
// two of them there is a wire, which both call "mid".
type chain struct {
	t     *testing.T
	net   *realtest.Net
	hosts []*host
}

// wire are the addresses of the wire before host i: that of the nearer end, which
// is the address by which the host sees whoever comes through it, and its own.
func wire(i int) (near, own string) {
	base := netip.AddrFrom4([4]byte{198, 51, 100, byte(4 * i)})
	return base.Next().String(), base.Next().Next().String()
}

func newChain(t *testing.T, length int) *chain {
	first := newHost(t)
	c := &chain{t: t, net: first.net, hosts: []*host{first}}
	ip := realtest.Need(t, "ip")
	run := func(args ...string) {
		out, err := exec.Command(ip, args...).CombinedOutput()
		require.NoError(t, err, "ip %q: %s", args, out)
	}
	for i := 1; i < length; i++ {
		h := &host{t: t, net: c.net, Host: c.net.Host(realtest.HostConfig{})}
		h.Cable(false)
		pem, err := os.ReadFile(h.Identity)
		require.NoError(t, err)
		h.key, err = ssh.ParseKey(pem, transport.Secret{})
		require.NoError(t, err)
		known, err := os.ReadFile(h.HostKey)
		require.NoError(t, err)
		h.hostKey = strings.Join(strings.Fields(string(known))[1:3], " ")
		last, own := c.ns(i-1), c.ns(i)
		near, far := wire(i)
		run("-n", last, "link", "add", "mid", "type", "veth", "peer", "name", "back", "netns", own)
		for _, end := range [][3]string{{last, "mid", near}, {own, "back", far}} {
			run("-n", end[0], "addr", "add", end[2]+"/30", "dev", end[1])
			run("-n", end[0], "link", "set", end[1], "up")
		}
		c.hosts[i-1].Run("nft", "insert", "rule", "inet", "only22", "out", "oifname", "mid", "accept")
		c.hosts = append(c.hosts, h)
	}
	return c
}

// ns is the network namespace of a host.
func (c *chain) ns(i int) string { return c.net.NS + "h" + string(rune('1'+i)) }

// endpoint is where root logs in to a host from the one before it.
func (c *chain) endpoint(i int, opts ssh.Options) transport.Endpoint {
	ep := c.hosts[i].endpoint("root", opts)
	if i > 0 {
		_, ep.Address = wire(i)
	}
	return ep
}

// dial connects to every host, each through the one before it.
func (c *chain) dial(opts ssh.Options) []transport.Conn {
	c.t.Helper()
	return c.dialEach(func(int) ssh.Options { return opts })
}

func (c *chain) dialEach(opts func(i int) ssh.Options) []transport.Conn {
	c.t.Helper()
	var conns []transport.Conn
	tr := c.hosts[0].transport()
	for i := range c.hosts {
		conn, err := tr.Dial(c.t.Context(), c.endpoint(i, opts(i)))
		require.NoError(c.t, err)
		conns = append(conns, conn)
		tr = &ssh.Transport{DialContext: ssh.Through(conn)}
	}
	return conns
}

// nobody waits until no session is left on any host.
func (c *chain) nobody() {
	c.t.Helper()
	for i, h := range c.hosts {
		require.Eventually(c.t, func() bool {
			return !strings.Contains(strings.Join(h.Processes(), "\n"), "sshd: root")
		}, 30*time.Second, 50*time.Millisecond, "somebody is still logged in on host %d", i)
	}
}

// TestJumpChain goes to a host that the manager cannot reach, by way of two others.
func TestJumpChain(t *testing.T) {
	t.Parallel()
	c := newChain(t, 3)
	_, err := c.hosts[0].transport().Dial(t.Context(), c.endpoint(2, ssh.Options{ConnectTimeout: time.Second}))
	require.True(t, errors.Is(err, transport.ErrTimeout) || errors.Is(err, transport.ErrUnreachable), "%v", err)

	conns := c.dial(ssh.Options{})
	target := conns[2]
	near, own := wire(2)
	require.Equal(t, transport.Path{SeenAs: netip.MustParseAddr(near), CallbackFrom: []netip.Prefix{netip.MustParsePrefix(own + "/32")}}, target.Path())
	require.True(t, conns[0].Path().Local.IsValid())
	require.Equal(t, conns[0].Path().Local.Addr(), conns[0].Path().SeenAs)
	operations(t, target, "/root/through")
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB: in pieces
	res, err := transport.Put(t.Context(), target, "/root/large", transport.BytesFile("large", content), transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, len(content), res.Sent)
	c.hosts[2].Run("test", "-e", "/root/large")

	t.Run("closed from behind", func(t *testing.T) {
		for i := range conns {
			require.NoError(t, conns[len(conns)-1-i].Close(t.Context()))
		}
		c.nobody()
	})
	t.Run("closed from the front", func(t *testing.T) {
		conns := c.dial(ssh.Options{})
		require.NoError(t, conns[0].Close(t.Context()))
		for _, conn := range conns[1:] {
			_, err := conn.Identify(t.Context())
			require.ErrorIs(t, err, transport.ErrConnLost)
			require.NoError(t, conn.Close(t.Context()))
		}
		c.nobody()
		_, err := (&ssh.Transport{DialContext: ssh.Through(conns[0])}).Dial(t.Context(), c.endpoint(1, ssh.Options{}))
		require.ErrorIs(t, err, transport.ErrClosed)
		_, err = (&ssh.Transport{DialContext: ssh.Through(conns[1])}).Dial(t.Context(), c.endpoint(2, ssh.Options{}))
		require.ErrorIs(t, err, transport.ErrClosed)
	})
	t.Run("login on the middle one ended", func(t *testing.T) {
		conns := c.dial(ssh.Options{})
		work := busy(t, conns[2], "/root")
		c.hosts[1].Run("pkill", "-KILL", "-f", "^sshd: root")
		work()
		require.Equal(t, "0\n", output(t, conns[0], "id", "-u"), "the first one is none the worse")
		_, err := (&ssh.Transport{DialContext: ssh.Through(conns[1])}).Dial(t.Context(), c.endpoint(2, ssh.Options{}))
		require.ErrorIs(t, err, transport.ErrConnLost)
		for _, conn := range conns {
			require.NoError(t, conn.Close(t.Context()))
		}
	})
	t.Run("cable of the middle one pulled", func(t *testing.T) {
		conns := c.dialEach(func(i int) ssh.Options {
			if i == 0 {
				return ssh.Options{} // its line is sound
			}
			return ssh.Options{KeepAlive: 3 * time.Second}
		})
		work := busy(t, conns[2], "/root")
		c.hosts[0].Run("ip", "link", "set", "mid", "down")
		work()
		_, err := conns[1].Identify(t.Context())
		require.ErrorIs(t, err, transport.ErrConnLost)
		require.Equal(t, "0\n", output(t, conns[0], "id", "-u"))
		_, err = (&ssh.Transport{DialContext: ssh.Through(conns[0])}).Dial(t.Context(), c.endpoint(1, ssh.Options{ConnectTimeout: 2 * time.Second}))
		require.True(t, errors.Is(err, transport.ErrTimeout) || errors.Is(err, transport.ErrUnreachable), "%v", err)
		for _, conn := range conns {
			require.NoError(t, conn.Close(t.Context()))
		}
	})
}

// busy begins all kinds of calls, and returns a function that waits for their end,
// which must be the loss of the connection.
func busy(t *testing.T, conn transport.Conn, dir string) func() {
	t.Helper()
	ctx := t.Context()
	var began, ended sync.WaitGroup
	errs := make(map[string]error)
	var mu sync.Mutex
	call := func(name string, f func(started func()) error) {
		began.Add(1)
		ended.Go(func() {
			err := f(sync.OnceFunc(began.Done))
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	tunnel, err := transport.Dial(ctx, conn, "tcp", "127.0.0.1:22")
	require.NoError(t, err)
	call("run", func(started func()) error {
		_, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"sh", "-c", "echo; exec sleep 600"},
			Stdout: writer(func(p []byte) (int, error) { started(); return len(p), nil })})
		return err
	})
	call("put", func(started func()) error {
		_, err := transport.Put(ctx, conn, dir+"/endless", transport.BytesFile("endless", make([]byte, 1<<30)),
			transport.PutOptions{Progress: func(int64) { started() }})
		return err
	})
	call("get", func(started func()) error {
		_, err := transport.Get(ctx, conn, "/dev/zero", writer(func(p []byte) (int, error) { started(); return len(p), nil }), transport.GetOptions{})
		return err
	})
	call("stat", func(started func()) error {
		for {
			if _, err := transport.Stat(ctx, conn, "/"); err != nil {
				return err
			}
			started()
		}
	})
	call("tunnel", func(started func()) error {
		hello := make([]byte, 4)
		_, err := io.ReadFull(tunnel, hello)
		started()
		if err == nil {
			_, err = io.Copy(io.Discard, tunnel)
		}
		return err
	})
	began.Wait()
	return func() {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			ended.Wait()
		}()
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			t.Error("calls on a lost connection do not end")
			_ = conn.Close(context.Background())
			<-done
		}
		for name, err := range errs {
			require.ErrorIs(t, err, transport.ErrConnLost, name)
		}
		_, err := conn.Identify(ctx)
		require.ErrorIs(t, err, transport.ErrConnLost)
		_ = tunnel.Close()
	}
}

// TestDeadCable: a line that dies without a word is found out, and whatever waits
// for the target ends.
func TestDeadCable(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conn, err := h.transport().Dial(t.Context(), h.endpoint("root", ssh.Options{KeepAlive: time.Second}))
	require.NoError(t, err)
	work := busy(t, conn, "/root")
	h.Cable(false)
	work()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = conn.Close(context.Background())
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("Close waits for what is lost")
	}
	_, err = h.transport().Dial(t.Context(), h.endpoint("root", ssh.Options{ConnectTimeout: time.Second}))
	require.True(t, errors.Is(err, transport.ErrTimeout) || errors.Is(err, transport.ErrUnreachable), "%v", err)
	h.Cable(true)
	require.Eventually(t, func() bool {
		conn, err := h.transport().Dial(t.Context(), h.endpoint("root", ssh.Options{ConnectTimeout: time.Second}))
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
}

// linkLocal waits for a link-local address of a device that can be used.
func linkLocal(t *testing.T, ns, device string) string {
	t.Helper()
	var addr string
	require.Eventually(t, func() bool {
		out, err := exec.Command(realtest.Need(t, "ip"), "-n", ns, "-6", "-o", "addr", "show", "dev", device, "scope", "link").Output()
		if err != nil || bytes.Contains(out, []byte("tentative")) {
			return false
		}
		_, after, ok := strings.Cut(string(out), "inet6 ")
		addr, _, _ = strings.Cut(after, "/")
		return ok
	}, 30*time.Second, 100*time.Millisecond, "%s has no link-local address", device)
	return addr
}

// TestIPv6 dials literals of all kinds, as known_hosts has them.
func TestIPv6(t *testing.T) {
	t.Parallel()
	c := newChain(t, 2)
	h := c.hosts[0]
	h.server(2222)
	mine := linkLocal(t, h.net.NS, "v1") + "%v1"
	there := linkLocal(t, c.ns(0), "eth0")
	zoned := there + "%v1"
	long := netip.MustParseAddr(h.Addr6).StringExpanded()
	sshProgram := realtest.Need(t, "ssh")
	dir := t.TempDir()
	for i, r := range []struct{ address, name, seen string }{
		{h.Addr6, h.Addr6, ""},
		{"[" + h.Addr6 + "]", h.Addr6, ""},
		{"[" + h.Addr6 + "]:22", h.Addr6, ""},
		{"[" + h.Addr6 + "]:2222", "[" + h.Addr6 + "]:2222", ""},
		{strings.ToUpper(long), h.Addr6, ""},
		{"[" + long + "]:2222", "[" + h.Addr6 + "]:2222", ""},
		{zoned, zoned, mine},
		{"[" + zoned + "]:22", zoned, mine},
		{"[" + zoned + "]:2222", "[" + zoned + "]:2222", mine},
	} {
		t.Run(r.address, func(t *testing.T) {
			file := filepath.Join(dir, strconv.Itoa(i)) // ssh expands what begins with "%"
			writeFile(t, file, r.name+" "+h.hostKey+"\n", 0o600)
			ep := h.endpoint("root", ssh.Options{})
			ep.Address, ep.Trust = r.address, transport.Trust{KnownHosts: []string{file}}
			conn := dialWith(t, h.transport(), ep)
			require.Equal(t, "0\n", output(t, conn, "id", "-u"))
			p := conn.Path()
			require.True(t, p.Local.Addr().Is6() && p.Remote.Addr().Is6())
			if r.seen != "" {
				require.Equal(t, r.seen, p.Local.Addr().String())
				require.Equal(t, strings.TrimSuffix(mine, "%v1")+"%eth0", p.SeenAs.String(), "the zone is the target's")
				require.Equal(t, there+"/128", p.CallbackFrom[0].String())
			} else {
				require.Equal(t, p.Local.Addr(), p.SeenAs)
			}

			// What is recorded at first use is what ssh finds, hashed or not.
			require.NoError(t, os.Remove(file))
			ep.Trust.FirstUse = ssh.AcceptNew(file)
			dialWith(t, h.transport(), ep)
			ep.Trust.FirstUse = nil
			for range 2 {
				dialWith(t, h.transport(), ep)
				host, port, err := ep.HostPort(22)
				require.NoError(t, err)
				args := []string{"-F", "none", "-i", h.Identity, "-o", "UserKnownHostsFile=" + file, "-o", "StrictHostKeyChecking=yes",
					"-o", "BatchMode=yes", "-p", strconv.Itoa(int(port)), "-l", "root", host, "id", "-u"}
				out, err := h.net.Command(t.Context(), sshProgram, args...).CombinedOutput()
				require.NoError(t, err, "ssh %q: %s", args, out)
				out, err = exec.Command(realtest.Need(t, "ssh-keygen"), "-H", "-f", file).CombinedOutput()
				require.NoError(t, err, "%s", out)
			}
		})
	}
	t.Run("beyond a jump host", func(t *testing.T) {
		// The zone is the jump host's.
		ep := c.endpoint(1, ssh.Options{})
		ep.Address = linkLocal(t, c.ns(1), "back") + "%mid"
		linkLocal(t, c.ns(0), "mid")
		file := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), ep.Address+" "+c.hosts[1].hostKey+"\n", 0o600)
		ep.Trust = transport.Trust{KnownHosts: []string{file}}
		first := h.dial("root", ssh.Options{})
		conn := dialWith(t, &ssh.Transport{DialContext: ssh.Through(first)}, ep)
		require.Equal(t, "0\n", output(t, conn, "id", "-u"))
		require.Equal(t, "back", conn.Path().SeenAs.Zone())
	})
	t.Run("no such zone", func(t *testing.T) {
		ep := h.endpoint("root", ssh.Options{ConnectTimeout: 2 * time.Second})
		ep.Address = there + "%nowhere0"
		_, err := h.transport().Dial(t.Context(), ep)
		require.True(t, errors.Is(err, transport.ErrTimeout) || errors.Is(err, transport.ErrUnreachable), "%v", err)
	})
}
