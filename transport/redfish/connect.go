package redfish

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"github.com/roundsman-go/roundsman/transport"
)

// connect opens one verified connection.
func (s *session) connect(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.ConnectTimeout, errConnect)
	defer cancel()
	if !s.leaving.Load() {
		stop := context.AfterFunc(s.ctx, cancel)
		defer stop()
	}
	raw, err := s.reach(ctx)
	if err != nil {
		var te *transport.Error
		if errors.As(err, &te) {
			return nil, te
		}
		return nil, s.connectError(ctx, transport.ErrUnreachable, err)
	}
	c := tls.Client(raw, s.trust.config())
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		var te *transport.Error
		var unknown *unknownKey
		var cert *tls.CertificateVerificationError
		var op *net.OpError
		var record tls.RecordHeaderError
		switch {
		case errors.As(err, &te):
			return nil, te
		case errors.As(err, &unknown):
			return nil, unknown
		case errors.As(err, &cert):
			return nil, s.trust.refuse(err, "its certificate cannot be used")
		case errors.As(err, &op) && op.Op == "remote error": // an alert
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: err,
				Hint: "the two sides have no version of TLS or no cipher suite in common; Options.LegacyTLS allows old ones"}
		case errors.As(err, &record):
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: err, Hint: "what answers on this port is not HTTPS"}
		}
		return nil, s.connectError(ctx, transport.ErrConnLost, err)
	}
	l := &line{Conn: c, broke: s.broke}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.Proxy == nil {
		s.local, s.remote = addrPort(raw.LocalAddr()), addrPort(raw.RemoteAddr())
	}
	return l, nil
}

func (s *session) connectError(ctx context.Context, kind, err error) error {
	e := &transport.Error{Kind: kind, Err: err}
	if errors.Is(context.Cause(ctx), errConnect) {
		e.Kind, e.Err = transport.ErrTimeout, errConnect
		e.Hint = "the target does not answer, or something on the way swallows what is sent"
	}
	return e
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// broke is told that a line ended unasked. For an update that is no news: targets start
// anew in the middle of it.
func (s *session) broke(err error) {
	if s.patient.Load() == 0 {
		s.lose(err)
	}
}

func (s *session) lose(err error) { s.cancel(&lostError{err}) }
