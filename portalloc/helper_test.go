package portalloc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// helperEnv makes the test binary run one of the helpers instead of the tests.
const helperEnv = "PORTALLOC_TEST_HELPER"

var helpers = map[string]func(args []string) error{
	"hold":    helperHold,
	"manager": helperManager,
	"serve":   helperServe,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helper, ok := helpers[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "unknown helper", name)
			os.Exit(2)
		}
		if err := helper(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a helper that runs until its standard input is closed.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	once  sync.Once
	err   error
}

// start runs a helper; attr may be nil.
func start(t *testing.T, name string, files []*os.File, attr *syscall.SysProcAttr, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *process) line(t *testing.T) string {
	t.Helper()
	s, err := p.out.ReadString('\n')
	require.NoError(t, err, "the helper ended before it answered")
	return strings.TrimSpace(s)
}

func (p *process) stop() error {
	p.once.Do(func() {
		p.stdin.Close()
		p.err = p.cmd.Wait()
	})
	return p.err
}

// untilStopped keeps a helper alive as long as its parent wants it.
func untilStopped() { io.Copy(io.Discard, os.Stdin) }

// helperHold listens on addresses with nothing but package net.
func helperHold(args []string) error {
	for _, address := range args {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		defer ln.Close()
	}
	fmt.Println("ready")
	untilStopped()
	return nil
}

// blockSize is how many ports a test may ask for, and one more: the first port of
// a block is a guard, held while the test runs. So tests, and test processes that
// run side by side, keep out of each other's ports. The grid leaves the ports from
// 20480 on, up to the ephemeral range of Linux, to the tests of other packages.
const (
	blockSize  = 1024
	firstBlock = 2 * blockSize
	endBlocks  = 20 * blockSize
)

// freePorts returns the first of n consecutive ports that were free a moment ago,
// in a block that belongs to the test until it ends.
func freePorts(t testing.TB, n int) uint16 {
	t.Helper()
	require.Less(t, n, blockSize)
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(time.Millisecond) {
		const blocks = (endBlocks - firstBlock) / blockSize
		block := firstBlock + rand.IntN(blocks)*blockSize
		guard, err := net.Listen("tcp", at("", uint16(block)))
		if err != nil {
			continue
		}
		if first, ok := findRun(block+1, block+blockSize-1, n); ok {
			t.Cleanup(func() { guard.Close() })
			return first
		}
		guard.Close()
	}
	t.Fatalf("no %d free consecutive ports", n)
	return 0
}

// findRun looks from first to last for n free ports in a row. Ports of connections
// that have just ended do not count as free: a dialler cannot have them.
func findRun(first, last, n int) (uint16, bool) {
	var held []net.Listener
	defer func() {
		for _, ln := range held {
			ln.Close()
		}
	}()
	strictly := net.ListenConfig{Control: strict}
	run := 0
	for port := first; port <= last; port++ {
		ln, err := strictly.Listen(context.Background(), "tcp", at("", uint16(port)))
		if err != nil {
			run = 0
			continue
		}
		held = append(held, ln)
		if run++; run == n {
			return uint16(port - n + 1), true
		}
	}
	return 0, false
}

// newAllocator returns an allocator with the policies in which no other role has
// a port.
func newAllocator(t testing.TB, policies map[Role]Policy) *Allocator {
	t.Helper()
	return newWith(t, Config{Policies: policies})
}

func newWith(t testing.TB, c Config) *Allocator {
	t.Helper()
	all := make(map[Role]Policy)
	for r := LocalIPC; r <= lastRole; r++ {
		all[r] = c.Policies[r]
	}
	c.Policies = all
	a, err := New(c)
	require.NoError(t, err)
	a.holderTime = time.Minute
	t.Cleanup(func() { require.NoError(t, a.Close(context.Background())) })
	return a
}

// foreign listens outside of any allocator.
func foreign(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func at(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// requireTaken asserts that no other manager can have the port.
func requireTaken(t testing.TB, port uint16) {
	t.Helper()
	ln, err := listen(context.Background(), "tcp", at("", port))
	if err == nil {
		ln.Close()
		t.Fatalf("port %d is free, and should be held", port)
	}
	// Windows may call a port that is held exclusively refused.
	require.NotZero(t, passOver(err), "%v", err)
}

// requireFree asserts that the port can be had soon.
func requireFree(t testing.TB, port uint16) {
	t.Helper()
	poll(t, func() bool {
		ln, err := net.Listen("tcp", at("", port))
		if err == nil {
			ln.Close()
		}
		return err == nil
	}, fmt.Sprintf("port %d stays taken", port))
}

func poll(t testing.TB, done func() bool, message string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal(message)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// asError returns the *Error that err must be.
func asError(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	require.Truef(t, errors.As(err, &e), "%T is not *Error: %v", err, err)
	return e
}

func needIPv6(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		realtest.Missing(t, fmt.Sprintf("the address ::1 (%v)", err))
	}
	ln.Close()
}
