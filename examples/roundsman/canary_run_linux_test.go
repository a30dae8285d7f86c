package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// canaryRun is one run of the program.
type canaryRun struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	errs  lockedText
	ended chan struct{}
}

type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (a *aviary) begin(cmd *exec.Cmd, passphrase string) *canaryRun {
	a.t.Helper()
	r := &canaryRun{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.out, &r.errs
	var person func()
	if passphrase != "" {
		master, slave := openTerminal(a.t)
		cmd.Stdin = slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		person = func() { r.answer(master, passphrase) }
		defer slave.Close()
	}
	require.NoError(a.t, cmd.Start())
	go func() {
		defer close(r.ended)
		_ = cmd.Wait()
	}()
	a.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.ended
	})
	if person != nil {
		person()
	}
	return r
}

// answer types the passphrase when it is asked for, and what is typed is not shown.
func (r *canaryRun) answer(master *os.File, passphrase string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-r.ended:
			return
		default:
		}
		if !strings.Contains(r.errs.String(), "Passphrase of ") {
			continue
		}
		if mode, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS); err == nil && mode.Lflag&unix.ECHO == 0 {
			_, _ = io.WriteString(master, passphrase+"\n")
			return
		}
	}
}

// openTerminal opens a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	return master, slave
}

// finish waits for the end of a run and returns its status and events.
func (a *aviary) finish(r *canaryRun) (int, []map[string]any) {
	a.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(3 * time.Minute):
		require.Fail(a.t, "the program does not end", "%s%s", tailOf(r.out.String()), &r.errs)
	}
	a.output.Write(r.out.Bytes())
	a.output.WriteString(r.errs.String())
	if a.t.Failed() || r.cmd.ProcessState.ExitCode() != 0 {
		a.t.Logf("%q: %v\n%s%s", r.cmd.Args[len(r.cmd.Args)-3:], r.cmd.ProcessState, tailOf(r.out.String()), tailOf(r.errs.String()))
	}
	var list []map[string]any
	for line := range bytes.Lines(r.out.Bytes()) {
		var e map[string]any
		if json.Unmarshal(line, &e) == nil { // the last line of who was killed may be cut
			list = append(list, e)
		}
	}
	return r.cmd.ProcessState.ExitCode(), list
}

// program is the process of the program itself: what started it may be another.
func (a *aviary) program(r *canaryRun) int {
	a.t.Helper()
	pid := r.cmd.Process.Pid
	for {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		require.NoError(a.t, err)
		if n := strings.TrimSpace(string(name)); n != "nsenter" && n != "ip" {
			return pid
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		require.NoError(a.t, err)
		first, _, _ := strings.Cut(strings.TrimSpace(string(children)), " ")
		pid, err = strconv.Atoi(first)
		require.NoError(a.t, err)
	}
}

// encryptedKey makes a key pair whose private half needs the passphrase.
func encryptedKey(t *testing.T, file, passphrase string) (public string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := xssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	key, err := xssh.NewPublicKey(pub)
	require.NoError(t, err)
	return string(xssh.MarshalAuthorizedKey(key))
}
