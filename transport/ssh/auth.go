package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login chooses the authentication methods of one dial. Each secret is offered
// once, so that a wrong one counts as a single failure where accounts are locked.
type login struct {
	ctx      context.Context
	creds    transport.Credentials
	opts     Options
	allowed  []string // what the server last said it takes
	keysUsed bool
	pwUsed   bool
	err      error // a failure of our own, such as an unreadable key
	agent    net.Conn
}

// user is the name to log in with. A domain is put before it as Windows and
// winbind write it.
func (l *login) user() string {
	if l.creds.Domain != "" {
		return l.creds.Domain + `\` + l.creds.User
	}
	return l.creds.User
}

func (l *login) close() {
	if l.agent != nil {
		_ = l.agent.Close()
	}
}

// next implements ssh.ClientAuthCallback.
func (l *login) next(a *xssh.ClientAuthContext) (xssh.AuthMethod, error) {
	l.allowed = a.AllowedMethods
	takes := func(method string) bool { return slices.Contains(a.AllowedMethods, method) }
	if takes("publickey") && !l.keysUsed && l.hasKeys() {
		l.keysUsed = true
		return xssh.PublicKeysCallback(l.signers), nil
	}
	if l.creds.Password.IsZero() || l.pwUsed {
		return nil, nil
	}
	switch {
	case takes("password"):
		l.pwUsed = true
		return xssh.Password(l.creds.Password.Reveal()), nil
	case takes("keyboard-interactive"):
		l.pwUsed = true
		return xssh.KeyboardInteractive(l.answer()), nil
	}
	return nil, nil
}

// answer answers the one hidden question of keyboard-interactive (RFC 4256) with
// the password. A second question, such as for a new password, it leaves alone.
func (l *login) answer() xssh.KeyboardInteractiveChallenge {
	answered := false
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case answered || len(questions) != 1 || echos[0]:
			return nil, errors.New("the server asks for more than a password")
		}
		answered = true
		return []string{l.creds.Password.Reveal()}, nil
	}
}

func (l *login) hasKeys() bool {
	return len(l.opts.Signers)+len(l.opts.IdentityFiles) > 0 || l.opts.AgentSocket != ""
}

// signers collects the keys. A key that cannot be read does not keep the others
// from being tried.
func (l *login) signers() ([]xssh.Signer, error) {
	out := slices.Clone(l.opts.Signers)
	for _, id := range l.opts.IdentityFiles {
		signers, err := id.signers()
		if err != nil {
			l.err = errors.Join(l.err, err)
			continue
		}
		out = append(out, signers...)
	}
	if l.opts.AgentSocket != "" {
		signers, err := l.agentSigners()
		if err != nil {
			l.err = errors.Join(l.err, fmt.Errorf("ssh-agent: %w", err))
		}
		out = append(out, signers...)
	}
	return out, nil
}

func (l *login) agentSigners() ([]xssh.Signer, error) {
	conn, err := (&net.Dialer{}).DialContext(l.ctx, "unix", l.opts.AgentSocket)
	if err != nil {
		return nil, err
	}
	l.agent = conn
	// An agent that waits for its user ends with the dial, too.
	context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	return agent.NewClient(conn).Signers()
}

// signers returns the key of the file, preceded by its certificate if there is one.
func (id IdentityFile) signers() ([]xssh.Signer, error) {
	pem, err := os.ReadFile(id.Path)
	if err != nil {
		return nil, err
	}
	signer, err := ParseKey(pem, id.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id.Path, err)
	}
	line, err := os.ReadFile(id.Path + "-cert.pub")
	if err != nil {
		return []xssh.Signer{signer}, nil
	}
	key, _, _, _, err := xssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", id.Path, err)
	}
	cert, ok := key.(*xssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s-cert.pub: not a certificate", id.Path)
	}
	certified, err := xssh.NewCertSigner(cert, signer)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", id.Path, err)
	}
	return []xssh.Signer{certified, signer}, nil
}
