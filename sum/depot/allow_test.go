package depot_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// answer makes one request over a connection and returns the whole answer but
// its date.
func answer(t *testing.T, c net.Conn, method, path string) (int, http.Header, string) {
	t.Helper()
	defer c.Close()
	_, err := io.WriteString(c, method+" "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	res.Header.Del("Date")
	return res.StatusCode, res.Header, string(body)
}

func TestAllow(t *testing.T) {
	ln := newPipes()
	l := newLabOn(t, ln)
	for _, tt := range []struct {
		allow string
		from  string
		want  bool
	}{
		{"10.1.2.3/32", "10.1.2.3:999", true},
		{"10.1.2.3/32", "[::ffff:10.1.2.3]:999", true},
		{"10.1.2.3/32", "10.1.2.4:999", false},
		{"::ffff:10.1.2.3/128", "10.1.2.3:999", true},
		{"::ffff:10.1.2.0/120", "[::ffff:10.1.2.99]:999", true},
		{"::ffff:10.1.2.0/120", "10.1.3.1:999", false},
		{"10.1.0.0/16", "10.1.255.1:999", true},
		{"10.1.0.7/16", "10.1.255.1:999", true}, // bits behind the prefix do not count
		{"10.1.0.0/16", "10.2.0.1:999", false},
		{"0.0.0.0/0", "203.0.113.9:999", true},
		{"0.0.0.0/0", "[2001:db8::1]:999", false},
		{"::/0", "[2001:db8::1]:999", true},
		{"::/0", "10.1.2.3:999", false},
		{"2001:db8::/64", "[2001:db8::5]:999", true},
		{"2001:db8::/64", "[2001:db8:0:1::5]:999", false},
		{"fe80::1/128", "[fe80::1%eth0]:999", true},
		{"fe80::1/128", "[fe80::2%eth0]:999", false},
		{"fe80::/10", "[fe80::2%3]:999", true},
		{"0.0.0.0/0", "pipe", false}, // no address at all
	} {
		allow := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix(tt.allow)}
		o, err := l.depot.Offer(depot.File{File: transport.BytesFile("a", []byte("content")), Allow: allow})
		require.NoError(t, err)
		clear(allow) // the depot keeps its own
		status, _, body := answer(t, ln.dial(tt.from), "GET", o.Path)
		requested := false
		select {
		case <-o.Requested():
			requested = true
		default:
		}
		if tt.want {
			require.Equal(t, 200, status, tt)
			require.Equal(t, "content", body)
			require.EqualValues(t, 7, o.Sent())
		} else {
			require.Equal(t, 404, status, tt)
			require.Zero(t, o.Sent())
		}
		require.Equal(t, tt.want, requested, tt)
	}
}

// TestRefusalsLookAlike: who is not allowed cannot tell an offer from nothing,
// and the log tells the operator who was refused, but no paths.
func TestRefusalsLookAlike(t *testing.T) {
	ln := newPipes()
	l := newLabOn(t, ln)
	o, err := l.depot.Offer(depot.File{File: transport.BytesFile("secret.bin", []byte("content")), Allow: loopback})
	require.NoError(t, err)
	for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS"} {
		s1, h1, b1 := answer(t, ln.dial("10.9.9.9:999"), method, o.Path)
		require.Equal(t, 404, s1, method)
		for _, path := range []string{"/", "/p/", "/p/AAAAAAAAAAAAAAAAAAAAAAAA/secret.bin", o.Path + "x", o.Path + "/", "*"} {
			s2, h2, b2 := answer(t, ln.dial("10.9.9.9:999"), method, path)
			require.Equal(t, s1, s2, method+path)
			require.Equal(t, h1, h2, method+path)
			require.Equal(t, b1, b2, method+path)
			s2, h2, b2 = answer(t, ln.dial("127.0.0.1:999"), method, path)
			require.Equal(t, s1, s2, method+path)
			require.Equal(t, h1, h2, method+path)
			require.Equal(t, b1, b2, method+path)
		}
	}
	require.NoError(t, l.depot.Close(t.Context())) // so that everything is logged
	require.Contains(t, l.logs.String(), "level=WARN")
	require.Contains(t, l.logs.String(), "from=10.9.9.9")
	require.Contains(t, l.logs.String(), "file=secret.bin")
	require.NotContains(t, l.logs.String(), o.Path[:20])
}

// Who may come is said, or it is an error: a path that nobody may fetch, or that
// somebody takes for one that everybody may, is found before a target is sent there.
func TestAllowNobody(t *testing.T) {
	l := newLabOn(t, newPipes())
	f := transport.BytesFile("a", []byte("content"))
	handle := func(context.Context, depot.Post) error { return nil }
	for _, allow := range [][]netip.Prefix{nil, {}} {
		_, err := l.depot.Offer(depot.File{File: f, Allow: allow})
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorContains(t, err, "0.0.0.0/0")
		_, err = l.depot.OfferTree(depot.Tree{Name: "t", Files: []transport.File{f}, Allow: allow})
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = l.depot.Receive(depot.Inbox{Handle: handle, Allow: allow})
		require.ErrorIs(t, err, transport.ErrInvalid)
	}
	// Everybody is named too.
	o, err := l.depot.Offer(depot.File{File: f, Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	require.NoError(t, err)
	require.NoError(t, o.Renew(nil, f), "those who may come already go on")
}
