package smb

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Port is where SMB is served over TCP (MS-SMB2, section 2.1). On port 139 it is within a
// session of NetBIOS, which the driver opens first where the address names that port.
const Port = 445

// Transport dials Windows servers over SMB. Its zero value is ready for use, and it
// is safe for concurrent use.
type Transport struct {
	// DialContext opens the network connection; nil means a net.Dialer.
	DialContext transport.DialFunc
}

var _ transport.Transport = (*Transport)(nil)

// Dialect is a version of the protocol (MS-SMB2, section 2.2.3), such as 0x0311 for 3.1.1.
type Dialect uint16

// The dialects. Only 3.1.1 protects its own negotiation.
const (
	SMB202 Dialect = 0x0202
	SMB210 Dialect = 0x0210
	SMB300 Dialect = 0x0300
	SMB302 Dialect = 0x0302
	SMB311 Dialect = 0x0311
)

// String returns the version as people write it, such as "3.1.1".
func (d Dialect) String() string {
	switch d {
	case SMB311:
		return "3.1.1"
	case SMB302:
		return "3.0.2"
	case SMB300:
		return "3.0"
	case SMB210:
		return "2.1"
	case SMB202:
		return "2.0.2"
	}
	return fmt.Sprintf("%#04x", uint16(d))
}

// Options are the Endpoint.Options of this driver, as a value or a pointer. The zero
// value logs in with the endpoint's password and works on the share ADMIN$.
//
// The account is that of the endpoint's Credentials. A User of the form "DOMAIN\user" or
// "DOMAIN;user" means the same as Credentials.Domain with the user alone; "user@realm" is
// handed on as it is. Without a domain, or with ".", the host says whose account it is: its
// own, or where it is a member of a domain, that of the domain.
type Options struct {
	// Share is where the names of files start; "" means ADMIN$, which is the Windows
	// directory of the host.
	Share string
	// ShareRoot is the share as the host itself calls it, such as `C:\Windows`; ""
	// means that the host is asked (MS-SRVS, NetrShareGetInfo).
	ShareRoot string

	// NTHash is the MD4 hash of the password as 32 hexadecimal digits, in place of
	// the password.
	NTHash transport.Secret
	// Kerberos asks for a login without NTLM. This driver has none: it fails with
	// errors.ErrUnsupported, and never uses NTLM instead.
	Kerberos bool

	// Dialect is the one that is offered; 0 means 3.1.1, which Windows 10, Windows
	// Server 2016 and later speak. An older one is open to whoever can change what is
	// negotiated, and has to be asked for.
	Dialect Dialect
	// RequireEncryption refuses a connection that is not encrypted as a whole. The
	// driver cannot ask for encryption: the server has to require it
	// (Set-SmbServerConfiguration -EncryptData). Signatures are always required.
	RequireEncryption bool

	// NetBIOS tries what older networks need, too: port 139 where the address names no
	// port and 445 cannot be reached, and a name query on UDP port 137 for a name that
	// cannot be resolved otherwise; the latter without Transport.DialContext alone.
	NetBIOS bool
	// NameServers are asked for NetBIOS names, on port 137 if they name none; empty
	// means whoever hears a broadcast. Nobody proves to be the one whom a name means:
	// as with DNS, it is the login that does.
	NameServers []netip.AddrPort

	// WMI offers an inventory without an agent (transport.CapInventory). Beside port 445
	// it takes DCOM: TCP port 135, and one that the host names, which in the Windows
	// firewall are the rules DCOM-In and WMI-In. The account logs in there with NTLM,
	// too.
	WMI bool

	// ConnectTimeout bounds connecting and login; 0 means 30 s.
	ConnectTimeout time.Duration
	// StallTimeout ends a transfer of which no byte moved for so long, with
	// ErrTimeout; 0 means 2 minutes, below 0 never.
	StallTimeout time.Duration
	// KeepAlive is how long the line may be silent before the host is asked for a
	// sign of life; after three times as long without one the connection is lost.
	// 0 means 15 s, below 0 never.
	KeepAlive time.Duration
	// StopTimeout is how long StopService waits for the service to stop; 0 means 30 s.
	StopTimeout time.Duration
}

// options are checked, with defaults.
func options(ep transport.Endpoint) (Options, error) {
	var o Options
	switch given := ep.Options.(type) {
	case nil:
	case Options:
		o = given
	case *Options:
		if given != nil {
			o = *given
		}
	default:
		return o, fmt.Errorf("options of another driver: %T", given)
	}
	def := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	def(&o.ConnectTimeout, 30*time.Second)
	def(&o.StallTimeout, 2*time.Minute)
	def(&o.KeepAlive, 15*time.Second)
	def(&o.StopTimeout, 30*time.Second)
	if o.ConnectTimeout < 0 || o.StopTimeout < 0 {
		return o, errors.New("a negative ConnectTimeout or StopTimeout")
	}
	if o.Share == "" {
		o.Share = "ADMIN$"
	}
	if strings.ContainsAny(o.Share, `\/`) || strings.EqualFold(o.Share, "IPC$") {
		return o, fmt.Errorf("want the name of a share that holds files, not %q", o.Share)
	}
	if o.ShareRoot != "" && !isAbs(o.ShareRoot) {
		return o, fmt.Errorf(`the ShareRoot %q is no full path of Windows, such as C:\Windows`, o.ShareRoot)
	}
	o.ShareRoot = strings.TrimRight(o.ShareRoot, `\`)
	switch o.Dialect {
	case 0:
		o.Dialect = SMB311
	case SMB311, SMB302, SMB300, SMB210, SMB202:
	default:
		return o, fmt.Errorf("there is no dialect %v", o.Dialect)
	}
	return o, nil
}

// isAbs reports whether a path is a full one of Windows: of a drive, or of what has none
// (\\?\Volume{...}).
func isAbs(path string) bool {
	if strings.HasPrefix(path, `\\`) {
		return true
	}
	return len(path) >= 2 && (path[0]|0x20 >= 'a' && path[0]|0x20 <= 'z') && path[1] == ':' && (len(path) == 2 || path[2] == '\\')
}

// ntHash decodes Options.NTHash; "" means none.
func (o Options) ntHash() (string, error) {
	hash, err := hex.DecodeString(o.NTHash.Reveal())
	if err != nil || len(hash) != 0 && len(hash) != 16 {
		return "", errors.New("want 32 hexadecimal digits as NTHash")
	}
	return string(hash), nil
}

// account is who logs in.
type account struct{ user, domain, password, hash string }

// name is the account as people write it.
func (a account) name() string {
	if a.domain == "" {
		return a.user
	}
	return a.domain + ";" + a.user
}

// accountOf reads the credentials: "user", "DOMAIN\user" and "DOMAIN;user" in the field
// of the user mean the same as the domain in its own, and "user@realm" is handed on as
// it is.
func accountOf(ep transport.Endpoint, o Options) (account, error) {
	a := account{user: ep.Credentials.User, domain: ep.Credentials.Domain, password: ep.Credentials.Password.Reveal()}
	for _, sep := range []string{`\`, ";"} {
		if domain, user, ok := strings.Cut(a.user, sep); ok {
			switch {
			case domain == "":
				return a, fmt.Errorf("the user %q has no domain before the %s: write LAB%[2]suser, or the user alone", a.user, sep)
			case user == "":
				return a, fmt.Errorf("the user %q has no name after the %s: write %[1]suser", a.user, sep)
			}
			if a.domain != "" && !strings.EqualFold(a.domain, domain) {
				return a, fmt.Errorf("the user names the domain %q, and Domain is %q", domain, a.domain)
			}
			a.domain, a.user = domain, user
			break
		}
	}
	if user, realm, ok := strings.Cut(a.user, "@"); ok && (user == "" || realm == "") {
		return a, fmt.Errorf("the user %q is half of one: write user@lab.example", a.user)
	}
	var err error
	if a.hash, err = o.ntHash(); err != nil {
		return a, err
	}
	switch {
	case a == (account{}) && isWindows && !o.Kerberos: // those of whoever runs the program
		return a, nil
	case a.user == "":
		return a, errors.New("no user is given: anonymous and guest sessions are not signed")
	case a.hash != "" && a.password != "":
		return a, errors.New("both a password and NTHash are given")
	case a.hash == "" && a.password == "":
		return a, errors.New("neither a password nor NTHash is given")
	case a.domain == ".": // this host, as Windows writes it
		a.domain = ""
	}
	if strings.Contains(a.user, "@") {
		a.domain = ""
	}
	return a, nil
}

// dialer returns what opens connections.
func (t *Transport) dialer() transport.DialFunc {
	if t.DialContext != nil {
		return t.DialContext
	}
	return (&net.Dialer{}).DialContext
}

// isAdmin reports whether names start in the Windows directory.
func (o Options) isAdmin() bool { return strings.EqualFold(o.Share, "ADMIN$") }
