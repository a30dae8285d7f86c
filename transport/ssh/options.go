package ssh

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// Transport dials targets over SSH. Its zero value is ready for use, and it is
// safe for concurrent use.
type Transport struct {
	// DialContext opens the network connection; nil means a net.Dialer. For a
	// jump host it is what Through returns.
	DialContext transport.DialFunc

	known knownCache
	bulk  bulkSizes // set by tests
}

var _ transport.Transport = (*Transport)(nil)

// Options are the Endpoint.Options of this driver, as a value or a pointer. The
// zero value logs in with the endpoint's password and works as the user who
// logged in.
type Options struct {
	// Signers are private keys in memory, tried in this order.
	Signers []xssh.Signer
	// IdentityFiles are private keys on the manager's disk, tried after Signers.
	// They are read at each dial, which fails with ErrInvalid before it connects if
	// one cannot be used; for a fleet, ParseKey once and use Signers.
	IdentityFiles []IdentityFile
	// AgentSocket is the Unix socket of an ssh-agent, whose keys are tried after
	// the others. "" means none: the environment is never consulted.
	AgentSocket string

	// Elevate says how commands and file operations get the rights of root.
	Elevate Elevation
	// SudoPassword is what sudo is told when it asks. Without it, sudo must not ask.
	SudoPassword transport.Secret

	// ConnectTimeout bounds connecting, key exchange and login, and after that the
	// first answer of the login shell; 0 means 30 s. The time that Trust.FirstUse
	// takes does not count, nor what it takes to read and decrypt keys before.
	ConnectTimeout time.Duration
	// StallTimeout ends a transfer of which no byte moved for so long, with
	// ErrTimeout; 0 means 2 minutes, below 0 never.
	StallTimeout time.Duration
	// KeepAlive is how long the line may be silent before the target is asked for
	// a sign of life; after three times as long without one the connection is
	// lost. 0 means 15 s, below 0 never.
	KeepAlive time.Duration

	// MaxSessions is how many commands run at a time on one connection; further
	// ones wait. 0 means 8, which together with the driver's own sessions stays
	// within OpenSSH's default MaxSessions of 10.
	MaxSessions int

	// OneConnection keeps a large Put on the connection that it was called on.
	// Otherwise it makes a second one for its duration, with the same login and the
	// same host key, because a server encrypts each connection on one core and
	// grants each a window of 2 MiB; if that cannot be made, one has to do.
	OneConnection bool

	// LegacyAlgorithms adds the algorithms that golang.org/x/crypto/ssh holds to
	// be insecure, for old management processors and switches: SHA-1 signatures of
	// RSA keys, on either side, among them. It needs a host key that is known before
	// (Trust.HostKeys or Trust.KnownHosts).
	LegacyAlgorithms bool
}

// IdentityFile is a private key on the manager's disk in PEM or OpenSSH form. A
// certificate beside it, named as OpenSSH does with "-cert.pub", is used too.
type IdentityFile struct {
	Path       string
	Passphrase transport.Secret // if the key is encrypted
}

// Elevation is a way to get the rights of root.
type Elevation int

// The ways.
const (
	// NoElevation works as the user who logged in.
	NoElevation Elevation = iota
	// Sudo runs everything under sudo, unless the user is root anyway.
	Sudo
)

const (
	defaultConnect  = 30 * time.Second
	defaultStall    = 2 * time.Minute
	defaultKeep     = 15 * time.Second
	defaultSessions = 8
)

// optionsOf returns the options of an endpoint with defaults filled in.
func optionsOf(ep transport.Endpoint) (Options, error) {
	var o Options
	switch v := ep.Options.(type) {
	case nil:
	case Options:
		o = v
	case *Options:
		if v != nil {
			o = *v
		}
	default:
		return o, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid,
			Hint: "Endpoint.Options of this driver are ssh.Options"}
	}
	if o.Elevate != NoElevation && o.Elevate != Sudo {
		return o, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid,
			Hint: "there is no such way to get the rights of root (Options.Elevate)"}
	}
	if o.LegacyAlgorithms && (ep.Trust.FirstUse != nil || len(ep.Trust.HostKeys)+len(ep.Trust.KnownHosts) == 0) {
		return o, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrInvalid,
			Hint: "insecure algorithms (Options.LegacyAlgorithms) are for targets whose key is known before (Trust.HostKeys or " +
				"Trust.KnownHosts), and never for a first use (Trust.FirstUse)"}
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = defaultConnect
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = defaultStall
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeep
	}
	if o.MaxSessions <= 0 {
		o.MaxSessions = defaultSessions
	}
	return o, nil
}

// ParseKey parses a private key in PEM or OpenSSH form. The passphrase is needed
// only if the key is encrypted; a wrong one, like a malformed key, is ErrInvalid.
func ParseKey(pem []byte, passphrase transport.Secret) (xssh.Signer, error) {
	signer, err := xssh.ParsePrivateKey(pem)
	var missing *xssh.PassphraseMissingError
	if errors.As(err, &missing) && !passphrase.IsZero() {
		signer, err = xssh.ParsePrivateKeyWithPassphrase(pem, []byte(passphrase.Reveal()))
	}
	if err != nil {
		e := &transport.Error{Op: "parse key", Kind: transport.ErrInvalid, Err: err}
		if errors.As(err, &missing) {
			e.Hint = "the key is encrypted and needs its passphrase"
		}
		return nil, e
	}
	return signer, nil
}

// Through returns a DialFunc that reaches targets from inside conn, a connection
// to a jump host that can tunnel TCP. Jump hosts can be chained. The connections
// that it opens end with conn.
func Through(conn transport.Conn) transport.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		switch network {
		case "tcp4", "tcp6":
			network = "tcp"
		}
		return transport.Dial(ctx, conn, network, address)
	}
}
