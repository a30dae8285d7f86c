package fleet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
)

// redfishRoute is the key of the route over Redfish; see smbRoute.
const redfishRoute = "redfish"

// speaksRedfish reports whether targets of a kind are reached by the driver for Redfish.
func speaksRedfish(k sum.Kind) bool {
	return k == sum.ILO || k == sum.SuperdomeFlex || k == sum.Redfish
}

// redfish reaches a management processor, or whatever else speaks Redfish, with a name and
// a password. Its certificate, which it has made itself as a rule, is one that is recorded
// in Config.Pins, or has an authority.
func (r *Resolver) redfish(t sum.Target) (transport.Transport, transport.Endpoint, error) {
	fail := func(err error) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, err
	}
	if t.User == "" {
		return fail(&transport.Error{Op: "resolve", Target: t.Address, Kind: transport.ErrInvalid,
			Hint: fmt.Sprintf("name an account of the target, such as %s", sum.Target{Kind: t.Kind, User: "Administrator", Address: t.Address})})
	}
	roots, err := r.authorities()
	if err != nil {
		return fail(err)
	}
	reach := r.reachTime(settings{})
	opts := r.cfg.Redfish
	opts.ConnectTimeout = reach
	ep := transport.Endpoint{
		Address: t.Address, Options: opts,
		Credentials: transport.Credentials{User: t.User, Password: r.password(t)},
		Trust:       transport.Trust{Roots: roots, FirstUse: redfish.Recorded(r.cfg.Pins)},
	}
	if r.cfg.AcceptNew {
		if err := os.MkdirAll(filepath.Dir(r.cfg.Pins), 0o700); err != nil {
			return fail(fmt.Errorf("recording keys: %w", err))
		}
		ep.Trust.FirstUse = redfish.AcceptNew(r.cfg.Pins)
	}
	if ep.Credentials.Password.IsZero() {
		if ep.Credentials.Password = r.asked.get(loginSecret(t.User)); ep.Credentials.Password.IsZero() && r.cfg.Ask == nil {
			return fail(noPassword("resolve", t.Address, t.User, nil))
		}
	}
	tr := r.decorated(redfishRoute, func() transport.Transport { return &redfish.Transport{DialContext: r.dialNetwork} })
	return &passwordLogin{&patient{tr, reach}, r, t.User}, ep, nil
}

// authorities are those of Config.Authorities, or else the system's.
func (r *Resolver) authorities() (*x509.CertPool, error) {
	r.roots.once.Do(func() {
		if len(r.cfg.Authorities) == 0 {
			r.roots.pool, r.roots.err = x509.SystemCertPool()
			return
		}
		r.roots.pool = x509.NewCertPool()
		for _, file := range r.cfg.Authorities {
			pem, err := os.ReadFile(file)
			if err == nil && !r.roots.pool.AppendCertsFromPEM(pem) {
				err = fmt.Errorf("%w: %s has no certificate in PEM form", sum.ErrInvalid, file)
			}
			if err != nil {
				r.roots.err = fmt.Errorf("authorities: %w", err)
				return
			}
		}
	})
	return r.roots.pool, r.roots.err
}

// Capture writes what a target that speaks Redfish answers; see [redfish.Transport.Capture].
func (r *Resolver) Capture(ctx context.Context, t sum.Target, w io.Writer, opts redfish.CaptureOptions) (redfish.Captured, error) {
	if !speaksRedfish(t.Kind) {
		return redfish.Captured{}, &transport.Error{Op: "capture", Target: t.Address, Kind: errors.ErrUnsupported,
			Hint: fmt.Sprintf("only what speaks Redfish can be captured, and not targets of kind %q", t.Kind)}
	}
	_, ep, err := r.redfish(t)
	if err == nil {
		err = r.needPassword(ctx, &ep)
	}
	if err != nil {
		return redfish.Captured{}, err
	}
	return (&redfish.Transport{DialContext: r.dialNetwork}).Capture(ctx, ep, w, opts)
}
