package component

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Force is the argument that rewrite and downgrade arguments replace.
const Force = "{force}"

// A Component is something that can be installed. It is plain data: its methods
// are safe for concurrent use as long as nobody changes its fields.
type Component struct {
	Name        string
	Version     string
	Scheme      version.Scheme // how Version is ordered
	Description string         // for people; no part of the digest
	Kinds       []string       // kinds of target that it is for; empty means any
	Match       Match          // what it changes
	// ProbeArgv is the program that prints the installed version, and its
	// arguments. It counts only when Match.Probe is set.
	ProbeArgv    []string
	ProbeTimeout time.Duration // 0: the agent's default
	Payload      transport.Payload
	// Executable names the files of the payload that are programs. One that
	// Install begins with is a program anyway.
	Executable []string
	Source     string // the path given to Load; no part of the digest

	Install       []string // program and arguments; may hold Force and "{dir}"
	RewriteArgs   []string // what Force stands for to install the same version again
	DowngradeArgs []string // what Force stands for to install an older version
	Profile       agent.Profile
	Env           []string      // NAME=value
	Timeout       time.Duration // 0: no limit
	NoKill        bool          // a timeout or cancel is recorded, never enforced
	// SuspendBitLocker: see agent.Job.
	SuspendBitLocker bool
	// Activation is what makes the component take effect where the installer's
	// exit status cannot tell.
	Activation transport.Activation
	// Minimum is the version that must be there already; "" is any. An older one takes
	// another component in between.
	Minimum string
	// UpdatableBy names those who can apply a firmware package: "Bmc", "Uefi",
	// "RuntimeAgent" (an agent in the operating system). Empty: it does not say.
	UpdatableBy []string
}

// JobOptions say what an installer may overwrite.
type JobOptions struct {
	Rewrite   bool // the same version
	Downgrade bool // a newer version
}

// Provable reports whether the inventory can tell if the component is installed.
func (c *Component) Provable() bool { return !c.Match.IsZero() }

// Current returns what of the inventory this component would change, with the
// versions there. It is empty where the component does not apply, and where it
// does not say what it changes.
func (c *Component) Current(inv *transport.Inventory) []Found { return c.Match.Find(inv) }

// Compare returns +1 if the component is newer than the installed version, -1 if
// it is older, and 0 if neither is known to be newer. Its error is that of
// [version.Compare].
func (c *Component) Compare(installed string) (int, error) {
	return version.Compare(c.Scheme, c.Version, installed)
}

// Lacks reports whether what is installed is too old for the component: older than
// Minimum. What cannot be compared is not known to be.
func (c *Component) Lacks(installed string) bool {
	if c.Minimum == "" {
		return false
	}
	order, err := version.Compare(c.Scheme, installed, c.Minimum)
	return err == nil && order < 0
}

// HostOnly reports whether only an agent in the operating system can apply a firmware
// package, and no management processor.
func (c *Component) HostOnly() bool {
	return len(c.UpdatableBy) > 0 && !slices.ContainsFunc(c.UpdatableBy, func(s string) bool {
		return strings.EqualFold(s, fwpkg.BMC) || strings.EqualFold(s, fwpkg.UEFI)
	})
}

// Probe returns the probe that reads the installed version, if there is one. It
// has the name by which Match finds its answer. Without its answer in an
// inventory the component counts as not installed.
func (c *Component) Probe() (agent.Probe, bool) {
	if c.Match.Probe == "" || len(c.ProbeArgv) == 0 {
		return agent.Probe{}, false
	}
	return agent.Probe{Name: c.Match.Probe, Argv: slices.Clone(c.ProbeArgv), Timeout: c.ProbeTimeout}, true
}

// Job returns the job that installs the component, under the given ID.
func (c *Component) Job(id string, o JobOptions) agent.Job {
	j := agent.Job{
		ID: id, Component: c.Name, Version: c.Version,
		Env: slices.Clone(c.Env), Profile: c.Profile, Timeout: c.Timeout, NoKill: c.NoKill,
		SuspendBitLocker: c.SuspendBitLocker,
	}
	for _, arg := range c.Install {
		if arg != Force {
			j.Argv = append(j.Argv, arg)
			continue
		}
		if o.Rewrite {
			j.Argv = append(j.Argv, c.RewriteArgs...)
		}
		if o.Downgrade {
			j.Argv = append(j.Argv, c.DowngradeArgs...)
		}
	}
	for _, f := range c.Payload.Files {
		j.Files = append(j.Files, agent.JobFile{Name: f.Name, SHA256: f.Digest(), Size: f.Size, Executable: c.executable(f.Name)})
	}
	return j
}

func (c *Component) executable(name string) bool {
	if len(c.Install) > 0 {
		if program, ok := strings.CutPrefix(c.Install[0], "./"); ok && program == name {
			return true
		}
	}
	return slices.Contains(c.Executable, name)
}

// canonical is what the digest is made of. Its form must not change: written
// plans hold digests.
type canonical struct {
	Name, Version string
	Scheme        version.Scheme
	Kinds         []string
	Match         Match
	ProbeArgv     []string
	ProbeTimeout  time.Duration
	Files         []canonicalFile
	Install       []string
	RewriteArgs   []string
	DowngradeArgs []string
	Profile       agent.Profile
	Env           []string
	Timeout       time.Duration
	NoKill        bool
	Activation    transport.Activation

	SuspendBitLocker bool     `json:",omitempty"` // so that older digests hold
	Minimum          string   `json:",omitempty"`
	UpdatableBy      []string `json:",omitempty"`
}

type canonicalFile struct {
	Name       string
	Size       int64
	SHA256     string
	Executable bool
}

// Digest returns the SHA-256, as lower-case hexadecimal, of everything that
// decides what the component does to a target, its files included. The order of
// kinds and files does not count, nor do description and path. It opens no file.
func (c *Component) Digest() string {
	k := canonical{
		Name: c.Name, Version: c.Version, Scheme: c.Scheme, Kinds: sorted(c.Kinds), Match: c.Match.canonical(),
		ProbeArgv: none(c.ProbeArgv), ProbeTimeout: c.ProbeTimeout,
		Install: none(c.Install), RewriteArgs: none(c.RewriteArgs), DowngradeArgs: none(c.DowngradeArgs),
		Profile: c.Profile, Env: none(c.Env), Timeout: c.Timeout, NoKill: c.NoKill, Activation: c.Activation,
		SuspendBitLocker: c.SuspendBitLocker, Minimum: c.Minimum, UpdatableBy: sorted(c.UpdatableBy),
	}
	for _, f := range c.Payload.Files {
		k.Files = append(k.Files, canonicalFile{f.Name, f.Size, f.Digest(), c.executable(f.Name)})
	}
	slices.SortFunc(k.Files, func(a, b canonicalFile) int { return strings.Compare(a.Name, b.Name) })
	// The fields are strings, numbers and lists of them, which always encode.
	b, _ := json.Marshal(k)
	sum := sha256.Sum256(append([]byte("roundsman component 1\n"), b...))
	return hex.EncodeToString(sum[:])
}

// none makes an empty list the same as a missing one.
func none(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

func sorted(s []string) []string {
	s = slices.Clone(none(s))
	slices.Sort(s)
	return s
}
