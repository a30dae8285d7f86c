package fleet

import (
	"context"
	"errors"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
)

// secrets are those that were asked for, by prompt. The same question is put
// once in the life of a Resolver, whoever needs the answer.
type secrets struct {
	ask func(ctx context.Context, prompt string) (transport.Secret, error)

	mu    sync.Mutex
	known map[string]transport.Secret
	turn  chan struct{} // held while somebody is asked
}

// The prompts. Those for targets name the user and not the target, because the
// answer is used for every target that does not take the keys of that user. A jump
// host has a password of its own, and no other host is offered it.
func loginSecret(user string) string { return "Password of " + user + " (on every target that asks): " }
func jumpSecret(s settings) string {
	return "Password of " + s.user + " on the jump host " + joinPort(s.host, s.port) + ": "
}
func sudoSecret(user string) string {
	return "sudo password of " + user + " (on every target that asks): "
}
func passphraseSecret(key string) string { return "Passphrase of " + key + ": " }

// get returns the answer to a prompt, if it has been given.
func (s *secrets) get(prompt string) transport.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[prompt]
}

// need returns the answer to a prompt, asking for it if need be. Without
// somebody to ask it fails with errors.ErrUnsupported.
func (s *secrets) need(ctx context.Context, prompt string) (transport.Secret, error) {
	if s.ask == nil {
		return transport.Secret{}, errors.ErrUnsupported
	}
	s.mu.Lock()
	if s.turn == nil {
		s.turn = make(chan struct{}, 1)
	}
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return transport.Secret{}, ctx.Err()
	}
	defer func() { <-s.turn }()
	if secret := s.get(prompt); !secret.IsZero() {
		return secret, nil
	}
	secret, err := s.ask(ctx, prompt)
	if err != nil {
		return transport.Secret{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[string]transport.Secret{}
	}
	s.known[prompt] = secret
	return secret, nil
}

// forget drops an answer that turned out to be wrong.
func (s *secrets) forget(prompt string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, prompt)
}

// asking dials with what is known, and where the host refuses that, asks for a
// password and dials once more.
type asking struct {
	t      transport.Transport
	r      *Resolver
	prompt string // asks for the password of the login
}

// Dial implements transport.Transport.
func (a *asking) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	for {
		conn, err := a.t.Dial(ctx, ep)
		if err == nil || !errors.Is(err, transport.ErrAuth) || ctx.Err() != nil {
			return conn, err
		}
		if je := (*jumpError)(nil); errors.As(err, &je) {
			return nil, err // it was asked for already, if there is somebody to ask
		}
		better, askErr := a.improve(ctx, ep, err)
		switch {
		case askErr == nil:
			ep = better
		case ctx.Err() != nil:
			return nil, transport.ContextError(ctx, "dial", ep.Address, err)
		case errors.Is(askErr, errors.ErrUnsupported):
			return nil, err
		default:
			return nil, errors.Join(err, askErr)
		}
	}
}

// improve asks for the password that was missing. A password that was given and
// refused is not asked for again: more tries might lock the account.
func (a *asking) improve(ctx context.Context, ep transport.Endpoint, err error) (transport.Endpoint, error) {
	opts, ok := ep.Options.(ssh.Options)
	if !ok {
		return ep, errors.ErrUnsupported
	}
	if bySudo(err) {
		if !opts.SudoPassword.IsZero() {
			return ep, errors.ErrUnsupported
		}
		opts.SudoPassword, err = a.r.asked.need(ctx, sudoSecret(ep.Credentials.User))
		ep.Options = opts
		return ep, err
	}
	if !ep.Credentials.Password.IsZero() {
		return ep, errors.ErrUnsupported
	}
	ep.Credentials.Password, err = a.r.asked.need(ctx, a.prompt)
	if opts.Elevate == ssh.Sudo && opts.SudoPassword.IsZero() {
		opts.SudoPassword = ep.Credentials.Password
		ep.Options = opts
	}
	return ep, err
}

// bySudo reports whether it was sudo that refused, and not the login: sudo is a
// command that ended with a status.
func bySudo(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.Code.Space == "exit"
}
