package depot_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// dialFrom connects from a loopback address of its own.
func dialFrom(addr string, host int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+host/250), byte(1+host%250))}}
	return d.Dial("tcp", addr)
}

// burden is clients that want nothing but to be a burden, each on a goroutine.
type burden struct {
	wg   sync.WaitGroup
	ctx  context.Context
	stop context.CancelFunc
}

// burdenOn connects n clients of each sort: silent ones, ones that send a request
// head byte by byte, and ones that read a large payload byte by byte, each second
// one. What the depot closes is opened again.
func burdenOn(t testing.TB, addr, path string, n int) *burden {
	t.Helper()
	b := &burden{}
	b.ctx, b.stop = context.WithCancel(context.Background())
	head := "GET " + path + " HTTP/1.1\r\nHost: x\r\n" // without its end
	everySecond := func(f func() error) error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if err := f(); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-b.ctx.Done():
				return b.ctx.Err()
			}
		}
	}
	sorts := []func(c net.Conn) error{
		func(c net.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		},
		func(c net.Conn) error {
			i := 0
			return everySecond(func() error {
				_, err := c.Write([]byte{head[i]})
				i = (i + 1) % len(head)
				return err
			})
		},
		func(c net.Conn) error {
			if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return err
			}
			return everySecond(func() error {
				_, err := c.Read(make([]byte, 1))
				return err
			})
		},
	}
	var connected sync.WaitGroup
	for i := range n * len(sorts) {
		connected.Add(1)
		b.wg.Go(func() {
			first := true
			for b.ctx.Err() == nil {
				c, err := dialFrom(addr, i)
				if first {
					first = false
					connected.Done()
					if err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				}
				if err != nil {
					return
				}
				stop := context.AfterFunc(b.ctx, func() { c.Close() })
				err = sorts[i%len(sorts)](c)
				stop()
				c.Close()
				if err == nil {
					t.Error("a client that is a burden was served")
				}
			}
		})
	}
	connected.Wait()
	return b
}

func (b *burden) end() {
	b.stop()
	b.wg.Wait()
}

// needFiles makes sure of the file descriptors that a test needs.
func needFiles(t testing.TB, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < n {
		realtest.Missing(t, fmt.Sprintf("%d file descriptors, of which it has %d", n, limit.Cur))
	}
}

// lively is a connection of which each Read must bring something in time.
type lively struct{ net.Conn }

func (c lively) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return c.Conn.Read(p)
}

// underBurden fetches a large payload undisturbed and then while 200 clients of
// each sort are a burden, and returns how long each took. Both must arrive whole,
// in whatever time, but without a standstill.
func underBurden(t testing.TB, l *labDepot, rounds int) (alone, among time.Duration) {
	t.Helper()
	path, want := l.large(256 << 20)
	get := func(others string) time.Duration {
		start := time.Now()
		c, err := dialFrom(l.addr, 1000)
		require.NoError(t, err)
		defer c.Close()
		h := sha256.New()
		n, err := fetchOver(lively{c}, path, h, make([]byte, 256<<10))
		require.NoError(t, err, "%s: after %d bytes of %d in %v", others, n, 256<<20, time.Since(start))
		took := time.Since(start)
		require.Equal(t, want[:], h.Sum(nil))
		return took
	}
	var a, b []time.Duration
	get("alone")
	for range rounds {
		a = append(a, get("alone"))
	}
	burden := burdenOn(t, l.addr, path, 200)
	defer burden.end()
	for range rounds {
		b = append(b, get("among 600 slow clients"))
	}
	return median(a), median(b)
}

// labDepot is a depot that both tests and benchmarks use.
type labDepot struct {
	testing.TB
	depot *depot.Depot
	addr  string
}

func newLabDepot(t testing.TB) *labDepot {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &labDepot{t, depot.New(depot.Options{Logger: slog.New(slog.DiscardHandler)}), ln.Addr().String()}
	served := make(chan error, 1)
	go func() { served <- l.depot.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, l.depot.Close(context.Background()))
		require.NoError(t, <-served)
	})
	return l
}

// large offers a file of that size and returns its path and digest.
func (l *labDepot) large(size int64) (path string, digest [sha256.Size]byte) {
	l.Helper()
	f, err := transport.DiskFile(l.Context(), "large.bin", memoryFile(l, size))
	require.NoError(l, err)
	o, err := l.depot.Offer(depot.File{File: f, Allow: loopback})
	require.NoError(l, err)
	return o.Path, f.SHA256
}

// TestSlowClients: 600 clients that do nothing or next to nothing do not keep one
// from its payload. BenchmarkSlowClients says how much they slow it down.
func TestSlowClients(t *testing.T) {
	needFiles(t, 4096)
	underBurden(t, newLabDepot(t), 1)
}

// BenchmarkSlowClients tells what they cost one that does: the part of its speed
// that is left among them.
func BenchmarkSlowClients(b *testing.B) {
	needFiles(b, 4096)
	var ratios []float64
	for b.Loop() {
		alone, among := underBurden(b, newLabDepot(b), 5)
		ratios = append(ratios, alone.Seconds()/among.Seconds())
	}
	b.ReportMetric(median(ratios), "speed-vs-alone")
}

// TestNoFiles: a depot without file descriptors waits for some, and then goes on.
func TestNoFiles(t *testing.T) {
	const limit = 64
	sh := realtest.Need(t, "sh")
	payload := memoryFile(t, 1<<20)
	cmd, addr, path, _ := startJob(t, job{File: payload}, sh, "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, limit))
	files := func() int {
		list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "fd"))
		require.NoError(t, err)
		return len(list)
	}
	var idle []net.Conn
	for i := range 2 * limit {
		c, err := dialFrom(addr, i)
		require.NoError(t, err)
		defer c.Close()
		idle = append(idle, c)
	}
	require.Eventually(t, func() bool { return files() >= limit }, patience, tick)
	done := make(chan error, 1)
	go func() {
		n, err := fetch(addr, path, nil, io.Discard, make([]byte, 64<<10))
		if err == nil && n != 1<<20 {
			err = errors.New("short")
		}
		done <- err
	}()
	for _, c := range idle {
		c.Close()
	}
	require.NoError(t, <-done)
}

// TestNoFilesAmongMany: many slow clients at once, for whom together there are too
// few file descriptors: each gets its payload, or is told to come again and gets
// it then.
func TestNoFilesAmongMany(t *testing.T) {
	const clients, size = 300, 1 << 20
	sh := realtest.Need(t, "sh")
	_, addr, path, _ := startJob(t, job{File: memoryFile(t, size)}, sh, "-c", `ulimit -n 64; exec "$0" "$@"`)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for {
				c, err := dialFrom(addr, i)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
				_, err = fetchOver(lively{c}, path, slowWriter{}, make([]byte, 64<<10))
				c.Close()
				if errors.Is(err, errLater) {
					continue
				}
				if err != nil {
					t.Errorf("client %d: %v", i, err)
				}
				return
			}
		})
	}
	wg.Wait()
}

// slowWriter makes a client slow.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return len(p), nil
}
