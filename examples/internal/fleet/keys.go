package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keyring holds the keys that were read, so that a fleet reads each once.
type keyring struct {
	mu   sync.Mutex
	keys map[string]*key
}

// key is one identity file.
type key struct {
	path   string
	pem    []byte // of a private key that is encrypted
	public xssh.PublicKey
	cert   *xssh.Certificate // beside it, or nil
	err    error

	mu     sync.Mutex
	signer xssh.Signer // the key itself, once it can be used
}

// signers returns the keys to try on a host, in order. A key that is encrypted,
// or of which only the public half is there, is used through the agent or with
// the passphrase, when a target has taken it and not before. The signers are of
// use until ctx ends.
func (r *Resolver) signers(ctx context.Context, s settings) ([]xssh.Signer, error) {
	var out []xssh.Signer
	for _, path := range s.identities {
		k := r.keys.load(path)
		if k.err != nil {
			if missing := errors.Is(k.err, fs.ErrNotExist); !missing || slices.Contains(r.cfg.Identities, path) {
				if s.chosen {
					return nil, fmt.Errorf("%w: identity %w", sum.ErrInvalid, k.err)
				}
				r.cfg.Logger.Warn("identity not used", "err", k.err)
			}
			continue
		}
		k.mu.Lock()
		signer := k.signer
		k.mu.Unlock()
		if signer == nil {
			signer = &lateSigner{ctx: ctx, key: k, agent: s.agent, asked: &r.asked}
		}
		if k.cert != nil {
			certified, err := xssh.NewCertSigner(k.cert, signer)
			if err != nil {
				return nil, fmt.Errorf("%w: %s-cert.pub: %w", sum.ErrInvalid, path, err)
			}
			out = append(out, certified)
		}
		out = append(out, signer)
	}
	return out, nil
}

func (r *keyring) load(path string) *key {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.keys[path]; k != nil {
		return k
	}
	k := readKey(path)
	if r.keys == nil {
		r.keys = map[string]*key{}
	}
	r.keys[path] = k
	return k
}

func readKey(path string) *key {
	k := &key{path: path}
	pem, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// The private half may be in the agent alone.
		if k.public = readPublic(path + ".pub"); k.public == nil {
			k.err = err
		}
		return k
	}
	if err != nil {
		k.err = err
		return k
	}
	if cert, ok := readPublic(path + "-cert.pub").(*xssh.Certificate); ok {
		k.cert = cert
	}
	var missing *xssh.PassphraseMissingError
	switch k.signer, err = xssh.ParsePrivateKey(pem); {
	case err == nil:
		k.public = k.signer.PublicKey()
	case errors.As(err, &missing):
		k.pem, k.public = pem, missing.PublicKey
		if k.public == nil { // an old form, which does not tell
			k.public = readPublic(path + ".pub")
		}
		if k.public == nil {
			k.err = fmt.Errorf("%s: encrypted, and %s.pub is missing", path, path)
		}
	default:
		if k.public, _, _, _, _ = xssh.ParseAuthorizedKey(pem); k.public == nil {
			k.err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return k
}

// readPublic returns the public key in a file, or nil.
func readPublic(path string) xssh.PublicKey {
	line, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	public, _, _, _, err := xssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil
	}
	return public
}

// lateSigner gets at its key when it has to sign.
type lateSigner struct {
	ctx   context.Context // of the dial; Signer has no room for one
	key   *key
	agent string
	asked *secrets
}

var _ xssh.AlgorithmSigner = (*lateSigner)(nil)

// PublicKey implements ssh.Signer.
func (l *lateSigner) PublicKey() xssh.PublicKey { return l.key.public }

// Sign implements ssh.Signer.
func (l *lateSigner) Sign(rand io.Reader, data []byte) (*xssh.Signature, error) {
	return l.SignWithAlgorithm(rand, data, l.key.public.Type())
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (l *lateSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*xssh.Signature, error) {
	if sig := l.byAgent(data, algorithm); sig != nil {
		return sig, nil
	}
	signer, err := l.unlock()
	if err != nil {
		return nil, err
	}
	as, ok := signer.(xssh.AlgorithmSigner)
	if !ok {
		return signer.Sign(rand.Reader, data)
	}
	return as.SignWithAlgorithm(rand.Reader, data, algorithm)
}

// byAgent lets the agent sign, if it has the key.
func (l *lateSigner) byAgent(data []byte, algorithm string) *xssh.Signature {
	if l.agent == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(l.ctx, "unix", l.agent)
	if err != nil {
		return nil
	}
	defer conn.Close()
	stop := context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	defer stop()
	var flags agent.SignatureFlags
	switch algorithm {
	case xssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case xssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	sig, err := agent.NewClient(conn).SignWithFlags(l.key.public, data, flags)
	if err != nil {
		return nil
	}
	return sig
}

// unlock asks for the passphrase, once for all targets.
func (l *lateSigner) unlock() (xssh.Signer, error) {
	k := l.key
	if k.pem == nil {
		return nil, fmt.Errorf("%s: the private key is neither there nor in the agent", k.path)
	}
	prompt := passphraseSecret(k.path)
	passphrase, err := l.asked.need(l.ctx, prompt)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, fmt.Errorf("%s: encrypted, and nobody is there to be asked for the passphrase; ssh-add puts it into the agent", k.path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.path, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return k.signer, nil
	}
	signer, err := ssh.ParseKey(k.pem, passphrase)
	if err != nil {
		if errors.Is(err, transport.ErrInvalid) {
			l.asked.forget(prompt)
		}
		return nil, fmt.Errorf("%s: %w", k.path, err)
	}
	k.signer = signer
	return signer, nil
}
