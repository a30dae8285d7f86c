package portalloc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
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

// helperAllocate leases ports with several goroutines and prints them.
func helperAllocate(args []string) error {
	first, err1 := strconv.Atoi(args[0])
	last, err2 := strconv.Atoi(args[1])
	n, err3 := strconv.Atoi(args[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return fmt.Errorf("bad arguments %q", args)
	}
	a, err := New(Config{Policies: map[Role]Policy{
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
	var failure error
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				l, err := a.Listen(context.Background(), TargetToManager, Options{})
				mu.Lock()
				if err != nil {
					failure = err
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
	if failure != nil {
		return failure
	}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return err
	}
	untilStopped()
	return a.Close(context.Background())
}

func TestProcessesGetDifferentPorts(t *testing.T) {
	const processes, each = 4, 60
	first := freePorts(t, processes*each+8)
	last := first + processes*each + 7
	var ps []*process
	for range processes {
		ps = append(ps, start(t, "allocate", nil, nil,
			strconv.Itoa(int(first)), strconv.Itoa(int(last)), strconv.Itoa(each)))
	}
	for _, p := range ps {
		require.Equal(t, "ready", p.line(t))
	}
	for _, p := range ps {
		_, err := p.stdin.(io.Writer).Write([]byte("!"))
		require.NoError(t, err)
	}
	owner := make(map[uint16]int)
	for i, p := range ps {
		var ports []uint16
		require.NoError(t, json.Unmarshal([]byte(p.line(t)), &ports))
		require.Len(t, ports, each)
		for _, port := range ports {
			other, twice := owner[port]
			require.False(t, twice, "port %d went to processes %d and %d", port, other, i)
			owner[port] = i
		}
	}
	for _, p := range ps {
		require.NoError(t, p.stop())
	}
}

func TestGarbageCollectorTakesNoLease(t *testing.T) {
	first := freePorts(t, 20)
	a := newAllocator(t, map[Role]Policy{Agent: {First: first, Last: first + 19}})
	for range 20 {
		_, err := a.Listen(t.Context(), Agent, Options{}) // the lease is dropped
		require.NoError(t, err)
	}
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

	for i := range uint16(20) {
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
