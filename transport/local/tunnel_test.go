package local_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestTunnelErrors(t *testing.T) {
	conn := dial(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for _, tt := range []struct {
		network, addr string
		kind          error
	}{
		{"tcp", gone.Addr().String(), transport.ErrUnreachable},
		{"tcp", "127.0.0.1", transport.ErrInvalid},
		{"tcp", ":80", transport.ErrInvalid},
		{"unix", filepath.Join(t.TempDir(), "none"), fs.ErrNotExist},
		{"unix", "relative", transport.ErrInvalid},
		{"pipe", "x", errors.ErrUnsupported},
	} {
		if tt.network == "unix" && !conn.Caps().Has(transport.CapTunnelUnix) {
			tt.kind = errors.ErrUnsupported // an older Windows
		}
		_, err := transport.Dial(t.Context(), conn, tt.network, tt.addr)
		require.ErrorIs(t, err, tt.kind, "%s %s", tt.network, tt.addr)
	}
}

// TestTunnelHalfCloses: the end of what one side sends reaches the other, which
// then still answers.
func TestTunnelHalfCloses(t *testing.T) {
	conn := dial(t)
	listen := listener(t)
	for _, network := range []string{"tcp", "unix"} {
		if network == "unix" && !conn.Caps().Has(transport.CapTunnelUnix) {
			continue // an older Windows
		}
		l, addr, err := listen(network)
		require.NoError(t, err)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			data, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("heard "), data...))
		}()
		c, err := transport.Dial(t.Context(), conn, network, addr)
		require.NoError(t, err)
		_, err = c.Write([]byte("me"))
		require.NoError(t, err)
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		data, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "heard me", string(data))
		require.NoError(t, c.Close())
		require.NoError(t, l.Close())
	}
}
