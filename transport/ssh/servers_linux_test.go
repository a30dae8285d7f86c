package ssh_test

import (
	"context"
	"errors"
	"io"
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

const (
	externalSFTP = "Subsystem sftp /usr/lib/openssh/sftp-server"
	internalSFTP = "Subsystem sftp internal-sftp"
	tunnelCaps   = transport.CapTunnelTCP | transport.CapTunnelUnix
)

// TestServerMatrix takes real configurations of sshd. What a server does not
// offer, the capabilities say; what it refuses at the door is an error.
func TestServerMatrix(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("/etc/banner", "Authorized use only.\n", 0o644)
	h.write("/etc/motd", "Welcome to the machine.\n", 0o644)
	h.user("plain", "/bin/bash", nil)
	h.user("nologin", realtest.Need(t, "nologin"), nil)
	h.user("false", "/bin/false", nil)
	h.user("noshell", "/opt/no/such/shell", nil)
	h.user("leaves", "/bin/bash", map[string]string{".bashrc": "exit 3\n"})
	h.user("elsewhere", "/bin/bash", map[string]string{".bashrc": "exec zsh\n"})
	h.user("restricted", "/bin/rbash", nil)
	h.user("homeless", "/bin/bash", nil)
	h.Run("rm", "-r", "/home/homeless")
	h.user("nopath", "/bin/bash", map[string]string{".bashrc": "PATH=/nowhere\n"})
	h.Run("install", "-d", "/srv/jail", "/srv/jail/home")
	h.Run("install", "-d", "-o", "plain", "/srv/jail/home/plain")

	for i, r := range []struct {
		name, user string
		config     []string
		want       transport.Caps
		err        error
	}{
		{"plain", "plain", []string{internalSFTP}, shellCaps, nil},
		{"external sftp", "plain", []string{externalSFTP}, shellCaps, nil},
		{"no sftp", "plain", nil, shellCaps, nil},
		{"sftp-server missing", "plain", []string{"Subsystem sftp /usr/lib/no-such-server"}, shellCaps, nil},
		{"sftp-server prints", "plain", []string{"Subsystem sftp /bin/echo hello"}, shellCaps, nil},
		{"sftp-server is silent", "plain", []string{"Subsystem sftp /bin/true"}, shellCaps, nil},
		{"sftp alone", "plain", []string{internalSFTP, "ForceCommand internal-sftp"}, filesCaps, nil},
		{"sftp in a jail", "plain", []string{internalSFTP, "ForceCommand internal-sftp", "ChrootDirectory /srv/jail"}, filesCaps, nil},
		{"sftp with a umask", "plain", []string{internalSFTP, "ForceCommand internal-sftp -u 0077 -l DEBUG3"}, filesCaps, nil},
		{"message and end", "plain", []string{internalSFTP, `ForceCommand echo "This account is closed"`}, tunnelCaps, nil},
		{"message with the command", "plain", []string{internalSFTP, `ForceCommand echo "$SSH_ORIGINAL_COMMAND"; echo "$SSH_ORIGINAL_COMMAND" >&2`}, tunnelCaps, nil},
		{"logging wrapper", "plain", []string{externalSFTP, `ForceCommand echo "$SSH_ORIGINAL_COMMAND" | tee -a /tmp/log >&2; exec ${SHELL} -c "$SSH_ORIGINAL_COMMAND"`}, shellCaps, nil},
		{"nothing at all", "plain", []string{internalSFTP, "ForceCommand /bin/true", "DisableForwarding yes"}, tunnelCaps, nil},
		{"nologin", "nologin", []string{externalSFTP}, tunnelCaps, nil},
		{"nologin with sftp", "nologin", []string{internalSFTP}, filesCaps, nil},
		{"false", "false", []string{externalSFTP}, tunnelCaps, nil},
		{"no such shell", "noshell", []string{internalSFTP}, 0, transport.ErrAuth},
		{"start file ends", "leaves", []string{internalSFTP}, filesCaps, nil},
		{"start file ends sftp", "leaves", []string{externalSFTP}, tunnelCaps, nil},
		{"start file is another shell", "elsewhere", []string{internalSFTP}, filesCaps, nil},
		{"restricted shell", "restricted", []string{internalSFTP}, filesCaps, nil},
		{"no home", "homeless", []string{internalSFTP}, shellCaps, nil},
		{"no path", "nopath", []string{internalSFTP}, filesCaps, nil},
		{"words of its own", "plain", []string{internalSFTP, "Banner /etc/banner", "PrintMotd yes", "PrintLastLog yes"}, shellCaps, nil},
		{"one session", "plain", []string{internalSFTP, "MaxSessions 1"}, shellCaps, nil},
		{"one session of sftp", "plain", []string{internalSFTP, "ForceCommand internal-sftp", "MaxSessions 1"}, filesCaps, nil},
		{"two sessions", "plain", []string{externalSFTP, "MaxSessions 2"}, shellCaps, nil},
		{"no session", "plain", []string{internalSFTP, "MaxSessions 0"}, tunnelCaps, nil},
		{"much rekeying", "plain", []string{internalSFTP, "RekeyLimit 256K 1s"}, shellCaps, nil},
		{"much rekeying of sftp", "plain", []string{internalSFTP, "ForceCommand internal-sftp", "RekeyLimit 256K 1s"}, filesCaps, nil},
		{"compression", "plain", []string{internalSFTP, "Compression yes"}, shellCaps, nil},
		{"no terminal", "plain", []string{internalSFTP, "PermitTTY no"}, shellCaps, nil},
		{"old algorithms", "plain", []string{internalSFTP, "Ciphers aes128-ctr", "MACs hmac-sha2-256", "KexAlgorithms ecdh-sha2-nistp256"}, shellCaps, nil},
	} {
		port := 2200 + i
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			h.server(port, r.config...)
			opts := ssh.Options{}
			if strings.Contains(strings.Join(r.config, " "), "MaxSessions") {
				opts.MaxSessions = 1
			}
			ep := h.endpoint(r.user, opts)
			ep.Address += ":" + strconv.Itoa(port)
			conn, err := h.transport().Dial(t.Context(), ep)
			if r.err != nil {
				require.ErrorIs(t, err, r.err)
				return
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close(t.Context())) }()
			require.Equal(t, r.want, conn.Caps())
			dir := "/tmp/" + strconv.Itoa(port)
			switch {
			case strings.Contains(strings.Join(r.config, " "), "Chroot"):
				fileOperations(t, conn, "/home/plain")
			case conn.Caps().Has(transport.CapRun):
				operations(t, conn, dir)
				fileOperations(t, conn, dir)
			case conn.Caps().Has(transport.CapFiles):
				fileOperations(t, conn, dir)
			}
		})
	}
}

// TestImpatientServer: a server that asks often whether its client is alive gets
// an answer each time.
func TestImpatientServer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.user("plain", "/bin/bash", nil)
	// Enough for a machine that is busy; who never answers is told by the log.
	h.server(2222, internalSFTP, "ClientAliveInterval 1", "ClientAliveCountMax 60")
	h.allow(2223)
	h.Run("/usr/sbin/sshd", "-f", "/etc/rmtest/sshd_2222", "-p", "2223", "-E", "/tmp/sshd.log", "-o", "LogLevel=DEBUG1")
	h.listening(2223)
	ep := h.endpoint("plain", ssh.Options{KeepAlive: -1})
	ep.Address += ":2223"
	conn := dialWith(t, h.transport(), ep)
	answers := func() int { return strings.Count(h.Run("cat", "/tmp/sshd.log"), "for keepalive") }
	require.Eventually(t, func() bool { return answers() >= 2 }, time.Minute, 100*time.Millisecond, "it did not answer")
	// A long call sends nothing itself.
	before := answers()
	_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sleep", "2"}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return answers() > before }, time.Minute, 100*time.Millisecond)
	operations(t, conn, "/tmp/impatient")
}

// TestDropbear takes the other SSH server of Debian, with and without SFTP.
func TestDropbear(t *testing.T) {
	t.Parallel()
	dropbear, keygen := realtest.Need(t, "dropbear"), realtest.Need(t, "dropbearkey")
	h := newHost(t)
	h.Run(keygen, "-t", "ed25519", "-f", "/etc/rmtest/dropbear")
	_, key, ok := strings.Cut(h.Run(keygen, "-y", "-f", "/etc/rmtest/dropbear"), "ssh-ed25519 ")
	require.True(t, ok)
	keys := map[string]string{".ssh/authorized_keys": authorized(h.key.PublicKey()) + "\n"}
	h.user("plain", "/bin/bash", keys)
	h.user("chatter", "/bin/bash", keys)
	h.write("/home/chatter/.bashrc", "echo Welcome; echo Warning >&2\n", 0o644)
	h.user("fish", realtest.Need(t, "fish"), keys)
	h.user("root2", "/bin/bash", keys)
	h.write("/etc/sudoers.d/test", "Defaults:root2 requiretty\nroot2 ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	h.allow(2400)
	h.Run(dropbear, "-r", "/etc/rmtest/dropbear", "-p", "2400", "-P", "/run/dropbear.pid")
	h.listening(2400)
	dial := func(t *testing.T, user string, opts ssh.Options) transport.Conn {
		ep := h.endpoint(user, opts)
		ep.Address += ":2400"
		ep.Trust.HostKeys = []string{"ssh-ed25519 " + strings.Fields(key)[0]}
		return dialWith(t, h.transport(), ep)
	}
	run := func(t *testing.T) {
		for _, user := range []string{"plain", "chatter", "fish", "root2"} {
			t.Run(user, func(t *testing.T) {
				t.Parallel()
				opts := ssh.Options{}
				if user == "root2" {
					opts.Elevate = ssh.Sudo
				}
				conn := dial(t, user, opts)
				require.True(t, conn.Caps().Has(transport.CapRun|transport.CapFiles))
				operations(t, conn, "/home/"+user)
				streams(t, conn)
				long := strings.Repeat("\xe4\n", 50_000)
				require.Equal(t, long, output(t, conn, "printf", "%s", long))
				exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "kill -9 $$"}})
				require.NoError(t, err)
				require.NotEqual(t, transport.Exit{}, exit)
			})
		}
	}
	t.Run("with sftp", run)
	h.Run("rm", "/usr/lib/sftp-server")
	t.Run("without sftp", run)
	for range 30 { // Dropbear closes a session that is opened just when another one ends
		conn := dial(t, "plain", ssh.Options{})
		require.NoError(t, transport.Mkdir(t.Context(), conn, "/home/plain/dir", 0o755))
	}
	h.user("nologin", realtest.Need(t, "nologin"), keys)
	h.Run("sh", "-c", "command -v nologin >>/etc/shells") // else it would not be let in
	require.Equal(t, tunnelCaps, dial(t, "nologin", ssh.Options{}).Caps())
}

// TestOneSessionOfSFTP: a server that has room for one session refuses others while
// that lasts, and not afterwards.
func TestOneSessionOfSFTP(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "ForceCommand internal-sftp", "MaxSessions 1")
	conn := dial(t, s.endpoint(t))
	content := noise(1 << 20)
	file := transport.BytesFile("x", content)
	open, opened, gate := file.Open, make(chan struct{}), make(chan struct{})
	file.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		src, err := open(ctx)
		return &gated{ReadSeekCloser: src, reading: sync.OnceFunc(func() { close(opened) }), gate: gate}, err
	}
	dir := t.TempDir()
	put := make(chan error, 1)
	go func() {
		_, err := transport.Put(t.Context(), conn, dir+"/x", file, transport.PutOptions{})
		put <- err
	}()
	<-opened
	_, err := transport.Stat(t.Context(), conn, dir)
	require.ErrorIs(t, err, transport.ErrBusy)
	close(gate)
	require.NoError(t, <-put)
	_, err = transport.Stat(t.Context(), conn, dir+"/x")
	require.NoError(t, err)
	_, err = transport.Put(t.Context(), conn, dir+"/y", transport.BytesFile("y", content), transport.PutOptions{})
	require.NoError(t, err)
}

// gated is a source that is read once its gate is open.
type gated struct {
	io.ReadSeekCloser
	reading func()
	gate    chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	g.reading()
	<-g.gate
	return g.ReadSeekCloser.Read(p)
}

// TestWhyNoShell: who needs a shell that is not there hears what the target said
// when it was asked for one, through decorators, too.
func TestWhyNoShell(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.user("nologin", realtest.Need(t, "nologin"), nil)
	h.server(2222, externalSFTP)
	ep := h.endpoint("nologin", ssh.Options{})
	ep.Address += ":2222"
	conn := dialWith(t, h.transport(), ep)
	_, err := transport.Run(t.Context(), transport.Forward{Conn: conn}, transport.Command{Argv: []string{"true"}})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, transport.ErrRejected, "sh was not run, but something else")
	_, err = transport.Stat(t.Context(), conn, "/")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, transport.ErrRejected)
}
