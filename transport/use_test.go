package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

func TestRemoveAll(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	for _, name := range []string{"/var/tmp/a/b/c/file", "/var/tmp/a/file", "/var/tmp/other"} {
		require.NoError(t, target.WriteFile(name, []byte("x")))
	}
	require.NoError(t, transport.RemoveAll(t.Context(), conn, "/var/tmp/a"))
	require.Equal(t, []string{"/var/tmp/other"}, target.Files())
	require.NoError(t, transport.RemoveAll(t.Context(), conn, "/var/tmp/a"), "it is gone already")
	require.NoError(t, transport.RemoveAll(t.Context(), conn, "/var/tmp/other"))
	require.Empty(t, target.Files())

	require.NoError(t, target.WriteFile("/var/tmp/"+strings.Repeat("d/", 70)+"file", []byte("x")))
	require.ErrorIs(t, transport.RemoveAll(t.Context(), conn, "/var/tmp/d"), transport.ErrRejected)
	require.NoError(t, fake.Close())
}

// liar is a target that lists names which lead elsewhere, and whose links Stat
// follows.
type liar struct {
	transport.Forward
	names   []string
	removed []string
	links   map[string]bool
}

func (l *liar) Stat(context.Context, string) (transport.FileInfo, error) {
	return transport.FileInfo{Mode: fs.ModeDir}, nil
}

func (l *liar) List(context.Context, string) ([]transport.FileInfo, error) {
	var out []transport.FileInfo
	for _, n := range l.names {
		out = append(out, transport.FileInfo{Name: n})
	}
	return out, nil
}

func (l *liar) Remove(_ context.Context, name string) error {
	if l.links[path.Base(name)] {
		l.removed = append(l.removed, name)
		return nil
	}
	return &transport.Error{Op: "remove", Kind: transport.ErrRejected}
}

func TestRemoveAllStaysInside(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	for _, bad := range []string{"..", ".", "", "../../etc", "/etc"} {
		l := &liar{Forward: transport.Forward{Conn: conn}, names: []string{bad}}
		require.ErrorIs(t, transport.RemoveAll(t.Context(), l, "/var/tmp/x"), transport.ErrProtocol, "%q", bad)
		require.Empty(t, l.removed)
	}
	l := &liar{Forward: transport.Forward{Conn: conn}, names: []string{"link"}, links: map[string]bool{"link": true}}
	require.ErrorIs(t, transport.RemoveAll(t.Context(), l, "/var/tmp/x"), transport.ErrRejected)
	require.Equal(t, []string{"/var/tmp/x/link"}, l.removed, "a link is removed, not what it leads to")
	require.NoError(t, fake.Close())
}

// flood is a target that sends more than it was asked for.
type flood struct {
	transport.Forward
	content []byte
	chunk   int
}

func (f *flood) Get(_ context.Context, _ string, w io.Writer, _ transport.GetOptions) (int64, error) {
	n := 0
	for chunk := range slices.Chunk(f.content, f.chunk) {
		m, err := w.Write(chunk)
		if n += m; err != nil {
			return int64(n), &transport.Error{Op: "get", Kind: transport.ErrConnLost, Err: err}
		}
	}
	return int64(n), nil
}

func TestGetKeepsTheLimit(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	content := []byte("0123456789abcdef")
	for _, chunk := range []int{1, 3, 5, 10, 16} {
		f := &flood{transport.Forward{Conn: conn}, content, chunk}
		var b bytes.Buffer
		n, err := transport.Get(t.Context(), f, "/f", &b, transport.GetOptions{Limit: 10})
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.False(t, transport.Temporary(err))
		require.EqualValues(t, 10, n)
		require.Equal(t, "0123456789", b.String())
		for _, limit := range []int64{0, 16, 17} {
			b.Reset()
			n, err = transport.Get(t.Context(), f, "/f", &b, transport.GetOptions{Limit: limit})
			require.NoError(t, err)
			require.EqualValues(t, 16, n)
			require.Equal(t, string(content), b.String())
		}
	}
	require.NoError(t, fake.Close())
}

// TestSpaceAndClock: what a target tells of itself comes through decorators.
func TestSpaceAndClock(t *testing.T) {
	fake := transporttest.New()
	target := fake.Add(transporttest.TargetConfig{Address: "a", User: "u", Password: transport.NewSecret("correct horse"), HostKey: "ssh-ed25519 AAAA",
		Caps: transport.CapFiles | transport.CapSpace | transport.CapClock, Space: 100, Skew: -time.Hour})
	tr := transport.Limit(transport.Retry(transport.Log(fake, slog.New(slog.DiscardHandler)), transport.RetryOptions{}), transport.LimitOptions{Calls: 1})
	conn, err := tr.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	_, err = transport.Put(t.Context(), conn, "/x", transport.BytesFile("x", make([]byte, 60)), transport.PutOptions{})
	require.NoError(t, err)
	free, err := transport.Space(t.Context(), conn, "/")
	require.NoError(t, err)
	require.EqualValues(t, 40, free)
	_, err = transport.Space(t.Context(), conn, "/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	clock, err := transport.ReadClock(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, -time.Hour, clock.Skew)

	shell, other := transporttest.NewShellServer()
	conn, err = shell.Dial(t.Context(), other.Endpoint())
	require.NoError(t, err)
	_, err = transport.Space(t.Context(), conn, "/")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = transport.ReadClock(t.Context(), conn)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NoError(t, fake.Close())
	require.NoError(t, shell.Close())
}

// TestForwardAddsNothing: a decorator has what the wrapped connection has.
func TestForwardAddsNothing(t *testing.T) {
	fake, target := transporttest.NewPushDevice()
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	f := transport.Forward{Conn: transport.Forward{Conn: conn}}
	_, err = transport.Run(t.Context(), f, transport.Command{Argv: []string{"id"}})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	for _, err := range transport.Children(t.Context(), f) {
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	_, err = transport.Dial(t.Context(), f, "udp", "x")
	require.ErrorIs(t, err, transport.ErrInvalid)
	inv, err := transport.ReadInventory(t.Context(), f)
	require.NoError(t, err)
	require.Len(t, inv.Devices, 3)
	require.NoError(t, fake.Close())
}

// TestCapsWithoutMethods: Caps that promise more than the type has are an error
// of the driver, not a panic of the caller.
func TestCapsWithoutMethods(t *testing.T) {
	_, err := transport.Stat(t.Context(), promises{}, "/")
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

type promises struct{ transport.Conn }

func (promises) Caps() transport.Caps { return transport.AllCaps }
