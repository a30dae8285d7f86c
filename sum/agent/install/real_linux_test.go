package install_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// TestOpenSSH goes through a real sshd, which allows forwarding to Unix sockets
// or does not.
func TestOpenSSH(t *testing.T) {
	t.Parallel()
	realtest.NeedRoot(t)
	sshd, unshare := realtest.Need(t, "sshd"), realtest.Need(t, "unshare")
	for _, allow := range []string{"yes", "no"} {
		t.Run("forwarding "+allow, func(t *testing.T) {
			ep := startSSHD(t, sshd, unshare, allow)
			conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			require.NoError(t, err)
			defer conn.Close(t.Context())
			l := &lab{t: t, base: filepath.Join(t.TempDir(), "base"), id: "m1-db1"}
			a := l.start(conn)
			job := script(t, a, "echo through sshd")
			_, err = a.Install(t.Context(), job)
			require.NoError(t, err)
			s, log := finish(t, a, job.ID)
			require.Equal(t, agent.Done, s.State)
			require.Equal(t, "through sshd\n", log)
			left, err := a.Remove(t.Context())
			require.NoError(t, err)
			require.Len(t, left, 3)
			l.requireClean()
		})
	}
}

// startSSHD runs sshd on a free port of the loopback. It wants /run/sshd, so it
// gets a /run of its own.
func startSSHD(t *testing.T, sshd, unshare, allow string) transport.Endpoint {
	t.Helper()
	dir := t.TempDir()
	key := func(name string) xssh.Signer {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		block, err := xssh.MarshalPrivateKey(priv, "")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
		signer, err := xssh.NewSignerFromKey(priv)
		require.NoError(t, err)
		return signer
	}
	host, user := key("host"), key("user")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "authorized"), xssh.MarshalAuthorizedKey(user.PublicKey()), 0o600))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	config := fmt.Sprintf(`ListenAddress 127.0.0.1
Port %s
HostKey %s/host
AuthorizedKeysFile %s/authorized
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
AllowStreamLocalForwarding %s
`, port, dir, dir, allow)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600))
	var out bytes.Buffer
	cmd := exec.Command(unshare, "--mount", "/bin/sh", "-c",
		`mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$0" -D -e -f "$1"`, sshd, filepath.Join(dir, "config"))
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("sshd: %s", out.Bytes())
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			require.NoError(t, c.Close())
			break
		}
		select {
		case err := <-ended:
			ended <- err
			realtest.Missing(t, fmt.Sprintf("the right to run sshd in a mount namespace (%v: %s)", err, out.Bytes()))
		default:
		}
		require.True(t, time.Now().Before(deadline), "sshd does not listen")
	}
	return transport.Endpoint{
		Address: addr, Credentials: transport.Credentials{User: "root"},
		Trust:   transport.Trust{HostKeys: []string{string(xssh.MarshalAuthorizedKey(host.PublicKey()))}},
		Options: ssh.Options{Signers: []xssh.Signer{user}},
	}
}
