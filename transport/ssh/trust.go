package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// verifier decides about the host key of one dial.
type verifier struct {
	ctx    context.Context
	target string // as the caller wrote it
	addr   string // host:port as dialled
	trust  transport.Trust
	legacy bool
	pins   []xssh.PublicKey
	files  []*knownFile
	absent []string   // known_hosts files that do not exist
	known  []knownKey // of the target
	// elsewhere are the keys for the same host on port 22, where known has none for
	// this port. As with OpenSSH they count if the target shows one of them, and say
	// nothing otherwise.
	elsewhere []knownKey
	pause     func() // stops the clock while FirstUse decides
	goOn      func()
	decided   bool  // the host key was accepted
	err       error // why it was refused
}

// newVerifier finds out what is known of a target, before anything is sent to it.
func (d *dialer) newVerifier(ctx context.Context) (*verifier, error) {
	v := &verifier{ctx: ctx, target: d.ep.Address, addr: d.addr, trust: d.ep.Trust, legacy: d.opts.LegacyAlgorithms}
	for _, line := range v.trust.HostKeys {
		key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrInvalid, Err: err,
				Hint: `an expected host key (Trust.HostKeys) is no public key, such as "ssh-ed25519 AAAA..."`}
		}
		v.pins = append(v.pins, key)
	}
	broken := func(name string, err error) error {
		return &transport.Error{Op: "dial", Target: v.target, Path: name, Kind: transport.ErrInvalid, Err: err,
			Hint: "this known_hosts file (Trust.KnownHosts) cannot be used"}
	}
	var missing error
	for _, name := range v.trust.KnownHosts {
		f, err := d.t.known.get(ctx, name)
		switch {
		case err == nil:
			v.files = append(v.files, f)
		case errors.Is(err, fs.ErrNotExist):
			v.absent, missing = append(v.absent, name), err
		case ctx.Err() != nil:
			return nil, d.endError(ctx, err)
		default:
			return nil, broken(name, err)
		}
	}
	if missing != nil && len(v.files)+len(v.pins) == 0 && v.trust.FirstUse == nil {
		return nil, &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrTrust, Err: fmt.Errorf("%w: %w", transport.ErrUnknownIdentity, missing),
			Hint: fmt.Sprintf("no known_hosts file (Trust.KnownHosts) exists, of %s, so that nobody is known; "+
				"ssh-keyscan or the first ssh to the target writes one", strings.Join(v.absent, ", "))}
	}
	find := func(name string) (keys []knownKey, err error) {
		for _, f := range v.files {
			k, err := f.find(name)
			if err != nil {
				return nil, broken(f.name, err)
			}
			keys = append(keys, k...)
		}
		return keys, nil
	}
	var err error
	name := knownName(v.addr)
	v.known, err = find(name)
	if err == nil && len(v.known) == 0 && v.host() != name {
		v.elsewhere, err = find(v.host())
	}
	if err != nil {
		return nil, err
	}
	return v, v.askable()
}

// askable returns an error if the target cannot be asked for any key that would be
// good enough. Asked for nothing in particular, it would show what it likes.
func (v *verifier) askable() error {
	if len(v.algorithms()) > 0 {
		return nil
	}
	var types []string
	for _, k := range v.known {
		types = append(types, k.key.Type())
	}
	for _, k := range v.pins {
		types = append(types, k.Type())
	}
	slices.Sort(types)
	e := &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrTrust,
		Hint: fmt.Sprintf("what is recorded or expected as its key is %s, which is no host key", strings.Join(slices.Compact(types), ", "))}
	for _, t := range types {
		if slices.Contains(xssh.InsecureAlgorithms().HostKeys, t) {
			e.Kind = transport.ErrRejected
			e.Hint = fmt.Sprintf("its key is of the type %s, which is not secure: give the target another one, or allow that (Options.LegacyAlgorithms)", t)
		}
	}
	return e
}

// host is the target's name without the port.
func (v *verifier) host() string {
	host, _, err := net.SplitHostPort(v.addr)
	if err != nil {
		return v.addr
	}
	return canonicalHost(host)
}

// algorithms returns the host key algorithms to ask for: those of the keys that
// are known for the target, so that it shows a key that can be compared, and all
// plain ones where none is known.
func (v *verifier) algorithms() []string {
	all := xssh.SupportedAlgorithms().HostKeys
	if v.legacy {
		all = append(all, xssh.InsecureAlgorithms().HostKeys...)
	}
	var first, then []string
	for _, algo := range all {
		switch {
		case v.fits(algo, v.known) || v.fits(algo, v.elsewhere) || v.fitsPin(algo):
			first = append(first, algo)
		case !v.restricted() && !isCertAlgo(algo):
			then = append(then, algo)
		}
	}
	return append(first, then...)
}

// restricted reports whether only keys of the types that are known for the target
// are asked for.
func (v *verifier) restricted() bool { return len(v.known)+len(v.pins) > 0 }

// fits reports whether an algorithm is one of those keys', or shows a certificate
// of an authority among them.
func (v *verifier) fits(algo string, keys []knownKey) bool {
	return slices.ContainsFunc(keys, func(k knownKey) bool {
		if k.authority {
			return isCertAlgo(algo)
		}
		return k.key.Type() == keyType(algo)
	})
}

func (v *verifier) fitsPin(algo string) bool {
	return slices.ContainsFunc(v.pins, func(k xssh.PublicKey) bool { return k.Type() == keyType(algo) })
}

func isCertAlgo(algo string) bool { return strings.Contains(algo, "-cert-v01@") }

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
	shown := key
	cert, certified := key.(*xssh.Certificate)
	if certified {
		key = cert.Key
	}
	seen := transport.SeenIdentity{Address: v.addr, Type: key.Type(), Key: key.Marshal(),
		Fingerprint: xssh.FingerprintSHA256(key)}
	refuse := func(cause error, hint string) error {
		return &transport.Error{Op: "dial", Target: v.target, Kind: transport.ErrTrust, Err: cause,
			Hint: fmt.Sprintf("%s; it showed %s %s", hint, seen.Type, seen.Fingerprint)}
	}
	for _, f := range v.files {
		if where := f.revokes(shown); where != "" {
			return refuse(nil, "the key, or who certified it, is revoked ("+where+")")
		}
	}
	var certErr error
	if certified {
		if certErr = v.checkCert(cert); certErr == nil {
			return nil
		}
		// As with OpenSSH the key itself may be known all the same.
	}
	same := func(k xssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) }
	plain := func(k knownKey) bool { return !k.authority && same(k.key) }
	if slices.ContainsFunc(v.known, plain) || slices.ContainsFunc(v.elsewhere, plain) || slices.ContainsFunc(v.pins, same) {
		return nil
	}
	switch {
	case certErr != nil:
		return refuse(certErr, "its host certificate is not accepted")
	case len(v.known) > 0:
		return refuse(nil, "another key is recorded for it ("+v.known[0].where+"): the target was replaced, or somebody is in between")
	case len(v.pins) > 0:
		return refuse(nil, "this host key is none of those expected (Trust.HostKeys): the target was replaced, or somebody is in between")
	case v.trust.FirstUse == nil:
		return refuse(transport.ErrUnknownIdentity, v.unknown())
	}
	v.pause()
	defer v.goOn()
	if err := v.trust.FirstUse(v.ctx, seen); err != nil {
		return refuse(fmt.Errorf("%w: %w", transport.ErrUnknownIdentity, err), "its key is not known, and was not accepted on first use (Trust.FirstUse)")
	}
	return nil
}

// unknown says where no key was found for the target.
func (v *verifier) unknown() string {
	how := "compare the fingerprint and record the key there, or decide on first use (Trust.FirstUse)"
	if len(v.files) == 0 {
		return "nothing is known that the target could prove itself with: name its key (Trust.HostKeys) " +
			"or a known_hosts file (Trust.KnownHosts), or decide on first use (Trust.FirstUse)"
	}
	var names []string
	for _, f := range v.files {
		names = append(names, f.name)
	}
	s := fmt.Sprintf("no key of %s is recorded in %s", knownName(v.addr), strings.Join(names, ", "))
	if len(v.absent) > 0 {
		s += fmt.Sprintf(" (%s: no such file)", strings.Join(v.absent, ", "))
	}
	return s + ": " + how
}

// checkCert checks a host certificate (OpenSSH, PROTOCOL.certkeys).
func (v *verifier) checkCert(cert *xssh.Certificate) error {
	checker := xssh.CertChecker{IsHostAuthority: func(authority xssh.PublicKey, _ string) bool {
		known := func(k knownKey) bool { return k.authority && bytes.Equal(k.key.Marshal(), authority.Marshal()) }
		return slices.ContainsFunc(v.known, known) || slices.ContainsFunc(v.elsewhere, known)
	}}
	if format := cert.Signature.Format; !v.legacy && slices.Contains(xssh.InsecureAlgorithms().PublicKeyAuths, format) {
		return fmt.Errorf("the certificate is signed with %s, which is not secure", format)
	}
	// Unlike package ssh, OpenSSH lets the names in host certificates be patterns.
	name := v.host()
	for _, p := range cert.ValidPrincipals {
		if matchPattern(name, strings.ToLower(p)) {
			name = p
			break
		}
	}
	return checker.CheckHostKey(net.JoinHostPort(name, "22"), nil, cert)
}
