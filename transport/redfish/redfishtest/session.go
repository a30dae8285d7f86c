package redfishtest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// session is a login session (DSP0266, 13.3.4).
type session struct {
	id, token string
	account   Account
}

// EndSessions ends every session, as a reset does: their tokens are 401 from now
// on.
func (s *Server) EndSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
	s.notify()
}

// Sessions returns how many sessions there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// SessionCounts is what became of the sessions of a server. Opened is the sum of the
// others.
type SessionCounts struct {
	Opened int
	Closed int // by a client
	Lost   int // ended by a reset, a fault or EndSessions
	Left   int // there now
}

// SessionCounts returns what became of all sessions so far. Sessions that a client
// has left behind are among Lost where the service has reset since.
func (s *Server) SessionCounts() SessionCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Left = len(s.sessions)
	c.Lost = c.Opened - c.Closed - c.Left
	return c
}

// who finds out whose request it is. The user is nobody if it has none, or wrong
// ones, of the proofs.
func (s *Server) who(r *http.Request) (a Account, basic, ok bool) {
	if token := r.Header.Get("X-Auth-Token"); token != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ses := s.sessions[token]; ses != nil {
			return ses.account, false, true
		}
		return Account{}, false, false
	}
	user, password, ok := r.BasicAuth()
	if !ok || s.cfg.NoBasic {
		return Account{}, false, false
	}
	a, ok = s.account(user, password)
	return a, true, ok
}

func (s *Server) account(user, password string) (Account, bool) {
	all := s.cfg.accounts()
	i := slices.IndexFunc(all, func(a Account) bool { return a.User == user && a.Password == password })
	if i < 0 {
		return Account{}, false
	}
	return all[i], true
}

func (s *Server) sessionsPath() string { return "/redfish/v1/SessionService/Sessions" }

// login creates a session.
func (s *Server) login(x *exchange, r *http.Request) {
	o, err := x.decode(r)
	if err != nil {
		s.fail(x, err)
		return
	}
	a, ok := s.account(text(o, "UserName"), text(o, "Password"))
	if !ok {
		id := "NoValidSession"
		if s.cfg.Profile.ilo() > 0 {
			id = "UnauthorizedLoginAttempt"
		}
		s.refuse(x, http.StatusUnauthorized, id)
		return
	}
	limited := s.fault(SessionLimit, r) != nil
	s.mu.Lock()
	if limited || len(s.sessions) >= s.cfg.Sessions {
		s.mu.Unlock()
		s.refuse(x, http.StatusServiceUnavailable, "SessionLimitExceeded")
		return
	}
	s.numbers++
	ses := &session{id: fmt.Sprintf("%s%08x", strings.ToLower(a.User), s.numbers), token: strings.ToLower(rand.Text()), account: a}
	s.sessions[ses.token] = ses
	s.counts.Opened++
	x.record.User = a.User
	path := s.sessionsPath() + "/" + ses.id + s.cfg.Profile.slash()
	s.mu.Unlock()
	x.Header().Set("X-Auth-Token", ses.token)
	x.Header().Set("Location", path)
	if s.cfg.Profile.ilo() > 0 {
		x.Header().Set("Location", s.URL()+path) // iLO names the host as well
	}
	writeJSON(x, http.StatusCreated, s.sessionObject(ses))
}

func (s *Server) sessionObject(ses *session) object {
	return object{
		"@odata.id": s.sessionsPath() + "/" + ses.id + s.cfg.Profile.slash(), "@odata.type": "#Session.v1_0_0.Session",
		"Id": ses.id, "Name": "User Session", "Description": "Manager User Session", "UserName": ses.account.User,
	}
}

// logout ends a session. A user ends his own, an administrator any.
func (s *Server) logout(x *exchange, a Account, id string) bool {
	s.mu.Lock()
	for token, ses := range s.sessions {
		if strings.EqualFold(ses.id, id) {
			if ses.account.User != a.User && a.Role != Administrator {
				break
			}
			delete(s.sessions, token)
			s.counts.Closed++
			s.notify()
			s.mu.Unlock()
			s.success(x)
			return true
		}
	}
	s.mu.Unlock()
	return false
}
