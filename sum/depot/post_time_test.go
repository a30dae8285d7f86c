package depot_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
)

// clocked is an inbox on a false clock.
type clocked struct {
	*testing.T
	depot *depot.Depot
	ln    *pipes
	in    *depot.Intake
}

func testClocked(t *testing.T, box depot.Inbox, f func(c clocked)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := clocked{t, depot.New(depot.Options{}), newPipes(), nil}
		served := serve(t, c.depot, c.ln)
		box.Allow = loopback
		var err error
		c.in, err = c.depot.Receive(box)
		require.NoError(t, err)
		f(c)
		require.NoError(t, c.depot.Close(t.Context()))
		<-served
	})
}

// begin sends the head of a post.
func (c clocked) begin(length int, header ...string) net.Conn {
	c.Helper()
	conn := c.ln.dial("127.0.0.1:999")
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n", c.in.Path, length, strings.Join(header, ""))
	require.NoError(c, err)
	return conn
}

// end reads the answer.
func (c clocked) end(conn net.Conn) *http.Response {
	c.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(c, err)
	_, _ = io.Copy(io.Discard, res.Body)
	return res
}

func keep(into *[]byte, failed *error) func(context.Context, depot.Post) error {
	return func(_ context.Context, p depot.Post) error {
		*into, *failed = io.ReadAll(p.Body)
		return *failed
	}
}

// TestPostStalls: a client that stops sending is told so and holds nothing up.
func TestPostStalls(t *testing.T) {
	var got []byte
	var failed error
	testClocked(t, depot.Inbox{Handle: keep(&got, &failed)}, func(c clocked) {
		conn := c.begin(1000)
		defer conn.Close()
		_, err := io.WriteString(conn, "some")
		require.NoError(c, err)
		start := time.Now()
		res := c.end(conn)
		require.Equal(c, 408, res.StatusCode)
		require.Equal(c, 30*time.Second, time.Since(start))
		require.ErrorIs(c, failed, depot.ErrStalled)
		require.Equal(c, "some", string(got))
		require.Zero(c, c.in.Posts())
	})
}

// TestPostTrickles: one byte a second is not enough, 64 KiB in 29 s are.
func TestPostTrickles(t *testing.T) {
	var got []byte
	var failed error
	testClocked(t, depot.Inbox{Handle: keep(&got, &failed)}, func(c clocked) {
		slow := c.begin(1000)
		go func() {
			for {
				if _, err := io.WriteString(slow, "x"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		start := time.Now()
		require.Equal(c, 408, c.end(slow).StatusCode)
		require.Equal(c, 30*time.Second, time.Since(start))
		slow.Close()

		want := content(1 << 20)
		conn := c.begin(len(want))
		defer conn.Close()
		start = time.Now()
		for rest := want; len(rest) > 0; rest = rest[64<<10:] {
			time.Sleep(29 * time.Second)
			_, err := conn.Write(rest[:64<<10])
			require.NoError(c, err)
		}
		require.Equal(c, 204, c.end(conn).StatusCode)
		require.Greater(c, time.Since(start), 7*time.Minute)
		require.Equal(c, want, got)
	})
}

// TestPostSlowHandler: the time that Handle takes is not the client's, and the
// client hears the answer however long that was.
func TestPostSlowHandler(t *testing.T) {
	testClocked(t, depot.Inbox{Handle: func(_ context.Context, p depot.Post) error {
		time.Sleep(time.Hour)
		if _, err := io.ReadFull(p.Body, make([]byte, 500)); err != nil {
			return err
		}
		time.Sleep(time.Hour)
		b, err := io.ReadAll(p.Body)
		if len(b) != 500 {
			return fmt.Errorf("%d bytes, %w", len(b), err)
		}
		time.Sleep(time.Hour)
		return err
	}}, func(c clocked) {
		conn := c.begin(1000)
		defer conn.Close()
		go func() { _, _ = conn.Write(content(1000)) }()
		require.Equal(c, 204, c.end(conn).StatusCode)

		conn = c.begin(1000, "Expect: 100-continue\r\n")
		defer conn.Close()
		want := "HTTP/1.1 100 Continue\r\n\r\n"
		got := make([]byte, len(want))
		_, err := io.ReadFull(conn, got)
		require.NoError(c, err)
		require.Equal(c, want, string(got))
		go func() { _, _ = conn.Write(content(1000)) }()
		require.Equal(c, 204, c.end(conn).StatusCode)
	})
}

// TestPostRate: one too many is told when to come again, and then is taken.
func TestPostRate(t *testing.T) {
	testClocked(t, depot.Inbox{Rate: 0.1, Burst: 3, Handle: func(context.Context, depot.Post) error { return nil }}, func(c clocked) {
		post := func() *http.Response {
			conn := c.begin(0)
			defer conn.Close()
			return c.end(conn)
		}
		for range 3 {
			require.Equal(c, 204, post().StatusCode)
		}
		time.Sleep(2500 * time.Millisecond)
		res := post()
		require.Equal(c, 429, res.StatusCode)
		after, err := strconv.Atoi(res.Header.Get("Retry-After"))
		require.NoError(c, err)
		require.Equal(c, 8, after)
		time.Sleep(time.Duration(after) * time.Second)
		require.Equal(c, 204, post().StatusCode)
		require.Equal(c, 429, post().StatusCode)
		time.Sleep(time.Hour)
		for range 3 {
			require.Equal(c, 204, post().StatusCode, "no more than a burst after a silence")
		}
		require.Equal(c, 429, post().StatusCode)
		require.EqualValues(c, 7, c.in.Posts())
	})
}

// TestPostHandlers: Handle runs four times at once and no more; who waits is
// served when one ends, or told to come again.
func TestPostHandlers(t *testing.T) {
	release := make(chan struct{})
	var running, most atomic.Int64
	handle := func(ctx context.Context, _ depot.Post) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		<-release
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		d, ln := depot.New(depot.Options{}), newPipes()
		served := serve(t, d, ln)
		in, err := d.Receive(depot.Inbox{Allow: loopback, Handle: handle})
		require.NoError(t, err)
		c := clocked{t, d, ln, in}
		var conns []net.Conn
		for range 6 {
			conn := c.begin(0)
			defer conn.Close()
			conns = append(conns, conn)
			synctest.Wait()
		}
		require.EqualValues(t, 4, running.Load())
		time.Sleep(9 * time.Second)
		release <- struct{}{}
		synctest.Wait()
		require.EqualValues(t, 4, running.Load(), "the fifth")
		start := time.Now()
		res := c.end(conns[5])
		require.Equal(t, 503, res.StatusCode)
		require.Equal(t, "1", res.Header.Get("Retry-After"))
		require.Equal(t, time.Second, time.Since(start))
		close(release)
		for _, conn := range conns[:5] {
			require.Equal(t, 204, c.end(conn).StatusCode)
		}
		require.EqualValues(t, 4, most.Load())
		require.NoError(t, d.Close(t.Context()))
		<-served
	})
}

// TestPostClose: Close ends the context of Handle and waits for it; Release does
// neither.
func TestPostClose(t *testing.T) {
	var ended atomic.Bool
	began := make(chan struct{}, 1)
	testClocked(t, depot.Inbox{Handle: func(ctx context.Context, _ depot.Post) error {
		began <- struct{}{}
		<-ctx.Done()
		time.Sleep(time.Second)
		ended.Store(true)
		return ctx.Err()
	}}, func(c clocked) {
		conn := c.begin(0)
		defer conn.Close()
		synctest.Wait()
		<-began
		start := time.Now()
		c.in.Release()
		synctest.Wait()
		require.Zero(c, time.Since(start))
		require.False(c, ended.Load())
		require.NoError(c, c.depot.Close(c.Context()))
		require.True(c, ended.Load(), "Close came back before Handle")
	})
}
