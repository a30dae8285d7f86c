package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
	"golang.org/x/term"
)

// terminal is what the program knows about the person in front of it.
type terminal struct {
	live   *live     // nil where stdout is no terminal
	stderr io.Writer // does not disturb what is redrawn
	ask    func(ctx context.Context, prompt string) (transport.Secret, error)
	end    sync.Once
}

// terminal looks at the standard streams. Something is redrawn only where stdout
// is a terminal that can do it, and asked only where stdin is one.
func (a *app) terminal(asJSON bool) *terminal {
	t := &terminal{stderr: a.stderr}
	out, isOut := terminalOf(a.stdout)
	if isOut && !asJSON && a.getenv("TERM") != "dumb" && enableEscapes(out) {
		t.live = newLive(a.stdout, func() (int, int) {
			width, height, err := term.GetSize(int(out.Fd()))
			if err != nil || width < 1 || height < 1 {
				return 80, 24
			}
			return width, height
		})
		if _, isErr := terminalOf(a.stderr); isErr {
			t.stderr = t.live.through(a.stderr)
		}
	}
	if in, isIn := terminalOf(a.stdin); isIn {
		t.ask = func(ctx context.Context, prompt string) (secret transport.Secret, err error) {
			read := func() { secret, err = readSecret(ctx, in, a.stderr, prompt) }
			if t.live != nil {
				t.live.pause(read)
			} else {
				read()
			}
			return secret, err
		}
	}
	return t
}

func (t *terminal) close() {
	t.end.Do(func() {
		if t.live != nil {
			t.live.close()
		}
	})
}

// terminalOf returns the file behind a stream, if that is a terminal.
func terminalOf(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// readSecret asks for a line without showing it. When ctx ends it gives the
// terminal back as it was; the read itself cannot be interrupted and ends with
// the program, which is about to.
func readSecret(ctx context.Context, in *os.File, out io.Writer, prompt string) (transport.Secret, error) {
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return transport.Secret{}, err
	}
	fmt.Fprint(out, clean(prompt))
	type line struct {
		text []byte
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		got <- line{text, err}
	}()
	select {
	case l := <-got:
		fmt.Fprintln(out)
		return transport.NewSecret(string(l.text)), l.err
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		fmt.Fprintln(out)
		return transport.Secret{}, ctx.Err()
	}
}
