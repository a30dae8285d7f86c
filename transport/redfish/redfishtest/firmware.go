package redfishtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Firmware is one entry of a firmware inventory. The first entry of a server is
// the management processor itself.
type Firmware struct {
	ID      string // the last segment of its URI
	Name    string
	Version string
	Context string // where it is: "System Board", "Embedded Device"
	// DeviceClass and Targets are what an image must be for. They are GUIDs.
	DeviceClass string
	Targets     []string
	// Fixed entries are not updateable.
	Fixed bool
	// UpdatableBy tells who can write it: "Bmc", "Uefi", "RuntimeAgent"; nil means
	// the Bmc.
	UpdatableBy []string
	// Activation is what makes a version that was written take effect:
	// ActivationNone at once, ActivationReset with the reset of the service that
	// follows by itself.
	Activation transport.Activation
	// Adapter makes it an entry of a network adapter of the chassis, as some services
	// have it, and not of the firmware inventory.
	Adapter bool
	// Flag is what an iLO 4 says of it while it waits for Activation:
	// DEFERRED_AUX_PWR_CYCLE, for one. "" means what follows from Activation: RESET_ILO,
	// REQUEST_SYSTEM_WARM_BOOT or REQUEST_SYSTEM_COLD_BOOT.
	Flag string
	// Staged is a version that was written and waits for Activation. A server sets it.
	Staged string
}

// Image returns a valid raw image for the entry; see [Image].
func (f Firmware) Image(name, version string, size int64) transport.File {
	return Image(ImageSpec{Name: name, DeviceClass: f.DeviceClass, Targets: f.Targets[:1], Version: version, Size: size})
}

// Package returns a valid .fwpkg with one raw image for the entry; see [Package].
func (f Firmware) Package(name, version string, size int64) transport.File {
	return Package(PackageSpec{
		Name: name, DeviceClass: f.DeviceClass, UpdatableBy: f.UpdatableBy, ResetRequired: f.Activation != transport.ActivationNone,
		Images: []transport.File{f.Image(strings.TrimSuffix(name, ".fwpkg")+".bin", version, size)},
	})
}

func (f Firmware) by(agent string) bool {
	return len(f.UpdatableBy) == 0 && agent == "Bmc" || slices.Contains(f.UpdatableBy, agent)
}

// takes reports whether an image is for this entry.
func (f Firmware) takes(m meta) bool {
	if m.DeviceClass != "" && f.DeviceClass != "" && m.DeviceClass != f.DeviceClass {
		return false
	}
	return slices.ContainsFunc(m.Targets, func(t string) bool { return slices.Contains(f.Targets, t) })
}

// guid is a made-up GUID. Nothing of it is a vendor's.
func guid(class, n int) string {
	return fmt.Sprintf("%08x-7265-4664-a973-%012x", class, n)
}

// Firmware returns the inventory that a server of the profile has unless Config
// says otherwise, or nil if there is no such profile.
func (p Profile) Firmware() []Firmware {
	const (
		reset = transport.ActivationReset
		boot  = transport.ActivationReboot
		cycle = transport.ActivationPowerCycle
	)
	one := func(n int) (class string, targets []string) { return guid(n, 0), []string{guid(n, 1)} }
	entry := func(id, name, version, context string, n int, a transport.Activation, by ...string) Firmware {
		f := Firmware{ID: id, Name: name, Version: version, Context: context, Activation: a, UpdatableBy: by}
		f.DeviceClass, f.Targets = one(n)
		return f
	}
	switch p {
	case ILO4, ILO5, ILO6, ILO7:
		g := p.ilo()
		versions := map[int]string{4: "2.78 Apr 28 2021", 5: "2.72 Sep 04 2022", 6: "1.57 May 14 2024", 7: "1.12.00 Mar 27 2025"}
		rom := map[int]string{4: "P89 v2.60 (05/21/2018)", 5: "U30 v2.68 (07/14/2022)", 6: "U54 v2.16 (03/01/2024)", 7: "U68 v1.20 (02/14/2025)"}
		old := entry("7", "Redundant System ROM", rom[g], "System Board", 0x107, boot)
		old.Fixed = true
		all := []Firmware{
			entry("1", fmt.Sprint("iLO ", g), versions[g], "System Board", 0x100+g, reset, "Bmc"),
			entry("2", "System ROM", rom[g], "System Board", 0x200+g, boot, "Bmc", "Uefi"),
			entry("3", "System Programmable Logic Device", "0x2A", "System Board", 0x300, cycle, "Bmc", "Uefi"),
			entry("4", "Power Management Controller Firmware", "1.0.7", "System Board", 0x301, transport.ActivationNone, "Bmc"),
			entry("5", "HPE Smart Array P408i-a SR Gen10", "4.11", "Embedded RAID", 0x302, boot, "Uefi", "RuntimeAgent"),
			entry("6", "HPE Ethernet 1Gb 4-port 331i Adapter - NIC", "20.19.51", "Embedded Device", 0x303, boot, "Bmc", "Uefi"),
			old,
		}
		if p == ILO4 {
			all[2].Flag = "DEFERRED_AUX_PWR_CYCLE"
		}
		return all
	case RMC:
		class, targets := one(0x400)
		bundle := func(id, name string, a transport.Activation) Firmware {
			return Firmware{ID: id, Name: name, Version: "3.0.494", Context: id, DeviceClass: class, Targets: targets, Activation: a}
		}
		return []Firmware{
			bundle("RMC", "RMC Firmware", reset),
			bundle("BMC-r001i01b", "BMC Firmware", reset),
			bundle("BIOS-Partition1", "nPar Firmware", boot),
		}
	case Generic:
		return []Firmware{
			entry("BMC", "BMC firmware", "1.4.0", "", 0x500, reset),
			entry("BIOS", "System firmware", "2.1", "", 0x501, boot),
			entry("NIC", "Network adapter firmware", "7.10.64", "", 0x502, transport.ActivationNone),
			entry("PSU", "Power supply firmware", "00.1D", "", 0x503, cycle),
		}
	}
	return nil
}

// compareVersions compares the numbers of two versions, up to the first blank:
// what follows is a date.
func compareVersions(a, b string) int {
	numbers := func(s string) (out []int) {
		s, _, _ = strings.Cut(s, " ")
		for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
			n, _ := strconv.Atoi(f)
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(numbers(a), numbers(b))
}
