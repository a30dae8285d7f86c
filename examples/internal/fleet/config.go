package fleet

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
)

// Config configures a Resolver. The zero value finds what OpenSSH finds.
type Config struct {
	// SSHConfig is the file to read instead of ~/.ssh/config and the system's
	// ssh_config; "none" reads neither.
	SSHConfig string
	// Identities are private key files to use instead of those that are
	// configured or usual. The agent is asked too.
	Identities []string
	// KnownHosts are the known_hosts files to use instead of the configured or
	// usual ones.
	KnownHosts []string

	// Password is for targets that refuse the keys; zero means there is none. Jump
	// hosts are not offered it: one that refuses the keys has its own asked for.
	Password transport.Secret
	// Passwords are those of targets that have one of their own, by what Target.String
	// returns.
	Passwords map[string]transport.Secret
	// WMI offers an inventory of Windows servers without an agent; see smb.Options.
	WMI bool
	// NetBIOS reaches Windows servers as older networks have it, too: by port 139 where 445
	// cannot be reached, and by a query on UDP port 137 for names that are not found
	// otherwise (not with DialContext); see smb.Options.
	NetBIOS bool
	// Sudo does everything under sudo, unless the user is root anyway.
	Sudo bool
	// SudoPassword is what sudo is told when it asks; zero means Password, or
	// what Ask has given for the login.
	SudoPassword transport.Secret
	// Ask, if set, asks the person at the terminal for a secret. The prompt says
	// for what. Calls come one at a time.
	Ask func(ctx context.Context, prompt string) (transport.Secret, error)

	// Pins is the file with the recorded keys of targets that speak Redfish, as
	// [redfish.AcceptNew] writes it; "" means roundsman/redfish_pins in the user's
	// directory for states, as that of the journal.
	Pins string
	// AcceptNew trusts such a target when it is seen for the first time, and records
	// its key. Without it one that is not in Pins and has no authority is refused.
	AcceptNew bool
	// Authorities are PEM files with authorities for the certificates of such targets;
	// nil means those of the system.
	Authorities []string
	// Keys are the SHA-256 digests of the public keys that such a target may show, in
	// their PKIX form; where there are any, neither Pins nor the system's authorities
	// count.
	Keys [][sha256.Size]byte
	// Redfish are options for such targets. Its ConnectTimeout does not count.
	Redfish redfish.Options
	// RedfishTargets are what is said of single ones, by what Target.String returns; it
	// comes before the rest of the Config.
	RedfishTargets map[string]RedfishSettings

	// ConnectTimeout is how long a target may take to be reached; 0 means what
	// OpenSSH's configuration says, else 30 s. Logging in counts, unless there is
	// somebody to Ask, who may take 2 minutes. Who did not answer in time is not
	// tried again.
	ConnectTimeout time.Duration
	// Handshakes is how many logins go on at a time directly, and through each
	// jump host; 0 means 16.
	Handshakes int
	// Logger gets warnings, and with Debug a record of each call; nil discards
	// them.
	Logger *slog.Logger
	// Debug logs each call on a connection.
	Debug bool

	// Home is the home directory; "" means the user's.
	Home string
	// System is the directory of the system's configuration; "" means the one
	// that OpenSSH uses on this system.
	System string
	// Getenv looks up SSH_AUTH_SOCK and what the configuration refers to; nil
	// means os.Getenv.
	Getenv func(string) string
	// User is the login name where none is configured; "" means the current
	// user's.
	User string
	// DialContext opens the first network connection; nil means a net.Dialer.
	DialContext transport.DialFunc
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() (Config, error) {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	if c.Home == "" {
		c.Home = c.Getenv("HOME")
	}
	if c.Home == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return c, err
		}
		c.Home = home
	}
	if c.System == "" {
		c.System = "/etc/ssh"
		if runtime.GOOS == "windows" {
			c.System = filepath.Join(c.Getenv("ProgramData"), "ssh")
		}
	}
	if c.User == "" {
		u, err := user.Current()
		if err != nil {
			return c, err
		}
		c.User = u.Username
		if runtime.GOOS == "windows" {
			c.User = filepath.Base(u.Username) // without the domain
		}
	}
	if c.Pins == "" {
		state := c.Getenv("XDG_STATE_HOME")
		switch {
		case filepath.IsAbs(state):
		case runtime.GOOS == "windows":
			state = c.Getenv("LocalAppData")
		default:
			state = filepath.Join(c.Home, ".local", "state")
		}
		c.Pins = filepath.Join(state, "roundsman", "redfish_pins")
	}
	if c.Handshakes <= 0 {
		c.Handshakes = 16
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
