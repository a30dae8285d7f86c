package component

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of a description.
const (
	maxFiles        = 4096
	maxName         = 128
	maxDescription  = 4096
	maxArgs         = 256
	maxArg          = 4096
	maxList         = 1024
	maxTimeout      = 7 * 24 * time.Hour
	maxProbeTimeout = 10 * time.Minute // what an agent grants
)

// servers are the kinds of target on which an agent runs commands.
var servers = []string{"windows", "linux", "local"}

// onServers reports whether agents run a component for these kinds.
func onServers(kinds []string) bool {
	return len(kinds) == 0 || slices.ContainsFunc(kinds, func(k string) bool { return slices.Contains(servers, k) })
}

// kinds are all kinds of target, those of package sum.
var kinds = append(slices.Clone(servers), "vmware", "oa", "superdome-x", "superdome-flex", "ilo", "vc", "fc-switch", "sas-switch", "integrity", "redfish")

// check says what is wrong with a description, files aside.
func (c *Component) check() error {
	if !printable(c.Name, maxName) {
		return bad("name", fmt.Errorf("%.200q", c.Name), "want printable text of at most 128 bytes")
	}
	if !c.Scheme.Known() {
		return bad("scheme", fmt.Errorf("%.80q", c.Scheme), fmt.Sprintf("want one of %q", version.Schemes()))
	}
	// HPE's versions may be of no known form, and then equal or not.
	if !printable(c.Version, version.MaxLen) || c.Scheme != version.HPE && !version.Valid(c.Scheme, c.Version) {
		return bad("version", fmt.Errorf("%.200q is no version of scheme %q", c.Version, c.Scheme), "correct it, or name the scheme that it follows")
	}
	if c.Minimum != "" && (!printable(c.Minimum, version.MaxLen) || c.Scheme != version.HPE && !version.Valid(c.Scheme, c.Minimum)) {
		return bad("minimum_version", fmt.Errorf("%.200q is no version of scheme %q", c.Minimum, c.Scheme), "leave it out where any version will do")
	}
	if len(c.Description) > maxDescription || !utf8.ValidString(c.Description) {
		return bad("description", fmt.Errorf("longer than %d bytes, or no text", maxDescription), "")
	}
	for i, k := range c.Kinds {
		if !slices.Contains(kinds, k) {
			return bad(fmt.Sprintf("kinds[%d]", i), fmt.Errorf("%.80q", k), "want one of "+strings.Join(kinds, ", "))
		}
	}
	if err := c.checkMatch(); err != nil {
		return err
	}
	if err := c.checkInstall(); err != nil {
		return err
	}
	if slices.Contains(c.Kinds, "windows") {
		if err := c.checkWindows(); err != nil {
			return err
		}
	}
	if !c.Profile.Known() {
		return bad("profile", fmt.Errorf("%.80q", c.Profile), "see agent.Profile for the known ones")
	}
	for i, e := range c.Env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || !agent.Environment(name) || strings.ContainsRune(value, 0) {
			// The value may be a secret.
			return bad(fmt.Sprintf("env[%d]", i), fmt.Errorf("%.80q", name), "want NAME=value with a name that an agent accepts, such as RM_SOMETHING")
		}
	}
	if c.SuspendBitLocker && len(c.Kinds) > 0 && !slices.Contains(c.Kinds, "windows") && !slices.Contains(c.Kinds, "local") {
		return bad("suspend_bitlocker", errors.New("none of the kinds runs Windows"), "")
	}
	switch c.Activation {
	case transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle:
	default:
		return bad("activation", fmt.Errorf("%.80q", c.Activation), `want "reset", "reboot", "power-cycle" or nothing`)
	}
	return nil
}

func (c *Component) checkMatch() error {
	n := 0
	for _, set := range []bool{c.Match.Package != nil, c.Match.Device != nil, c.Match.Probe != ""} {
		if set {
			n++
		}
	}
	if n > 1 {
		return bad("", errors.New("more than one of package, device and probe"), "keep the one that tells the version which the component changes")
	}
	if p := c.Match.Package; p != nil {
		if _, ok := sources[p.Source]; !ok {
			return bad("package.source", fmt.Errorf("%.80q", p.Source), `want "dpkg", "rpm", "msi", "uninstall", "program" or "inf"`)
		}
		if !printable(p.Name, maxName) {
			return bad("package.name", fmt.Errorf("%.200q", p.Name), "")
		}
		if p.Arch != "" && !printable(p.Arch, maxName) {
			return bad("package.arch", fmt.Errorf("%.200q", p.Arch), "")
		}
	}
	if d := c.Match.Device; d != nil {
		if d.Part != Firmware && d.Part != Driver {
			return bad("device.part", fmt.Errorf("%.80q", d.Part), `want "firmware" or "driver"`)
		}
		if d.Class == "" && len(d.HardwareIDs) == 0 {
			return bad("device", errors.New("neither class nor hardware_ids: it would match every device"), "")
		}
		if len(d.HardwareIDs) > maxList {
			return bad("device.hardware_ids", fmt.Errorf("more than %d", maxList), "")
		}
		if d.DeviceClass != "" && !printable(d.DeviceClass, maxName) {
			return bad("device.device_class", fmt.Errorf("%.200q", d.DeviceClass), "want a GUID, as the inventory shows it behind hpe-class")
		}
		for i, id := range d.HardwareIDs {
			if !printable(id, maxName) {
				return bad(fmt.Sprintf("device.hardware_ids[%d]", i), fmt.Errorf("%.200q", id), `want something like "pci:8086:1572"`)
			}
		}
	}
	return checkArgs("probe.argv", c.ProbeArgv)
}

func (c *Component) checkInstall() error {
	for field, args := range map[string][]string{"install": c.Install, "rewrite_args": c.RewriteArgs, "downgrade_args": c.DowngradeArgs} {
		if err := checkArgs(field, args); err != nil {
			return err
		}
	}
	if len(c.Install) == 0 {
		if onServers(c.Kinds) {
			return bad("install", errors.New("empty"), "give the command, or name in kinds the devices that update themselves")
		}
		return nil
	}
	if c.Install[0] == "" || c.Install[0] == Force {
		return bad("install[0]", fmt.Errorf("%q is no program", c.Install[0]), "")
	}
	forces := 0
	for _, arg := range c.Install {
		if arg == Force {
			forces++
		}
	}
	switch forced := len(c.RewriteArgs)+len(c.DowngradeArgs) > 0; {
	case forces > 1:
		return bad("install", errors.New(Force+" is given twice"), "")
	case forced && forces == 0:
		return bad("install", errors.New("no place for rewrite_args and downgrade_args"), "put "+Force+" where they belong")
	case forces == 1 && !forced:
		return bad("install", errors.New(Force+" stands for nothing"), "give rewrite_args or downgrade_args")
	}
	return nil
}

func checkArgs(field string, args []string) error {
	if len(args) > maxArgs {
		return bad(field, fmt.Errorf("%d arguments are more than %d", len(args), maxArgs), "")
	}
	for i, a := range args {
		if len(a) > maxArg || strings.ContainsRune(a, 0) || !utf8.ValidString(a) {
			return bad(fmt.Sprintf("%s[%d]", field, i), fmt.Errorf("%.80q", a), fmt.Sprintf("want text without zero bytes, at most %d bytes", maxArg))
		}
	}
	return nil
}

// printable reports text that can be shown on one line.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit || !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// validFileName reports a name that means the same file below any directory, on
// Windows too.
func validFileName(name string) bool {
	return name != "." && len(name) <= maxArg && fs.ValidPath(name) && !strings.ContainsAny(name, `\:`) &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
