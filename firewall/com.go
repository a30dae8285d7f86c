package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
)

// A comObject is an Automation object (IDispatch). Values are int32, string, bool
// and comObject. An object that is got is the caller's to release; those that each
// hands out last for the call, unless it retains them.
//
// On Windows it is made with go-ole; tests have one that is strict about what
// netfw.h says.
type comObject interface {
	get(name string, args ...any) (any, error)
	put(name string, value any) error
	call(name string, args ...any) (any, error)
	each(func(comObject) error) error
	retain() // one more release
	release()
}

// A comServer makes objects by their programmatic identifiers.
type comServer interface {
	create(progID string) (comObject, error)
	end()
}

// A comError is a HRESULT.
type comError struct {
	what string
	code uint32
	text string // what the system says of it
}

const (
	codeFalse        = 1          // S_FALSE
	codeAccessDenied = 0x80070005 // E_ACCESSDENIED
	codeNotFound     = 0x80070002 // HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND)
	codeTypeMismatch = 0x80020005 // DISP_E_TYPEMISMATCH
	codeNoEndpoint   = 0x800706d9 // HRESULT_FROM_WIN32(EPT_S_NOT_REGISTERED)
)

func (e *comError) Error() string {
	s := fmt.Sprintf("%s: HRESULT %#08x", e.what, e.code)
	if e.text != "" {
		s += ": " + e.text
	}
	if e.code == codeNoEndpoint {
		s += " (is the service Windows Defender Firewall, mpssvc, running?)"
	}
	return s
}

// Is tells the codes that netfw.h documents as the errors of package fs.
func (e *comError) Is(target error) bool {
	return e.code == codeAccessDenied && target == fs.ErrPermission || e.code == codeNotFound && target == fs.ErrNotExist
}

// property gets a property of the type that the interface declares.
func property[T any](o comObject, name string, args ...any) (T, error) {
	var none T
	v, err := o.get(name, args...)
	if err != nil {
		return none, fmt.Errorf("get %s: %w", name, err)
	}
	t, ok := v.(T)
	if !ok {
		if other, ok := v.(comObject); ok {
			other.release()
		}
		return none, fmt.Errorf("get %s: it is a %T, not a %T", name, v, none)
	}
	return t, nil
}

// walk calls f with the elements of an enumeration. What next returns is an element,
// or nil and what IEnumVARIANT::Next said when it was asked for one: S_FALSE is the
// end, and with anything else there may be elements that were not seen.
func walk(next func() (comObject, uint32), f func(comObject) error) error {
	for {
		o, code := next()
		switch {
		case o != nil:
			err := f(o)
			o.release()
			if err != nil {
				return err
			}
		case code == codeFalse:
			return nil
		default:
			return &comError{what: "_NewEnum", code: code, text: "no element, and not the end"}
		}
	}
}

// An apartment is the one goroutine, on a thread of its own, that makes calls of
// COM, one after the other.
type apartment struct {
	jobs   chan *job
	joined sync.WaitGroup
}

// A job is done, or left by a caller whose context has ended. Which of them it is,
// keep decides.
type job struct {
	work func(keep func() bool) error
	fate atomic.Bool // true: decided
	done chan struct{}
	err  error
}

func (j *job) keep() bool { return j.fate.CompareAndSwap(false, true) }

var errNoAnswer = errors.New("the firewall of Windows does not answer")

// newApartment starts the goroutine; enter is called on it, and what it returns is
// used and ended there.
func newApartment(ctx context.Context, enter func() (comServer, error)) (*apartment, comServer, error) {
	a := &apartment{jobs: make(chan *job)}
	type entered struct {
		server comServer
		err    error
	}
	first := make(chan entered, 1)
	a.joined.Go(func() {
		server, err := enter()
		first <- entered{server, err}
		if err != nil {
			return
		}
		defer server.end()
		for j := range a.jobs {
			j.err = j.work(j.keep)
			close(j.done)
		}
	})
	select {
	case e := <-first:
		if e.err != nil {
			a.joined.Wait()
			return nil, nil, e.err
		}
		return a, e.server, nil
	case <-ctx.Done():
		close(a.jobs)
		return nil, nil, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
}

// do has work done on the goroutine. A call of COM cannot be interrupted: when ctx
// ends, do returns, and work finds that keep is false. It must undo what it did.
// What it does without keep, as when it only reads, may go on after do.
func (a *apartment) do(ctx context.Context, work func(keep func() bool) error) error {
	j := &job{work: work, done: make(chan struct{})}
	select {
	case a.jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		if j.fate.CompareAndSwap(false, true) {
			return fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
		}
		<-j.done
		return j.err
	}
}

// close ends the goroutine and waits for it.
func (a *apartment) close() {
	close(a.jobs)
	a.joined.Wait()
}
