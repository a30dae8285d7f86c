package smbtest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// TestPipe: a mebibyte goes in both directions at the same time.
func TestPipe(t *testing.T) {
	for _, cfg := range []smbtest.Config{{Signing: "optional"}, {Signing: "optional", Encryption: true}, {Signing: "optional", MaxProtocol: "SMB2_10"}} {
		s := newServer(t, cfg)
		l, err := s.Listen(`\\.\pipe\Roundsman-1`)
		require.NoError(t, err)
		require.Equal(t, `\\.\pipe\roundsman-1`, l.Addr().String())
		_, err = s.Listen("roundsman-1")
		require.Error(t, err)
		out, in := make([]byte, 1<<20), make([]byte, 1<<20)
		rand.Read(out)
		rand.Read(in)
		p := openPipe(t, login(t, s), "Roundsman-1")
		far, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, l.Close()) // what is open stays
		errs := make(chan error, 4)
		receive := func(r io.Reader, want []byte) {
			got := make([]byte, len(want))
			_, err := io.ReadFull(r, got)
			if err == nil && !bytes.Equal(got, want) {
				err = errors.New("other bytes")
			}
			errs <- err
		}
		send := func(w io.Writer, b []byte) {
			_, err := w.Write(b)
			errs <- err
		}
		go receive(p, in)
		go receive(far, out)
		go send(p, out)
		go send(far, in)
		for range 4 {
			require.NoError(t, <-errs)
		}
		// Its end is seen on both sides.
		if cfg.Encryption {
			require.NoError(t, p.Close())
			_, err = far.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		} else {
			require.NoError(t, far.Close())
			_, err = p.Read(make([]byte, 1))
			require.Error(t, err)
			t.Log(err)
		}
	}
}

// TestPipeNames: a pipe exists as long as its listener, and each open of it is a
// connection of its own.
func TestPipeNames(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	ipc, err := login(t, s).Mount("IPC$")
	require.NoError(t, err)
	open := func(name string) error {
		f, err := ipc.OpenFile(name, os.O_RDWR, 0o666)
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	require.ErrorIs(t, open("agent"), os.ErrNotExist)
	for _, bad := range []string{"", `a\b`, "a/b", string(bytes.Repeat([]byte("x"), 200))} {
		_, err := s.Listen(bad)
		require.Error(t, err)
	}
	for range 2 {
		l, err := s.Listen("agent")
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, open("agent"))
			c, err := l.Accept()
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, c.Close())
		}
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Close(), net.ErrClosed)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, open("agent"), os.ErrNotExist)
	}
	require.NoError(t, s.Close())
	_, err = s.Listen("agent")
	require.ErrorIs(t, err, net.ErrClosed)
}
