package depot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// oddNames are files of a tree as nobody should name them.
var oddNames = []string{
	"index.xml", "vib20/a b/x#1?.vib", "vib20/100%/%2e%2e.vib", "ファーム/ウェア.bin", "a;b=c&d/+.bin", "..hidden/...", `"quotes"/'x'`, "a:b/~c|d",
}

func oddTree() depot.Tree {
	t := depot.Tree{Name: "esx 8.0 (100%)", Allow: loopback}
	for _, name := range oddNames {
		t.Files = append(t.Files, transport.BytesFile(name, []byte("content of "+name)))
	}
	return t
}

func TestTree(t *testing.T) {
	for name, newLab := range map[string]func(*testing.T) *lab{"http": newLab, "https": newTLSLab} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			tree := oddTree()
			onDisk, _ := diskFile(t, "vib20/big.vib", content(500_000))
			tree.Files = append(tree.Files, onDisk)
			o, err := l.depot.OfferTree(tree)
			require.NoError(t, err)
			require.Regexp(t, `^/p/[A-Za-z0-9_-]{24}/esx%208\.0%20%28100%25%29/$`, o.Path)
			clear(tree.Files) // the depot keeps its own
			var sum int64
			for _, name := range oddNames {
				want := "content of " + name
				u, err := url.Parse(l.scheme + "://" + l.addr + o.FilePath(name))
				require.NoError(t, err)
				require.Equal(t, "/esx 8.0 (100%)/"+name, u.Path[len("/p/")+24:], "escaped once")
				require.Empty(t, u.RawQuery+u.Fragment, name)
				res, body := l.do("GET", o.FilePath(name))
				require.Equal(t, 200, res.StatusCode, name)
				require.Equal(t, want, string(body))
				require.Equal(t, `"`+transport.BytesFile("x", []byte(want)).Digest()+`"`, res.Header.Get("ETag"))
				sum += int64(len(want))
				require.Equal(t, sum, o.Sent())
				require.EqualValues(t, len(want), o.SentFiles()[name])
			}
			require.Empty(t, o.FilePath("vib20"))
			res, body := l.do("GET", o.FilePath("vib20/big.vib"), "Range", "bytes=100000-199999")
			require.Equal(t, 206, res.StatusCode)
			require.True(t, bytes.Equal(content(500_000)[100_000:200_000], body))
			require.EqualValues(t, 100_000, o.SentFiles()["vib20/big.vib"])
			require.Len(t, o.SentFiles(), len(oddNames)+1)
			res, body = l.do("HEAD", o.FilePath("vib20/big.vib"))
			require.EqualValues(t, 500_000, res.ContentLength)
			require.Empty(t, body)
			res, _ = l.do("PUT", o.FilePath("index.xml"))
			require.Equal(t, 405, res.StatusCode)
			n, err := o.Release(t.Context())
			require.NoError(t, err)
			require.Equal(t, sum+100_000, n)
			res, _ = l.do("GET", o.Path+"index.xml")
			require.Equal(t, 404, res.StatusCode)
		})
	}
}

// TestTreeEscapes asks as clients do that want to see something else: nothing but
// the files themselves is found, and no directory is listed.
func TestTreeEscapes(t *testing.T) {
	l := newLab(t)
	tree := oddTree()
	tree.Name = "top"
	o, err := l.depot.OfferTree(tree)
	require.NoError(t, err)
	other := l.offer(transport.BytesFile("other.bin", []byte("other")))
	bare := strings.TrimSuffix(o.Path, "/")
	for _, path := range []string{
		bare, bare + "/", bare + "//", bare + "/vib20", bare + "/vib20/", bare + "/.", bare + "/./index.xml",
		bare + "//index.xml", bare + "/index.xml/", bare + "/index.xml/x", bare + "/vib20/../index.xml",
		bare + "/%2e%2e/top/index.xml", bare + "/vib20/%2e%2e/index.xml", bare + "/..", bare + "/../..", bare + "/../../../../etc/passwd",
		bare + "/..%2f..%2f..%2fetc/passwd", bare + `/vib20\..\index.xml`, bare + "/%5cindex.xml", bare + "/index.xml%00", bare + "/%69ndex.xml%2f",
		bare + "/../../" + strings.TrimPrefix(other.Path, "/p/"), bare + "/%252e%252e/index.xml", bare + "/index%252exml",
		other.Path + "/", other.Path + "/..", other.Path + "/index.xml", "/p//top/index.xml",
	} {
		c, err := net.Dial("tcp", l.addr)
		require.NoError(t, err)
		status, _, body := answer(t, c, "GET", path) // as it is: Go's client would clean it
		require.Equal(t, 404, status, path)
		require.Equal(t, "404 page not found\n", body, path)
	}
	require.Zero(t, o.Sent()+other.Sent())
	// The same file in another writing is the same file (RFC 3986, section 6.2.2.2).
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	status, _, body := answer(t, c, "GET", bare+"/%69ndex.xml")
	require.Equal(t, 200, status)
	require.Equal(t, "content of index.xml", body)
}

func TestTreeKeys(t *testing.T) {
	l := newLab(t)
	f := transport.BytesFile("index.xml", []byte("x"))
	tree, err := l.depot.OfferTree(depot.Tree{Name: "depot", Files: []transport.File{f}, Key: "k", Allow: loopback})
	require.NoError(t, err)
	_, err = l.depot.OfferTree(depot.Tree{Name: "depot", Files: []transport.File{f}, Key: "k", Allow: loopback})
	require.ErrorIs(t, err, depot.ErrKeyInUse)
	g := f
	g.Name = "depot"
	_, err = l.depot.Offer(depot.File{File: g, Key: "k", Allow: loopback})
	require.ErrorIs(t, err, depot.ErrKeyInUse, "a file of that name")
	g.Name = "depot.sig"
	file, err := l.depot.Offer(depot.File{File: g, Key: "k", Allow: loopback})
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(filepath.Clean(tree.Path)), filepath.Dir(file.Path))
	require.Equal(t, file.Path, file.FilePath("whatever"))
	token := depot.NewToken()
	o, err := l.depot.OfferTree(depot.Tree{Name: "depot", Files: []transport.File{f}, Token: token, Allow: loopback})
	require.NoError(t, err)
	require.Equal(t, "/p/"+token+"/depot/", o.Path)
	require.Equal(t, "/p/"+token+"/depot/index.xml", o.FilePath("index.xml"))
}

func TestTreeRefuses(t *testing.T) {
	d := depot.New(depot.Options{})
	f := []transport.File{transport.BytesFile("a", nil)}
	climbs, back := transport.BytesFile("../a", nil), transport.BytesFile(`a\b`, nil)
	for _, tree := range []depot.Tree{
		{}, {Name: "x"}, {Files: f}, {Name: "a/b", Files: f}, {Name: "..", Files: f}, {Name: ".", Files: f}, {Name: `a\b`, Files: f}, {Name: "a\x00", Files: f},
		{Name: "x", Files: append(f, climbs)}, {Name: "x", Files: append(f, back)}, {Name: "x", Files: append(f, f[0])},
		{Name: "x", Files: f, Token: "guess"}, {Name: "x", Files: f, Allow: []netip.Prefix{{}}},
	} {
		if tree.Allow == nil {
			tree.Allow = loopback
		}
		_, err := d.OfferTree(tree)
		require.ErrorIs(t, err, transport.ErrInvalid, tree)
		var de *depot.Error
		require.ErrorAs(t, err, &de)
	}
	require.NoError(t, d.Close(t.Context()))
	_, err := d.OfferTree(depot.Tree{Name: "x", Files: f, Allow: loopback})
	require.ErrorIs(t, err, depot.ErrClosed)
}

// TestTreeRequested: a target that asks for a file that the tree lacks has come;
// one file that cannot be read is told of although others could be.
func TestTreeRequested(t *testing.T) {
	l := newLab(t)
	broken := errors.New("share is gone")
	bad := transport.BytesFile("bad.vib", []byte("x"))
	bad.Open = func(context.Context) (io.ReadSeekCloser, error) { return nil, broken }
	o, err := l.depot.OfferTree(depot.Tree{Name: "d", Files: []transport.File{transport.BytesFile("a", []byte("a")), bad}, Allow: loopback})
	require.NoError(t, err)
	res, _ := l.do("POST", o.Path+"no")
	require.Equal(t, 404, res.StatusCode)
	select {
	case <-o.Requested():
		require.Fail(t, "nobody has asked for a file")
	default:
	}
	res, _ = l.do("GET", o.Path+"no")
	require.Equal(t, 404, res.StatusCode)
	<-o.Requested()
	res, _ = l.do("GET", o.Path+"bad.vib")
	require.Equal(t, 500, res.StatusCode)
	_, body := l.do("GET", o.Path+"a")
	require.Equal(t, "a", string(body))
	require.NoError(t, l.depot.Close(t.Context()))
	n, err := o.Release(t.Context())
	require.ErrorIs(t, err, broken)
	require.EqualValues(t, 1, n)
	var de *depot.Error
	require.ErrorAs(t, err, &de)
	require.Equal(t, "bad.vib", de.File)
}

// TestTreeAllow: nothing of a tree is for others, and they cannot tell.
func TestTreeAllow(t *testing.T) {
	ln := newPipes()
	l := newLabOn(t, ln)
	o, err := l.depot.OfferTree(depot.Tree{Name: "d", Files: []transport.File{transport.BytesFile("a", []byte("a"))}, Allow: loopback})
	require.NoError(t, err)
	s1, h1, b1 := answer(t, ln.dial("10.9.9.9:999"), "GET", "/nothing")
	for _, method := range []string{"GET", "POST"} {
		for _, path := range []string{o.Path, o.Path + "a", o.Path + "b"} {
			s2, h2, b2 := answer(t, ln.dial("10.9.9.9:999"), method, path)
			require.Equal(t, s1, s2)
			require.Equal(t, h1, h2)
			require.Equal(t, b1, b2)
		}
	}
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.9.9.9")}, o.Refused())
	select {
	case <-o.Requested():
		require.Fail(t, "the target has not asked")
	default:
	}
}

// TestTreeCurl fetches a tree by its names over one connection, with a client
// that others wrote.
func TestTreeCurl(t *testing.T) {
	curl := realtest.Need(t, "curl")
	l := newLab(t)
	tree := depot.Tree{Name: "vmw", Allow: loopback}
	for i := range 20 {
		tree.Files = append(tree.Files, transport.BytesFile(fmt.Sprintf("vib20/p%d/f %d.vib", i, i), content(10_000+i)))
	}
	o, err := l.depot.OfferTree(tree)
	require.NoError(t, err)
	dir := t.TempDir()
	args := []string{"--noproxy", "*", "-sS", "--fail", "--create-dirs"}
	for _, f := range tree.Files {
		args = append(args, "-o", filepath.Join(dir, f.Name), "http://"+l.addr+o.FilePath(f.Name))
	}
	said, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
	require.NoError(t, err, string(said))
	for i, f := range tree.Files {
		got, err := os.ReadFile(filepath.Join(dir, f.Name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content(10_000+i), got))
		require.EqualValues(t, len(got), o.SentFiles()[f.Name])
	}
}
