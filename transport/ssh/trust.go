package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// verifier decides about the host key of one dial.
type verifier struct {
	ctx     context.Context
	target  string // as the caller wrote it
	addr    string // host:port as dialled
	trust   transport.Trust
	pins    []xssh.PublicKey
	known   xssh.HostKeyCallback // nil without known_hosts
	pause   func()               // stops the clock while FirstUse decides
	goOn    func()
	decided bool  // the host key was accepted
	err     error // why it was refused
	// restricted: only keys of the types that are known for the target are asked for
	restricted bool
}

func newVerifier(ctx context.Context, target, addr string, trust transport.Trust) (*verifier, error) {
	v := &verifier{ctx: ctx, target: target, addr: addr, trust: trust}
	for _, line := range trust.HostKeys {
		key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, &transport.Error{Op: "dial", Target: target, Kind: transport.ErrInvalid, Err: err,
				Hint: "Trust.HostKeys are public keys in authorized_keys form"}
		}
		v.pins = append(v.pins, key)
	}
	var files []string
	for _, name := range trust.KnownHosts {
		// A file that is yet to be written, say by FirstUse, knows nobody.
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		files = append(files, name)
	}
	if len(files) > 0 {
		known, err := knownhosts.New(files...)
		if err != nil {
			return nil, &transport.Error{Op: "dial", Target: target, Kind: transport.ErrInvalid, Err: err,
				Hint: "Trust.KnownHosts are OpenSSH known_hosts files"}
		}
		v.known = known
	}
	return v, nil
}

// remote stands for the address of the target in calls of knownhosts, which then
// looks at the name alone: a tunnel or pipe has no address.
var remote = &net.TCPAddr{IP: net.IPv4zero}

// stranger is a key that no known_hosts file holds.
type stranger struct{}

func (stranger) Type() string                         { return xssh.KeyAlgoED25519 }
func (stranger) Marshal() []byte                      { return []byte("no such key") }
func (stranger) Verify([]byte, *xssh.Signature) error { return errors.New("not a key") }

// wanted returns the keys that known_hosts has for the target, and whether a
// certificate authority is among them.
func (v *verifier) wanted() (keys []xssh.PublicKey, authority bool) {
	if v.known == nil {
		return nil, false
	}
	var ke *knownhosts.KeyError
	if !errors.As(v.known(v.addr, remote, stranger{}), &ke) {
		return nil, false
	}
	for _, k := range ke.Want {
		if isAuthority(k) {
			authority = true
		} else {
			keys = append(keys, k.Key)
		}
	}
	return keys, authority
}

// isAuthority looks at the line of a known key again, because knownhosts does not
// say whether it was marked as a certificate authority.
func isAuthority(k knownhosts.KnownKey) bool {
	content, err := os.ReadFile(k.Filename)
	if err != nil {
		return false
	}
	lines := bytes.Split(content, []byte("\n"))
	return k.Line >= 1 && k.Line <= len(lines) &&
		bytes.HasPrefix(bytes.TrimSpace(lines[k.Line-1]), []byte("@cert-authority"))
}

// algorithms returns the host key algorithms to ask for: those of the keys that
// are known for the target, so that it shows a key that can be compared, and all
// plain ones where none is known.
func (v *verifier) algorithms(legacy bool) []string {
	keys, authority := v.wanted()
	keys = append(keys, v.pins...)
	v.restricted = len(keys) > 0 || authority
	all := xssh.SupportedAlgorithms().HostKeys
	if legacy {
		all = append(all, xssh.InsecureAlgorithms().HostKeys...)
	}
	var out []string
	for _, algo := range all {
		if isCertAlgo(algo) {
			if authority {
				out = append(out, algo)
			}
			continue
		}
		if !v.restricted || slices.ContainsFunc(keys, func(k xssh.PublicKey) bool { return k.Type() == keyType(algo) }) {
			out = append(out, algo)
		}
	}
	return out
}

func isCertAlgo(algo string) bool {
	const suffix = "-cert-v01@openssh.com"
	return len(algo) > len(suffix) && algo[len(algo)-len(suffix):] == suffix
}

// keyType is the key type of a plain host key algorithm (RFC 8332, section 3).
func keyType(algo string) string {
	switch algo {
	case xssh.KeyAlgoRSASHA256, xssh.KeyAlgoRSASHA512:
		return xssh.KeyAlgoRSA
	}
	return algo
}

// check is the HostKeyCallback.
func (v *verifier) check(_ string, _ net.Addr, key xssh.PublicKey) error {
	v.err = v.decide(key)
	v.decided = v.err == nil
	return v.err
}

func (v *verifier) decide(key xssh.PublicKey) error {
	seen := transport.SeenIdentity{Address: v.addr, Type: key.Type(), Key: key.Marshal(),
		Fingerprint: xssh.FingerprintSHA256(key)}
	refuse := func(cause error, hint string) error {
		return &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrTrust, Err: cause,
			Hint: fmt.Sprintf("%s; it showed %s %s", hint, seen.Type, seen.Fingerprint)}
	}
	if v.known != nil {
		err := v.known(v.addr, remote, key)
		var unknown *knownhosts.KeyError
		var revoked *knownhosts.RevokedError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &revoked):
			return refuse(err, "the key is revoked in known_hosts")
		case errors.As(err, &unknown) && len(unknown.Want) > 0 && !v.pinned(key):
			return refuse(err, "known_hosts has another key: the target was replaced, or somebody is in between")
		case !errors.As(err, &unknown) && !v.pinned(key):
			return refuse(err, "its host certificate is not accepted")
		}
	}
	if v.pinned(key) {
		return nil
	}
	switch {
	case len(v.pins) > 0:
		return refuse(nil, "the host key is none of those expected")
	case v.trust.FirstUse == nil:
		return refuse(nil, "the host key is not known; record it, or set Trust.FirstUse")
	}
	v.pause()
	defer v.goOn()
	if err := v.trust.FirstUse(v.ctx, seen); err != nil {
		return refuse(err, "first use was refused")
	}
	return nil
}

func (v *verifier) pinned(key xssh.PublicKey) bool {
	return slices.ContainsFunc(v.pins, func(k xssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}
