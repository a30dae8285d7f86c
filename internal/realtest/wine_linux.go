package realtest

import (
	"errors"
	"testing"

	"github.com/roundsman-go/roundsman/internal/winlab"
)

// Wine is a Windows of a test's own: see package winlab.
type Wine struct{ *winlab.Wine }

// What is Wine's: see package winlab.
type (
	WineServices = winlab.Services
	WineProcess  = winlab.Process
	WinError     = winlab.Error
)

// NewWine makes one, which takes about 15 seconds and needs wine64.
func NewWine(t testing.TB) *Wine {
	t.Helper()
	w, err := winlab.New(t.Context())
	var missing *winlab.MissingError
	if errors.As(err, &missing) {
		Missing(t, missing.What)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Wine{w}
}

// Services are the service control manager and the named pipes there.
func (w *Wine) Services(t testing.TB) *WineServices {
	t.Helper()
	s, err := w.Wine.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
