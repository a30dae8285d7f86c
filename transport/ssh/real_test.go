//go:build unix

package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshd is an OpenSSH server of the test's own on a high port.
type sshd struct {
	addr string
	host xssh.PublicKey
	key  xssh.Signer // lets every user in
	pem  []byte
	pid  int
}

func startSSHD(t testing.TB, config ...string) *sshd {
	t.Helper()
	program := realtest.Need(t, "sshd")
	if os.Geteuid() == 0 {
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755)) // where sshd confines itself
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // another user's authorized_keys is read as that user
	require.NoError(t, os.Chmod(dir, 0o755))
	host, hostPEM := newKey(t, "")
	key, pem := newKey(t, "")
	writeFile(t, dir+"/host", string(hostPEM), 0o600)
	writeFile(t, dir+"/keys", authorized(key.PublicKey())+"\n", 0o644)
	mark := "ROUNDSMAN_SSHD=" + filepath.Base(filepath.Dir(dir))
	lines := append([]string{
		"HostKey " + dir + "/host", "AuthorizedKeysFile " + dir + "/keys",
		"PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin yes",
		"MaxStartups 100", "LogLevel ERROR", "SetEnv " + mark + " SHLVL=2", "Subsystem sftp internal-sftp",
	}, config...)
	// What outlives its connection, as programs do under sshd, is found by mark. With
	// another SHLVL bash would run this machine's start-up file before each command,
	// which may be slow; the shell matrix has files of its own.
	name := writeFile(t, dir+"/config", strings.Join(lines, "\n")+"\n", 0o600)
	t.Cleanup(func() { killMarked(mark) })
	var addr string
	var cmd *exec.Cmd
	for tries := 5; cmd == nil; tries-- {
		require.Positive(t, tries, "sshd does not listen")
		// Somebody else may take the port before sshd does.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr = l.Addr().String()
		require.NoError(t, l.Close())
		cmd = listening(t, addr, host.PublicKey(), program, "-D", "-e", "-f", name, "-o", "ListenAddress="+addr)
	}
	if me, err := user.Current(); err == nil && me.Uid != "0" {
		// Without root only the account of the test itself can log in.
		c, err := xssh.Dial("tcp", addr, &xssh.ClientConfig{
			User: me.Username, Auth: []xssh.AuthMethod{xssh.PublicKeys(key)}, HostKeyCallback: xssh.FixedHostKey(host.PublicKey()),
		})
		if err != nil {
			realtest.Missing(t, "an account that sshd lets in: "+me.Username+" is locked, or has no shell")
		}
		_ = c.Close()
	}
	return &sshd{addr: addr, host: host.PublicKey(), key: key, pem: pem, pid: cmd.Process.Pid}
}

// listening starts an sshd and waits until it listens. If it ends instead, the
// result is nil.
func listening(t testing.TB, addr string, key xssh.PublicKey, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-ended:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if t.Failed() {
			t.Logf("sshd says: %s", log.String())
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		ours := false
		c, err := xssh.Dial("tcp", addr, &xssh.ClientConfig{HostKeyCallback: func(_ string, _ net.Addr, k xssh.PublicKey) error {
			ours = bytes.Equal(k.Marshal(), key.Marshal())
			return errors.New("that was all")
		}, Timeout: time.Minute})
		if err == nil {
			_ = c.Close()
		}
		if ours {
			return cmd
		}
		select {
		case <-ended:
			t.Logf("sshd ended: %s", log.String())
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// killMarked ends the programs that have mark in their environment.
func killMarked(mark string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range envs {
		env, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(env, []byte(mark+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (s *sshd) endpoint(t testing.TB) transport.Endpoint {
	me, err := user.Current()
	require.NoError(t, err)
	return transport.Endpoint{
		Address:     s.addr,
		Credentials: transport.Credentials{User: me.Username},
		Trust:       transport.Trust{HostKeys: []string{authorized(s.host)}},
		Options:     ssh.Options{Signers: []xssh.Signer{s.key}},
	}
}

func (s *sshd) harness(t *testing.T, caps transport.Caps) transporttest.Harness {
	p := newProxy(t, s.addr)
	ep := s.endpoint(t)
	ep.Address = p.ln.Addr().String()
	other, _ := newKey(t, "")
	wrongSecret, wrongTrust := ep, ep
	wrongSecret.Options = ssh.Options{Signers: []xssh.Signer{other}}
	wrongTrust.Trust = transport.Trust{HostKeys: []string{authorized(other.PublicKey())}}
	return transporttest.Harness{
		Transport: &ssh.Transport{}, Endpoint: ep, WrongSecret: &wrongSecret, WrongTrust: &wrongTrust,
		Caps: caps, Dir: t.TempDir(), Listen: listener(t), Cut: p.cut,
		Stall: func() func() {
			p.stall(true)
			return func() { p.stall(false) }
		},
	}
}

func TestConformanceOpenSSH(t *testing.T) {
	t.Run("shell", func(t *testing.T) { conformance(t, startSSHD(t).harness(t, shellCaps)) })
	t.Run("sftp only", func(t *testing.T) {
		conformance(t, startSSHD(t, "ForceCommand internal-sftp").harness(t, filesCaps))
	})
	t.Parallel() // what is left of them
}

func TestOpenSSHLogin(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	good := s.endpoint(t)
	dir := t.TempDir()
	other, _ := newKey(t, "")
	name := knownhosts.Normalize(s.addr)
	right := writeFile(t, dir+"/right", knownhosts.Line([]string{name}, s.host)+"\n", 0o600)
	wrong := writeFile(t, dir+"/wrong", knownhosts.Line([]string{name}, other.PublicKey())+"\n", 0o600)
	unknown := writeFile(t, dir+"/unknown", knownhosts.Line([]string{"elsewhere"}, s.host)+"\n", 0o600)
	for _, tt := range []struct {
		name   string
		change func(*transport.Endpoint)
		want   error
	}{
		{"key", func(*transport.Endpoint) {}, nil},
		{"other key", func(ep *transport.Endpoint) { ep.Options = ssh.Options{Signers: []xssh.Signer{other}} }, transport.ErrAuth},
		{"no such user", func(ep *transport.Endpoint) { ep.Credentials.User = "nobody-of-this-name" }, transport.ErrAuth},
		{"known", func(ep *transport.Endpoint) { ep.Trust = transport.Trust{KnownHosts: []string{right}} }, nil},
		{"changed", func(ep *transport.Endpoint) { ep.Trust = transport.Trust{KnownHosts: []string{wrong}} }, transport.ErrTrust},
		{"unknown", func(ep *transport.Endpoint) { ep.Trust = transport.Trust{KnownHosts: []string{unknown}} }, transport.ErrTrust},
		{"first use", func(ep *transport.Endpoint) {
			ep.Trust = transport.Trust{KnownHosts: []string{unknown}, FirstUse: func(context.Context, transport.SeenIdentity) error { return nil }}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ep := good
			tt.change(&ep)
			conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
		})
	}
}

func TestOpenSSHAgent(t *testing.T) {
	t.Parallel()
	agentProgram, add := realtest.Need(t, "ssh-agent"), realtest.Need(t, "ssh-add")
	s := startSSHD(t)
	dir := t.TempDir()
	cmd := exec.Command(agentProgram, "-D", "-a", dir+"/agent")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	key := writeFile(t, dir+"/key", string(s.pem), 0o600)
	require.Eventually(t, func() bool {
		c := exec.Command(add, key)
		c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+dir+"/agent")
		return c.Run() == nil
	}, 20*time.Second, 50*time.Millisecond)
	ep := s.endpoint(t)
	ep.Options = ssh.Options{AgentSocket: dir + "/agent"}
	require.Equal(t, "in\n", output(t, dial(t, ep), "echo", "in"))
}

func TestOpenSSHForbidsForwarding(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "AllowStreamLocalForwarding no", "AllowTcpForwarding no")
	conn := dial(t, s.endpoint(t))
	l, addr, err := listener(t)("unix")
	require.NoError(t, err)
	defer l.Close()
	_, err = transport.Dial(t.Context(), conn, "unix", addr)
	require.ErrorIs(t, err, transport.ErrRejected)
	require.Equal(t, "ssh-open", transport.CodeOf(err).Space)
	tcp, addr, err := listener(t)("tcp")
	require.NoError(t, err)
	defer tcp.Close()
	_, err = transport.Dial(t.Context(), conn, "tcp", addr)
	require.ErrorIs(t, err, transport.ErrRejected)
}

// TestOpenSSHSudo takes a user who may and one who must give a password.
func TestOpenSSHSudo(t *testing.T) {
	realtest.NeedRoot(t)
	realtest.Need(t, "sudo")
	free, asked := tempUser(t, "a"), tempUser(t, "b")
	const password = "correct horse"
	chpasswd := exec.Command(realtest.Need(t, "chpasswd"))
	chpasswd.Stdin = strings.NewReader(asked + ":" + password + "\n")
	out, err := chpasswd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	rules := fmt.Sprintf("/etc/sudoers.d/%s", free)
	require.NoError(t, os.WriteFile(rules, fmt.Appendf(nil, "%s ALL=(ALL) NOPASSWD: ALL\n%s ALL=(ALL) ALL\n", free, asked), 0o440))
	t.Cleanup(func() { require.NoError(t, os.Remove(rules)) })
	s := startSSHD(t)
	for _, tt := range []struct {
		user, password string
		want           error
	}{{free, "", nil}, {free, password, nil}, {asked, password, nil}, {asked, "", transport.ErrAuth}, {asked, "wrong", transport.ErrAuth}} {
		t.Run(fmt.Sprintf("%s %t", tt.user[len(tt.user)-1:], tt.password != ""), func(t *testing.T) {
			ep := s.endpoint(t)
			ep.Credentials.User = tt.user
			ep.Options = ssh.Options{Signers: []xssh.Signer{s.key}, Elevate: ssh.Sudo, SudoPassword: transport.NewSecret(tt.password)}
			conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close(t.Context())) }()
			require.Equal(t, "0\n", output(t, conn, "id", "-u"))
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, 0o700))
			res, err := transport.Put(t.Context(), conn, dir+"/x", transport.BytesFile("x", make([]byte, 1<<20)), transport.PutOptions{Mode: 0o755})
			require.NoError(t, err)
			require.EqualValues(t, 1<<20, res.Info.Size)
			fi, err := os.Stat(dir + "/x")
			require.NoError(t, err)
			require.EqualValues(t, 0o755, fi.Mode().Perm())
			var echoed bytes.Buffer
			_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"cat"}, Stdin: strings.NewReader("input\n"), Stdout: &echoed})
			require.NoError(t, err)
			require.Equal(t, "input\n", echoed.String())

			// What runs as root is ended, too.
			ctx, cancel := context.WithCancel(t.Context())
			_, err = transport.Run(ctx, conn, transport.Command{Argv: []string{"sh", "-c", "echo $$; exec sleep 600"},
				Stdout: writer(func(p []byte) (int, error) { echoed.Reset(); echoed.Write(p); cancel(); return len(p), nil })})
			require.ErrorIs(t, err, context.Canceled)
			pid := strings.TrimSpace(echoed.String())
			require.Eventually(t, func() bool {
				_, err := os.Stat("/proc/" + pid)
				return os.IsNotExist(err)
			}, 20*time.Second, 50*time.Millisecond)
		})
	}
}

// tempUser makes a user for the test.
func tempUser(t *testing.T, suffix string) string {
	name := fmt.Sprintf("rmtest%d%s", os.Getpid(), suffix)
	out, err := exec.Command(realtest.Need(t, "useradd"), "-m", "-p", "*", "-s", "/bin/sh", name).CombinedOutput()
	if err != nil {
		realtest.Missing(t, fmt.Sprintf("the right to add users: %v %s", err, out))
	}
	t.Cleanup(func() {
		require.Eventually(t, func() bool {
			return exec.Command(realtest.Need(t, "userdel"), "-r", name).Run() == nil ||
				exec.Command("id", name).Run() != nil
		}, 20*time.Second, 100*time.Millisecond)
	})
	return name
}
