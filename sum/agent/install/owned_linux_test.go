package install_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// refused starts an agent that must be refused without anything being sent.
func refused(t *testing.T, l *lab, why string) {
	t.Helper()
	conn := l.dial()
	_, err := installer().Start(t.Context(), conn, l.opts())
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.ErrorContains(t, err, why)
	require.Zero(t, conn.count("put"), "nothing is sent there")
	require.Zero(t, conn.count("run version"), "nothing is executed there")
}

func TestDirectoryOfAnotherUser(t *testing.T) {
	realtest.NeedRoot(t)
	l := newLab(t, sshtest.Config{})
	require.NoError(t, os.MkdirAll(l.dir(), 0o700))
	trap := filepath.Join(l.dir(), agent.BinaryName)
	sprung := filepath.Join(t.TempDir(), "sprung")
	require.NoError(t, os.WriteFile(trap, []byte("#!/bin/sh\ntouch "+sprung+"\n"), 0o700))
	require.NoError(t, os.Chown(l.dir(), 65534, 65534))
	refused(t, l, "it belongs to user 65534")

	// Nor is anything there executed in order to remove it.
	_, err := installer().Sweep(t.Context(), l.dial(), l.place())
	require.ErrorContains(t, err, "it belongs to user 65534")
	require.FileExists(t, trap)
	require.NoFileExists(t, sprung)
}

func TestDirectoryThatOthersCanReplace(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	require.NoError(t, os.Mkdir(l.base, 0o700))
	require.NoError(t, os.Chmod(l.base, 0o777))
	refused(t, l, "everybody may replace what is in "+l.base)
	require.NoDirExists(t, l.dir())

	require.NoError(t, os.Chmod(l.base, os.ModeSticky|0o777))
	private := filepath.Join(t.TempDir(), "private")
	require.NoError(t, os.Mkdir(private, 0o700))
	require.NoError(t, os.Symlink(private, l.dir()))
	refused(t, l, "is not a directory")
	require.NoError(t, os.Remove(l.dir()))

	_, err := l.start(l.dial()).Remove(t.Context()) // as in /tmp, names are safe
	require.NoError(t, err)
	l.requireClean()
}

// behind is a connection that does not know the target's address.
type behind struct {
	*tap
	dials []string
}

func (c *behind) Path() transport.Path { return transport.Path{} }

func (c *behind) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c.dials = append(c.dials, network+" "+addr)
	return c.tap.DialContext(ctx, network, addr)
}

func TestClassicPortBehindAJumpHost(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{"0.0.0.0:0": "tcp 127.0.0.1:", "127.0.0.1:0": "tcp 127.0.0.1:"} {
		t.Run(listen, func(t *testing.T) {
			l := newLab(t, sshtest.Config{NoStreamLocal: true})
			conn := &behind{tap: l.dial()}
			in := &install.Installer{Source: &built} // not the common one, which it changes
			in.Network, in.Listen = "tcp", listen
			a, err := in.Start(t.Context(), conn, l.opts())
			require.NoError(t, err)
			defer a.Close(t.Context())
			_, err = a.Jobs(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, conn.dials, "the manager dialed by itself")
			require.True(t, strings.HasPrefix(conn.dials[0], want), conn.dials[0])
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
			l.requireClean()
		})
	}
	t.Run("own dial", func(t *testing.T) {
		l := newLab(t, sshtest.Config{})
		in := &install.Installer{Source: &built}
		in.Network, in.Listen = "tcp", "0.0.0.0:0"
		in.DialContext = func(_ context.Context, _, addr string) (net.Conn, error) {
			t.Error("dialed " + addr)
			return nil, net.ErrClosed
		}
		a, err := in.Start(t.Context(), &behind{tap: l.dial()}, l.opts())
		if err == nil {
			defer a.Close(t.Context())
			_, err = a.Jobs(t.Context())
		}
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = installer().Sweep(t.Context(), l.dial(), l.place())
		require.NoError(t, err)
		l.requireClean()
	})
}
