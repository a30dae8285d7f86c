package redfish

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// farewell is how long the end of a session may take: less than a Close may, and more
// than the handshake of a slow service takes, where there must be a new one.
const farewell = transport.CloseGrace * 3 / 4

// login is one session of the service.
type login struct {
	token string
	path  string // its resource
	born  string // when it was made, as the service says
}

// sessionResource is what is used of a Session resource.
type sessionResource struct {
	ID      link `json:"@odata.id"`
	User    text `json:"UserName"`
	Created text `json:"CreatedTime"`
	Oem     struct {
		Hpe, Hp struct{ LoginTime text }
	}
}

func (r *sessionResource) born() string {
	for _, t := range []text{r.Created, r.Oem.Hpe.LoginTime, r.Oem.Hp.LoginTime} {
		if t != "" {
			return string(t)
		}
	}
	return ""
}

// logIn makes a session (DSP0266, "Session management"), unless another call has made
// one since there were so many. The caller holds a turn.
func (s *session) logIn(ctx context.Context, cancel context.CancelCauseFunc, logins int) error {
	select {
	case s.loggingIn <- struct{}{}:
		defer func() { <-s.loggingIn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	done, where, before := s.logins != logins, s.where, s.login
	s.mu.Unlock()
	if done {
		return nil
	}
	r, err := jsonRequest("login", http.MethodPost, where, map[string]string{"UserName": s.user(), "Password": s.cred.Password.Reveal()})
	if err != nil {
		return err
	}
	r.bare = true
	rep, err := s.send(ctx, cancel, r, "")
	if err != nil {
		return err
	}
	if !rep.ok() {
		return loginRefusal(rep)
	}
	now := login{token: rep.header.Get("X-Auth-Token")}
	if now.token == "" {
		return &transport.Error{Kind: transport.ErrProtocol, Err: errors.New("the service made a session without a token")}
	}
	var made sessionResource
	_ = decode(rep.body, &made)
	now.born = made.born()
	at := rep.header.Get("Location")
	if at == "" {
		at = string(made.ID)
	}
	if now.path, err = pathOf(at); err != nil {
		now.path = ""
	}
	s.mu.Lock()
	s.login, s.logins = now, s.logins+1
	s.mu.Unlock()
	s.forget(ctx, before, now)
	return nil
}

// user is whom the service knows.
func (s *session) user() string {
	if s.cred.Domain != "" {
		return s.cred.Domain + `\` + s.cred.User
	}
	return s.cred.User
}

// loginRefusal is the error for a login that the service refuses.
func loginRefusal(rep *reply) error {
	e := refusal(rep)
	// Services differ in how they say no to a login.
	if errors.Is(e.Kind, fs.ErrPermission) || rep.status == http.StatusUnauthorized ||
		rep.status == http.StatusBadRequest && !errors.Is(e.Kind, transport.ErrBusy) {
		e.Kind = transport.ErrAuth
	}
	if errors.Is(e.Kind, transport.ErrAuth) {
		// What a service quotes of a login may be the password.
		e.Err = &statusError{status: rep.status}
		if e.Hint == "" {
			e.Hint = "check user and password"
		}
	}
	return e
}

// forget ends the session that another one has replaced, if it is there still: not every
// 401 ends one, and a management processor has few. It is none of the caller's concern
// how that ends.
func (s *session) forget(ctx context.Context, old, now login) {
	if old.path == "" || old.path == now.path {
		return
	}
	ctx, end := context.WithTimeout(ctx, min(farewell, s.opts.ConnectTimeout))
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ask := func(method string) *reply {
		rep, err := s.once(ctx, cancel, request{op: "logout", method: method, path: old.path}, old.path, now.token)
		if err != nil || !rep.ok() {
			return nil
		}
		return rep
	}
	// After a reset the name may be that of somebody else's session.
	rep := ask(http.MethodGet)
	var is sessionResource
	if rep == nil || decode(rep.body, &is) != nil || is.User != "" && !strings.EqualFold(string(is.User), s.user()) {
		return
	}
	const short = 8 // a name of that length may be a number that is given away again
	name := strings.TrimSuffix(old.path, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	if born := is.born(); born != old.born || born == "" && len(name) < short {
		return
	}
	ask(http.MethodDelete)
}

// close logs out, on a context of its own, and ends all connections.
func (s *session) close(ctx context.Context) error {
	s.cancel(errClosed)
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.calls.Wait() // they end with s.ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	s.mu.Lock()
	last := s.login
	s.login = login{}
	s.mu.Unlock()
	if last.path != "" {
		s.leaving.Store(true)
		s.patient.Add(1)
		var lost *lostError
		if errors.As(context.Cause(s.ctx), &lost) {
			// Whoever dials again needs a session more: this one is ended over a new line.
			s.tr.CloseIdleConnections()
		}
		cctx, end := context.WithCancelCause(ctx)
		// That a session stays behind is not worth an error: it expires.
		_, _ = s.once(cctx, end, request{op: "logout", method: http.MethodDelete, path: last.path}, last.path, last.token)
		end(nil)
	}
	s.tr.CloseIdleConnections()
	return nil
}

// loggedIn reports whether there ever was a session.
func (s *session) loggedIn() bool { return s.loginCount() > 0 }

// loginCount is how many sessions there were.
func (s *session) loginCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// spacing is how long to wait before the next login after one was refused: a service that
// starts lets nobody in for minutes, and accounts are locked after a few attempts.
func spacing(patience time.Duration) time.Duration { return patience / 5 }
