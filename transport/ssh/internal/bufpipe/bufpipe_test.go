package bufpipe

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBytesSurviveClose(t *testing.T) {
	a, b := New(nil, nil)
	_, err := a.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	_, err = b.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = a.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestHalfClose(t *testing.T) {
	a, b := New(nil, nil)
	require.NoError(t, a.CloseWrite())
	_, err := b.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = b.Write([]byte("still"))
	require.NoError(t, err)
	require.NoError(t, b.CloseWrite())
	got, err := io.ReadAll(a)
	require.NoError(t, err)
	require.Equal(t, "still", string(got))
}

func TestErrorTravels(t *testing.T) {
	a, b := New(nil, nil)
	reason := errors.New("line broke")
	_, err := a.Write([]byte("last"))
	require.NoError(t, err)
	a.CloseWithError(reason)
	got, err := io.ReadAll(b)
	require.ErrorIs(t, err, reason)
	require.Equal(t, "last", string(got))
	_, err = b.Write([]byte("x"))
	require.ErrorIs(t, err, reason)
}

func TestWriterWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := New(nil, nil)
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := a.Write(make([]byte, size+1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, size, n)
		require.NoError(t, a.SetWriteDeadline(time.Time{}))
		done := make(chan error)
		go func() {
			_, err := a.Write(make([]byte, 3*size))
			done <- err
		}()
		got, err := io.CopyN(io.Discard, b, 4*size)
		require.NoError(t, err)
		require.EqualValues(t, 4*size, got)
		require.NoError(t, <-done)
	})
}

func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := New(nil, nil)
		start := time.Now()
		require.NoError(t, a.SetReadDeadline(start.Add(time.Minute)))
		_, err := a.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, a.SetDeadline(time.Time{}))
		_, err = b.Write([]byte("x"))
		require.NoError(t, err)
		_, err = a.Read(make([]byte, 1))
		require.NoError(t, err)
	})
}
