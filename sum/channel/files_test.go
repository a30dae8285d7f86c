package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// cutConn breaks after a number of written bytes.
type cutConn struct {
	net.Conn
	left atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.left.Add(-int64(len(p))) < 0 {
		c.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(p)
}

func TestBlobResumes(t *testing.T) {
	r := newRig(t, nil)
	blob := make([]byte, 3<<20)
	rand.Read(blob)
	sum := hexSum(blob)
	dial, cut := r.client.Dial, true
	r.client.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err == nil && cut {
			k := &cutConn{Conn: c}
			k.left.Store(1 << 20)
			return k, nil
		}
		return c, err
	}
	err := r.client.PutBlob(testContext(t), sum, int64(len(blob)), opener(blob), nil)
	require.ErrorIs(t, err, ErrLost)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Sent)

	cut = false
	require.Eventually(t, func() bool { // the agent stores what had arrived
		return r.agent.called("AppendEnded") == 1
	}, 30*time.Second, time.Millisecond)
	offset, err := r.client.BlobOffset(testContext(t), sum, int64(len(blob)))
	require.NoError(t, err)
	require.Positive(t, offset)
	var from, last int64 = -1, -1
	open := func(ctx context.Context, off int64) (io.ReadCloser, error) {
		from = off
		return opener(blob)(ctx, off)
	}
	require.NoError(t, r.client.PutBlob(testContext(t), sum, int64(len(blob)), open, func(n int64) {
		require.GreaterOrEqual(t, n, last)
		last = n
	}))
	require.Equal(t, offset, from)
	require.EqualValues(t, len(blob), last)
	require.Equal(t, blob, r.agent.blobs[sum])
	// Nothing is sent twice.
	n := r.agent.called("Append")
	require.NoError(t, r.client.PutBlob(testContext(t), sum, int64(len(blob)), open, nil))
	require.Equal(t, n, r.agent.called("Append"))
}

func TestBlobRefusals(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.MaxBlobBytes = 1 << 20 })
	ctx := testContext(t)
	blob := make([]byte, 900<<10)
	wrong := hexSum([]byte("another"))
	err := r.client.PutBlob(ctx, wrong, int64(len(blob)), opener(blob), nil)
	require.ErrorIs(t, err, ErrDigest)
	require.ErrorIs(t, err, ErrFault)
	require.Empty(t, r.agent.blobs)

	err = r.client.PutBlob(ctx, wrong, 2<<20, opener(make([]byte, 2<<20)), nil)
	require.ErrorIs(t, err, ErrTooLarge)
	err = r.client.PutBlob(ctx, "../../etc/passwd", 1, opener(blob), nil)
	require.ErrorIs(t, err, ErrMalformed)

	broken := errors.New("disk on fire")
	err = r.client.PutBlob(ctx, wrong, int64(len(blob)), func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(blob[:1000]), readerFunc(func([]byte) (int, error) { return 0, broken }))), nil
	}, nil)
	require.ErrorIs(t, err, broken)
}

// TestUploadStalls shows that an upload whose source dries up ends by itself.
func TestUploadStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, a, err := NewIdentity("n")
		require.NoError(t, err)
		l := newPipeListener(false)
		agent := newFakeAgent()
		s := &Server{Credentials: a, Handler: agent, Blobs: agent, StallTimeout: time.Hour}
		c := &Client{Credentials: m, Dial: l.dial, StallTimeout: time.Minute}
		go s.Serve(context.Background(), l)
		pr, pw := io.Pipe()
		defer pw.Close() // nothing is ever written
		err = c.PutBlob(t.Context(), hexSum([]byte("x")), 1<<20, func(context.Context, int64) (io.ReadCloser, error) { return pr, nil }, nil)
		require.ErrorIs(t, err, ErrLost)
		require.ErrorIs(t, err, errStalled)
		require.NoError(t, c.Close(t.Context()))
		require.NoError(t, s.Close(t.Context()))
	})
}

// TestServerEndsStalledUpload: a manager that falls silent in the middle does not
// hold the storage, and what came is kept.
func TestServerEndsStalledUpload(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { stalledUpload(t, nil) })
	t.Run("no deadlines", func(t *testing.T) { stalledUpload(t, newPipeListener(true)) })
}

func stalledUpload(t *testing.T, l *pipeListener) {
	r := newRig(t, func(r *rig) {
		r.server.StallTimeout = 20 * time.Millisecond
		if l != nil {
			r.client.Dial = l.dial
			go r.server.Serve(context.Background(), l)
		}
	})
	blob := make([]byte, 100<<10)
	target := blobPath + hexSum(blob)
	c := r.mustDialRaw()
	h := http.Header{headerContentRange: {contentRange{0, int64(len(blob)), int64(len(blob))}.String()}, "Content-Type": {blobType}}
	a := auth{epoch: r.server.Epoch(), seq: 1, nonce: randomHex(nonceLen)}
	a.mac = c.keys.macRequest(a, "PUT", target, h, bodyOfBlob)
	h.Set(authHeader, a.String())
	_, err := c.conn.Write(plain("PUT", target, h, blob)[:60<<10])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.agent.called("AppendEnded") == 1 }, 30*time.Second, time.Millisecond)
	require.NotEmpty(t, r.agent.partial[hexSum(blob)])
}
