package channel

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIdleSocketsDoNotLockOut holds 200 silent connections from the manager's own
// address while the manager works.
func TestIdleSocketsDoNotLockOut(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.HandshakeTimeout = time.Hour }) // no help from the clock
	var idle []net.Conn
	for i := range 200 {
		c, err := net.Dial("tcp", r.addr)
		require.NoError(t, err)
		defer c.Close()
		idle = append(idle, c)
		if i%50 == 0 { // new connections each time, not one that was there before
			c := &Client{Credentials: r.manager, Dial: r.client.Dial}
			_, err = c.Heartbeat(testContext(t), nil)
			require.NoError(t, err)
			require.NoError(t, c.Close(testContext(t)))
		}
	}
	_, err := r.client.Heartbeat(testContext(t), nil)
	require.NoError(t, err)
	// All but four were put out, and one of those for the manager.
	const most = 4
	require.Equal(t, most-1, pendingOf(r.server))
	open := 0
	for _, c := range idle[:len(idle)-(most-1)] {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Read(make([]byte, 1)); isTimeout(err) {
			open++
		}
	}
	require.Zero(t, open)
}

// pendingOf counts the connections of a server that have not authenticated.
func pendingOf(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for r := range s.runs {
		r.table.mu.Lock()
		n += len(r.table.pending)
		r.table.mu.Unlock()
	}
	return n
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func TestHandshakeIsLimited(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.HandshakeTimeout = 20 * time.Millisecond })
	c, err := net.Dial("tcp", r.addr)
	require.NoError(t, err)
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, err = io.ReadAll(c)
	require.False(t, isTimeout(err), "the server hangs up")
}

func TestConnTable(t *testing.T) {
	newTable := func() *connTable {
		return newConnTable(4, 2, 2)
	}
	from := func(ip string) net.Conn {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return addrConn{a, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
	}
	serving := &run{}
	enter := func(tb *connTable, ip string) *serverConn {
		c, ok := tb.enter(from(ip), serving)
		require.True(t, ok)
		return c
	}
	t.Run("one address", func(t *testing.T) {
		tb := newTable()
		a, b := enter(tb, "2001:db8::1"), enter(tb, "2001:db8::2")
		a.spoke = true
		c := enter(tb, "2001:db8::ffff") // the same /64
		require.False(t, tb.pending[b], "the silent one goes, though it is younger")
		require.True(t, tb.pending[a] && tb.pending[c])
		enter(tb, "2001:db8:0:1::1")
		require.Len(t, tb.pending, 3)
	})
	t.Run("all addresses", func(t *testing.T) {
		tb := newTable()
		m := enter(tb, "10.0.0.9")
		require.True(t, tb.trust(m))
		known := enter(tb, "10.0.0.9")
		first := enter(tb, "10.0.0.1")
		for _, ip := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"} {
			enter(tb, ip).spoke = true
		}
		require.False(t, tb.pending[first])
		enter(tb, "10.0.0.5")
		require.True(t, tb.pending[known], "where the manager is known, one waits longest")
		require.True(t, tb.trusted[m])
		require.Len(t, tb.pending, 4)
	})
	t.Run("manager", func(t *testing.T) {
		tb := newTable()
		var conns []*serverConn
		for range 3 {
			c := enter(tb, "10.0.0.9")
			require.True(t, tb.trust(c))
			conns = append(conns, c)
		}
		require.False(t, tb.trusted[conns[0]], "the longest unused makes room")
		tb.begin(conns[1])
		tb.begin(conns[2])
		require.False(t, tb.trust(enter(tb, "10.0.0.9")), "busy ones do not")
		tb.end(conns[1])
		require.True(t, tb.trust(enter(tb, "10.0.0.9")))
		require.False(t, tb.trusted[conns[1]])
	})
	t.Run("several listeners", func(t *testing.T) {
		tb := newTable()
		a := enter(tb, "10.0.0.1")
		other, ok := tb.enter(from("10.0.0.1"), &run{})
		require.True(t, ok)
		require.True(t, tb.trust(a) && tb.trust(other))
		more := enter(tb, "10.0.0.1")
		require.True(t, tb.trust(more))
		require.False(t, tb.trusted[a], "one peer has its number on all of them together")
		tb.close(other.run, true)
		require.Equal(t, map[*serverConn]bool{more: true}, tb.trusted, "the end of one is not that of the other")
		more.Close()
		require.Empty(t, tb.trustedAt)
		require.Empty(t, tb.pendingAt)
		require.Empty(t, tb.with)
	})
	t.Run("who is expected", func(t *testing.T) {
		tb := newTable()
		known := enter(tb, "10.0.0.1")
		tb.name(known, &party{})
		for range 5 {
			enter(tb, "10.0.0.1").spoke = true
		}
		require.True(t, tb.pending[known], "strangers displaced whom an agent's handshake named")
	})
}

type addrConn struct {
	net.Conn
	addr net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.addr }
