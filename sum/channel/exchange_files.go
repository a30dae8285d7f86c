package channel

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// maxLogChunk is how much of a log one answer carries, in bytes. The answer is
// authenticated before any of it is used, so it is held in memory.
const maxLogChunk = 1 << 20

// isSOAPType accepts any parameters but a charset other than UTF-8.
func isSOAPType(s string) bool {
	t, params, err := mime.ParseMediaType(s)
	if err != nil || t != "application/soap+xml" {
		return false
	}
	charset, ok := params["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}

// blobOffset tells how much of a blob is stored.
func (x *exchange) blobOffset(sha string) {
	size, ok := parseOffset(x.r.Header.Get(headerUploadLength))
	if err := x.checkBlob(sha, size); err != nil || !ok {
		if err == nil {
			err = fmt.Errorf("%w: %s", ErrMalformed, headerUploadLength)
		}
		x.refuse(err)
		return
	}
	offset, err := x.s.Blobs.Offset(x.r.Context(), sha, size)
	if err == nil && (offset < 0 || offset > size) {
		err = fmt.Errorf("stored offset %d of %d bytes", offset, size)
	}
	if err != nil {
		x.failed("blob offset", err)
		return
	}
	x.w.Header().Set(headerUploadOffset, strconv.FormatInt(offset, 10))
	x.reply(http.StatusOK, "", nil)
}

// blobAppend stores a piece of a blob. The piece itself is not covered by the
// message's MAC, which was checked before the first byte came: the blob's digest
// is, and storage verifies it before the blob can be used.
func (x *exchange) blobAppend(sha string) {
	// What is left unread after a refusal may be long: do not read it.
	unread := func(err error) {
		x.w.Header().Set("Connection", "close")
		x.failed("blob append", err)
	}
	if len(x.r.Header.Values(headerContentRange)) != 1 {
		unread(fmt.Errorf("%w: %s", ErrMalformed, headerContentRange))
		return
	}
	rng, err := parseContentRange(x.r.Header.Get(headerContentRange))
	if err == nil {
		err = x.checkBlob(sha, rng.size)
	}
	if err == nil && (x.r.ContentLength != rng.end-rng.start || x.r.Header.Get("Content-Encoding") != "" ||
		rng.start == rng.end && rng.size != 0) {
		err = fmt.Errorf("%w: the length is not that of %s", ErrMalformed, headerContentRange)
	}
	if err != nil {
		unread(err)
		return
	}
	start := rng.start
	if rng.size == 0 {
		start = 0
	}
	body := &stallReader{x: x, limit: orDefault(x.s.StallTimeout, defaultStall), left: rng.end - rng.start}
	offset, err := x.s.Blobs.Append(x.r.Context(), sha, rng.size, start, body)
	if err == nil && (body.left != 0 || offset != rng.end) {
		err = errors.New("storage took less than was sent")
	}
	if offset >= 0 && offset <= rng.size {
		x.w.Header().Set(headerUploadOffset, strconv.FormatInt(offset, 10))
	}
	if err != nil {
		unread(err)
		return
	}
	x.reply(http.StatusOK, "", nil)
}

func (x *exchange) checkBlob(sha string, size int64) error {
	switch {
	case x.s.Blobs == nil:
		return fmt.Errorf("uploads: %w", errors.ErrUnsupported)
	case !ValidSHA256(sha):
		return fmt.Errorf("%w: a blob is named by 64 lower-case hexadecimal digits", ErrMalformed)
	case size > orDefault(x.s.MaxBlobBytes, defaultMaxBlob):
		return fmt.Errorf("%w: blob of %d bytes", ErrTooLarge, size)
	}
	return nil
}

// readLog gives a piece of a log, from the offset asked for.
func (x *exchange) readLog(name string) {
	if x.s.Logs == nil {
		x.refuse(fmt.Errorf("logs: %w", errors.ErrUnsupported))
		return
	}
	if !ValidLogName(name) {
		x.refuse(fmt.Errorf("%w: name of a log", ErrMalformed))
		return
	}
	if len(x.r.Header.Values(headerRange)) != 1 {
		x.refuse(fmt.Errorf("%w: %s", ErrMalformed, headerRange))
		return
	}
	offset, err := parseRange(x.r.Header.Get(headerRange))
	if err != nil {
		x.refuse(err)
		return
	}
	buf := make([]byte, maxLogChunk)
	n, size, err := x.s.Logs.ReadLogAt(x.r.Context(), name, buf, offset)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && (n < 0 || n > len(buf) || n == 0 && offset < size) {
		err = errors.New("storage of logs gave no data")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		x.failed("read log", err)
		return
	}
	if n == 0 {
		// RFC 9110, 15.5.17: nothing there, and this is the size.
		x.w.Header().Set(headerContentRange, contentRange{size, size, size}.String())
		x.reply(http.StatusRequestedRangeNotSatisfiable, "", nil)
		return
	}
	end := offset + int64(n)
	x.w.Header().Set(headerContentRange, contentRange{offset, end, max(end, size)}.String())
	x.reply(http.StatusPartialContent, blobType, buf[:n])
}

func (x *exchange) failed(what string, err error) {
	x.s.logger().Warn(what+" failed", "remote", x.r.RemoteAddr, "code", faultOf(err).Code)
	x.refuse(err)
}
