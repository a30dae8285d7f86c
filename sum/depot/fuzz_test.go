package depot

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

// client is the address that httptest.NewRequest gives.
var client = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}

// request handles one request without a connection.
func request(d *Depot, method string, u *url.URL, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "/", nil)
	req.URL = u
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.handle(w, req)
	return w
}

// closeEmpty closes the depot, which keeps nothing then.
func closeEmpty(t *testing.T, d *Depot) {
	require.NoError(t, d.Close(t.Context()))
	require.Empty(t, d.offers)
	require.Empty(t, d.inboxes)
	require.Empty(t, d.grants.byPrefix)
	require.Equal(t, [2]lengths{}, d.grants.lengths)
}

// FuzzRequest asks for a file of any name with any range, alone and in a tree:
// whatever comes is a part of the file, counted exactly.
func FuzzRequest(f *testing.F) {
	f.Add("a.bin", "bytes=0-9")
	f.Add("a b%2F#?.bin", "bytes=5-")
	f.Add("a", "bytes=0-1,3-4, 90-")
	f.Add("a", "bytes=-0,")
	f.Add("..a/%2e%2e/;x/ü", "")
	want := []byte("0123456789abcdefghijklmnopqrstuvwxyz")
	f.Fuzz(func(t *testing.T, name, rng string) {
		d := New(Options{})
		file := transport.BytesFile(name, want)
		alone, err := d.Offer(File{File: file, Allow: client})
		if err != nil {
			require.ErrorIs(t, err, transport.ErrInvalid)
			return
		}
		tree, err := d.OfferTree(Tree{Name: "tree", Files: []transport.File{file}, Allow: client})
		require.NoError(t, err)
		for _, o := range []*Offer{alone, tree} {
			u, err := url.ParseRequestURI(o.FilePath(name))
			require.NoError(t, err)
			w := request(d, "GET", u, "Range", rng)
			body := w.Body.Bytes()
			switch w.Code {
			case 200:
				require.Equal(t, want, body)
				require.EqualValues(t, len(want), o.Sent())
			case 206:
				if w.Header().Get("Content-Range") != "" {
					require.True(t, bytes.Contains(want, body))
					require.EqualValues(t, len(body), o.Sent())
				} else {
					require.LessOrEqual(t, o.Sent(), int64(len(want)))
				}
			case 416:
				require.Zero(t, o.Sent())
			default:
				t.Fatalf("status %d", w.Code)
			}
			require.Equal(t, o.Sent(), o.SentFiles()[name])
			_, err = o.Release(t.Context())
			require.NoError(t, err)
		}
		closeEmpty(t, d)
	})
}

// FuzzPath asks for any path below a file, a tree and an inbox. Nothing is found
// but the files themselves, and no handler gets a path that climbs.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"", "/", "/a", "/dir/b", "/dir", "/../a", "/%2e%2e/x", "//a", `/dir\b`, "/dir%2fb", "/a/..", "/\x00", "/a%00", "/../../p/x"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, below string) {
		var posted *Post
		d := New(Options{})
		tree, err := d.OfferTree(Tree{Name: "t", Allow: client, Files: []transport.File{transport.BytesFile("a", []byte("a")), transport.BytesFile("dir/b", []byte("b"))}})
		require.NoError(t, err)
		alone, err := d.Offer(File{File: transport.BytesFile("x", []byte("x")), Allow: client})
		require.NoError(t, err)
		in, err := d.Receive(Inbox{Allow: client, Handle: func(_ context.Context, p Post) error {
			posted = &p
			_, err := io.Copy(io.Discard, p.Body)
			return err
		}})
		require.NoError(t, err)
		for _, base := range []string{strings.TrimSuffix(tree.Path, "/"), alone.Path, in.Path} {
			u, err := url.ParseRequestURI(base + below)
			if err != nil {
				continue
			}
			is := func(o *Offer, name string) bool { return u.Path == o.path+name }
			w := request(d, "GET", u)
			switch {
			case is(tree, "/a"), is(tree, "/dir/b"), is(alone, ""):
				require.Equal(t, http.StatusOK, w.Code)
				require.Equal(t, path.Base(u.Path), w.Body.String())
			case strings.HasPrefix(u.Path, in.Path+"/") || u.Path == in.Path:
				require.Equal(t, http.StatusMethodNotAllowed, w.Code)
				switch w := request(d, "POST", u); w.Code {
				case http.StatusNoContent:
					require.True(t, utf8.ValidString(posted.Path))
					require.NotContains(t, posted.Path, `\`)
					require.NotContains(t, "/"+posted.Path+"/", "/../")
					require.NotContains(t, "/"+posted.Path, "//")
				default:
					require.Equal(t, http.StatusBadRequest, w.Code)
					require.Nil(t, posted)
				}
			default:
				require.Equal(t, http.StatusNotFound, w.Code, "%q", u.Path)
			}
		}
		closeEmpty(t, d)
	})
}
