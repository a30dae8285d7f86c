package ssh_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// host is a Linux server with users, file systems and rules of its own.
type host struct {
	*realtest.Host
	t   *testing.T
	net *realtest.Net
	key xssh.Signer // lets every user in

	hostKey string
}

// newHost starts a host. Further lines for sshd_config may follow.
func newHost(t *testing.T, sshd ...string) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	n := realtest.NewNet(t)
	h := &host{t: t, net: n, Host: n.Host(realtest.HostConfig{SSHD: append([]string{
		"AuthorizedKeysFile /etc/rmtest/keys", "StrictModes no", "PermitUserEnvironment yes", "MaxStartups 100",
	}, sshd...)})}
	pem, err := os.ReadFile(h.Identity)
	require.NoError(t, err)
	h.key, err = xssh.ParsePrivateKey(pem)
	require.NoError(t, err)
	known, err := os.ReadFile(h.HostKey)
	require.NoError(t, err)
	_, h.hostKey, _ = strings.Cut(strings.SplitN(string(known), "\n", 2)[0], " ")
	h.write("/etc/rmtest/keys", authorized(h.key.PublicKey())+"\n", 0o644)
	return h
}

// write makes a file on the host, and the directories above it.
func (h *host) write(name, content string, perm fs.FileMode) {
	h.t.Helper()
	cmd := h.Command(context.Background(), "sh", "-c", `mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"`, "sh", name, fmt.Sprintf("%o", perm))
	cmd.Stdin = strings.NewReader(content)
	out, err := cmd.CombinedOutput()
	require.NoError(h.t, err, "%s", out)
}

// user makes a user with files in the home directory.
func (h *host) user(name, shell string, files map[string]string) {
	h.t.Helper()
	h.Run("useradd", "-m", "-k", "/nonexistent", "-p", "*", "-s", shell, name)
	for file, content := range files {
		h.write(path.Join("/home", name, file), content, 0o644)
	}
	h.Run("chown", "-R", name+":", "/home/"+name)
}

// endpoint is where a user logs in.
func (h *host) endpoint(user string, opts ssh.Options) transport.Endpoint {
	opts.Signers = []xssh.Signer{h.key}
	return transport.Endpoint{Address: h.Addr, Credentials: transport.Credentials{User: user},
		Trust: transport.Trust{HostKeys: []string{h.hostKey}}, Options: opts}
}

// transport reaches the host from the manager's namespace.
func (h *host) transport() *ssh.Transport { return &ssh.Transport{DialContext: dialFrom(h.net.NS)} }

func (h *host) dial(user string, opts ssh.Options) transport.Conn {
	h.t.Helper()
	return dialWith(h.t, h.transport(), h.endpoint(user, opts))
}

func dialWith(t *testing.T, tr *ssh.Transport, ep transport.Endpoint) transport.Conn {
	t.Helper()
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// server starts one more sshd on the host, on a port of its own.
func (h *host) server(port int, lines ...string) {
	h.t.Helper()
	h.allow(port)
	name := "/etc/rmtest/sshd_" + strconv.Itoa(port)
	h.write(name, strings.Join(append([]string{
		"Port " + strconv.Itoa(port), "HostKey /etc/rmtest/host", "AuthorizedKeysFile /etc/rmtest/keys", "StrictModes no",
		"PasswordAuthentication no", "UsePAM no", "PermitRootLogin yes", "PidFile none", "MaxStartups 100",
	}, lines...), "\n")+"\n", 0o600)
	h.Run("/usr/sbin/sshd", "-f", name) // a daemon, which goes with the host's processes
	h.listening(port)
}

// allow lets the manager in on one more port.
func (h *host) allow(port int) {
	h.t.Helper()
	h.Run("nft", "insert", "rule", "inet", "only22", "in", "tcp", "dport", strconv.Itoa(port), "accept")
}

// listening waits until somebody listens on a port of the host.
func (h *host) listening(port int) {
	h.t.Helper()
	require.Eventually(h.t, func() bool {
		return strings.Contains(strings.Join(h.Listeners(), "\n"), ":"+strconv.Itoa(port)+" ")
	}, 20*time.Second, 50*time.Millisecond, "nobody listens on port %d", port)
}

// on is the host for a subtest.
func (h *host) on(t *testing.T) *host {
	c := *h
	c.t = t
	return &c
}

// dialFrom dials from a network namespace: a socket remains in the one in which
// it was made.
func dialFrom(ns string) transport.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil, err
		}
		defer own.Close()
		there, err := os.Open("/run/netns/" + ns)
		if err != nil {
			return nil, err
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, err
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if serr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); serr != nil {
			return nil, serr // the thread ends with its goroutine
		}
		runtime.UnlockOSThread()
		return c, err
	}
}

// hostile is a text with every byte that an argument can have.
func hostile() string {
	var b []byte
	for c := 1; c < 256; c++ {
		b = append(b, byte(c))
	}
	return string(b) + "\n"
}

// operations does everything that a connection with a shell can do, in a
// directory of the user's.
func operations(t *testing.T, conn transport.Conn, dir string) {
	t.Helper()
	ctx := t.Context()
	require.True(t, conn.Caps().Has(transport.CapFiles|transport.CapRun), "it has %v", conn.Caps())

	args := []string{hostile(), "", "-n", "~", "*", "$HOME", "a b", "!!", `\`, "'"}
	var out, errs bytes.Buffer
	exit, err := transport.Run(ctx, conn, transport.Command{
		Argv: append([]string{"sh", "-c", `printf '%s\0' "$@" "$E"; cat; echo err >&2; exit 7`, "sh"}, args...),
		Env:  []string{"E=" + hostile()}, Stdin: strings.NewReader("in\x00\xff\n"), Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{Code: 7}, exit)
	require.Equal(t, strings.Join(append(args, hostile()), "\x00")+"\x00in\x00\xff\n", out.String())
	require.Equal(t, "err\n", errs.String())
	exit, err = transport.Run(ctx, conn, transport.Command{Argv: []string{"no-such-program"}})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{Code: 127}, exit)

	fileOperations(t, conn, dir)
	cancelled(t, conn)
}

// fileOperations does everything that a connection with files can do.
func fileOperations(t *testing.T, conn transport.Conn, dir string) {
	t.Helper()
	ctx := t.Context()
	content := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	require.NoError(t, transport.Mkdir(ctx, conn, dir+"/a b/c", 0o750))
	name := dir + "/a b/c/it's\n\xff"
	res, err := transport.Put(ctx, conn, name, transport.BytesFile("x", content), transport.PutOptions{Mode: 0o640})
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), res.Info.Mode)
	require.EqualValues(t, len(content), res.Sent)
	res, err = transport.Put(ctx, conn, name, transport.BytesFile("x", content), transport.PutOptions{Mode: 0o600})
	require.NoError(t, err)
	require.EqualValues(t, len(content), res.Kept)
	var got bytes.Buffer
	_, err = transport.Get(ctx, conn, name, &got, transport.GetOptions{})
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got.Bytes()))
	got.Reset()
	_, err = transport.Get(ctx, conn, name, &got, transport.GetOptions{Offset: 70_001, Limit: 100_000})
	require.NoError(t, err)
	require.True(t, bytes.Equal(content[70_001:170_001], got.Bytes()))
	info, err := transport.Stat(ctx, conn, name)
	require.NoError(t, err)
	require.EqualValues(t, len(content), info.Size)
	require.Equal(t, fs.FileMode(0o600), info.Mode)
	list, err := transport.List(ctx, conn, dir+"/a b/c")
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "it's\n\xff", list[0].Name)
	require.ErrorIs(t, transport.Remove(ctx, conn, dir+"/a b"), fs.ErrExist)
	for _, n := range []string{name, dir + "/a b/c", dir + "/a b"} {
		require.NoError(t, transport.Remove(ctx, conn, n))
	}
	_, err = transport.Stat(ctx, conn, name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = transport.Get(ctx, conn, name, &got, transport.GetOptions{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// cancelled cancels programs that do not care for SIGTERM, or whose children do not.
func cancelled(t *testing.T, conn transport.Conn) {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, script := range []string{
		`trap "" TERM; sleep 600 & echo $$ $!; wait; sleep 600`,
		`sh -c 'trap "" TERM; echo $PPID $$; exec >&- 2>&-; sleep 600' & wait`,
	} {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var said bytes.Buffer
			_, err := transport.Run(ctx, conn, transport.Command{
				Argv: []string{"sh", "-c", script},
				Stdout: writer(func(p []byte) (int, error) {
					said.Write(p)
					if bytes.HasSuffix(said.Bytes(), []byte("\n")) {
						cancel()
					}
					return len(p), nil
				})})
			assert.ErrorIs(t, err, context.Canceled)
			pids := strings.Fields(said.String())
			assert.Len(t, pids, 2)
			for _, pid := range pids {
				assert.Eventually(t, func() bool {
					exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"kill", "-0", pid}})
					return err == nil && exit.Code != 0
				}, 3*time.Minute, 50*time.Millisecond, "process %s of %s lives on", pid, script)
			}
		})
	}
}
