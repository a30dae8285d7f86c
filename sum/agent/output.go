package agent

import (
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	maxOutput = 16 << 20 // bytes of a job's log
	maxText   = 2 << 10  // bytes of Result.Text
)

// outputLog is where a job's output goes: to the log up to a limit, and the last
// of it to memory. Write never fails, because the program must go on even when
// the disk is full.
type outputLog struct {
	mu        sync.Mutex
	w         io.Writer
	left      int64
	truncated bool
	last      []byte
}

func (o *outputLog) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	written := 0
	if keep := p[:min(int64(len(p)), o.left)]; len(keep) > 0 {
		var err error
		written, err = o.w.Write(keep)
		o.left -= int64(written)
		if err != nil {
			o.left = 0
		}
	}
	o.truncated = o.truncated || written < len(p)
	o.last = append(o.last, p...)
	if n := len(o.last); n > 2*maxText {
		o.last = append(o.last[:0], o.last[n-maxText:]...)
	}
	return len(p), nil
}

// state returns whether output was dropped, and the last of the output.
func (o *outputLog) state() (truncated bool, last []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.truncated, append([]byte(nil), o.last...)
}

// tail makes at most limit bytes of printable text from the end of what a
// program printed, whole lines if that is possible. Characters that could do
// something to a terminal or a web page's direction of text are escaped.
func tail(output []byte, limit int) string {
	text := strings.TrimSpace(strings.ReplaceAll(string(output), "\r\n", "\n"))
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r) // utf8.RuneError for bytes that are no UTF-8
		case r < 0x100:
			b.WriteString(`\x` + hexDigits(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hexDigits(r, 4))
		default:
			b.WriteString(`\U` + hexDigits(r, 8))
		}
	}
	text = b.String()
	if len(text) <= limit {
		return text
	}
	text = text[len(text)-limit:]
	if i := strings.IndexByte(text, '\n'); i >= 0 && i < len(text)/2 {
		return text[i+1:]
	}
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return text
}

func hexDigits(r rune, n int) string {
	const digits = "0123456789abcdef"
	out := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		out[i] = digits[r&15]
		r >>= 4
	}
	return string(out)
}
