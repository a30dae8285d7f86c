package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
)

// BlobOffset tells how many bytes of a blob the agent has. It is size only if
// the agent has verified the whole.
func (c *Client) BlobOffset(ctx context.Context, sha256 string, size int64) (int64, error) {
	const op = "BlobOffset"
	if !ValidSHA256(sha256) || size < 0 {
		return 0, &Error{Op: op, Kind: ErrMalformed}
	}
	m := &message{
		op:     op,
		method: http.MethodHead,
		target: blobPath + sha256,
		header: http.Header{headerUploadLength: {strconv.FormatInt(size, 10)}},
		limit:  maxFaultMessage * 2,
	}
	r, err := c.do(ctx, m)
	if err != nil {
		return 0, err
	}
	if f := faultOfAnswer(r); f != nil {
		return 0, &Error{Op: op, Err: f}
	}
	offset, ok := parseOffset(r.header.Get(headerUploadOffset))
	if r.status != http.StatusOK || !ok || offset > size {
		return 0, &Error{Op: op, Kind: ErrMalformed}
	}
	return offset, nil
}

// PutBlob sends a blob from where the agent's copy ends, and does nothing if the
// agent has it already. open gives the content from an offset on; what it
// returns is closed once before PutBlob returns; where ctx ends or the upload is
// refused or stalls, that is while a Read may be pending. progress, if not nil, is called with the number of bytes of the blob
// that were handed to the connection, from one goroutine at a time.
//
// A nil error means that the agent has verified the digest. After ErrLost, or
// a retryable [Fault], call PutBlob again: it goes on where it stopped.
func (c *Client) PutBlob(ctx context.Context, sha256 string, size int64, open func(ctx context.Context, offset int64) (io.ReadCloser, error), progress func(int64)) error {
	const op = "PutBlob"
	offset, err := c.BlobOffset(ctx, sha256, size)
	if err != nil {
		return err
	}
	if progress != nil {
		progress(offset)
	}
	// The empty blob has no offset below its size: it is always sent.
	if offset == size && size > 0 {
		return nil
	}
	src, err := open(ctx, offset)
	if err != nil {
		return &Error{Op: op, Err: fmt.Errorf("open the content: %w", err)}
	}
	in := &blobSource{r: src, at: offset, progress: progress}
	defer in.close()
	m := &message{
		op:     op,
		method: http.MethodPut,
		target: blobPath + sha256,
		header: http.Header{
			headerContentRange: {contentRange{offset, size, size}.String()},
			"Content-Type":     {blobType},
		},
		stream: in,
		length: size - offset,
		stall:  orDefault(c.StallTimeout, defaultStall),
		abort:  in.close,
		limit:  maxFaultMessage * 2,
	}
	r, err := c.do(ctx, m)
	if err != nil {
		if in.err != nil {
			return &Error{Op: op, Err: fmt.Errorf("read the content: %w", in.err), Sent: true}
		}
		return err
	}
	if f := faultOfAnswer(r); f != nil {
		return &Error{Op: op, Err: f}
	}
	if end, ok := parseOffset(r.header.Get(headerUploadOffset)); r.status != http.StatusOK || !ok || end != size {
		return &Error{Op: op, Kind: ErrMalformed}
	}
	return nil
}

// blobSource counts, and remembers why reading failed.
type blobSource struct {
	r        io.ReadCloser
	at       int64
	progress func(int64)
	err      error // valid when the reading goroutine has ended
	closed   atomic.Bool
}

func (b *blobSource) close() {
	if !b.closed.Swap(true) {
		b.r.Close()
	}
}

func (b *blobSource) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if n > 0 {
		b.at += int64(n)
		if b.progress != nil {
			b.progress(b.at)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && !b.closed.Load() {
		b.err = err
	}
	return n, err
}

// ReadLog gives up to 1 MiB of a log from offset on, and the log's present size
// in bytes. The piece is empty if offset is not below the size. A log that does
// not exist is ErrNotFound and fs.ErrNotExist.
func (c *Client) ReadLog(ctx context.Context, name string, offset int64) (piece []byte, size int64, err error) {
	const op = "ReadLog"
	if !ValidLogName(name) || offset < 0 {
		return nil, 0, &Error{Op: op, Kind: ErrMalformed}
	}
	m := &message{
		op:     op,
		method: http.MethodGet,
		target: logPath + name,
		header: http.Header{headerRange: {fmt.Sprintf("bytes=%d-", offset)}},
		limit:  maxLogChunk,
	}
	r, err := c.do(ctx, m)
	if err != nil {
		return nil, 0, err
	}
	if f := faultOfAnswer(r); f != nil {
		return nil, 0, &Error{Op: op, Err: f}
	}
	rng, err := parseContentRange(r.header.Get(headerContentRange))
	switch {
	case err != nil:
		return nil, 0, &Error{Op: op, Err: err}
	case r.status == http.StatusRequestedRangeNotSatisfiable && rng.start == rng.end:
		return nil, rng.size, nil
	case r.status != http.StatusPartialContent || rng.start != offset || rng.end-rng.start != int64(len(r.body)):
		return nil, 0, &Error{Op: op, Kind: ErrMalformed}
	}
	return r.body, rng.size, nil
}

// CopyLog writes a log from offset to its present end, and returns the offset
// that it came to, also with an error. Calling it again with that offset goes on.
func (c *Client) CopyLog(ctx context.Context, name string, offset int64, w io.Writer) (int64, error) {
	for {
		piece, size, err := c.ReadLog(ctx, name, offset)
		if err != nil {
			return offset, err
		}
		n, err := w.Write(piece)
		offset += int64(n)
		if err != nil {
			return offset, &Error{Op: "CopyLog", Err: err}
		}
		if len(piece) == 0 || offset >= size {
			return offset, nil
		}
	}
}
