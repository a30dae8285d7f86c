package component

import (
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Match says what of a target a component changes: one of its fields is set, or
// none. It is plain data, so that a journal can hold it.
type Match struct {
	Package *PackageMatch `json:"package,omitempty"`
	Device  *DeviceMatch  `json:"device,omitempty"`
	// Probe names the component whose probe tells the version.
	Probe string `json:"probe,omitempty"`
}

// The package managers that an inventory lists packages of. Windows has several lists
// of what is installed, each with names of its own.
const (
	Dpkg      = "dpkg"
	RPM       = "rpm"
	MSI       = "msi"       // Windows Installer: ProductCode, {GUID}
	Uninstall = "uninstall" // key below ...\CurrentVersion\Uninstall
	Program   = "program"   // its DisplayName
	INF       = "inf"       // INF file of a driver package in the driver store
)

// sources are those of one system, with how their versions are ordered.
var sources = map[string]struct {
	system string
	scheme version.Scheme
}{
	Dpkg:      {Dpkg, version.Deb},
	RPM:       {RPM, version.RPM},
	MSI:       {windowsNames, version.Numeric},
	Uninstall: {windowsNames, version.Numeric},
	Program:   {windowsNames, version.Numeric},
	INF:       {windowsNames, version.Numeric},
}

const windowsNames = "windows"

// PackageMatch is a package of the target's package manager.
type PackageMatch struct {
	Source string `json:"source"`         // Dpkg, RPM, MSI, Uninstall, Program or INF
	Name   string `json:"name"`           // on Windows in upper or lower case
	Arch   string `json:"arch,omitempty"` // "" matches any, as do "all" and "noarch"
}

// Part is the part of a device that has a version.
type Part string

// The parts.
const (
	Firmware Part = "firmware"
	Driver   Part = "driver"
)

// DeviceMatch is a device of the inventory.
type DeviceMatch struct {
	Class       string   `json:"class,omitempty"`        // "" matches any
	HardwareIDs []string `json:"hardware_ids,omitempty"` // any of them; none matches every device of the class
	Part        Part     `json:"part"`
	// DeviceClass is HPE's identifier of a kind of device, a GUID in lower case. A device
	// of which the inventory tells one ("hpe-class:...") must have this one.
	DeviceClass string `json:"device_class,omitempty"`
}

// Found is one thing on a target that a component would change.
type Found struct {
	Subject   string // package name, Device.ID, or the component's name
	Version   string // "" where the target does not tell
	Installed bool
}

// IsZero reports whether the match names nothing.
func (m Match) IsZero() bool { return m.Package == nil && m.Device == nil && m.Probe == "" }

// Find returns what of the inventory m matches. A package that is not installed
// is found, with Installed false; a device that is not there is not, and neither
// is a package on a target that has another package manager or architecture.
func (m Match) Find(inv *transport.Inventory) []Found {
	switch {
	case m.Package != nil:
		return m.Package.find(inv)
	case m.Device != nil:
		return m.Device.find(inv)
	case m.Probe != "":
		for _, s := range inv.Software {
			if s.Source == agent.ProbeSource && s.Name == m.Probe {
				return []Found{{Subject: m.Probe, Version: s.Version, Installed: true}}
			}
		}
		return []Found{{Subject: m.Probe}}
	}
	return nil
}

// canonical returns the match with lists in one order.
func (m Match) canonical() Match {
	if m.Device != nil {
		d := *m.Device
		d.HardwareIDs = slices.Clone(none(d.HardwareIDs))
		for i, id := range d.HardwareIDs {
			d.HardwareIDs[i] = strings.ToLower(id)
		}
		slices.Sort(d.HardwareIDs)
		m.Device = &d
	}
	return m
}

func anyArch(arch string) bool { return arch == "" || arch == "all" || arch == "noarch" }

func (p PackageMatch) find(inv *transport.Inventory) []Found {
	if !p.applies(inv) {
		return nil
	}
	found := Found{Subject: p.Name}
	for _, s := range inv.Software {
		if s.Source != p.Source || s.Name != p.Name && !(p.onWindows() && strings.EqualFold(s.Name, p.Name)) {
			continue
		}
		// A package of one architecture replaces its predecessor of none, and the
		// other way round.
		if !anyArch(p.Arch) && !anyArch(s.Arch) && p.Arch != s.Arch {
			continue
		}
		// Several versions of one package (kernels) may be installed side by side;
		// the newest counts.
		if !found.Installed || p.newer(s.Version, found.Version) {
			found.Installed, found.Version = true, s.Version
		}
	}
	return []Found{found}
}

func (p PackageMatch) newer(a, b string) bool {
	n, err := version.Compare(sources[p.Source].scheme, a, b)
	return err == nil && n > 0
}

func (p PackageMatch) onWindows() bool { return sources[p.Source].system == windowsNames }

// applies reports whether the target's package manager could install the
// package. An inventory that lists no packages at all does not tell.
func (p PackageMatch) applies(inv *transport.Inventory) bool {
	foreign, own, arch := false, false, anyArch(p.Arch)
	for _, s := range inv.Software {
		switch of, listed := sources[s.Source]; {
		case !listed:
		case of.system == sources[p.Source].system:
			own = true
			arch = arch || s.Arch == p.Arch || (p.Source == RPM && s.Arch == "x86_64" && isX86(p.Arch))
		default:
			foreign = true
		}
	}
	if own && p.onWindows() {
		// A list says nothing of what else the host executes, and no program need be
		// in that of each architecture: installers refuse what is not for it.
		return true
	}
	if own {
		// What the package manager accepts, it has installed something of: itself,
		// or the C library of a foreign architecture.
		return arch
	}
	return !foreign
}

// isX86 reports the 32-bit architectures that rpm installs on x86_64 unasked.
func isX86(arch string) bool {
	return len(arch) == 4 && arch[0] == 'i' && arch[1] >= '3' && arch[1] <= '6' && arch[2:] == "86"
}

func (d DeviceMatch) find(inv *transport.Inventory) []Found {
	var out []Found
	for _, dev := range inv.Devices {
		if d.Class != "" && dev.Class != d.Class {
			continue
		}
		if len(d.HardwareIDs) > 0 && !slices.ContainsFunc(dev.HardwareIDs, func(id string) bool {
			return slices.ContainsFunc(d.HardwareIDs, func(want string) bool { return strings.EqualFold(id, want) })
		}) {
			continue
		}
		if !d.isOf(dev) {
			continue
		}
		f := Found{Subject: dev.ID, Version: dev.Firmware, Installed: true}
		if d.Part == Driver {
			// A driver without a version is the kernel's own. One that is installed
			// takes its place.
			f.Version, f.Installed = dev.DriverVersion, dev.DriverVersion != ""
		}
		out = append(out, f)
	}
	return out
}

// isOf reports whether a device is of the class of HPE's that d names, or of none.
func (d DeviceMatch) isOf(dev transport.Device) bool {
	told := ""
	for _, id := range dev.HardwareIDs {
		if class, ok := strings.CutPrefix(strings.ToLower(id), "hpe-class:"); ok {
			told = class
		}
	}
	return told == "" || d.DeviceClass == "" || strings.EqualFold(told, d.DeviceClass)
}
