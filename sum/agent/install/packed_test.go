package install

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

// counted counts how often a file is opened.
func counted(content string) (transport.File, *atomic.Int32) {
	f := transport.BytesFile("agent", []byte(content))
	open, n := f.Open, new(atomic.Int32)
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		n.Add(1)
		return open(ctx)
	}
	return f, n
}

func unpacked(t *testing.T, data []byte) string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(out)
}

// A fleet of one platform has its agent compressed once.
func TestPackedOnce(t *testing.T) {
	var p packedFiles
	f, opened := counted(strings.Repeat("agent ", 10000))
	other, _ := counted("another platform's")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			data, err := p.gzip(t.Context(), f)
			if err != nil || len(data) == 0 {
				t.Error(len(data), err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, opened.Load())
	data, err := p.gzip(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("agent ", 10000), unpacked(t, data))
	data, err = p.gzip(t.Context(), other)
	require.NoError(t, err)
	require.Equal(t, "another platform's", unpacked(t, data))
}

// What a file says of itself decides nothing about another that says the same.
func TestPackedLies(t *testing.T) {
	var p packedFiles
	honest, _ := counted("right")
	liar, opened := counted("wrong")
	liar.SHA256 = honest.SHA256
	for range 2 {
		data, err := p.gzip(t.Context(), liar)
		require.NoError(t, err)
		require.Equal(t, "wrong", unpacked(t, data))
	}
	require.EqualValues(t, 2, opened.Load())
	data, err := p.gzip(t.Context(), honest)
	require.NoError(t, err)
	require.Equal(t, "right", unpacked(t, data))
}

// Whoever waits for another's compression ends with its own context, and a failure is
// not kept.
func TestPackedWaits(t *testing.T) {
	var p packedFiles
	f, _ := counted("agent")
	open := f.Open
	begun, fail := make(chan struct{}), make(chan struct{})
	f.Open = func(context.Context) (io.ReadSeekCloser, error) {
		close(begun)
		<-fail
		return nil, io.ErrUnexpectedEOF
	}
	first := make(chan error, 1)
	go func() {
		_, err := p.gzip(t.Context(), f)
		first <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.gzip(ctx, f)
	require.ErrorIs(t, err, context.Canceled)
	close(fail)
	require.ErrorIs(t, <-first, io.ErrUnexpectedEOF)
	f.Open = open
	data, err := p.gzip(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, "agent", unpacked(t, data))
}
