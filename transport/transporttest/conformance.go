package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/roundsman-go/roundsman/transport"
)

// Conformance runs every case that applies to h, one after the other, and
// returns their errors joined, each naming its case; nil means that the driver
// keeps the contract of package transport. It needs no *testing.T:
//
//	if err := transporttest.Conformance(ctx, harness); err != nil {
//		t.Fatal(err)
//	}
//
// Use [Cases] to make a subtest of each case. When ctx ends, the rest of the
// cases fails with its error.
func Conformance(ctx context.Context, h Harness) error {
	var errs []error
	Run(ctx, h, func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// Run runs every case that applies to h, one after the other, and reports each
// when it is done, from the calling goroutine. Cases in h.Skip are not reported.
func Run(ctx context.Context, h Harness, report func(name string, err error)) {
	for _, c := range Cases(h) {
		if h.Skip[c.Name] == "" {
			report(c.Name, c.Run(ctx, h))
		}
	}
}

// A Case is one obligation of a driver.
type Case struct {
	// Name is unique and says what is tried, such as "files/resume".
	Name string
	// Needs are the capabilities without which the case says nothing.
	Needs transport.Caps
	// Alone says that nothing else may start or end goroutines in the process while
	// the case runs: it counts them.
	Alone bool
	run   func(ctx context.Context, e *env) error
}

// Cases returns the cases that apply to h, those in h.Skip included, so that a
// caller can report them as skipped:
//
//	for _, c := range transporttest.Cases(h) {
//		t.Run(c.Name, func(t *testing.T) {
//			if reason := h.Skip[c.Name]; reason != "" {
//				t.Skip(reason)
//			}
//			if err := c.Run(t.Context(), h); err != nil {
//				t.Error(err)
//			}
//		})
//	}
//
// The cases may run in any order. To run those of one harness beside those of another,
// or beside other tests, run each case that is to be Alone first, and then the others.
func Cases(h Harness) []Case {
	all := slices.Concat(harnessCases(), dialCases(), connCases(), fileCases(), runCases(), serviceCases(),
		tunnelCases(), deviceCases(), updateCases(), rebootCases(), leakCases())
	return slices.DeleteFunc(all, func(c Case) bool { return !h.Caps.Has(c.Needs) })
}

// Run tries the case against h.
func (c Case) Run(ctx context.Context, h Harness) (err error) {
	if h.Transport == nil {
		return errors.New("Harness.Transport is nil")
	}
	defer func() {
		// A driver that panics fails its case and not the whole suite.
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.run(ctx, &env{Harness: h.withDefaults(), name: c.Name})
}

// harnessCases check that the harness leaves nothing out by accident.
func harnessCases() []Case {
	return []Case{{Name: "harness", run: func(_ context.Context, e *env) error {
		var f failures
		known := map[string]bool{}
		for _, c := range Cases(e.Harness) {
			known[c.Name] = true
		}
		for name, reason := range e.Skip {
			if !known[name] {
				f.addf("Skip names %q, which is no case of this harness", name)
			}
			if reason == "" {
				f.addf("Skip[%q] gives no reason", name)
			}
		}
		if e.Endpoint.Address == "" {
			f.addf("Endpoint.Address is empty")
		}
		return f.err()
	}}}
}

// failures collects what is wrong, so that one run shows all of it.
type failures []error

func (f *failures) addf(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

func (f *failures) add(err error) {
	if err != nil {
		*f = append(*f, err)
	}
}

func (f *failures) err() error { return errors.Join(*f...) }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
