package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// TargetConfig describes a target of a [Fake]. The personalities fill it in;
// [Fake.Add] takes it for anything else.
type TargetConfig struct {
	Address, Object string             // as in Endpoint
	Addr            netip.Addr         // IP address; invalid means one of 198.51.100.0/24
	Identity        transport.Identity // BootID is set by the fake
	Caps            transport.Caps
	User            string
	Password        transport.Secret
	// HostKey is what the target shows, in authorized_keys form; "" means that it
	// does not authenticate itself. Endpoints trust it through Trust.HostKeys,
	// through Trust.SPKI with the SHA-256 of the decoded key, or by first use.
	HostKey string
	// Windows makes the file system that of a share of a Windows server:
	// case-insensitive, with the names and modes that Windows has, rooted at
	// C:\Windows as ADMIN$ is.
	Windows bool
	// Volatile are directories whose content a reboot removes.
	Volatile []string
	// Space is how many bytes of content the file system holds; 0 means any number.
	Space int64
	// Skew is by how much the target's clock is ahead of the manager's.
	Skew time.Duration

	Children []transport.Child
	Devices  []transport.Device
	Software []transport.Software
	// Behind says that the connection leads to something else, such as the vCenter
	// of a host: a reboot of this target does not break it.
	Behind bool
	// CallbackFrom is who dials back; nil means Addr.
	CallbackFrom []netip.Prefix

	// Pull makes Update have the target fetch the payload over HTTP.
	Pull bool
	// FetchTimeout is how long Update waits for the target to fetch; 0 means until
	// the context ends.
	FetchTimeout time.Duration
	// Staged is what activates an update; none means that it is active at once.
	Staged transport.Activation
	// ForgetJobs makes a reboot erase the target's memory of updates.
	ForgetJobs bool
}

// A Target is one target of a [Fake]. It is safe for concurrent use.
type Target struct {
	f   *Fake
	cfg TargetConfig // fields that change are guarded by f.mu
	fs  *memFS

	// guarded by f.mu
	boot      context.Context // ends with a reboot
	endBoot   context.CancelFunc
	bootDials int
	faults    []*Injected
	programs  []program
	expects   []serviceScript
	services  map[string]*service
	listeners map[string]*listener
	flasher   flasher
}

// Add adds a target. A target of the same address and object is replaced.
func (f *Fake) Add(cfg TargetConfig) *Target {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.AddrFrom4([4]byte{198, 51, 100, byte(len(f.targets)%254 + 1)})
	}
	if cfg.CallbackFrom == nil {
		cfg.CallbackFrom = []netip.Prefix{netip.PrefixFrom(cfg.Addr, cfg.Addr.BitLen())}
	}
	cfg.Identity.BootID = rand.Text()
	cfg.Devices = slices.Clone(cfg.Devices)
	t := &Target{f: f, cfg: cfg, fs: newMemFS(cfg.Windows, cfg.Space),
		services: map[string]*service{}, listeners: map[string]*listener{}}
	t.flasher.init()
	t.boot, t.endBoot = context.WithCancel(f.life)
	f.targets[targetKey{cfg.Address, cfg.Object}] = t
	return t
}

// Fake returns the fake that the target belongs to.
func (t *Target) Fake() *Fake { return t.f }

// Address returns the address as endpoints give it.
func (t *Target) Address() string { return t.cfg.Address }

// Object returns the object as endpoints give it.
func (t *Target) Object() string { return t.cfg.Object }

// Caps returns the capabilities of its connections.
func (t *Target) Caps() transport.Caps { return t.cfg.Caps }

// Endpoint returns an endpoint with the right credentials and trust.
func (t *Target) Endpoint() transport.Endpoint {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	ep := transport.Endpoint{Address: t.cfg.Address, Object: t.cfg.Object,
		Credentials: transport.Credentials{User: t.cfg.User, Password: t.cfg.Password}}
	if t.cfg.HostKey != "" {
		ep.Trust.HostKeys = []string{t.cfg.HostKey}
	}
	return ep
}

// Identity returns who the target says it is.
func (t *Target) Identity() transport.Identity {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	return t.cfg.Identity
}

// SetIdentity makes the target answer as somebody else: another machine at the
// same address. The BootID is kept if id has none.
func (t *Target) SetIdentity(id transport.Identity) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if id.BootID == "" {
		id.BootID = t.cfg.Identity.BootID
	}
	t.cfg.Identity = id
}

// SetHostKey makes the target show another key from now on, so that endpoints
// made before fail with ErrTrust.
func (t *Target) SetHostKey(key string) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.cfg.HostKey = key
}

// SetPassword makes the target take another password from now on.
func (t *Target) SetPassword(password transport.Secret) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.cfg.Password = password
}

// Cut breaks every connection to the target, as a pulled cable does. Later dials
// work.
func (t *Target) Cut() {
	for _, c := range t.openConns() {
		c.lose()
	}
}

func (t *Target) openConns() []*conn {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	var out []*conn
	for c := range t.f.conns {
		if c.t == t {
			out = append(out, c)
		}
	}
	return out
}

// RebootNow reboots the target: its connections are lost, programs end, services
// and listeners stop, volatile directories are emptied, staged updates that a
// reboot activates become active, and the BootID changes. Files, registered
// services and, unless ForgetJobs is set, the memory of updates survive. The
// next bootDials dials find it still booting.
func (t *Target) RebootNow(bootDials int) {
	t.f.mu.Lock()
	t.endBoot()
	t.boot, t.endBoot = context.WithCancel(t.f.life)
	t.bootDials = bootDials
	t.cfg.Identity.BootID = rand.Text()
	var listeners []*listener
	for _, l := range t.listeners {
		listeners = append(listeners, l)
	}
	var stopping []*service
	for _, s := range t.services {
		stopping = append(stopping, s)
	}
	t.activateLocked(transport.ActivationReboot)
	if t.cfg.ForgetJobs {
		t.flasher.jobs = nil
	}
	t.f.mu.Unlock()
	for _, s := range stopping {
		s.waitStopped()
	}
	for _, l := range listeners {
		l.abort()
	}
	for _, dir := range t.cfg.Volatile {
		t.fs.removeBelow(dir)
	}
	if !t.cfg.Behind {
		t.Cut()
	}
}

// Go runs f as a process of the target that no connection holds, such as one
// that a program put in the background. Its context ends when the target reboots
// or the fake is closed; f must return then. Close waits for it.
func (t *Target) Go(f func(ctx context.Context)) {
	t.f.mu.Lock()
	boot := t.boot
	t.f.mu.Unlock()
	t.f.spawn(func() { f(boot) })
}

// ReadFile returns the content of a file of the target.
func (t *Target) ReadFile(name string) ([]byte, error) { return t.fs.read(name) }

// WriteFile writes a file of the target, and the directories above it.
func (t *Target) WriteFile(name string, content []byte) error {
	return t.fs.write(name, bytes.Clone(content), 0o600)
}

// Files returns the paths of all files of the target, partial ones included,
// sorted. Directories are not listed.
func (t *Target) Files() []string { return t.fs.files() }

// checkTrust is what a driver does with the key that a target shows.
func checkTrust(ctx context.Context, ep transport.Endpoint, key string) error {
	typ, encoded, _ := strings.Cut(key, " ")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("the fake's HostKey is no key: %w", err)
	}
	if slices.Contains(ep.Trust.HostKeys, key) || slices.Contains(ep.Trust.SPKI, sha256.Sum256(raw)) {
		return nil
	}
	if len(ep.Trust.HostKeys)+len(ep.Trust.SPKI) > 0 {
		return errors.New("the target shows another key than the one on record")
	}
	if ep.Trust.FirstUse == nil {
		return errors.New("no key of this target is known")
	}
	host, port, err := ep.HostPort(1)
	if err != nil {
		return err
	}
	return ep.Trust.FirstUse(ctx, transport.SeenIdentity{
		Address: fmt.Sprintf("%s:%d", host, port), Type: typ, Key: raw, Fingerprint: transport.Fingerprint(raw),
	})
}

// hostKey makes up a key for an address.
func hostKey(address string) string {
	sum := sha256.Sum256([]byte("host key of " + address))
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(sum[:])
}
