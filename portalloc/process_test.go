package portalloc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoroutinesGetDifferentPorts(t *testing.T) {
	const workers, rounds = 8, 40
	first := freePorts(t, workers*rounds)
	// Exactly as many ports as are asked for: one that is lost fails the test.
	a := newAllocator(t, map[Role]Policy{
		TargetToManager: {First: first, Last: first + workers*rounds - 1},
	})
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := make(map[uint16]bool)
	for range workers {
		wg.Go(func() {
			for range rounds {
				l, err := a.Listen(t.Context(), TargetToManager, Options{})
				mu.Lock()
				if err != nil {
					t.Error(err)
				} else if got[l.Port()] {
					t.Errorf("port %d was leased twice", l.Port())
				} else {
					got[l.Port()] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, got, workers*rounds)
}

func TestGoroutinesOpenAndClose(t *testing.T) {
	const workers = 8
	first := freePorts(t, workers)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + workers - 1, Random: true}})
	var mu sync.Mutex
	var wg sync.WaitGroup
	held := make(map[uint16]bool)
	for range workers {
		wg.Go(func() {
			for range 100 {
				l, err := a.Listen(t.Context(), Agent, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if held[l.Port()] {
					t.Errorf("port %d has two leases", l.Port())
				}
				held[l.Port()] = true
				mu.Unlock()

				mu.Lock()
				delete(held, l.Port())
				mu.Unlock()
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, a.held)
	require.Empty(t, a.open)
}

// helperManager is a manager with a policy of its own for one role. It leases
// ports with several goroutines, prints them, and holds them until it is stopped.
func helperManager(args []string) error {
	var first, last, n int
	if _, err := fmt.Sscan(strings.Join(args, " "), &first, &last, &n); err != nil {
		return err
	}
	a, err := New(Config{Generation: Classic, Policies: map[Role]Policy{
		TargetToManager: {First: uint16(first), Last: uint16(last)},
	}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	// Wait for the word to begin, so that all processes allocate at once.
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var ports []uint16
	var failures []error
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				l, err := a.Listen(context.Background(), TargetToManager, Options{})
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
				} else {
					ports = append(ports, l.Port())
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	runtime.GC() // nothing but the allocator refers to the leases
	runtime.GC()
	if len(failures) > 0 {
		return errors.Join(failures...)
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return err
	}
	untilStopped()
	return a.Close(context.Background())
}

// begin starts managers, and lets them go at the same time once all are up.
func begin(t *testing.T, n int, args ...string) []*process {
	t.Helper()
	var ps []*process
	for range n {
		ps = append(ps, start(t, "manager", nil, nil, args...))
	}
	for _, p := range ps {
		require.Equal(t, "ready", p.line(t))
	}
	for _, p := range ps {
		_, err := p.stdin.(io.Writer).Write([]byte("!"))
		require.NoError(t, err)
	}
	return ps
}

// TestManagersOnOneHost has processes lease many ports at once, kills some, and
// has others lease what the dead ones had.
func TestManagersOnOneHost(t *testing.T) {
	const processes, each, killed = 9, 32, 4
	const total = processes * each
	first := freePorts(t, total)
	// Exactly as many ports as are asked for: one that is lost fails the test.
	args := []string{fmt.Sprint(first), fmt.Sprint(first + total - 1), fmt.Sprint(each)}
	owner := make(map[uint16]*process)
	collect := func(p *process) {
		var ports []uint16
		require.NoError(t, json.Unmarshal([]byte(p.line(t)), &ports))
		require.Len(t, ports, each)
		for _, port := range ports {
			require.Nil(t, owner[port], "port %d went to two processes", port)
			owner[port] = p
		}
	}
	ps := begin(t, processes, args...)
	for _, p := range ps {
		collect(p)
	}
	require.Len(t, owner, total)

	// Connections of the dead must not keep a port from its next owner.
	for _, port := range slices.Sorted(maps.Keys(owner)) {
		conn, err := net.Dial("tcp", at("127.0.0.1", port))
		require.NoError(t, err)
		defer conn.Close()
	}
	for _, p := range ps[:killed] {
		require.NoError(t, p.cmd.Process.Kill())
		require.Error(t, p.stop(), "the helper ended by itself")
		maps.DeleteFunc(owner, func(_ uint16, o *process) bool { return o == p })
	}
	require.Len(t, owner, total-killed*each)
	// No polling: the ports are there at once, all of them.
	for _, p := range begin(t, killed, args...) {
		collect(p)
	}
	require.Len(t, owner, total)
}

// TestBusyNamesTheHolder also asserts what Windows finds out.
func TestBusyNamesTheHolder(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "windows" {
		t.Skip("not run: this system does not tell who has a port")
	}
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Port: Fixed(first), Agent: {First: first, Last: first + 1}})
	var want []Holder
	for i, host := range []string{"127.0.0.1", ""} {
		p := start(t, "hold", nil, nil, at(host, first+uint16(i)))
		require.Equal(t, "ready", p.line(t))
		h := Holder{UID: os.Getuid(), State: "LISTEN"}
		if tellsOwners() {
			h.PID, h.Program = p.cmd.Process.Pid, programName(t)
		}
		want = append(want, h)
	}
	_, err := a.Listen(t.Context(), Port, Options{})
	require.ErrorIs(t, err, ErrBusy)
	require.Equal(t, want[:1], asError(t, err).Skips[0].Holders)
	require.Contains(t, err.Error(), fmt.Sprintf("%d taken by %s", first, want[0]))
	_, err = a.Listen(t.Context(), Agent, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	require.Equal(t, OtherRole, asError(t, err).Skips[0].Reason)
	require.Equal(t, want[1:], asError(t, err).Skips[1].Holders)

	holders, err := HoldersOf(t.Context(), freePorts(t, 1))
	require.NoError(t, err)
	require.Empty(t, holders)
}

func TestGarbageCollectorTakesNoLease(t *testing.T) {
	server := sink(t, "tcp4", "127.0.0.1:0").String()
	first := freePorts(t, 21)
	a := newAllocator(t, map[Role]Policy{
		Agent:           {First: first, Last: first + 19},
		ManagerToTarget: Fixed(first + 20),
	})
	for range 20 {
		_, err := a.Listen(t.Context(), Agent, Options{}) // the lease is dropped
		require.NoError(t, err)
	}
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	_, err = d.DialContext(t.Context(), "tcp", server) // so is the connection
	require.NoError(t, err)
	// The trap is real: a listener that nobody keeps is closed by the collector.
	bare := freePorts(t, 1)
	func() {
		_, err := net.Listen("tcp", at("", bare))
		require.NoError(t, err)
	}()
	poll(t, func() bool {
		runtime.GC()
		ln, err := net.Listen("tcp", at("", bare))
		if err == nil {
			ln.Close()
		}
		return err == nil
	}, "the collector does not close a dropped listener: this test proves nothing")

	for i := range uint16(21) {
		requireTaken(t, first+i)
	}
	require.NoError(t, a.Close(t.Context()))
	requireFree(t, first)
}

// helperServe adopts the listeners it inherited and greets every connection.
func helperServe(args []string) error {
	var files []*os.File
	for i := range args {
		files = append(files, os.NewFile(uintptr(3+i), args[i]))
	}
	a, err := New(Config{Generation: Classic})
	if err != nil {
		return err
	}
	l, err := a.Adopt(context.Background(), Agent, files...)
	if err != nil {
		return err
	}
	for _, f := range files {
		f.Close()
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "child on %d", l.Port())
			conn.Close()
		}
	})
	fmt.Println("ready")
	untilStopped()
	if err := a.Close(context.Background()); err != nil {
		return err
	}
	serving.Wait()
	return nil
}

func TestHandOverToChild(t *testing.T) {
	if !canHandOver {
		t.Skip("not run: sockets are not inherited on this system")
	}
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	l, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	f, err := l.File()
	require.NoError(t, err)
	child := start(t, "serve", []*os.File{f}, nil, "listener")
	require.NoError(t, f.Close())
	require.Equal(t, "ready", child.line(t))
	require.NoError(t, l.Close())

	requireTaken(t, first)
	next, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	require.Equal(t, first+1, next.Port(), "the child's port is passed over")

	conn, err := net.Dial("tcp", at("127.0.0.1", first))
	require.NoError(t, err)
	defer conn.Close()
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("child on %d", first), string(text))

	require.NoError(t, child.stop())
	requireFree(t, first)
}

func TestHandOverSeveralSockets(t *testing.T) {
	if !canHandOver {
		t.Skip("not run: sockets are not inherited on this system")
	}
	needIPv6(t)
	first := freePorts(t, 1)
	a := newAllocator(t, map[Role]Policy{Agent: Fixed(first)})
	l, err := a.Listen(t.Context(), Agent, Options{Loopback: true})
	require.NoError(t, err)
	_, err = l.File()
	require.Error(t, err, "File is for one socket")
	files, err := l.Files()
	require.NoError(t, err)
	require.Len(t, files, 2)
	child := start(t, "serve", files, nil, "four", "six")
	for _, f := range files {
		require.NoError(t, f.Close())
	}
	require.Equal(t, "ready", child.line(t))
	require.NoError(t, l.Close())
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := net.Dial("tcp", at(host, first))
		require.NoError(t, err)
		text, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("child on %d", first), string(text))
		conn.Close()
	}
	require.NoError(t, child.stop())
}

func TestAdoptRefuses(t *testing.T) {
	if !canHandOver {
		t.Skip("not run: sockets are not inherited on this system")
	}
	first := freePorts(t, 2)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	_, err := a.Adopt(t.Context(), Agent)
	require.ErrorIs(t, err, ErrInvalid)

	plain, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer plain.Close()
	_, err = a.Adopt(t.Context(), Agent, plain)
	require.ErrorIs(t, err, ErrInvalid)

	one, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	two, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)
	f1, err := one.File()
	require.NoError(t, err)
	defer f1.Close()
	f2, err := two.File()
	require.NoError(t, err)
	defer f2.Close()
	_, err = a.Adopt(t.Context(), Agent, f1)
	require.ErrorIs(t, err, ErrBusy)
	_, err = a.Adopt(t.Context(), HTTP, f1)
	require.ErrorIs(t, err, ErrDisabled)
	other := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 1}})
	_, err = other.Adopt(t.Context(), Agent, f1, f2)
	require.ErrorIs(t, err, ErrInvalid, "two ports")
	require.Zero(t, other.held)
	// The failures closed nothing that is ours.
	conn, err := net.Dial("tcp", at("127.0.0.1", one.Port()))
	require.NoError(t, err)
	conn.Close()
}
