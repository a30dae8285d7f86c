//go:build unix

package sshtest_test

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	xssh "golang.org/x/crypto/ssh"
)

func client(t *testing.T, srv *sshtest.Server) *xssh.Client {
	t.Helper()
	c, err := xssh.Dial("tcp", srv.Addr(), &xssh.ClientConfig{
		User: srv.User(), Auth: []xssh.AuthMethod{xssh.Password("secret")},
		HostKeyCallback: xssh.FixedHostKey(srv.HostKey())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newServer(t *testing.T, cfg sshtest.Config) *sshtest.Server {
	t.Helper()
	cfg.Password = "secret"
	srv, err := sshtest.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return srv
}

// TestCloseFindsDaemons: what a command left behind in a session of its own ends
// with the server.
func TestCloseFindsDaemons(t *testing.T) {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		realtest.Missing(t, "/proc, without which daemons cannot be found")
	}
	srv := newServer(t, sshtest.Config{})
	s, err := client(t, srv).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Output("setsid sh -c 'echo $$; exec sleep 600 >/dev/null 2>&1' </dev/null & sleep 0.5")
	if err != nil {
		t.Fatalf("%v: is there no setsid?", err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the daemon does not run: %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}

func TestSignalReachesTheGroup(t *testing.T) {
	srv := newServer(t, sshtest.Config{})
	s, err := client(t, srv).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("sleep 600 & echo $!; wait"); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(xssh.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err == nil {
		t.Error("the command ended without a signal")
	}
	gone(t, pid)
}

// gone waits until a process is no more.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if syscall.Kill(pid, 0) != nil || err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func TestCutHappensOnce(t *testing.T) {
	srv := newServer(t, sshtest.Config{})
	c := client(t, srv)
	srv.CutAfter(1000)
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = bytes.NewReader(make([]byte, 100_000))
	if err := s.Run("cat >/dev/null"); err == nil {
		t.Fatal("the command went on over a line that was to be cut")
	}
	s, err = client(t, srv).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = bytes.NewReader(make([]byte, 100_000))
	if err := s.Run("cat >/dev/null"); err != nil {
		t.Fatal(err)
	}
	if n := srv.Logins(); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func Example() {
	srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: "secret"})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	c, err := xssh.Dial("tcp", srv.Addr(), &xssh.ClientConfig{
		User: "ops", Auth: []xssh.AuthMethod{xssh.Password("secret")}, HostKeyCallback: xssh.FixedHostKey(srv.HostKey())})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	out, err := s.Output("echo hello, $USER")
	fmt.Printf("%s%v\n", out, err)
	// Output:
	// hello, ops
	// <nil>
}
