package ssh

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login chooses the authentication methods of one dial. Each secret is offered
// once, so that a wrong one counts as a single failure where accounts are locked.
type login struct {
	ctx   context.Context
	creds transport.Credentials
	opts  Options
	gone  func() error // why the line broke, or nil

	keys     []xssh.Signer // of the options, then of the agent once it was asked
	hasAgent bool          // it was asked
	offered  int           // keys
	rounds   int           // how often the keys were offered
	pwUsed   bool
	beyond   bool     // the target asks for more than a password
	asked    bool     // the login was a conversation, which may want another answer each time
	pending  string   // the method under way
	allowed  []string // what the target last said it takes
	accepted []string // what it accepted, though that was not enough
	err      error    // a failure of our own, such as an agent that does not answer
	agent    net.Conn
}

// newLogin reads the keys, before anything is sent to the target.
func (d *dialer) newLogin(ctx context.Context) (*login, error) {
	l := &login{ctx: ctx, creds: d.ep.Credentials, opts: d.opts, gone: func() error { return d.line.broken() }}
	l.add(d.opts.Signers)
	for _, id := range d.opts.IdentityFiles {
		signers, err := id.signers()
		if err != nil {
			e := &transport.Error{Op: "dial", Target: d.ep.Address, Path: id.Path, Kind: transport.ErrInvalid, Err: err,
				Hint: "this private key (Options.IdentityFiles) cannot be used"}
			var te *transport.Error
			if errors.As(err, &te) {
				e.Err = te.Err
			}
			var missing *xssh.PassphraseMissingError
			switch {
			case errors.As(err, &missing):
				e.Hint = "this private key is encrypted: give its passphrase (IdentityFile.Passphrase), or load it into an ssh-agent"
			case errors.Is(err, x509.IncorrectPasswordError):
				e.Hint = "the passphrase (IdentityFile.Passphrase) does not open this private key"
			}
			return nil, e
		}
		l.add(signers)
	}
	return l, nil
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
	if err := l.gone(); err != nil {
		return nil, err // the callback is called all the same
	}
	l.allowed, l.accepted, l.pending = a.AllowedMethods, a.PartialSuccessMethods, ""
	takes := func(method string) bool { return slices.Contains(a.AllowedMethods, method) }
	use := func(name string, method xssh.AuthMethod) (xssh.AuthMethod, error) {
		l.pending = name
		return method, nil
	}
	// A target that has accepted a key and still takes keys wants another one.
	round := 0
	for _, method := range l.accepted {
		if method == "publickey" {
			round++
		}
	}
	if takes("publickey") && l.rounds <= round && l.hasKeys() {
		l.rounds = round + 1
		return use("publickey", xssh.PublicKeysCallback(l.signers))
	}
	if l.creds.Password.IsZero() || l.pwUsed {
		return nil, nil
	}
	switch {
	case takes("password"):
		l.pwUsed = true
		return use("password", xssh.Password(l.creds.Password.Reveal()))
	case takes("keyboard-interactive"):
		l.pwUsed, l.asked = true, true
		return use("keyboard-interactive", xssh.KeyboardInteractive(l.answer()))
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
			l.beyond = true
			return nil, fmt.Errorf("the target asks for more than a password: %.200q", questions)
		}
		answered = true
		return []string{l.creds.Password.Reveal()}, nil
	}
}

func (l *login) hasKeys() bool { return len(l.keys) > 0 || l.opts.AgentSocket != "" }

// signers returns the keys to offer. An agent that cannot be reached does not keep
// the others from being tried.
func (l *login) signers() ([]xssh.Signer, error) {
	if l.opts.AgentSocket != "" && !l.hasAgent {
		l.hasAgent = true
		signers, err := l.agentSigners()
		if err != nil {
			l.note(fmt.Errorf("ssh-agent (Options.AgentSocket): %w", err))
		}
		l.add(signers)
	}
	l.offered = len(l.keys)
	return l.keys, nil
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

// add adds keys to offer. Those that sign in no secure way are left out unless the
// caller wants the old algorithms.
func (l *login) add(signers []xssh.Signer) {
	for _, s := range signers {
		s, err := signing(s, l.opts.LegacyAlgorithms)
		if err != nil {
			l.note(err)
			continue
		}
		l.keys = append(l.keys, s)
	}
}

// note keeps an error that need not be the end of the login.
func (l *login) note(err error) {
	if l.err != nil {
		err = fmt.Errorf("%w; %w", l.err, err)
	}
	l.err = err
}

// signing returns a signer that signs in secure ways alone, unless old ones are
// wanted, too: RSA keys would sign with SHA-1 for a server that does not say what it
// takes (RFC 8308, section 3.1). Where it takes several, the first is OpenSSH's.
func signing(s xssh.Signer, legacy bool) (xssh.Signer, error) {
	key := s.PublicKey()
	if cert, ok := key.(*xssh.Certificate); ok {
		key = cert.Key
	}
	if !slices.Contains(xssh.InsecureAlgorithms().PublicKeyAuths, key.Type()) {
		return s, nil
	}
	algos := []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256}
	if legacy {
		algos = append(algos, xssh.KeyAlgoRSA)
	}
	if m, ok := s.(xssh.MultiAlgorithmSigner); ok {
		algos = slices.DeleteFunc(algos, func(a string) bool { return !slices.Contains(m.Algorithms(), a) })
	}
	if as, ok := s.(xssh.AlgorithmSigner); ok && key.Type() == xssh.KeyAlgoRSA && len(algos) > 0 {
		return xssh.NewSignerWithAlgorithms(as, algos)
	}
	if legacy {
		return s, nil
	}
	return nil, fmt.Errorf("the key %s is not offered, because it signs in no secure way (Options.LegacyAlgorithms)", xssh.FingerprintSHA256(key))
}

// refusal says for an operator what was offered, and what the target takes.
func (l *login) refusal() string {
	takes := strings.Join(l.allowed, ", ")
	var offered []string
	switch {
	case l.offered == 1:
		offered = append(offered, "the key")
	case l.offered > 1:
		offered = append(offered, fmt.Sprintf("%d keys", l.offered))
	}
	if l.pwUsed {
		offered = append(offered, "the password")
	}
	what := strings.Join(offered, " and ")
	switch {
	case l.pending == "publickey" && l.offered > 1:
		what = fmt.Sprintf("the target broke the login off while it was offered %s, each of which counts as a failure "+
			"(MaxAuthTries of sshd): offer the right one alone", what)
	case l.beyond:
		what = "the target asks for more than a user and a password, such as a second factor or a new password"
	case l.pending != "":
		what = "the target broke the login off when it was offered " + what
	case len(l.accepted) > 0:
		what = fmt.Sprintf("the target accepted %s, but wants %s as well", strings.Join(l.accepted, ", "), takes)
	case what != "":
		what = fmt.Sprintf("the target refused %s; it takes %s", what, takes)
	default:
		what = fmt.Sprintf("there was nothing to offer of what the target takes (%s): give a key, an ssh-agent or a password", takes)
	}
	return what + l.outdated()
}

// outdated names a certificate that was offered though it is not valid now.
func (l *login) outdated() string {
	now := time.Now()
	for _, k := range l.keys {
		cert, ok := k.PublicKey().(*xssh.Certificate)
		switch {
		case !ok:
		case uint64(now.Unix()) < cert.ValidAfter:
			return fmt.Sprintf("; the certificate %q is not valid yet", cert.KeyId)
		case uint64(now.Unix()) >= cert.ValidBefore:
			return fmt.Sprintf("; the certificate %q has expired", cert.KeyId)
		}
	}
	return ""
}

// signers returns the key of the file, preceded by its certificate if there is one.
func (id IdentityFile) signers() ([]xssh.Signer, error) {
	pem, err := os.ReadFile(id.Path)
	if err != nil {
		return nil, err
	}
	signer, err := ParseKey(pem, id.Passphrase)
	if err != nil {
		return nil, err
	}
	line, err := os.ReadFile(id.Path + "-cert.pub")
	if errors.Is(err, fs.ErrNotExist) {
		return []xssh.Signer{signer}, nil
	}
	if err != nil {
		return nil, err
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
