package depot_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// offerScarce offers a payload that cannot be opened while short is set.
func (c *crowd) offerScarce(short *atomic.Bool) *depot.Offer {
	c.Helper()
	f := transport.BytesFile("a", []byte("content"))
	open := f.Open
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		if short.Load() {
			return nil, &os.PathError{Op: "open", Path: "a", Err: depot.Shortages()[0]}
		}
		return open(ctx)
	}
	o, err := c.depot.Offer(depot.File{File: f, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	require.NoError(c, err)
	return o
}

// TestNoFileForPayload: a request whose file cannot be opened for want of file
// descriptors waits until it can; meanwhile idle connections go, new ones are not
// accepted, and other requests do not suffer.
func TestNoFileForPayload(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		var short atomic.Bool
		short.Store(true)
		o := c.offerScarce(&short)
		idle, stranger := c.connect("10.0.0.1"), c.connect("192.0.2.1")
		time.Sleep(time.Second)
		fresh, asking := c.connect("10.0.0.2"), c.connect("10.0.0.3")
		got := make(chan int)
		go func() { got <- c.ask(asking, o.Path) }()
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		require.False(c, c.open(stranger))
		require.False(c, c.open(idle))
		require.True(c, c.open(fresh), "its request may be on the way")

		c.connect("10.0.0.4") // the depot was in Accept already
		accepted := make(chan struct{})
		go func() {
			c.ln.dial("10.0.0.5:1").Close()
			close(accepted)
		}()
		time.Sleep(time.Second)
		select {
		case <-accepted:
			t.Error("a connection was accepted that takes what a request needs")
		default:
		}
		short.Store(false)
		require.Equal(c, 200, <-got)
		<-accepted
	})
}

// TestNoFileForLong: after a while the client is told to come again.
func TestNoFileForLong(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		var short atomic.Bool
		short.Store(true)
		o := c.offerScarce(&short)
		conn := c.connect("10.0.0.1")
		start := time.Now()
		_, err := io.WriteString(conn, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(c, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(c, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(c, err)
		require.Equal(c, 503, res.StatusCode)
		require.NotEmpty(c, res.Header.Get("Retry-After"))
		require.Equal(c, 10*time.Second, time.Since(start))
		require.Zero(c, o.Sent())
		time.Sleep(time.Second) // net/http leaves the client half of one to read it
		require.False(c, c.open(conn))

		// Of two that wait for nothing but each other one gives way at once.
		short.Store(true)
		done := make(chan int, 2)
		a, b := c.connect("10.0.0.1"), c.connect("10.0.0.2")
		for _, conn := range []net.Conn{a, b} {
			go func() { done <- c.ask(conn, o.Path) }()
			synctest.Wait()
		}
		start = time.Now()
		require.Equal(c, 503, <-done)
		require.Less(c, time.Since(start), time.Second)
		short.Store(false)
		require.Equal(c, 200, <-done)
		_, err = o.Release(c.Context())
		require.NoError(c, err)
	})
}
