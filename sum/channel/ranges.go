package channel

import (
	"fmt"
	"strconv"
	"strings"
)

// contentRange is a piece [start, end) of size bytes (RFC 9110, 14.4). The one
// form without a range is that of the empty blob, "bytes */0".
type contentRange struct{ start, end, size int64 }

func (r contentRange) String() string {
	if r.start == r.end {
		return fmt.Sprintf("bytes */%d", r.size)
	}
	return fmt.Sprintf("bytes %d-%d/%d", r.start, r.end-1, r.size)
}

// parseContentRange accepts exactly what String writes.
func parseContentRange(s string) (contentRange, error) {
	var r contentRange
	bad := fmt.Errorf("%w: Content-Range", ErrMalformed)
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return r, bad
	}
	span, size, ok := strings.Cut(rest, "/")
	if !ok {
		return r, bad
	}
	if r.size, ok = parseOffset(size); !ok {
		return r, bad
	}
	if span == "*" {
		// Also the answer to a range past the end: nothing of size bytes.
		r.start, r.end = r.size, r.size
		return r, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return r, bad
	}
	var ok2 bool
	r.start, ok = parseOffset(first)
	r.end, ok2 = parseOffset(last)
	r.end++ // cannot overflow: parseOffset stays below the largest int64
	if !ok || !ok2 || r.start >= r.end || r.end > r.size {
		return contentRange{}, bad
	}
	return r, nil
}

// parseRange reads the one form of Range that is served: "bytes=<offset>-".
func parseRange(s string) (int64, error) {
	rest, ok := strings.CutPrefix(s, "bytes=")
	if ok {
		if rest, ok = strings.CutSuffix(rest, "-"); ok {
			if off, ok := parseOffset(rest); ok {
				return off, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: Range", ErrMalformed)
}

// parseOffset reads a decimal number in its shortest form, below 2^62.
func parseOffset(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n >= 1<<62 || strconv.FormatInt(n, 10) != s {
		return 0, false
	}
	return n, true
}
