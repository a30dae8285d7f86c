package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// Names in an agent's directory that the manager uses.
const (
	BinaryName = "roundsman-agent"
	// WindowsBinaryName is BinaryName where the name of a program says that it is one.
	WindowsBinaryName = "roundsman-agent.exe"
	BootstrapName     = "bootstrap.json"
	ReadyName         = "ready.json"
	LogName           = "agent.log"
	SocketName        = "agent.sock"
)

// ServicePrefix begins the names of all services of Windows, and of all pipes, that an
// agent has: what was left of one is found by it.
const ServicePrefix = "roundsman-"

// ServiceName is the name of the service as which the agent with an ID runs on Windows.
func ServiceName(id string) string { return ServicePrefix + "agent-" + id }

// RemoveServiceName is the name of the service as which the command remove runs there,
// once, for the agent with an ID.
func RemoveServiceName(id string) string { return ServicePrefix + "remove-" + id }

// PipeName is the name of the pipe of the agent with an ID, without \\.\pipe\.
func PipeName(id string) string { return ServicePrefix + "agent-" + id }

const (
	// DefaultPort is where an agent that listens on TCP begins to look for a
	// free port.
	DefaultPort = 62286
	// DefaultLease is the lease of an agent that is not told another.
	DefaultLease = 15 * time.Minute

	// fileVersion is the version of Bootstrap and Ready.
	fileVersion = 1
	maxFile     = 1 << 20  // bytes of a JSON file that is read
	maxRecord   = 16 << 20 // of a job's record or specification
)

// DefaultBaseDirs are the directories below which an agent's directory is made,
// best first: as root, and for a user whose home directory is home. /tmp is not
// among them: others may write there, and it is often mounted noexec.
//
// In a program that runs on Windows, with a home directory of Windows, they are those of
// that host: roundsman in its own directory, %SystemRoot%, where administrators alone can
// write, or what is the user's own.
func DefaultBaseDirs(root bool, home string) []string {
	if runtime.GOOS == "windows" && filepath.IsAbs(home) {
		return nativeBaseDirs(root, home)
	}
	if root {
		return []string{"/var/lib/roundsman", "/opt/roundsman"}
	}
	return []string{path.Join(home, ".cache/roundsman")}
}

// Bootstrap is what the manager leaves in the agent's directory, in a file that
// only the agent's user can read. The agent deletes it as soon as it has read it.
// It has either Credentials or Manager.
type Bootstrap struct {
	Version int    `json:"version"` // 1
	Nonce   string `json:"nonce"`   // comes back in Ready, to tell this start from others
	Target  string `json:"target"`  // for the log
	// Credentials is what channel.AgentCredentials.MarshalBootstrap gives: it
	// contains keys.
	Credentials json.RawMessage `json:"credentials,omitempty"`
	// Manager is the fingerprint of the manager's own key (channel.OwnKey), as
	// channel.Fingerprint.String gives it: for a way on which others may read, but change
	// nothing. Then the agent makes a key that never leaves its memory, and says in
	// Ready which.
	Manager string `json:"manager,omitempty"`
	// LeaseSeconds is how long the agent stays without hearing from the manager;
	// 0 means DefaultLease.
	LeaseSeconds int `json:"lease_seconds,omitempty"`
	// KeepLogsSeconds is how long logs of agents that have left stay beside this
	// one's directory; 0 means DefaultKeepLogs, and what is less than 0 for ever.
	KeepLogsSeconds int64 `json:"keep_logs_seconds,omitempty"`
	// Network is "unix", which "" means too, "tcp", or on Windows "pipe", which "" means
	// there: a named pipe that only the agent's user, the system and administrators can open,
	// on the host and over SMB.
	Network string `json:"network,omitempty"`
	// Listen is for "tcp": the address to listen on, as "host:port". Without a
	// port it is the first free one from DefaultPort on. For "pipe" it is the name of the
	// pipe; without any that is roundsman-agent- and the ID of the agent.
	Listen string `json:"listen,omitempty"`
	// AllowForeign: see channel.Server.
	AllowForeign bool `json:"allow_foreign,omitempty"`
	// Callback is for the classic generation: where the agent reaches the manager, as
	// "host:port", in the order in which they are tried. Without any it calls nobody.
	Callback []string `json:"callback,omitempty"`
	// Firewall is for "tcp": who is let through the host's firewall to the agent's
	// ports while it listens on them. Without any the firewall is left alone.
	Firewall []netip.Prefix `json:"firewall,omitempty"`
}

// String names the bootstrap without its keys, so that it can be logged.
func (b Bootstrap) String() string {
	return fmt.Sprintf("bootstrap of %s, nonce %s, network %q", b.Target, b.Nonce, b.Network)
}

// GoString is String.
func (b Bootstrap) GoString() string { return b.String() }

func (b Bootstrap) lease() time.Duration {
	if b.LeaseSeconds <= 0 {
		return DefaultLease
	}
	return time.Duration(b.LeaseSeconds) * time.Second
}

func (b Bootstrap) keepLogs() time.Duration {
	return time.Duration(min(max(b.KeepLogsSeconds, -1), math.MaxInt64/int64(time.Second))) * time.Second
}

// network is where it listens.
func (b Bootstrap) network() string { return cmp.Or(b.Network, defaultNetwork) }

func (b Bootstrap) check() error {
	switch {
	case b.Version != fileVersion:
		return fmt.Errorf("version %d of %s is not known to this agent, which knows %d", b.Version, BootstrapName, fileVersion)
	case b.Nonce == "":
		return fmt.Errorf("%s has no nonce", BootstrapName)
	case (len(b.Credentials) == 0) == (b.Manager == ""):
		return fmt.Errorf("%s must have either credentials or the fingerprint of the manager's key", BootstrapName)
	case b.Network != "" && b.Network != "unix" && b.Network != "tcp" && b.Network != "pipe":
		return fmt.Errorf("network %q: want unix, tcp or pipe", b.Network)
	case b.network() == "pipe" && runtime.GOOS != "windows":
		return fmt.Errorf("network %q: %w", b.Network, errNotHere)
	}
	return nil
}

// identity is who the agent is, and whom it trusts. The fingerprint is that of a key of
// its own, and else empty.
func (b Bootstrap) identity() (cred *channel.AgentCredentials, fingerprint string, err error) {
	if b.Manager == "" {
		cred, err = channel.ParseAgentBootstrap(b.Credentials)
		return cred, "", err
	}
	manager, err := channel.ParseFingerprint(b.Manager)
	if err != nil {
		return nil, "", fmt.Errorf("the manager's key: %w", err)
	}
	key, err := channel.NewOwnKey()
	if err != nil {
		return nil, "", err
	}
	if cred, err = key.Agent(manager); err != nil {
		return nil, "", err
	}
	return cred, key.Fingerprint().String(), nil
}

// Ready is what an agent leaves in its directory once it listens. It holds no
// secrets.
type Ready struct {
	Version      int    `json:"version"` // 1
	Nonce        string `json:"nonce"`   // of the Bootstrap
	PID          int    `json:"pid"`
	StartTime    string `json:"start_time"` // of the process, as the system counts it
	Network      string `json:"network"`    // "unix", "tcp" or "pipe"
	Addr         string `json:"addr"`       // path of the socket, host:port, or name of the pipe
	Epoch        string `json:"epoch"`      // see channel.Client
	AgentVersion string `json:"agent_version"`
	// Fingerprint is that of the agent's own key, where the Bootstrap has Manager: what the
	// manager must pin (channel.OwnKey.Manager).
	Fingerprint string `json:"fingerprint,omitempty"`
	// Swept is what dead agents of other managers had left, which this one has taken away:
	// directories, and as "service NAME" services. It names no more than 200.
	Swept []string `json:"swept,omitempty"`
}

const maxSwept = 200

// readJSON reads a small JSON file.
func readJSON(name string, v any) error { return readLimited(name, v, maxFile) }

func readLimited(name string, v any, limit int64) error {
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	if fi.Size() > limit {
		return fmt.Errorf("%s: %d bytes are too many", name, fi.Size())
	}
	data, err := readFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		// The decoder's error may quote the input, which may hold keys.
		return fmt.Errorf("%s: not the JSON that it should be", name)
	}
	return nil
}

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".tmp-"

// encodeJSON gives what writeJSON writes. It leaves <, > and & as they are: six
// bytes for each would make a file larger than the message it came in.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(v)
	return buf.Bytes(), err
}

// writeJSON replaces a file in one step that survives a crash: whoever reads it
// sees all of the old content or all of the new.
func writeJSON(name string, v any) error {
	data, err := encodeJSON(v)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = renameFile(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}
