package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// env is the harness as the cases use it.
type env struct {
	Harness
	name string
}

// within runs f and fails if it has not returned in time. What hangs is left
// behind: there is no way to end a goroutine of somebody else's code.
func (e *env) within(what string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%s: panic: %v", what, p)
			}
		}()
		done <- f()
	}()
	timer := time.NewTimer(e.Patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%s: %w within %v", what, errHung, e.Patience)
	}
}

var errHung = errors.New("did not return")

// poll calls f until it returns nil.
func (e *env) poll(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(e.Patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("gave up polling after %v: %w", e.Patience, err)
		}
		time.Sleep(wait)
	}
}

// with dials, runs f and closes.
func (e *env) with(ctx context.Context, f func(transport.Conn) error) error {
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	ferr := f(conn)
	return errors.Join(ferr, e.close(conn))
}

func (e *env) dial(ctx context.Context) (transport.Conn, error) {
	var conn transport.Conn
	err := e.within("dial", func() (err error) {
		conn, err = e.Transport.Dial(ctx, e.Endpoint)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial with a good endpoint: %w", err)
	}
	if conn == nil {
		return nil, errors.New("dial returned neither a connection nor an error")
	}
	return conn, nil
}

func (e *env) close(conn transport.Conn) error {
	err := e.within("close", func() error { return conn.Close(context.Background()) })
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// withDir dials, makes a directory for the case, runs f and removes the directory.
func (e *env) withDir(ctx context.Context, f func(conn transport.Conn, dir string) error) error {
	if e.Dir == "" {
		return e.missing("Dir")
	}
	return e.with(ctx, func(conn transport.Conn) error {
		dir := path.Join(e.Dir, "conformance-"+rand.Text()[:10])
		if err := transport.Mkdir(ctx, conn, dir, 0o755); err != nil {
			return fmt.Errorf("mkdir for the case: %w", err)
		}
		return errors.Join(f(conn, dir), e.removeDir(dir))
	})
}

// removeDir cleans up over a connection of its own: that of the case may be lost.
func (e *env) removeDir(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), e.Patience)
	defer cancel()
	return e.with(ctx, func(conn transport.Conn) error {
		if err := transport.RemoveAll(ctx, conn, dir); err != nil {
			return fmt.Errorf("cleaning up: %w", err)
		}
		return nil
	})
}

func (e *env) missing(field string) error {
	return fmt.Errorf("the harness has no %s: set it, or skip the case with a reason in Skip[%q]", field, e.name)
}

// wantErr checks an error of the driver: its class, that it is a
// *transport.Error which says what failed on which target, and that it gives no
// secret away.
func (e *env) wantErr(what string, err error, kinds ...error) error {
	if err == nil {
		return fmt.Errorf("%s: no error, want one that matches %v", what, kinds)
	}
	if errors.Is(err, errHung) {
		return err
	}
	var f failures
	matches := len(kinds) == 0
	for _, kind := range kinds {
		matches = matches || errors.Is(err, kind)
	}
	if !matches {
		f.addf("%s: error %q does not match %v", what, err, kinds)
	}
	var te *transport.Error
	if !errors.As(err, &te) {
		f.addf("%s: error %q (%T) is no *transport.Error", what, err, err)
	} else {
		if te.Op == "" {
			f.addf("%s: error %q has no Op", what, err)
		}
		// The package functions do not know the address of a connection that lacks
		// the capability.
		if te.Target != e.Endpoint.Address && !errors.Is(err, errors.ErrUnsupported) {
			f.addf("%s: error %q has Target %q, want the address as the caller gave it, %q", what, err, te.Target, e.Endpoint.Address)
		}
	}
	f.add(e.noSecret(what, err))
	return f.err()
}

// noSecret looks for the passwords of the harness in the text of an error.
func (e *env) noSecret(what string, err error) error {
	eps := []*transport.Endpoint{&e.Endpoint, e.WrongSecret, e.WrongTrust}
	for _, ep := range eps {
		if ep == nil || ep.Credentials.Password.IsZero() {
			continue
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			if strings.Contains(text, ep.Credentials.Password.Reveal()) {
				return fmt.Errorf("%s: the text of the error contains the password", what)
			}
		}
	}
	return nil
}

// pattern returns n bytes that repeat nowhere near a block size, so that a block
// in the wrong place shows.
func pattern(n int) []byte {
	const period = 65_521 // a prime: no number of blocks is a multiple of it
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range min(n, period) {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	for done := period; done < n; done *= 2 {
		copy(b[done:], b[:done])
	}
	return b
}

// wantContent reads a file of the target back.
func wantContent(ctx context.Context, conn transport.Conn, name string, want []byte) error {
	var b bytes.Buffer
	b.Grow(len(want) + bytes.MinRead)
	n, err := transport.Get(ctx, conn, name, &b, transport.GetOptions{})
	if err != nil {
		return fmt.Errorf("get %q: %w", name, err)
	}
	if n != int64(b.Len()) {
		return fmt.Errorf("get %q: returned %d, wrote %d bytes", name, n, b.Len())
	}
	if !bytes.Equal(b.Bytes(), want) {
		return fmt.Errorf("get %q: %d bytes, want %d: contents differ", name, b.Len(), len(want))
	}
	return nil
}

// wantMissing checks that there is no such file.
func (e *env) wantMissing(ctx context.Context, conn transport.Conn, name string) error {
	_, err := transport.Stat(ctx, conn, name)
	return e.wantErr(fmt.Sprintf("stat of missing %q", name), err, fs.ErrNotExist)
}
