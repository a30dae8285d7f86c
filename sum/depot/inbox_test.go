package depot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// kept is a post as a handler has read it.
type kept struct {
	depot.Post
	content []byte
	err     error
}

// keeper is a handler that keeps posts.
type keeper struct {
	mu   sync.Mutex
	list []kept
}

func (k *keeper) handle(_ context.Context, p depot.Post) error {
	b, err := io.ReadAll(p.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, kept{p, b, err})
	return err
}

func (k *keeper) last(t *testing.T) kept {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	require.NotEmpty(t, k.list)
	return k.list[len(k.list)-1]
}

// receive opens an inbox for loopback; without a handler it keeps posts.
func (l *lab) receive(box depot.Inbox) (*depot.Intake, *keeper) {
	l.Helper()
	k := &keeper{}
	if box.Handle == nil {
		box.Handle = k.handle
	}
	box.Name, box.Allow = "status of x", loopback
	in, err := l.depot.Receive(box)
	require.NoError(l, err)
	return in, k
}

// chunked hides the length of a body.
func chunked(b []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(b)} }

func TestPost(t *testing.T) {
	for name, newLab := range map[string]func(*testing.T) *lab{"http": newLab, "https": newTLSLab} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			in, k := l.receive(depot.Inbox{})
			require.Regexp(t, `^/s/[A-Za-z0-9_-]{24}$`, in.Path)
			var bytesSum int64
			for i, tt := range []struct {
				method, rest, path string
				size               int
				chunked            bool
			}{
				{"POST", "", "", 10, false},
				{"POST", "/", "", 10, false},
				{"PUT", "/logs/ilo.txt", "logs/ilo.txt", 1 << 20, false},
				{"PUT", "/logs/ilo.txt", "logs/ilo.txt", 1 << 20, true},
				{"POST", "/a%20b/%E3%83%95?x=1", "a b/フ", 100, true},
				{"POST", "/empty", "empty", 0, false},
				{"POST", "//a/./b/../c//", "a/c", 5, false},
				{"POST", "/../../../etc/passwd", "etc/passwd", 5, false},
				{"POST", "/%2e%2e/%2e%2e/x", "x", 5, false},
			} {
				want := content(tt.size)
				var r io.Reader = bytes.NewReader(want)
				if tt.chunked {
					r = chunked(want)
				}
				res, body, err := l.send(tt.method, in.Path+tt.rest, r, "Content-Type", "text/x-log")
				require.NoError(t, err)
				require.Equal(t, 204, res.StatusCode, tt)
				require.Empty(t, body)
				got := k.last(t)
				require.True(t, bytes.Equal(want, got.content), tt)
				require.Equal(t, tt.method, got.Method)
				require.Equal(t, tt.path, got.Path)
				require.Equal(t, "text/x-log", got.ContentType)
				require.Equal(t, netip.MustParseAddr("127.0.0.1"), got.From)
				if tt.chunked {
					require.EqualValues(t, -1, got.Size)
				} else {
					require.EqualValues(t, tt.size, got.Size)
				}
				bytesSum += int64(tt.size)
				require.EqualValues(t, i+1, in.Posts())
				require.Equal(t, bytesSum, in.Bytes())
			}
			_, err := k.last(t).Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrClosed, "after Handle has returned")
			in.Release()
			in.Release()
			res, _, err := l.send("POST", in.Path, nil)
			require.NoError(t, err)
			require.Equal(t, 404, res.StatusCode)
			require.NotContains(t, l.logs.String(), in.Path[3:])
		})
	}
}

func TestPostRefused(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{})
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
		res, _ := l.do(method, in.Path)
		require.Equal(t, 405, res.StatusCode, method)
		require.Equal(t, "POST, PUT", res.Header.Get("Allow"))
	}
	for _, rest := range []string{"/a%5Cb", "/a%00", "/a%0Ab", "/%ff"} {
		res, _, err := l.send("POST", in.Path+rest, strings.NewReader("x"))
		require.NoError(t, err)
		require.Equal(t, 400, res.StatusCode, rest)
	}
	require.Empty(t, k.list)
	require.Zero(t, in.Bytes()+in.Posts())
}

// TestPostAllow: others cannot tell an inbox from nothing.
func TestPostAllow(t *testing.T) {
	ln := newPipes()
	l := newLabOn(t, ln)
	in, k := l.receive(depot.Inbox{})
	o := l.offer(transport.BytesFile("a", []byte("a")))
	s1, h1, b1 := answer(t, ln.dial("10.9.9.9:999"), "POST", "/nothing")
	require.Equal(t, 404, s1)
	for _, method := range []string{"GET", "POST", "PUT"} {
		for _, path := range []string{in.Path, in.Path + "/x", "/s/", "/s", "/s/" + depot.NewToken(), o.Path} {
			s2, h2, b2 := answer(t, ln.dial("10.9.9.9:999"), method, path)
			require.Equal(t, s1, s2)
			require.Equal(t, h1, h2)
			require.Equal(t, b1, b2)
		}
	}
	require.Empty(t, k.list)
	status, _, _ := answer(t, ln.dial("[::ffff:127.0.0.1]:999"), "POST", in.Path)
	require.Equal(t, 204, status)
	require.NoError(t, l.depot.Close(t.Context())) // so that everything is logged
	require.Contains(t, l.logs.String(), `inbox="status of x"`)
}

// TestPostTooLarge: a body that tells its length is refused at once, another is
// cut off where the limit is.
func TestPostTooLarge(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxBytes: 100_000})
	res, _, err := l.send("POST", in.Path, bytes.NewReader(content(100_001)))
	require.NoError(t, err)
	require.Equal(t, 413, res.StatusCode)
	require.Empty(t, k.list, "Handle is not called")
	for _, c := range []io.Reader{bytes.NewReader(content(100_000)), chunked(content(100_000))} {
		res, _, err = l.send("POST", in.Path, c)
		require.NoError(t, err)
		require.Equal(t, 204, res.StatusCode, "just fits")
	}
	res, _, err = l.send("POST", in.Path, chunked(content(100_001)))
	require.NoError(t, err)
	require.Equal(t, 413, res.StatusCode)
	got := k.last(t)
	require.ErrorIs(t, got.err, depot.ErrTooLarge)
	require.True(t, bytes.Equal(content(100_000), got.content))
	require.EqualValues(t, 300_000, in.Bytes())
	require.EqualValues(t, 2, in.Posts())
}

// TestPostWithoutLimit: the largest limits there are.
func TestPostWithoutLimit(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxBytes: math.MaxInt64, MaxTotal: math.MaxInt64})
	for _, r := range []io.Reader{strings.NewReader("state=1"), chunked([]byte("state=1"))} {
		res, _, err := l.send("POST", in.Path, r)
		require.NoError(t, err)
		require.Equal(t, 204, res.StatusCode)
		require.Equal(t, "state=1", string(k.last(t).content))
	}
}

// TestPostTooLargeForGood: a handler that does not care about errors does not
// make half a log a whole one.
func TestPostTooLargeForGood(t *testing.T) {
	l := newLab(t)
	in, _ := l.receive(depot.Inbox{MaxBytes: 10, Handle: func(_ context.Context, p depot.Post) error {
		_, _ = io.Copy(io.Discard, p.Body)
		return nil
	}})
	res, _, err := l.send("POST", in.Path, chunked(content(11)))
	require.NoError(t, err)
	require.Equal(t, 413, res.StatusCode)
	require.Zero(t, in.Posts())
}

func TestPostInboxFull(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxBytes: 60_000, MaxTotal: 100_000})
	status := func(r io.Reader) int {
		t.Helper()
		res, _, err := l.send("POST", in.Path, r)
		require.NoError(t, err)
		return res.StatusCode
	}
	require.Equal(t, 204, status(bytes.NewReader(content(60_000))))
	require.Equal(t, 507, status(bytes.NewReader(content(40_001))))
	require.Len(t, k.list, 1, "Handle is not called")
	require.Equal(t, 204, status(chunked(content(30_000))))
	require.Equal(t, 507, status(chunked(content(10_001))))
	got := k.last(t)
	require.ErrorIs(t, got.err, depot.ErrFull)
	require.Len(t, got.content, 10_000)
	require.EqualValues(t, 100_000, in.Bytes())
	require.Equal(t, 507, status(bytes.NewReader(content(1))))
	require.Equal(t, 507, status(chunked(content(1))))
	require.Len(t, k.list, 3)
}

// TestPostTotalIsExact: posts at the same time get no more than the limit.
func TestPostTotalIsExact(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxTotal: 1_000_000, Handlers: 8})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { _, _, _ = l.send("POST", in.Path, chunked(content(100_000))) })
	}
	wg.Wait()
	sum := 0
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.list {
		sum += len(p.content)
	}
	require.Equal(t, 1_000_000, sum)
	require.EqualValues(t, sum, in.Bytes())
}

func TestPostFails(t *testing.T) {
	l := newLab(t)
	broken := errors.New("disk of /secret is full")
	in, _ := l.receive(depot.Inbox{Handle: func(_ context.Context, p depot.Post) error { return broken }})
	res, body, err := l.send("POST", in.Path+"/log", strings.NewReader("x"))
	require.NoError(t, err)
	require.Equal(t, 500, res.StatusCode)
	require.NotContains(t, string(body), "secret")
	require.NoError(t, l.depot.Close(t.Context()))
	require.Contains(t, l.logs.String(), "level=ERROR")
	require.Contains(t, l.logs.String(), broken.Error())
	require.Zero(t, in.Posts())
}

// TestPostPanics: the next one is taken, although only one is at a time.
func TestPostPanics(t *testing.T) {
	l := newLab(t)
	first := true
	in, _ := l.receive(depot.Inbox{Handlers: 1, Handle: func(context.Context, depot.Post) error {
		if first {
			first = false
			panic("no")
		}
		return nil
	}})
	_, _, err := l.send("POST", in.Path, strings.NewReader("x"))
	require.Error(t, err)
	res, _, err := l.send("POST", in.Path, strings.NewReader("x"))
	require.NoError(t, err)
	require.Equal(t, 204, res.StatusCode)
}

// TestPostHTTP10 speaks as old devices do, that hang up when they have spoken.
func TestPostHTTP10(t *testing.T) {
	l := newLab(t)
	closed := make(chan struct{})
	var seen error
	in, _ := l.receive(depot.Inbox{Handle: func(ctx context.Context, p depot.Post) error {
		b, err := io.ReadAll(p.Body)
		if string(b) != "state=1" || err != nil {
			return fmt.Errorf("%q, %w", b, err)
		}
		<-closed
		select { // there is nothing to poll: the server tells nobody that it has seen it
		case <-ctx.Done():
			seen = ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	}})
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	_, err = io.WriteString(c, "POST "+in.Path+"/s HTTP/1.0\r\nContent-Length: 7\r\n\r\nstate=1")
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	close(closed)
	raw, err := io.ReadAll(c)
	require.NoError(t, err)
	c.Close()
	require.Regexp(t, "^HTTP/1.[01] 204 No Content\r\n", string(raw))
	require.NoError(t, seen, "a post of a device that hangs up is none the worse")

	c, err = net.Dial("tcp", l.addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "POST "+in.Path+" HTTP/1.0\r\n\r\nstate=1")
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	raw, err = io.ReadAll(c)
	require.NoError(t, err)
	require.Regexp(t, "^HTTP/1.[01] 411 ", string(raw), "where it ends nobody knows")
}

// TestPostBrokenOff: half a body is not a post.
func TestPostBrokenOff(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{})
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	_, err = io.WriteString(c, "POST "+in.Path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.list) == 1 }, patience, tick)
	require.ErrorIs(t, k.last(t).err, io.ErrUnexpectedEOF)
	require.NoError(t, l.depot.Close(t.Context()))
	require.Zero(t, in.Posts())
	require.EqualValues(t, 4, in.Bytes())
	require.Contains(t, l.logs.String(), "post broke off")
}

// TestPostContinue: a client that asks whether it may send hears so before it
// has, and a refusal spares it that.
func TestPostContinue(t *testing.T) {
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxBytes: 100})
	for size, want := range map[int]string{7: "HTTP/1.1 100 Continue\r\n\r\n", 101: "HTTP/1.1 413 "} {
		c, err := net.Dial("tcp", l.addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", in.Path, size)
		require.NoError(t, err)
		got := make([]byte, len(want))
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		if size == 7 {
			_, err = io.WriteString(c, "state=1")
			require.NoError(t, err)
			rest, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Contains(t, string(rest), "HTTP/1.1 204 ")
			require.Equal(t, "state=1", string(k.last(t).content))
		}
	}
	require.Len(t, k.list, 1)
}

// TestPostCurl sends logs with a client that others wrote.
func TestPostCurl(t *testing.T) {
	curl := realtest.Need(t, "curl")
	l := newLab(t)
	in, k := l.receive(depot.Inbox{MaxBytes: 4 << 20})
	want := content(3 << 20) // curl asks for 100-continue from 1 MiB on
	file := filepath.Join(t.TempDir(), "ilo.log")
	require.NoError(t, os.WriteFile(file, want, 0o600))
	for _, args := range [][]string{
		{"-T", file}, {"-T", file, "--http1.0"}, {"-T", file, "-H", "Transfer-Encoding: chunked"}, {"--data-binary", "@" + file},
	} {
		before := in.Posts()
		args = append(args, "--noproxy", "*", "-sS", "--fail", "http://"+l.addr+in.Path+"/ilo.log")
		said, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
		require.NoError(t, err, string(said))
		require.Equal(t, before+1, in.Posts())
		require.True(t, bytes.Equal(want, k.last(t).content))
		require.Equal(t, "ilo.log", k.last(t).Path)
	}
	// By itself curl sends when it was not answered for a second, and may then find
	// the connection closed before it reads the answer.
	args := []string{"-T", file, "--expect100-timeout", "60", "--noproxy", "*", "-sS", "-w", "%{http_code}", "-o", filepath.Join(t.TempDir(), "out")}
	small, _ := l.receive(depot.Inbox{MaxBytes: 1000})
	said, err := exec.CommandContext(t.Context(), curl, append(args, "http://"+l.addr+small.Path)...).Output()
	require.NoError(t, err)
	require.Equal(t, "413", string(said))
}

func TestReceiveRefuses(t *testing.T) {
	d := depot.New(depot.Options{})
	handle := func(context.Context, depot.Post) error { return nil }
	for _, box := range []depot.Inbox{{Allow: loopback}, {Handle: handle, Token: "guess", Allow: loopback}, {Handle: handle, Allow: []netip.Prefix{{}}}} {
		_, err := d.Receive(box)
		require.ErrorIs(t, err, transport.ErrInvalid)
		var de *depot.Error
		require.ErrorAs(t, err, &de)
	}
	token := depot.NewToken()
	in, err := d.Receive(depot.Inbox{Handle: handle, Token: token, Allow: loopback})
	require.NoError(t, err)
	require.Equal(t, "/s/"+token, in.Path)
	_, err = d.Receive(depot.Inbox{Handle: handle, Token: token, Allow: loopback})
	require.ErrorIs(t, err, depot.ErrKeyInUse)
	in.Release()
	again, err := d.Receive(depot.Inbox{Handle: handle, Token: token, Allow: loopback})
	require.NoError(t, err)
	in.Release()
	_, err = d.Receive(depot.Inbox{Handle: handle, Token: token, Allow: loopback})
	require.ErrorIs(t, err, depot.ErrKeyInUse, "a second Release of the old inbox took the new one away")
	require.Equal(t, in.Path, again.Path)

	a, err := d.Receive(depot.Inbox{Handle: handle, Key: "k", Allow: loopback})
	require.NoError(t, err)
	o, err := d.Offer(depot.File{File: transport.BytesFile("a", nil), Key: "k", Allow: loopback})
	require.NoError(t, err)
	require.NotContains(t, o.Path, a.Path[3:], "one path must not tell the other")
	require.NoError(t, d.Close(t.Context()))
	_, err = d.Receive(depot.Inbox{Handle: handle, Allow: loopback})
	require.ErrorIs(t, err, depot.ErrClosed)
}
