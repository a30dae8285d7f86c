package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// loginPatience is how long a dial waits for another one with the same account and password
// to say whether that is right. A host that does not answer says nothing, and must not hold
// up the rest of a fleet for the time that it is waited for.
const loginPatience = 2 * time.Second

// accounts remembers which password a domain has refused for an account. Each wrong one
// counts against the account, wherever it is tried: a fleet of them would lock it for
// everybody. An account of a host itself is another one on each host, and is not remembered.
type accounts struct {
	mu    sync.Mutex
	known map[accountKey]*accountState
}

type accountKey struct {
	account  string
	password [sha256.Size]byte
}

// accountState is what is known of an account with one password.
type accountState struct {
	trying chan struct{} // closed when the dial that tries it first has ended; nil: nobody does
	good   bool          // some host has taken it
	by     string        // the address of the host that refused it
	err    error         // and how
}

// domainAccount is the account in one spelling, or "" for one of a host itself.
func domainAccount(c transport.Credentials) string {
	domain, user, ok := strings.Cut(strings.Replace(c.User, `\`, ";", 1), ";")
	if !ok {
		domain, user = c.Domain, c.User
	}
	switch {
	case strings.Contains(user, "@"):
		return strings.ToLower(user)
	case domain == "" || domain == ".":
		return ""
	}
	return strings.ToLower(domain + ";" + user)
}

// state is what is known of the credentials, or nil where nothing is remembered.
func (a *accounts) state(c transport.Credentials) *accountState {
	account := domainAccount(c)
	if account == "" || c.Password.IsZero() {
		return nil
	}
	key := accountKey{account, sha256.Sum256([]byte(c.Password.Reveal()))}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[accountKey]*accountState{}
	}
	if a.known[key] == nil {
		a.known[key] = &accountState{}
	}
	return a.known[key]
}

// once dials, unless the account with this password was refused already. Of several dials
// one goes ahead, until one has found out.
type once struct {
	t transport.Transport
	a *accounts
}

// Dial implements transport.Transport.
func (o *once) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	s := o.a.state(ep.Credentials)
	if s == nil {
		return o.t.Dial(ctx, ep)
	}
	mine := make(chan struct{})
	for {
		o.a.mu.Lock()
		other, good, by, refused := s.trying, s.good, s.by, s.err
		if !good && refused == nil && other == nil {
			s.trying = mine
		}
		o.a.mu.Unlock()
		switch {
		case good:
			return o.t.Dial(ctx, ep)
		case refused != nil:
			return nil, notTried(ep, by, refused)
		case other == nil:
			return o.first(ctx, ep, s, mine)
		}
		patience := time.NewTimer(loginPatience)
		select {
		case <-other:
		case <-patience.C:
			o.a.mu.Lock()
			if s.trying == other {
				s.trying = nil
			}
			o.a.mu.Unlock()
		case <-ctx.Done():
			patience.Stop()
			return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: ctx.Err(),
				Err: errors.New("waited for the first login with the same account and password")}
		}
		patience.Stop()
	}
}

// first dials, and notes what became of the login.
func (o *once) first(ctx context.Context, ep transport.Endpoint, s *accountState, mine chan struct{}) (conn transport.Conn, err error) {
	defer func() {
		o.a.mu.Lock()
		defer o.a.mu.Unlock()
		switch {
		case conn != nil && err == nil:
			s.good = true
		case countsAgainst(err) && s.err == nil:
			s.by, s.err = ep.Address, err
		}
		if s.trying == mine {
			s.trying = nil
		}
		close(mine)
	}()
	return o.t.Dial(ctx, ep)
}

// countsAgainst reports whether a failed login counts against the account, as a wrong
// password does, or keeps it locked (NTSTATUS, MS-ERREF, section 2.3).
func countsAgainst(err error) bool {
	if !errors.Is(err, transport.ErrAuth) {
		return false
	}
	switch code := transport.CodeOf(err); code {
	case transport.Code{Space: "ntstatus", Value: "0xC000006D"}, // STATUS_LOGON_FAILURE
		transport.Code{Space: "ntstatus", Value: "0xC000006A"}, // STATUS_WRONG_PASSWORD
		transport.Code{Space: "ntstatus", Value: "0xC0000234"}: // STATUS_ACCOUNT_LOCKED_OUT
		return true
	}
	return false
}

// notTried is the error of a target that was not dialled.
func notTried(ep transport.Endpoint, by string, refused error) error {
	return &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrAuth, Code: transport.CodeOf(refused),
		Err:  fmt.Errorf("not tried: %s has refused this password of %s", by, ep.Credentials.User),
		Hint: "each wrong password counts against the account, and may lock it: see what is wrong there, and begin again"}
}
