package depot_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

func diskFile(t *testing.T, name string, b []byte) (transport.File, string) {
	t.Helper()
	onDisk := filepath.Join(t.TempDir(), "payload")
	require.NoError(t, os.WriteFile(onDisk, b, 0o600))
	f, err := transport.DiskFile(t.Context(), name, onDisk)
	require.NoError(t, err)
	return f, onDisk
}

// TestGet reads a file from memory and one from the disk in the ways that
// clients have.
func TestGet(t *testing.T) {
	want := content(1_000_003)
	onDisk, _ := diskFile(t, "dir/ilo5_278.bin", want)
	for name, f := range map[string]transport.File{"memory": transport.BytesFile("dir/ilo5_278.bin", want), "disk": onDisk} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			o := l.offer(f)
			require.Regexp(t, `^/p/[A-Za-z0-9_-]{24}/ilo5_278\.bin$`, o.Path)

			res, body := l.do("GET", o.Path)
			require.Equal(t, 200, res.StatusCode)
			require.True(t, bytes.Equal(want, body))
			require.Equal(t, int64(len(want)), res.ContentLength)
			require.Empty(t, res.TransferEncoding)
			require.Equal(t, "bytes", res.Header.Get("Accept-Ranges"))
			require.Equal(t, "application/octet-stream", res.Header.Get("Content-Type"))
			etag := res.Header.Get("ETag")
			require.Equal(t, `"`+f.Digest()+`"`, etag)

			res, body = l.do("HEAD", o.Path)
			require.Equal(t, 200, res.StatusCode)
			require.Equal(t, int64(len(want)), res.ContentLength)
			require.Equal(t, etag, res.Header.Get("ETag"))
			require.Empty(t, body)

			res, _ = l.do("GET", o.Path, "If-None-Match", etag)
			require.Equal(t, 304, res.StatusCode)
			require.Equal(t, int64(len(want)), o.Sent(), "only the GET sent the file")

			for _, tt := range []struct {
				rng      string
				ifRange  string
				status   int
				from, to int
			}{
				{"bytes=0-0", "", 206, 0, 1},
				{"bytes=500000-", "", 206, 500_000, len(want)},
				{"bytes=-1000", "", 206, len(want) - 1000, len(want)},
				{"bytes=10-99999999", "", 206, 10, len(want)},
				{"bytes=500000-", etag, 206, 500_000, len(want)},
				{"bytes=500000-", `"another"`, 200, 0, len(want)},
				{"bytes=500000-", "Mon, 02 Jan 2006 15:04:05 GMT", 200, 0, len(want)},
				{"bytes=0-9,99999999-", "", 206, 0, 10},
			} {
				before := o.Sent()
				header := []string{"Range", tt.rng}
				if tt.ifRange != "" {
					header = append(header, "If-Range", tt.ifRange)
				}
				res, body := l.do("GET", o.Path, header...)
				require.Equal(t, tt.status, res.StatusCode, tt)
				require.True(t, bytes.Equal(want[tt.from:tt.to], body), tt)
				require.Equal(t, int64(tt.to-tt.from), res.ContentLength, tt)
				if tt.status == 206 {
					require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", tt.from, tt.to-1, len(want)), res.Header.Get("Content-Range"))
				}
				require.Equal(t, int64(tt.to-tt.from), o.Sent()-before, tt)
			}

			before := o.Sent()
			res, _ = l.do("GET", o.Path, "Range", fmt.Sprintf("bytes=%d-", len(want)))
			require.Equal(t, 416, res.StatusCode)
			require.Equal(t, fmt.Sprintf("bytes */%d", len(want)), res.Header.Get("Content-Range"))
			require.Equal(t, before, o.Sent(), "the text of an error is no content")
			fetched, err := o.Release(t.Context())
			require.NoError(t, err)
			require.Equal(t, before, fetched)
		})
	}
}

func TestSeveralRanges(t *testing.T) {
	want := content(300_000)
	onDisk, _ := diskFile(t, "a", want)
	for name, f := range map[string]transport.File{"memory": transport.BytesFile("a", want), "disk": onDisk} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			o := l.offer(f)
			res, body := l.do("GET", o.Path, "Range", "bytes=0-99,1000-200000,-50")
			require.Equal(t, 206, res.StatusCode)
			require.Equal(t, int64(len(body)), res.ContentLength)
			typ, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
			require.NoError(t, err)
			require.Equal(t, "multipart/byteranges", typ)
			mr := multipart.NewReader(bytes.NewReader(body), params["boundary"])
			var sum int64
			for _, r := range [][2]int{{0, 100}, {1000, 200_001}, {len(want) - 50, len(want)}} {
				p, err := mr.NextPart()
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", r[0], r[1]-1, len(want)), p.Header.Get("Content-Range"))
				b, err := io.ReadAll(p)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want[r[0]:r[1]], b))
				sum += int64(len(b))
			}
			_, err = mr.NextPart()
			require.Equal(t, io.EOF, err)
			require.Equal(t, sum, o.Sent(), "the heads of the parts are no content")

			res, body = l.do("GET", o.Path, "Range", "bytes=0-,0-,0-")
			require.Equal(t, 200, res.StatusCode, "more than the file is an attack, or a fool")
			require.Len(t, body, len(want))
		})
	}
}

// TestHTTP10 speaks as old management processors do.
func TestHTTP10(t *testing.T) {
	want := content(100_000)
	l := newLab(t)
	o := l.offer(transport.BytesFile("a.bin", want))
	for _, request := range []string{
		"GET " + o.Path + " HTTP/1.0\r\n\r\n",
		"GET http://192.0.2.1:63001" + o.Path + " HTTP/1.0\r\nHost: elsewhere\r\n\r\n",
		"HEAD " + o.Path + " HTTP/1.0\r\n\r\n",
	} {
		c, err := net.Dial("tcp", l.addr)
		require.NoError(t, err)
		_, err = io.WriteString(c, request)
		require.NoError(t, err)
		raw, err := io.ReadAll(c) // ends when the server closes
		require.NoError(t, err)
		c.Close()
		head, body, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
		require.True(t, ok)
		require.Regexp(t, "^HTTP/1.[01] 200 OK\r\n", string(head))
		require.Contains(t, string(head), "\r\nContent-Length: "+strconv.Itoa(len(want)))
		require.NotContains(t, string(head), "chunked")
		if request[0] == 'G' {
			require.True(t, bytes.Equal(want, body))
		} else {
			require.Empty(t, body)
		}
	}
}

// TestKeepAlive makes several requests over one connection.
func TestKeepAlive(t *testing.T) {
	want := content(10_000)
	l := newLab(t)
	o := l.offer(transport.BytesFile("a.bin", want))
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	defer c.Close()
	r := bufio.NewReader(c)
	for _, path := range []string{o.Path, "/nothing", o.Path} {
		_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		if path == o.Path {
			require.True(t, bytes.Equal(want, b))
		} else {
			require.Equal(t, 404, res.StatusCode)
		}
	}
}

func TestEmptyFile(t *testing.T) {
	l := newLab(t)
	o := l.offer(transport.BytesFile("empty", nil))
	for _, rng := range []string{"", "bytes=0-"} {
		res, body := l.do("GET", o.Path, "Range", rng)
		require.Equal(t, 200, res.StatusCode)
		require.Zero(t, res.ContentLength)
		require.Equal(t, "0", res.Header.Get("Content-Length"))
		require.Empty(t, body)
	}
	select {
	case <-o.Requested():
	default:
		require.Fail(t, "a request for an empty file is a request")
	}
}

// TestNames puts names into URLs that mean something there.
func TestNames(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"U30 v2.36 (07/16).signed.flash", "a#b?c.bin", "100%.bin", "%41.bin", "ファームウェア.bin", "a;b=c&d.bin", "..bin", `"x"`} {
		want := []byte("content of " + name)
		o := l.offer(transport.BytesFile(name, want))
		u, err := url.Parse("http://" + l.addr + o.Path)
		require.NoError(t, err, name)
		require.Empty(t, u.RawQuery+u.Fragment, name)
		require.Equal(t, filepath.Base(name), filepath.Base(u.Path))
		res, body := l.do("GET", o.Path)
		require.Equal(t, 200, res.StatusCode, name)
		require.Equal(t, string(want), string(body))
	}
}

func TestMethods(t *testing.T) {
	l := newLab(t)
	o := l.offer(transport.BytesFile("a", []byte("a")))
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		res, _ := l.do(method, o.Path)
		require.Equal(t, 405, res.StatusCode, method)
		require.Equal(t, "GET, HEAD", res.Header.Get("Allow"), method)
	}
	select {
	case <-o.Requested():
		require.Fail(t, "nobody has asked for the file")
	default:
	}
	require.Zero(t, o.Sent())
}

// TestCurl resumes with a client that others wrote.
func TestCurl(t *testing.T) {
	curl := realtest.Need(t, "curl")
	want := content(3_000_000)
	f, _ := diskFile(t, "a.bin", want)
	l := newLab(t)
	o := l.offer(f)
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out, want[:1_000_000], 0o600))
	for _, args := range [][]string{{"--http1.0"}, {"-C", "-"}} {
		args = append(args, "--noproxy", "*", "-sS", "--fail", "-o", out, "http://"+l.addr+o.Path)
		if args[0] == "-C" {
			require.NoError(t, os.Truncate(out, 1_000_000))
		}
		before := o.Sent()
		said, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
		require.NoError(t, err, string(said))
		got, err := os.ReadFile(out)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), args[0])
		if args[0] == "-C" {
			require.Equal(t, int64(2_000_000), o.Sent()-before, "nothing is sent twice")
		}
	}
}

func TestKeys(t *testing.T) {
	l := newLab(t)
	f := transport.BytesFile("a.bin", []byte("first"))
	offer := func(name, key string) (*depot.Offer, error) {
		g := f
		g.Name = name
		return l.depot.Offer(depot.File{File: g, Key: key, Allow: loopback})
	}
	first, err := offer("a.bin", "k")
	require.NoError(t, err)
	_, err = offer("a.bin", "k")
	require.ErrorIs(t, err, depot.ErrKeyInUse)
	var de *depot.Error
	require.ErrorAs(t, err, &de)
	require.Equal(t, "a.bin", de.File)
	signature, err := offer("a.sig", "k")
	require.NoError(t, err, "another file of the same update")
	require.Equal(t, filepath.Dir(first.Path), filepath.Dir(signature.Path))
	other, err := offer("a.bin", "l")
	require.NoError(t, err)
	require.NotEqual(t, first.Path, other.Path)
	x, err := offer("a.bin", "")
	require.NoError(t, err)
	y, err := offer("a.bin", "")
	require.NoError(t, err)
	require.NotEqual(t, x.Path, y.Path)

	l.do("GET", first.Path)
	n, err := first.Release(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	res, _ := l.do("GET", first.Path)
	require.Equal(t, 404, res.StatusCode)

	again, err := offer("a.bin", "k")
	require.NoError(t, err)
	require.Equal(t, first.Path, again.Path, "a device that still fetches finds it")
	require.Zero(t, again.Sent())
	_, err = first.Release(t.Context())
	require.NoError(t, err)
	res, _ = l.do("GET", again.Path)
	require.Equal(t, 200, res.StatusCode, "a second Release of the old offer took the new one back")

	elsewhere := depot.New(depot.Options{})
	defer elsewhere.Close(t.Context())
	o, err := elsewhere.Offer(depot.File{File: f, Key: "k", Allow: loopback})
	require.NoError(t, err)
	require.NotEqual(t, first.Path, o.Path, "a key alone must not tell the path")
}

// TestTokens: a depot offers a file where an earlier process had it.
func TestTokens(t *testing.T) {
	token := depot.NewToken()
	require.NotEqual(t, token, depot.NewToken())
	f := transport.BytesFile("a b.bin", []byte("first"))
	var paths []string
	for range 2 {
		l := newLab(t)
		o, err := l.depot.Offer(depot.File{File: f, Token: token, Key: "does not count", Allow: loopback})
		require.NoError(t, err)
		paths = append(paths, o.Path)
		_, err = l.depot.Offer(depot.File{File: f, Token: token, Allow: loopback})
		require.ErrorIs(t, err, depot.ErrKeyInUse)
		_, body := l.do("GET", o.Path)
		require.Equal(t, "first", string(body))
	}
	require.Equal(t, "/p/"+token+"/a%20b.bin", paths[0])
	require.Equal(t, paths[0], paths[1])
}

func TestOfferRefuses(t *testing.T) {
	d := depot.New(depot.Options{})
	good := transport.BytesFile("a", nil)
	climbs := transport.BytesFile("../a", nil)
	for _, f := range []depot.File{{Allow: loopback}, {File: climbs, Allow: loopback}, {File: transport.File{Name: "a", Size: 1}, Allow: loopback}, {File: good, Allow: []netip.Prefix{loopback[0], {}}},
		{File: good, Token: "guess", Allow: loopback}, {File: good, Token: "../" + depot.NewToken()[3:], Allow: loopback}, {File: good, Token: depot.NewToken() + "A", Allow: loopback}} {
		_, err := d.Offer(f)
		require.ErrorIs(t, err, transport.ErrInvalid)
		var de *depot.Error
		require.ErrorAs(t, err, &de)
	}
	require.NoError(t, d.Close(t.Context()))
	_, err := d.Offer(depot.File{File: good, Allow: loopback})
	require.ErrorIs(t, err, depot.ErrClosed)
}
