package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// dialing is a Transport.
type dialing func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error)

func (d dialing) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	return d(ctx, ep)
}

func wrong(code string) error {
	return &transport.Error{Kind: transport.ErrAuth, Code: transport.Code{Space: "ntstatus", Value: code}}
}

func login(user, password, address string) transport.Endpoint {
	return transport.Endpoint{Address: address, Credentials: transport.Credentials{User: user, Password: transport.NewSecret(password)}}
}

// TestRefusedOnce: a password that a domain refuses is tried once, however many targets
// want it and at once; the others name the target that refused it.
func TestRefusedOnce(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"0xC000006D", "0xC000006A", "0xC0000234"} {
		synctest.Test(t, func(t *testing.T) {
			var dials atomic.Int32
			var a accounts
			o := &once{dialing(func(context.Context, transport.Endpoint) (transport.Conn, error) {
				dials.Add(1)
				time.Sleep(loginPatience / 2)
				return nil, wrong(code)
			}), &a}
			var wg sync.WaitGroup
			errs := make([]error, 20)
			for i := range errs {
				wg.Go(func() {
					user := []string{"LAB;ops", `lab\Ops`}[i%2]
					_, errs[i] = o.Dial(t.Context(), login(user, "typo", fmt.Sprintf("db%d", i)))
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, dials.Load())
			told := 0
			for _, err := range errs {
				require.ErrorIs(t, err, transport.ErrAuth)
				require.Equal(t, code, transport.CodeOf(err).Value)
				require.NotContains(t, err.Error(), "typo")
				if te := (*transport.Error)(nil); errors.As(err, &te) && te.Err != nil {
					require.ErrorContains(t, err, "has refused this password of")
					require.ErrorContains(t, err, "not tried: db")
					told++
				}
			}
			require.Equal(t, len(errs)-1, told)

			// Another password, another domain, and an account of each host itself are others.
			for i, ep := range []transport.Endpoint{login("LAB;ops", "other", "a"), login("LAB2;ops", "typo", "a"), login("ops@lab.example", "typo", "a"),
				login("ops", "typo", "a"), login("ops", "typo", "b"), login(".;ops", "typo", "a")} {
				_, err := o.Dial(t.Context(), ep)
				require.ErrorIs(t, err, transport.ErrAuth)
				require.EqualValues(t, 2+i, dials.Load())
			}
		})
	}
}

// TestRefusedElsewhere: where the password is right on some host, or the host has something
// else against the login, the others are tried.
func TestRefusedElsewhere(t *testing.T) {
	t.Parallel()
	for _, first := range []error{nil, wrong("0xC000015B"), &transport.Error{Kind: transport.ErrUnreachable}} {
		var a accounts
		answer := first
		dials := 0
		o := &once{dialing(func(context.Context, transport.Endpoint) (transport.Conn, error) {
			dials++
			return struct{ transport.Conn }{}, answer
		}), &a}
		_, err := o.Dial(t.Context(), login("LAB;ops", "x", "db1"))
		require.Equal(t, first, err)
		answer = wrong("0xC000006D")
		for range 2 {
			_, err = o.Dial(t.Context(), login("LAB;ops", "x", "db2"))
			require.ErrorIs(t, err, transport.ErrAuth)
		}
		if first == nil {
			require.Equal(t, 3, dials)
		} else {
			require.Equal(t, 2, dials)
		}
	}
}

// TestRefusedWaits: hosts that do not answer hold up the others for a moment alone, and who
// waits ends with its context.
func TestRefusedWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a accounts
		o := &once{dialing(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
			if ep.Address == "dead" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return struct{ transport.Conn }{}, nil
		}), &a}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = o.Dial(ctx, login("LAB;ops", "x", "dead")) })
		synctest.Wait()
		ended, end := context.WithTimeout(t.Context(), loginPatience/2)
		defer end()
		_, err := o.Dial(ended, login("LAB;ops", "x", "db1"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = o.Dial(t.Context(), login("LAB;ops", "x", "db1"))
		require.NoError(t, err)
		cancel()
		wg.Wait()
	})
}
