//go:build linux || darwin

package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// text runs the program for people, without its usual known_hosts if others are given.
func (l *lab) text(args ...string) (status int, out string) {
	l.t.Helper()
	var b bytes.Buffer
	args = append(args, l.flags[1:]...) // without --json
	status = run(l.t.Context(), args, strings.NewReader(""), &b, &b, []string{passwordVariable + "=" + canary, "HOME=" + l.t.TempDir()})
	require.NotContains(l.t, b.String(), canary)
	return status, b.String()
}

// TestUntrustedHost: what happened stands first, the fingerprint to compare and what to
// do have lines of their own, and nobody is told of fields of Go.
func TestUntrustedHost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	empty := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for i, f := range l.flags {
		if f == "--known-hosts" {
			l.flags[i+1] = empty
		}
	}
	status, out := l.text("inventory", l.target)
	require.Equal(t, exitFailed, status, out)
	lines := strings.Split(out, "\n")
	require.Equal(t, "error: "+l.target+": inventory: dial on "+l.srv.Addr()+": target identity not trusted: nothing is known to compare it with", lines[0])
	key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(l.srv.AuthorizedHostKey()))
	require.NoError(t, err)
	require.Contains(t, lines, "    it showed "+key.Type()+" "+xssh.FingerprintSHA256(key))
	require.Contains(t, out, "is recorded in "+empty+": compare the fingerprint and record the key there\n")
	require.Contains(t, out, "    --known-hosts FILE names")
	require.NotContains(t, out, "Trust.")
}

// TestConnectTimeout: a target that does not answer is given up on in time, and the
// flag that gives it longer is named.
func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	tries := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			tries <- struct{}{}
			defer conn.Close()
		}
	}()
	status, out := l.text("inventory", "--connect-timeout", "100ms", "linux://ops@"+silent.Addr().String())
	require.Equal(t, exitFailed, status, out)
	require.Contains(t, out, ": timed out")
	require.Contains(t, out, "did not speak SSH (the usual port is 22) within 100ms\n")
	require.Contains(t, out, "--connect-timeout TIME gives a target longer")
	require.NotContains(t, out, "Options.")
	require.Len(t, tries, 1, "once")
}
