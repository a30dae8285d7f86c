package ssh

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// lastWords keeps what a login shell or sudo said last. It is safe for concurrent
// use.
type lastWords struct {
	mu   sync.Mutex
	text string
}

// set replaces what is kept by the end of b.
func (w *lastWords) set(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = string(b[max(0, len(b)-4096):])
}

// error quotes the words, without the lines that contain a token of ours. It
// returns nil if there are none.
func (w *lastWords) error(tokens ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kept []string
	for line := range strings.Lines(w.text) {
		for _, token := range tokens {
			if token != "" && strings.Contains(line, token) {
				line = ""
			}
		}
		if line = strings.TrimSpace(line); line != "" {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return fmt.Errorf("%q", strings.Join(kept, "\n"))
}

// said is what came on standard error before the script began.
func (p *process) said() error { return p.words.error(p.token, p.as.prompt) }

// refusal is what sudo said that refused without having asked for the password.
type refusal struct {
	words error // or nil
}

func (r *refusal) Error() string {
	if r.words == nil {
		return "sudo said nothing"
	}
	return r.words.Error()
}

// notStarted is why the script never began.
func (p *process) notStarted() error {
	e := &transport.Error{Op: "run", Code: exitCode(p.exit), Err: p.said()}
	if p.outer.Load() > 0 && p.asked.Load() == 0 {
		e.Err = &refusal{e.Err}
	}
	switch {
	case p.outer.Load() == 0:
		e.Kind, e.Hint = transport.ErrRejected, "the server did not run sh, but something else"
	case p.asked.Load() > 1:
		p.c.sudoRefused.Store(true)
		e.Kind, e.Code, e.Hint = transport.ErrElevation, transport.Code{}, "sudo refused the password"
	case p.as.terminal && p.outer.Load() == 1:
		e.Kind, e.Hint = errors.ErrUnsupported, "script (util-linux) is not installed on the target, or gives no terminal"
	case p.exit.Code == 126 || p.exit.Code == 127:
		e.Kind, e.Hint = errors.ErrUnsupported, "sudo is not installed on the target"
	case p.as.prompt == "":
		e.Kind, e.Hint = transport.ErrElevation, "sudo wants a password (Options.SudoPassword), or does not let this user in"
	default:
		e.Kind, e.Hint = transport.ErrElevation, "sudo does not let this user in"
	}
	return e
}
