package depot_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

const (
	patience = time.Minute
	tick     = time.Millisecond
)

// watched is a payload that knows how many readers it has.
func watched(name string, b []byte, open *atomic.Int64) transport.File {
	f := transport.BytesFile(name, b)
	inner := f.Open
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		r, err := inner(ctx)
		open.Add(1)
		return &watchedReader{r, open}, err
	}
	return f
}

type watchedReader struct {
	io.ReadSeekCloser
	open *atomic.Int64
}

func (w *watchedReader) Close() error {
	defer w.open.Add(-1)
	time.Sleep(10 * time.Millisecond) // so that a Close that does not wait is found out
	return w.ReadSeekCloser.Close()
}

// TestCloseEndsTransfers: on two listeners, with clients that do not read.
func TestCloseEndsTransfers(t *testing.T) {
	d := depot.New(depot.Options{})
	var open atomic.Int64
	f := watched("a", content(64<<20), &open)
	o, err := d.Offer(depot.File{File: f, Allow: loopback})
	require.NoError(t, err)
	var served []<-chan struct{}
	var conns []net.Conn
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served = append(served, serve(t, d, ln))
		for _, rng := range []string{"", "Range: bytes=0-9,100-60000000\r\n"} {
			c, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n"+rng+"\r\n")
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 1000))
			require.NoError(t, err)
			conns = append(conns, c)
		}
		idle, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer idle.Close()
		conns = append(conns, idle)
	}
	require.EqualValues(t, 4, open.Load())
	require.NoError(t, d.Close(t.Context()))
	require.Zero(t, open.Load(), "Close came back before the transfers ended")
	for _, s := range served {
		<-s
	}
	for _, c := range conns {
		n, _ := io.Copy(io.Discard, c)
		require.Less(t, n, int64(60_000_000))
	}
	require.Less(t, o.Sent(), int64(4*60_000_000))
	require.NoError(t, d.Close(t.Context()), "twice is fine")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, d.Serve(ln), "Serve after Close returns")
	_, err = ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed, "and has closed the listener")
}

// readCounter is a listener that counts what is read from its connections.
type readCounter struct {
	net.Listener
	n atomic.Int64
}

func (r *readCounter) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	return readCounted{c, r}, err
}

type readCounted struct {
	net.Conn
	r *readCounter
}

func (c readCounted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.n.Add(int64(n))
	return n, err
}

// TestCloseEndsOpen: the context given to Open ends with the depot, also where a
// client has sent its next request already and so nobody watches its connection.
func TestCloseEndsOpen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	read := &readCounter{Listener: ln}
	l := newLabOn(t, read)
	f := transport.BytesFile("a", []byte("a"))
	var returned atomic.Bool
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		<-ctx.Done()
		returned.Store(true)
		return nil, ctx.Err()
	}
	o := l.offer(f)
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	defer c.Close()
	request, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", o.Path)
	require.NoError(t, err)
	<-o.Requested()
	_, err = io.WriteString(c, "GET ")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return read.n.Load() > int64(request) }, patience, tick, "the server does not see it")
	require.NoError(t, l.depot.Close(t.Context()))
	require.True(t, returned.Load())
}

// TestCloseIsBounded: a payload that hangs for good holds Close up for the grace
// time, and not longer.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := depot.New(depot.Options{})
		ln := newPipes()
		served := serve(t, d, ln)
		hang := make(chan struct{})
		f := transport.BytesFile("a", []byte("a"))
		f.Open = func(context.Context) (io.ReadSeekCloser, error) {
			<-hang
			return nil, io.ErrUnexpectedEOF
		}
		o, err := d.Offer(depot.File{File: f, Allow: loopback})
		require.NoError(t, err)
		c := ln.dial("127.0.0.1:999")
		defer c.Close()
		_, err = io.WriteString(c, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-o.Requested()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err = d.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var de *depot.Error
		require.ErrorAs(t, err, &de)
		require.Equal(t, time.Hour+transport.CloseGrace, time.Since(start))
		close(hang)
		require.NoError(t, d.Close(t.Context()))
		<-served
	})
}

// TestServeFails: an error of the listener is the caller's to hear.
func TestServeFails(t *testing.T) {
	d := depot.New(depot.Options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	err = d.Serve(ln)
	require.ErrorIs(t, err, net.ErrClosed)
	var de *depot.Error
	require.ErrorAs(t, err, &de)
	require.NoError(t, d.Close(t.Context()))
}

// TestStall is on a false clock.
func TestStall(t *testing.T) {
	const stall = time.Minute
	want := content(8 << 20)
	run := func(name string, f func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := depot.New(depot.Options{Stall: stall})
				ln := newPipes()
				served := serve(t, d, ln)
				o, err := d.Offer(depot.File{File: transport.BytesFile("a", want), Allow: loopback})
				require.NoError(t, err)
				f(t, d, ln, o)
				require.NoError(t, d.Close(t.Context()))
				<-served
			})
		})
	}
	get := func(t *testing.T, ln *pipes, o *depot.Offer) net.Conn {
		c := ln.dial("127.0.0.1:999")
		_, err := io.WriteString(c, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		return c
	}
	run("a client that stops reading is cut off", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := get(t, ln, o)
		defer c.Close()
		_, err := io.CopyN(io.Discard, c, 1_000_000)
		require.NoError(t, err)
		time.Sleep(stall + time.Second)
		synctest.Wait()
		n, err := io.Copy(io.Discard, c)
		require.NoError(t, err)
		require.Less(t, n, int64(100_000), "no more than what was in a buffer")
		require.Less(t, o.Sent(), int64(2_000_000))
	})
	run("a slow client gets everything", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := get(t, ln, o)
		defer c.Close()
		start := time.Now()
		var got bytes.Buffer
		for !bytes.HasSuffix(got.Bytes(), want[len(want)-100:]) {
			time.Sleep(10 * time.Second)
			_, err := io.CopyN(&got, c, 64<<10) // 256 KiB in 40 s
			if err != nil {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
			if got.Len() > len(want)-(64<<10) {
				_, err := io.CopyN(&got, c, int64(bytes.Index(got.Bytes(), []byte("\r\n\r\n"))+4+len(want)-got.Len()))
				require.NoError(t, err)
			}
		}
		require.Greater(t, time.Since(start), 10*stall)
		require.EqualValues(t, len(want), o.Sent())
	})
	run("a client that reads a byte a second is cut off", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := get(t, ln, o)
		defer c.Close()
		start := time.Now()
		for {
			time.Sleep(time.Second)
			if _, err := c.Read(make([]byte, 1)); err != nil {
				break
			}
		}
		require.Less(t, time.Since(start), 5*stall, "however much was in buffers")
	})
	run("a client that sends the head of its request byte by byte is cut off", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := ln.dial("127.0.0.1:999")
		defer c.Close()
		go func() { _, _ = io.Copy(io.Discard, c) }()
		start := time.Now()
		for {
			if _, err := io.WriteString(c, "G"); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		require.InDelta(t, 10, time.Since(start).Seconds(), 1)
		select {
		case <-o.Requested():
			t.Error("that was no request")
		default:
		}
	})
	run("an idle connection is closed", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := get(t, ln, o)
		defer c.Close()
		start := time.Now()
		_, err := io.Copy(io.Discard, c) // the answer, and the end
		require.NoError(t, err)
		require.Equal(t, stall, time.Since(start))
		require.EqualValues(t, len(want), o.Sent())
	})
	run("a refused client that does not read its answer is cut off", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := ln.dial("10.9.9.9:999")
		defer c.Close()
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		time.Sleep(stall + time.Second)
		n, _ := io.Copy(io.Discard, c)
		require.Zero(t, n)
	})
	run("a body that never comes is not waited for", func(t *testing.T, d *depot.Depot, ln *pipes, o *depot.Offer) {
		c := ln.dial("10.9.9.9:999")
		defer c.Close()
		_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
		require.NoError(t, err)
		start := time.Now()
		_, err = io.Copy(io.Discard, c)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(start), stall)
	})
}

// TestConcurrent offers, fetches and releases from many goroutines.
func TestConcurrent(t *testing.T) {
	l := newLab(t)
	want := content(100_000)
	f, _ := diskFile(t, "a", want)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 10 {
				o, err := l.depot.Offer(depot.File{File: f, Allow: loopback})
				if err != nil {
					t.Error(err)
					return
				}
				_, body, err := l.try("GET", o.Path)
				if err != nil || !bytes.Equal(want, body) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
				if n, err := o.Release(t.Context()); err != nil || n != int64(len(want)) {
					t.Errorf("released after %d bytes, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}
