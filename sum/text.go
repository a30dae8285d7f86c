package sum

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// maxText is how much of what a target says is kept in an outcome, in bytes: the
// end of it, where errors stand.
const maxText = 4 << 10

// clip bounds what a target says. It may say anything.
func clip(r transport.Result) transport.Result {
	r.Text = lastBytes(r.Text, maxText)
	r.Code.Space, r.Code.Value = lastBytes(r.Code.Space, 64), lastBytes(r.Code.Value, 256)
	return r
}

func lastBytes(s string, limit int) string {
	if len(s) > limit {
		s = s[len(s)-limit:]
		for len(s) > 0 && !utf8.RuneStart(s[0]) {
			s = s[1:]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// hostBusy says of an agent.ErrHostBusy who has the host and what to do, in place of
// the way that this took to the manager. It returns other errors as they are.
func hostBusy(err error) error {
	for e := err; errors.Is(e, agent.ErrHostBusy); {
		var ae *agent.Error
		if !errors.As(e, &ae) {
			break
		}
		if ae.Kind != agent.ErrHostBusy {
			e = errors.Join(ae.Kind, ae.Err)
			continue
		}
		who := ae.Err
		var f *channel.Fault
		if errors.As(who, &f) {
			who = errors.New(f.Message)
		}
		if who == nil {
			break
		}
		return &brief{"another job, or a restart, has this host: " + lastBytes(who.Error(), maxText) + "; " + ae.Hint, err}
	}
	return err
}

// brief is an error in fewer words.
type brief struct {
	text string
	err  error
}

func (b *brief) Error() string { return b.text }
func (b *brief) Unwrap() error { return b.err }

// join puts two texts on lines of their own.
func join(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "\n" + b
}

// tail keeps the end of what is written to it.
type tail struct {
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return lastBytes(string(t.buf), t.limit) }
