package redfishtest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Profile is a kind of management processor.
type Profile string

// The profiles.
const (
	Generic Profile = "generic" // a service that conforms to DSP0266 and has no vendor's extensions
	ILO4    Profile = "ilo4"
	ILO5    Profile = "ilo5"
	ILO6    Profile = "ilo6"
	ILO7    Profile = "ilo7"
	RMC     Profile = "rmc" // the Rack Management Controller of a Superdome Flex complex
)

// Profiles returns every profile.
func Profiles() []Profile { return []Profile{Generic, ILO4, ILO5, ILO6, ILO7, RMC} }

// ilo returns the generation of an iLO, or 0.
func (p Profile) ilo() int {
	switch p {
	case ILO4:
		return 4
	case ILO5:
		return 5
	case ILO6:
		return 6
	case ILO7:
		return 7
	}
	return 0
}

// Tasks is how a service answers a request for an update.
type Tasks string

// The answers to SimpleUpdate. Pushes to an iLO never make a task.
const (
	TasksDefault  Tasks = ""         // as the profile and its version do
	TasksNone     Tasks = "none"     // a message and no task: iLO 5 before 2.30; of an RMC, 200 with the link of the task alone
	TasksOK       Tasks = "ok"       // 200 with the task in the body and its monitor in it
	TasksAccepted Tasks = "accepted" // 202, the monitor in Location and the task in the body
)

// Mark is a parameter of a push to an iLO.
type Mark string

// The parameters in which a client can give an upload a mark. HPE's documentation
// has the second, HPE's own client sends the first.
const (
	MarkEither            Mark = "" // whichever is there
	MarkETag              Mark = "ETag"
	MarkUploadCurrentEtag Mark = "UploadCurrentEtag"
)

func (m Mark) of(u upload) string {
	if m != MarkUploadCurrentEtag && u.ETag != "" {
		return u.ETag
	}
	if m != MarkETag {
		return u.OtherETag
	}
	return ""
}

// Config describes a server. The zero value makes a Generic one.
type Config struct {
	Profile Profile // "" means Generic

	// User is an administrator; "" means "admin".
	User string
	// Password of User; "" means a random one.
	Password string
	// Accounts are further accounts.
	Accounts []Account
	// Sessions is how many sessions there can be at a time; 0 means 12. Further
	// logins end in 503 with SessionLimitExceeded.
	Sessions int
	// NoBasic refuses Basic authentication (RFC 7617).
	NoBasic bool

	// Firmware is the inventory; nil means [Profile.Firmware].
	Firmware []Firmware
	// Tasks is how requests for updates are answered.
	Tasks Tasks
	// PushTasks is how pushes to a Generic service are answered; "" means as Tasks.
	PushTasks Tasks
	// TaskPayload makes tasks name the request that made them (Payload).
	TaskPayload bool
	// LastResetTime makes the manager, and the host, tell when they were last reset.
	LastResetTime bool
	// Mark is the parameter of a push to an iLO that comes back as UploadCurrentEtag.
	Mark Mark
	// PushTargets gives a Generic service HttpPushUriTargets and HttpPushUriTargetsBusy.
	PushTargets bool
	// NoApplyTime is a Generic service that does not know @Redfish.OperationApplyTime:
	// it refuses it with ActionParameterUnknown.
	NoApplyTime bool
	// OtherActions puts the vendor's actions where other machines of the kind have
	// them: AddFromUri under Actions.Oem.Hpe instead of Oem.Hpe.Actions, and
	// SD.UpdateAll under Actions.Oem instead of SDFlexUpdateService.UpdateAll under
	// Actions.Oem.Hpe.
	OtherActions bool
	// Repository is the room for components in bytes; 0 means 4 GiB.
	Repository int64
	// ImageRoots, if set, are the authorities that the service accepts for https
	// images and event destinations; nil accepts every certificate.
	ImageRoots *x509.CertPool

	// DialContext is how the service connects to where images and the destinations of
	// events are; nil means as the process does.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Capture, if set, is served instead of a profile; see [Capture].
	Capture *Capture

	// Addr is where the server listens, an IP address and a port, as
	// "127.0.0.1:8443" or "[::1]:0"; port 0 is a free one, which stays the server's
	// until it is closed. "" means a free port of the loopback interface. What can be
	// reached from elsewhere is open to all there who know the password.
	Addr string
	// IPv6 means [::1] instead of 127.0.0.1 where Addr is "".
	IPv6 bool
	// Certificate, if set, is what the server shows, until [Server.NewCertificate]:
	// for servers that are started again and are to be known again.
	Certificate *tls.Certificate
	// LegacyTLS is a service of old: TLS 1.0 with RSA key exchange and CBC, and
	// nothing better.
	LegacyTLS bool

	// Pace is how long one step takes: to verify takes one, to write four; Complete
	// can be read for two before the service resets, which takes four. 0 means 5
	// milliseconds. Real ones take minutes. It is real time, unless [Server.Advance]
	// moves the clock: sockets do not follow the one of testing/synctest.
	Pace time.Duration
	// RequestLog is how many requests [Server.Requests] keeps, the newest; 0 means
	// 20000.
	RequestLog int
	// Log, if set, gets a record for each request and each step of an update.
	Log *slog.Logger
}

// Role is what an account may do.
type Role string

// The roles.
const (
	Administrator Role = "Administrator"
	// NoRecovery is an administrator without the right to the recovery set
	// (SystemRecoveryConfigPriv).
	NoRecovery Role = "NoRecovery"
	ReadOnly   Role = "ReadOnly" // may log in and read
)

// Account is an account of a service.
type Account struct {
	User, Password string
	Role           Role // "" means ReadOnly
}

func (c Config) withDefaults() (Config, error) {
	if c.Profile == "" {
		c.Profile = Generic
	}
	fw := c.Profile.Firmware()
	if fw == nil {
		return c, fmt.Errorf("redfishtest: no profile %q; there are %v", c.Profile, Profiles())
	}
	if c.Firmware == nil {
		c.Firmware = fw
	}
	if c.User == "" {
		c.User = "admin"
	}
	if c.Password == "" {
		c.Password = rand.Text()
	}
	if c.Sessions == 0 {
		c.Sessions = 12
	}
	if c.Repository == 0 {
		c.Repository = 4 << 30
	}
	if c.RequestLog <= 0 {
		c.RequestLog = 20_000
	}
	if c.Pace == 0 {
		c.Pace = 5 * time.Millisecond
	}
	if c.Tasks == TasksDefault {
		c.Tasks = TasksAccepted
		if g := c.Profile.ilo(); g == 4 || g == 5 && len(c.Firmware) > 0 && compareVersions(c.Firmware[0].Version, "2.30") < 0 {
			c.Tasks = TasksNone
		}
	}
	if c.PushTasks == TasksDefault {
		c.PushTasks = c.Tasks
	}
	seen := make(map[string]bool)
	for _, f := range c.Firmware {
		if f.ID == "" || seen[f.ID] {
			return c, fmt.Errorf("redfishtest: firmware %q has the ID %q, which is empty or not the only one", f.Name, f.ID)
		}
		seen[f.ID] = true
	}
	return c, nil
}

// address is where to listen.
func (c Config) address() (netip.AddrPort, error) {
	switch {
	case c.Addr != "":
		at, err := netip.ParseAddrPort(c.Addr)
		if err != nil {
			return at, fmt.Errorf("redfishtest: Config.Addr: %w; it is an IP address with a port", err)
		}
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
	case c.IPv6:
		return netip.AddrPortFrom(netip.IPv6Loopback(), 0), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), nil
}

// accounts are all accounts, User first.
func (c Config) accounts() []Account {
	return append([]Account{{User: c.User, Password: c.Password, Role: Administrator}}, c.Accounts...)
}
