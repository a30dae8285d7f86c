package depot

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A client that posts must send 64 KiB, or what is left, in this time; how long
// Handle takes does not count.
const (
	postTime  = 30 * time.Second
	postChunk = 64 << 10
)

// receive answers a request to the inbox from an allowed address.
func (in *Intake) receive(w http.ResponseWriter, r *http.Request, control *http.ResponseController, rest string, from netip.Addr) {
	log := in.d.opts.Logger.With("from", from, "inbox", in.box.Name, "method", r.Method, "post", rest)
	answer := func(level slog.Level, status int, text string, attrs ...any) {
		// Neither may what came before have used up the time for the answer.
		_ = control.SetWriteDeadline(time.Now().Add(in.d.opts.Stall))
		if status == http.StatusNoContent {
			w.WriteHeader(status)
		} else {
			http.Error(w, text, status)
		}
		log.Log(r.Context(), level, "depot: post "+text, append(attrs, "status", status)...)
	}
	rest, ok := cleanRest(rest)
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		answer(slog.LevelDebug, http.StatusMethodNotAllowed, "method not allowed")
		return
	}
	if !ok {
		answer(slog.LevelWarn, http.StatusBadRequest, "path not allowed")
		return
	}
	if wait := in.bucket.take(time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		level := slog.LevelWarn
		if in.often.Swap(true) {
			level = slog.LevelDebug // or the log would be flooded as well
		}
		answer(level, http.StatusTooManyRequests, "refused, too many")
		return
	}
	in.often.Store(false)
	if !r.ProtoAtLeast(1, 1) && r.Header.Get("Content-Length") == "" {
		// Its body, if any, has no end that could be told from a broken connection.
		answer(slog.LevelWarn, http.StatusLengthRequired, "without a length")
		return
	}
	if r.ContentLength > in.box.MaxBytes {
		answer(slog.LevelWarn, http.StatusRequestEntityTooLarge, "too large", "size", r.ContentLength)
		return
	}
	if left := in.box.MaxTotal - in.bytes.Load(); r.ContentLength > left || left == 0 {
		answer(slog.LevelWarn, http.StatusInsufficientStorage, "refused, inbox full", "size", r.ContentLength)
		return
	}
	if !in.slot() {
		w.Header().Set("Retry-After", "1")
		answer(slog.LevelWarn, http.StatusServiceUnavailable, "refused, too many at a time")
		return
	}
	defer func() { <-in.slots }()

	body := &postBody{in: in, body: r.Body, control: control, left: in.box.MaxBytes}
	defer body.close() // also if Handle panics
	start := time.Now()
	err := in.box.Handle(in.d.ctx, Post{
		Method: r.Method, Path: rest, ContentType: r.Header.Get("Content-Type"), From: from, Size: r.ContentLength, Body: body,
	})
	log = log.With("took", time.Since(start))
	failed := body.close()
	if failed != nil {
		w.Header().Set("Connection", "close") // nobody waits for the rest of it
	}
	switch {
	case errors.Is(failed, ErrTooLarge):
		answer(slog.LevelWarn, http.StatusRequestEntityTooLarge, "too large")
	case errors.Is(failed, ErrFull):
		answer(slog.LevelWarn, http.StatusInsufficientStorage, "refused, inbox full")
	case errors.Is(failed, ErrStalled):
		answer(slog.LevelWarn, http.StatusRequestTimeout, "stalled")
	case failed != nil:
		answer(slog.LevelWarn, http.StatusBadRequest, "broke off", "err", failed)
	case err != nil:
		answer(slog.LevelError, http.StatusInternalServerError, "not taken", "err", err)
	default:
		in.posts.Add(1)
		answer(slog.LevelDebug, http.StatusNoContent, "taken")
	}
}

// cleanRest returns the rest of a path as Post has it.
func cleanRest(rest string) (string, bool) {
	if strings.ContainsFunc(rest, func(r rune) bool { return r == '\\' || unicode.IsControl(r) || r == unicode.ReplacementChar }) {
		return "", false
	}
	return path.Clean("/" + rest)[1:], true
}

// slot waits for a place among those whom Handle serves.
func (in *Intake) slot() bool {
	timer := time.NewTimer(headerTime)
	defer timer.Stop()
	select {
	case in.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-in.d.ctx.Done():
	}
	return false
}

// postBody is the body of a post within the limits of its inbox.
type postBody struct {
	in      *Intake
	body    io.Reader
	control *http.ResponseController

	mu     sync.Mutex
	left   int64         // bytes until MaxBytes
	chunk  int64         // bytes until the client gets new time
	budget time.Duration // what is left of its time
	err    error
	closed bool
}

// Read implements io.Reader.
func (b *postBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, os.ErrClosed
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	}
	if b.chunk <= 0 {
		b.chunk, b.budget = postChunk, min(postTime, b.in.d.opts.Stall)
		// Handle may have taken long to ask for what the client then is told to send.
		_ = b.control.SetWriteDeadline(time.Now().Add(b.in.d.opts.Stall))
	}
	start := time.Now()
	_ = b.control.SetReadDeadline(start.Add(b.budget))
	// One byte more than may come tells a body that is too long from one that just fits.
	n, err := b.body.Read(p[:min(int64(len(p)), b.left+1, b.chunk)])
	b.budget -= time.Since(start)
	b.chunk -= int64(n)

	within := min(int64(n), b.left)
	fits := b.in.admit(within)
	b.left -= fits
	switch {
	case fits < within:
		b.err = ErrFull
	case within < int64(n):
		b.err = ErrTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = fmt.Errorf("%w: %w", ErrStalled, err)
	default:
		b.err = err
	}
	return int(fits), b.err
}

// close ends reading and says how it failed, if it did.
func (b *postBody) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}
