package inventory

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// classFirmware is a firmware resource of UEFI (an entry of the EFI System Resource
// Table) that Windows makes a device of.
const classFirmware = "firmware"

// pnpDevice is a device of Windows' Plug and Play manager.
type pnpDevice struct {
	instance   string   // device instance ID, such as `PCI\VEN_8086&DEV_1572&SUBSYS_22FD103C&REV_02\3&11583659&0&00`
	parent     string   // the device instance ID of the device that it hangs from
	setupClass string   // "Net", "SCSIAdapter", "DiskDrive", ...; "" before a driver is installed
	hardware   []string // hardware IDs, most exact first
	compatible []string // compatible IDs
	service    string   // name of the driver
	maker      string
	friendly   string // name of this device
	desc       string // name of the model

	driverVersion string
	inf           string // name in %SystemRoot%\INF of the driver's INF file

	located bool // whether bus and address are known
	bus     uint32
	address uint32
	slot    uint32 // number of the slot, as people count; 0 if there is none

	connection string // GUID of the network connection on it, with braces
}

// adapter is a network connection on a device.
type adapter struct{ name, mac string }

// pnpContext is what else is known of devices.
type pnpContext struct {
	onboard map[string]string // see smbios
	esrt    map[string]uint32 // versions of firmware resources by upper-case GUID with braces
	nvme    map[string]bool   // upper-case device instance IDs of what has disks

	adapters map[string]adapter // by upper-case GUID with braces
}

// unlisted returns the firmware resources of which Windows has made no device. They
// have the ID that the device would have.
func (c pnpContext) unlisted(devices []transport.Device) []transport.Device {
	var out []transport.Device
	for guid, version := range c.esrt {
		id := `UEFI\RES_` + guid
		if !slices.ContainsFunc(devices, func(d transport.Device) bool { return slices.Contains(d.HardwareIDs, id) }) {
			out = append(out, transport.Device{ID: id + `\0`, Class: classFirmware,
				Firmware: strconv.FormatUint(uint64(version), 10), HardwareIDs: []string{id}})
		}
	}
	return out
}

// device returns the device as an inventory has it, and whether it is one: Windows
// has devices for everything that has a driver, and most of them are part of
// Windows.
func (p pnpDevice) device(c pnpContext) (transport.Device, bool) {
	class := p.class()
	if class == "" || class == transport.ClassDisk && c.nvme[strings.ToUpper(p.instance)] {
		return transport.Device{}, false
	}
	d := transport.Device{
		ID: strings.ToUpper(p.instance), Class: class, Name: cmp.Or(p.friendly, p.desc), Model: cmp.Or(p.desc, p.friendly),
		Vendor: p.vendor(), Driver: p.service, DriverVersion: p.ownVersion(), HardwareIDs: p.hardwareIDs(),
		Location: p.location(c.onboard),
	}
	switch class {
	case transport.ClassNIC:
		a := c.adapters[strings.ToUpper(p.connection)]
		d.Name, d.Serial = cmp.Or(a.name, d.Name), a.mac
	case classFirmware:
		d.Firmware = p.firmware(c.esrt)
	}
	return d, true
}

// class returns the class of the device in an inventory, or "" for one that is left
// out. It has the classes of the inventory of Linux, and for what that leaves out the
// lower-case name of Windows' device setup class: that is told where it may need a
// driver of its maker, or has one.
func (p pnpDevice) class() string {
	bus, _, _ := strings.Cut(strings.ToUpper(p.instance), `\`)
	if bus == "PCI" {
		switch cc := p.pciClass(); {
		case strings.HasPrefix(cc, "02"):
			return transport.ClassNIC
		case strings.HasPrefix(cc, "0108"): // NVMe
			return transport.ClassDisk
		case strings.HasPrefix(cc, "01"):
			return transport.ClassController
		case strings.HasPrefix(cc, "0c04"):
			return transport.ClassHBA
		case slices.Contains([]string{"05", "06", "08", "0b", "11"}, cc[:min(2, len(cc))]) && p.service != "" && !p.thirdParty():
			return "" // memory controllers, bridges, system peripherals, processors, performance counters
		}
		return cmp.Or(strings.ToLower(p.setupClass), "other")
	}
	switch class := strings.ToLower(p.setupClass); {
	case bus == "UEFI" || class == classFirmware:
		return classFirmware
	case class == "diskdrive":
		return "" // they are asked themselves
	case class == "net" && !slices.Contains([]string{"ROOT", "SW", "SWD", "BTH", "{5D624F94-8850-40C3-A3FA-A4FD2080BAF3}"}, bus):
		return transport.ClassNIC
	case p.thirdParty():
		return cmp.Or(class, "other")
	}
	return ""
}

var publishedINF = regexp.MustCompile(`(?i)^oem[0-9]+\.inf$`)

// thirdParty reports whether the driver did not come with Windows: those that did
// keep the names of their INF files.
func (p pnpDevice) thirdParty() bool { return publishedINF.MatchString(p.inf) }

var windowsVersion = regexp.MustCompile(`^(10\.0|6\.[0-3])\.`)

// ownVersion returns the version of the driver, unless it is that of the Windows that it
// is a part of: what a maker's driver has in its place does not compare with that.
func (p pnpDevice) ownVersion() string {
	if !p.thirdParty() && windowsVersion.MatchString(p.driverVersion) {
		return ""
	}
	return p.driverVersion
}

// vendor leaves out what Windows calls the makers of standard devices.
func (p pnpDevice) vendor() string {
	if strings.HasPrefix(p.maker, "(") {
		return ""
	}
	return p.maker
}

// Hardware and compatible IDs of PCI functions ("Identifiers for PCI Devices").
var (
	pciHardwareID = regexp.MustCompile(`(?i)^PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})(?:&SUBSYS_([0-9A-F]{4})([0-9A-F]{4}))?`)
	pciClassCode  = regexp.MustCompile(`(?i)^PCI\\(?:.*&)?CC_([0-9A-F]{4,6})`)
	firmwareID    = regexp.MustCompile(`(?i)^UEFI\\RES_(\{[0-9A-F-]{36}\})(?:&REV_([0-9A-F]{1,8}))?`)
)

// pciClass returns class, subclass and perhaps programming interface as lower-case
// hexadecimal, or "".
func (p pnpDevice) pciClass() string {
	for _, id := range slices.Concat(p.hardware, p.compatible) {
		if m := pciClassCode.FindStringSubmatch(id); m != nil {
			return strings.ToLower(m[1])
		}
	}
	return ""
}

// hardwareIDs returns those of PCI functions in the form that all systems share, then
// the hardware IDs of Windows, as INF files name them.
func (p pnpDevice) hardwareIDs() []string {
	var exact, pair string
	for _, id := range p.hardware {
		m := pciHardwareID.FindStringSubmatch(strings.ToLower(id))
		if m == nil {
			continue
		}
		pair = "pci:" + m[1] + ":" + m[2]
		// Windows names the device of the subsystem before its vendor.
		if m[4] != "" && m[4] != "0000" {
			exact = pair + ":" + m[4] + ":" + m[3]
			break
		}
	}
	ids := []string{exact, pair}
	for _, id := range p.hardware {
		// Those of firmware resources are given with and without the version.
		if m := firmwareID.FindStringSubmatch(id); m == nil || m[2] == "" {
			ids = append(ids, strings.ToUpper(id))
		}
	}
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}

// pciAddress returns the address of a PCI function as Linux writes it, or "".
func (p pnpDevice) pciAddress() string {
	if !p.located || !strings.HasPrefix(strings.ToUpper(p.instance), `PCI\`) {
		return ""
	}
	// PCI_SEGMENT_BUS_NUMBER, and in the address the device above the function.
	return formatPCI(p.bus>>8&0xffff, p.bus&0xff, p.address>>16&0x1f, p.address&7)
}

func formatPCI(segment, bus, device, function uint32) string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", segment, bus, device, function)
}

// location says where a PCI function sits: the name that the firmware gives an onboard
// device, or the slot, and the address.
func (p pnpDevice) location(onboard map[string]string) string {
	address := p.pciAddress()
	if address == "" {
		return ""
	}
	place := onboard[address]
	if place == "" && p.slot != 0 {
		place = "PCI slot " + strconv.FormatUint(uint64(p.slot), 10)
	}
	if place == "" {
		return address
	}
	return place + " (" + address + ")"
}

// firmware returns the version of a firmware resource, a number.
func (p pnpDevice) firmware(esrt map[string]uint32) string {
	for _, id := range p.hardware {
		m := firmwareID.FindStringSubmatch(id)
		if m == nil {
			continue
		}
		if v, ok := esrt[strings.ToUpper(m[1])]; ok {
			return strconv.FormatUint(uint64(v), 10)
		}
		if v, err := strconv.ParseUint(m[2], 16, 32); err == nil {
			return strconv.FormatUint(v, 10)
		}
	}
	return ""
}
