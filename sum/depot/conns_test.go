package depot_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// crowd is a depot on a false clock whose clients come from anywhere.
type crowd struct {
	*testing.T
	depot *depot.Depot
	ln    *pipes
	port  int
}

func testCrowd(t *testing.T, opts depot.Options, f func(c *crowd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t, depot.New(opts), newPipes(), 0}
		served := serve(t, c.depot, c.ln)
		f(c)
		require.NoError(t, c.depot.Close(t.Context()))
		<-served
	})
}

func (c *crowd) offerTo(allow string, size int) *depot.Offer {
	c.Helper()
	o, err := c.depot.Offer(depot.File{File: transport.BytesFile("a", content(size)), Allow: []netip.Prefix{netip.MustParsePrefix(allow)}})
	require.NoError(c, err)
	return o
}

// connect connects and waits until the depot has seen it.
func (c *crowd) connect(from string) net.Conn {
	c.Helper()
	c.port++
	conn := c.ln.dial(netip.AddrPortFrom(netip.MustParseAddr(from), uint16(c.port)).String())
	c.Cleanup(func() { conn.Close() })
	synctest.Wait()
	return conn
}

// open reports whether the depot keeps the connection.
func (c *crowd) open(conn net.Conn) bool {
	c.Helper()
	_ = conn.SetReadDeadline(time.Now())
	_, err := conn.Read(make([]byte, 1))
	_ = conn.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	require.ErrorIs(c, err, io.EOF)
	return false
}

// ask makes a request over a connection that stays.
func (c *crowd) ask(conn net.Conn, path string) int {
	c.Helper()
	_, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(c, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(c, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(c, err)
	synctest.Wait()
	return res.StatusCode
}

// hang begins a transfer and reads no more than its beginning.
func (c *crowd) hang(conn net.Conn, path string) {
	c.Helper()
	_, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(c, err)
	_, err = io.ReadFull(conn, make([]byte, 1000))
	require.NoError(c, err)
	synctest.Wait()
}

// TestStrangers: who is allowed nothing has few connections, all together too,
// and takes none from those who are.
func TestStrangers(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		o := c.offerTo("10.1.2.3/32", 10)
		target := c.connect("10.1.2.3")
		var conns []net.Conn
		for range 8 {
			conns = append(conns, c.connect("192.0.2.1"))
		}
		for _, conn := range conns {
			require.True(c, c.open(conn))
		}
		require.Equal(c, 404, c.ask(conns[0], "/")) // so that the second is idle for longest
		conns = append(conns, c.connect("192.0.2.1"))
		for i, conn := range conns {
			require.Equal(c, i != 1, c.open(conn), i)
		}
		for i := range 300 {
			conns = append(conns, c.connect(fmt.Sprintf("198.51.%d.%d", i/100, i%100)))
		}
		n := 0
		for i, conn := range conns {
			if c.open(conn) {
				n++
			} else {
				require.LessOrEqual(c, i, 9+300-256, "the oldest go first")
			}
		}
		require.Equal(c, 256, n)
		require.Equal(c, 200, c.ask(target, o.Path))
	})
}

// TestIdleAfterAnswer: who has been answered makes room again.
func TestIdleAfterAnswer(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		var conns []net.Conn
		for range 8 {
			conns = append(conns, c.connect("192.0.2.1"))
			require.Equal(c, 404, c.ask(conns[len(conns)-1], "/"))
		}
		conns = append(conns, c.connect("192.0.2.1"))
		for i, conn := range conns {
			require.Equal(c, i != 0, c.open(conn), i)
		}
	})
}

// TestStrangersIPv6: a host has as many addresses of its /64 as it likes.
func TestStrangersIPv6(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		var conns []net.Conn
		for i := range 9 {
			conns = append(conns, c.connect(fmt.Sprintf("2001:db8::%d", i+1)))
		}
		other := c.connect("2001:db8:0:1::1")
		for i, conn := range conns {
			require.Equal(c, i != 0, c.open(conn), i)
		}
		require.True(c, c.open(other))
	})
}

// TestConnsOfTarget: each offer gives an address some connections; beyond them the
// one makes room that is idle for longest, and transfers never do.
func TestConnsOfTarget(t *testing.T) {
	testCrowd(t, depot.Options{ConnsPerOffer: 2}, func(c *crowd) {
		const size = 1 << 20
		first, second := c.offerTo("10.1.0.0/16", size), c.offerTo("10.1.2.3/32", size)
		a, b := c.connect("10.1.2.3"), c.connect("10.1.2.3")
		c.hang(a, first.Path)
		require.Equal(c, 200, c.ask(b, first.Path))
		idle, fresh := c.connect("10.1.2.3"), c.connect("10.1.2.3")
		elsewhere := c.connect("10.1.9.9")
		require.Equal(c, 200, c.ask(b, second.Path), "it stays")
		e := c.connect("10.1.2.3")
		require.False(c, c.open(idle))
		for i, conn := range []net.Conn{b, fresh, e} {
			require.True(c, c.open(conn), i)
			c.hang(conn, second.Path)
		}
		require.False(c, c.open(c.connect("10.1.2.3")), "the others are busy")
		require.True(c, c.open(elsewhere))

		// Who has finished makes room, and who has gone.
		_, err := io.CopyN(io.Discard, a, size-1000)
		require.NoError(c, err)
		a.Close()
		synctest.Wait()
		again := c.connect("10.1.2.3")
		require.True(c, c.open(again))

		// An offer that has gone gives nothing.
		_, err = second.Release(c.Context())
		require.NoError(c, err)
		last := c.connect("10.1.2.3")
		require.False(c, c.open(again), "it was idle")
		require.True(c, c.open(last))
	})
}

// TestTransferStays: a transfer is not over, and makes no room, while its end is in
// the buffers of the server: a client that is slow would lose that.
func TestTransferStays(t *testing.T) {
	testCrowd(t, depot.Options{ConnsPerOffer: 1}, func(c *crowd) {
		const size = 1<<20 + 1000 // no multiple of any buffer
		o := c.offerTo("10.1.2.3/32", size)
		a := c.connect("10.1.2.3")
		_, err := io.WriteString(a, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(c, err)
		r := bufio.NewReaderSize(a, 16)
		res, err := http.ReadResponse(r, nil)
		require.NoError(c, err)
		_, err = io.CopyN(io.Discard, res.Body, size-500)
		require.NoError(c, err)
		synctest.Wait()
		require.False(c, c.open(c.connect("10.1.2.3")), "the other is busy")
		n, err := io.Copy(io.Discard, res.Body)
		require.NoError(c, err)
		require.EqualValues(c, 500, n)
		synctest.Wait()
		require.True(c, c.open(c.connect("10.1.2.3")), "the other has been served")
	})
}

// TestConnsInAll: the limit for all makes the longest idle connection go, whose
// ever it is, but none of them for strangers.
func TestConnsInAll(t *testing.T) {
	testCrowd(t, depot.Options{MaxConns: 3}, func(c *crowd) {
		o := c.offerTo("10.0.0.0/8", 1<<20)
		busy := c.connect("10.0.0.1")
		c.hang(busy, o.Path)
		a, b := c.connect("10.0.0.2"), c.connect("10.0.0.3")
		stranger := c.connect("192.0.2.1")
		require.True(c, c.open(a))
		d := c.connect("10.0.0.4")
		require.False(c, c.open(a))
		c.hang(b, o.Path)
		c.hang(d, o.Path)
		require.False(c, c.open(c.connect("10.0.0.5")), "the others are busy")
		require.True(c, c.open(stranger))
		busy.Close()
		b.Close()
		synctest.Wait()
		require.Equal(c, 200, c.ask(c.connect("10.0.0.5"), o.Path))
	})
}

// TestConnsOfInbox: who may post is no stranger.
func TestConnsOfInbox(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		in, err := c.depot.Receive(depot.Inbox{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}, Handle: (&keeper{}).handle})
		require.NoError(c, err)
		var conns []net.Conn
		for range 32 {
			conns = append(conns, c.connect("10.1.2.3"))
		}
		for _, conn := range conns {
			require.True(c, c.open(conn))
		}
		c.connect("10.1.2.3")
		require.False(c, c.open(conns[0]))
		in.Release()
	})
}

// TestManyOffers: with ten thousand each is found, and each address is known.
func TestManyOffers(t *testing.T) {
	testCrowd(t, depot.Options{ConnsPerOffer: 1}, func(c *crowd) {
		offers := map[string]*depot.Offer{}
		for i := range 10_000 {
			a := fmt.Sprintf("10.0.%d.%d", i/256, i%256)
			offers[a] = c.offerTo(a+"/32", 4)
		}
		for _, a := range []string{"10.0.0.0", "10.0.17.5", "10.0.39.15"} {
			first := c.connect(a)
			require.Equal(c, 200, c.ask(first, offers[a].Path))
			require.Equal(c, 404, c.ask(first, offers["10.0.1.1"].Path))
			second := c.connect(a)
			require.False(c, c.open(first), "one connection for one offer")
			require.True(c, c.open(second))
		}
		for _, o := range offers {
			_, err := o.Release(c.Context())
			require.NoError(c, err)
		}
		var conns []net.Conn
		for range 9 {
			conns = append(conns, c.connect("10.0.0.0"))
		}
		require.True(c, c.open(conns[1]))
		require.False(c, c.open(conns[0]), "a stranger again")
	})
}

// BenchmarkManyOffers compares requests to a depot with 10,000 offers with those
// to a depot with one.
func BenchmarkManyOffers(b *testing.B) {
	times := map[int]time.Duration{}
	for _, n := range []int{1, 10_000} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		d := depot.New(depot.Options{})
		served := make(chan error, 1)
		go func() { served <- d.Serve(ln) }()
		var o *depot.Offer
		for range n {
			o, err = d.Offer(depot.File{File: transport.BytesFile("a", []byte("content")), Allow: loopback})
			require.NoError(b, err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tr := &http.Transport{DisableKeepAlives: true} // each with a connection of its own
			start := time.Now()
			for b.Loop() {
				res, err := tr.RoundTrip(must(http.NewRequest("GET", "http://"+ln.Addr().String()+o.Path, nil)))
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			times[n] = time.Since(start) / time.Duration(b.N)
			if n > 1 && times[1] > 0 {
				b.ReportMetric(times[n].Seconds()/times[1].Seconds(), "time-vs-one-offer")
			}
		})
		require.NoError(b, d.Close(b.Context()))
		require.NoError(b, <-served)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// exhausted is a listener without file descriptors for some time.
type exhausted struct {
	net.Listener
	errs []error
}

func (e *exhausted) Accept() (net.Conn, error) {
	if len(e.errs) > 0 {
		err := e.errs[0]
		e.errs = e.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return e.Listener.Accept()
}

// TestAcceptGoesOn: what passes does not end the service.
func TestAcceptGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ln := depot.New(depot.Options{}), newPipes()
		served := serve(t, d, &exhausted{ln, append(depot.Shortages(), depot.Shortages()[0])})
		o, err := d.Offer(depot.File{File: transport.BytesFile("a", []byte("content")), Allow: loopback})
		require.NoError(t, err)
		start := time.Now()
		status, _, body := answer(t, ln.dial("127.0.0.1:999"), "GET", o.Path)
		require.Equal(t, 200, status)
		require.Equal(t, "content", body)
		require.Positive(t, time.Since(start), "it must wait, and not try as fast as it can")
		require.NoError(t, d.Close(t.Context()))
		<-served
	})
}
