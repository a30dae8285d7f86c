//go:build unix

package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

const piece = 64 << 10 // of a Transport that is InPieces

// noise is content without repetitions, so that a piece in the wrong place shows.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// counted dials, counts, and lets the caller break connections.
type counted struct {
	mu    sync.Mutex
	conns []net.Conn
	wrap  func(n int, c net.Conn) net.Conn // n is 1 for the first
	addr  func(n int) string               // "" is as asked
}

func (d *counted) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.conns) + 1
	if d.addr != nil {
		if a := d.addr(n); a != "" {
			addr = a
		}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if d.wrap != nil {
		c = d.wrap(n, c)
	}
	d.conns = append(d.conns, c)
	return c, nil
}

func (d *counted) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

func dialBy(t *testing.T, tr *ssh.Transport, ep transport.Endpoint) transport.Conn {
	t.Helper()
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

func requireContent(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "%s has other content", name)
}

// requireAlone: nothing but the named files is in a directory.
func requireAlone(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	require.ElementsMatch(t, names, got)
}

// TestPieces sends files of all sizes over two connections.
func TestPieces(t *testing.T) {
	t.Parallel()
	srv := server(t, sshtest.Config{})
	d := &counted{}
	conn := dialBy(t, (&ssh.Transport{DialContext: d.dial}).InPieces(), endpointOf(srv))
	for _, size := range []int{0, 1, piece - 1, piece, piece + 1, 2 * piece, 40*piece + 12345} {
		content := noise(size)
		var last int64
		res, err := transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", content), transport.PutOptions{
			Mode: 0o640, Progress: func(n int64) {
				if n <= last || n > int64(size) {
					t.Errorf("progress from %d to %d of %d", last, n, size)
				}
				last = n
			}})
		require.NoError(t, err, size)
		requireContent(t, srv.Home()+"/x", content)
		require.EqualValues(t, size, res.Sent, size)
		require.EqualValues(t, size, res.Info.Size)
		require.EqualValues(t, 0o640, res.Info.Mode)
		require.EqualValues(t, size, last)
	}
	require.Greater(t, d.count(), 1, "no second connection was made")
	requireAlone(t, srv.Home(), "x")
}

// TestPiecesResume: what a dead run left is compared and not believed.
func TestPiecesResume(t *testing.T) {
	t.Parallel()
	content := noise(20*piece + 777)
	for _, tt := range []struct {
		name string
		part func() []byte
		kept int64
	}{
		{"all", func() []byte { return content }, 20 * piece},
		{"half", func() []byte { return content[:10*piece] }, 10 * piece},
		{"in a piece", func() []byte { return content[:10*piece+99] }, 10 * piece},
		{"a piece lacks", func() []byte {
			b := bytes.Clone(content[:10*piece])
			clear(b[8*piece : 9*piece])
			return b
		}, 8 * piece},
		{"a bit is wrong", func() []byte {
			b := bytes.Clone(content[:10*piece])
			b[9*piece+5] ^= 4
			return b
		}, 9 * piece},
		{"nothing but holes", func() []byte { return make([]byte, 3*piece) }, 0},
		{"too long", func() []byte { return append(bytes.Clone(content), 1) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := server(t, sshtest.Config{})
			tr := (&ssh.Transport{}).InPieces()
			part := partialOf(t, tr, srv, content)
			require.NoError(t, os.WriteFile(part, tt.part(), 0o600))
			res, err := transport.Put(t.Context(), dialBy(t, tr, endpointOf(srv)), srv.Home()+"/x",
				transport.BytesFile("x", content), transport.PutOptions{})
			require.NoError(t, err)
			require.Equal(t, tt.kept, res.Kept)
			require.Equal(t, int64(len(content))-tt.kept, res.Sent)
			requireContent(t, srv.Home()+"/x", content)
			requireAlone(t, srv.Home(), "x")
		})
	}
}

// partialOf learns the name of the partial file from a Put that is cancelled.
func partialOf(t *testing.T, tr *ssh.Transport, srv *sshtest.Server, content []byte) string {
	t.Helper()
	conn, err := tr.Dial(t.Context(), endpointOf(srv))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = transport.Put(ctx, conn, srv.Home()+"/x", transport.BytesFile("x", content),
		transport.PutOptions{Progress: func(int64) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, conn.Close(t.Context()))
	entries, err := os.ReadDir(srv.Home())
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.True(t, strings.HasSuffix(entries[0].Name(), ".part"))
	return filepath.Join(srv.Home(), entries[0].Name())
}

// TestPiecesWithoutHelp: whatever becomes of the second connection, the first
// one sends everything.
func TestPiecesWithoutHelp(t *testing.T) {
	t.Parallel()
	content := noise(60*piece + 1)
	other := server(t, sshtest.Config{}) // another host key
	for _, tt := range []struct {
		name string
		cfg  sshtest.Config
		opts ssh.Options
		wrap func(n int, c net.Conn) net.Conn
		addr func(n int) string
		most int // connections
	}{
		{name: "cut", wrap: func(n int, c net.Conn) net.Conn {
			if n > 1 {
				return newMortal(c, 5*piece)
			}
			return c
		}, most: 2},
		{name: "refused", addr: func(n int) string {
			if n > 1 {
				return "127.0.0.1:1"
			}
			return ""
		}, most: 1},
		{name: "another host", addr: func(n int) string {
			if n > 1 {
				return other.Addr()
			}
			return ""
		}, most: 2},
		{name: "unwanted", opts: ssh.Options{OneConnection: true}, most: 1},
		{name: "keyboard-interactive", cfg: sshtest.Config{KeyboardInteractive: true}, most: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Password = "correct horse"
			srv := server(t, tt.cfg)
			d := &counted{wrap: tt.wrap, addr: tt.addr}
			ep := endpointOf(srv)
			ep.Options = tt.opts
			if tt.addr != nil {
				// Were the key alone to decide, both would do.
				ep.Trust = transport.Trust{HostKeys: []string{srv.AuthorizedHostKey(), other.AuthorizedHostKey()}}
			}
			conn := dialBy(t, (&ssh.Transport{DialContext: d.dial}).InPieces(), ep)
			_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", content), transport.PutOptions{})
			require.NoError(t, err)
			requireContent(t, srv.Home()+"/x", content)
			requireAlone(t, srv.Home(), "x")
			require.LessOrEqual(t, d.count(), tt.most)
			requireAlone(t, other.Home())
		})
	}
}

// mortal is a connection that breaks the victim, which may be itself, once left
// bytes were written.
type mortal struct {
	net.Conn
	victim net.Conn
	left   *atomic.Int64
}

func newMortal(c net.Conn, bytes int64) *mortal {
	m := &mortal{Conn: c, victim: c, left: new(atomic.Int64)}
	m.left.Store(bytes)
	return m
}

func (m *mortal) Write(b []byte) (int, error) {
	if m.left.Add(-int64(len(b))) < 0 {
		_ = m.victim.Close()
	}
	return m.Conn.Write(b)
}

var errSource = errors.New("the disk of the manager is broken")

// failing is a source that cannot be read from an offset on.
type failing struct {
	io.ReadSeekCloser
	from int64
}

func (f *failing) Read(b []byte) (int, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if at >= f.from {
		return 0, errSource
	}
	return f.ReadSeekCloser.Read(b[:min(int64(len(b)), f.from-at)])
}

// TestPiecesLost: when the first connection breaks, the second ends too, and what
// came is kept.
func TestPiecesLost(t *testing.T) {
	content := noise(60*piece + 1)
	srv := server(t, sshtest.Config{})
	var first *mortal
	d := &counted{wrap: func(n int, c net.Conn) net.Conn {
		if n == 1 {
			first = newMortal(c, 30*piece)
			return first
		}
		// How the two share the work is left open: what both have sent counts.
		return &mortal{Conn: c, victim: first.Conn, left: first.left}
	}}
	conn, err := (&ssh.Transport{DialContext: d.dial}).InPieces().Dial(t.Context(), endpointOf(srv))
	require.NoError(t, err)
	_, err = transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", content), transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, conn.Close(t.Context()))
	res, err := transport.Put(t.Context(), dialBy(t, (&ssh.Transport{}).InPieces(), endpointOf(srv)), srv.Home()+"/x",
		transport.BytesFile("x", content), transport.PutOptions{})
	require.NoError(t, err)
	require.Greater(t, res.Kept, int64(20*piece))
	requireContent(t, srv.Home()+"/x", content)
	requireAlone(t, srv.Home(), "x")
}

// TestPiecesTools: each way to a digest, and none.
func TestPiecesTools(t *testing.T) {
	t.Parallel()
	content := noise(10*piece + 5)
	old := func(t *testing.T, dir string) { // a dd as systems other than Linux have it
		dd, err := exec.LookPath("dd")
		require.NoError(t, err)
		require.NoError(t, os.Remove(dir+"/dd"))
		writeFile(t, dir+"/dd", "#!/bin/sh\nfor a; do case $a in iflag=*) echo unknown >&2; exit 1;; esac; done\nexec "+dd+" \"$@\"\n", 0o755)
	}
	for _, tt := range []struct {
		name  string
		tools []string
		make  func(t *testing.T, dir string)
	}{
		{"python3", []string{"python3", "sha256sum"}, nil},
		{"openssl", []string{"openssl"}, nil},
		{"sha256sum", []string{"sha256sum"}, nil},
		{"shasum", []string{"shasum", "perl"}, nil},
		{"busybox", []string{"busybox"}, nil},
		{"none", nil, nil},
		{"an old dd", []string{"python3", "openssl"}, old},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tools(t, append(tt.tools, posixTools...)...)
			if tt.make != nil {
				tt.make(t, dir)
			}
			srv := server(t, sshtest.Config{Env: []string{"PATH=" + dir}})
			conn := dialBy(t, (&ssh.Transport{}).InPieces(), endpointOf(srv))
			_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", content), transport.PutOptions{})
			require.NoError(t, err)
			requireContent(t, srv.Home()+"/x", content)
			bad := transport.BytesFile("x", content)
			bad.SHA256[3] ^= 1
			_, err = transport.Put(t.Context(), conn, srv.Home()+"/bad", bad, transport.PutOptions{})
			require.ErrorIs(t, err, transport.ErrIntegrity)
			short := transport.BytesFile("x", content)
			short.Size++
			_, err = transport.Put(t.Context(), conn, srv.Home()+"/short", short, transport.PutOptions{})
			require.ErrorIs(t, err, transport.ErrIntegrity)
			requireAlone(t, srv.Home(), "x")
		})
	}
}

// TestPiecesSourceFails: an error of the source is the caller's, and what came is
// kept.
func TestPiecesSourceFails(t *testing.T) {
	t.Parallel()
	content := noise(30 * piece)
	f := transport.BytesFile("x", content)
	open := f.Open
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		r, err := open(ctx)
		return &failing{r, 12 * piece}, err
	}
	srv := server(t, sshtest.Config{})
	conn := dialBy(t, (&ssh.Transport{}).InPieces(), endpointOf(srv))
	_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", f, transport.PutOptions{})
	require.ErrorIs(t, err, errSource)
	res, err := transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", content), transport.PutOptions{})
	require.NoError(t, err)
	require.Positive(t, res.Kept)
	requireContent(t, srv.Home()+"/x", content)
}

// TestLargePut sends a file in pieces of the real size to a real server, with a
// key that two host keys have to agree on, and continues it after a loss.
func TestLargePut(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	content := noise(256<<20 + 4321)
	file := transport.BytesFile("x", content)
	dir := t.TempDir()
	d := &counted{wrap: func(n int, c net.Conn) net.Conn {
		if n <= 2 {
			return newMortal(c, 90<<20)
		}
		return c
	}}
	tr := &ssh.Transport{DialContext: d.dial}
	conn, err := tr.Dial(t.Context(), s.endpoint(t))
	require.NoError(t, err)
	_, err = transport.Put(t.Context(), conn, dir+"/x", file, transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, conn.Close(t.Context()))
	require.Equal(t, 2, d.count())
	res, err := transport.Put(t.Context(), dialBy(t, tr, s.endpoint(t)), dir+"/x", file, transport.PutOptions{})
	require.NoError(t, err)
	require.Greater(t, res.Kept, int64(32<<20))
	require.EqualValues(t, len(content), res.Kept+res.Sent)
	requireContent(t, dir+"/x", content)
	requireAlone(t, dir, "x")
}
