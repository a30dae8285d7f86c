package transport_test

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"

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
