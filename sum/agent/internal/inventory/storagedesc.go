package inventory

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// storageDevice is what a disk says of itself (STORAGE_DEVICE_DESCRIPTOR).
type storageDevice struct {
	bus                               uint32 // STORAGE_BUS_TYPE
	vendor, product, revision, serial string
}

// Bus types of disks that Windows makes of files and of other disks.
const (
	busVirtual       = 14
	busFileBacked    = 15
	busStorageSpaces = 16
)

// madeUp reports a disk that consists of files or of other disks.
func (s storageDevice) madeUp() bool {
	return s.bus == busVirtual || s.bus == busFileBacked || s.bus == busStorageSpaces
}

// parseStorageDevice reads a STORAGE_DEVICE_DESCRIPTOR, of whose texts the offsets
// are given, 0 where there is none.
func parseStorageDevice(b []byte) (storageDevice, error) {
	const fixed = 36
	if len(b) < fixed {
		return storageDevice{}, fmt.Errorf("descriptor of %d bytes: %w", len(b), errTruncated)
	}
	text := func(at int) string {
		off := binary.LittleEndian.Uint32(b[at:])
		if off < fixed || uint64(off) >= uint64(len(b)) {
			return ""
		}
		s, _, _ := strings.Cut(string(b[off:]), "\x00")
		return clean(s)
	}
	return storageDevice{
		vendor: text(12), product: text(16), revision: text(20), serial: text(24),
		bus: binary.LittleEndian.Uint32(b[28:]),
	}, nil
}

// windowsDisk is a disk, and its device and what that hangs from, where they are known.
type windowsDisk struct {
	name        string // "PhysicalDrive0"
	says        storageDevice
	dev, parent pnpDevice
}

// diskDevices returns disks as an inventory has them.
func diskDevices(disks []windowsDisk, onboard map[string]string) []transport.Device {
	serials := map[string]int{}
	for _, disk := range disks {
		serials[disk.says.serial]++
	}
	var out []transport.Device
	for _, disk := range disks {
		if disk.says.madeUp() {
			continue
		}
		d := disk.device(onboard)
		switch {
		case d.Serial != "" && serials[d.Serial] == 1: // some adapters give all theirs the same
			d.ID = "disk:" + d.Serial
		case disk.dev.instance != "":
			d.ID = "disk:" + strings.ToUpper(disk.dev.instance)
		default:
			d.ID = "disk:" + disk.name
		}
		out = append(out, d)
	}
	return out
}

// device leaves the ID open.
func (disk windowsDisk) device(onboard map[string]string) transport.Device {
	s := disk.says
	d := transport.Device{
		Class: transport.ClassDisk, Name: disk.name, Vendor: s.vendor, Model: s.product, Serial: s.serial, Firmware: s.revision,
		Driver: disk.dev.service, DriverVersion: disk.dev.ownVersion(),
	}
	if d.Model != "" {
		d.HardwareIDs = []string{"model:" + d.Model}
	}
	if disk.parent.class() == transport.ClassDisk { // the function of an NVMe drive
		d.HardwareIDs = append(d.HardwareIDs, disk.parent.hardwareIDs()...)
		d.Driver, d.DriverVersion, d.Location = disk.parent.service, disk.parent.ownVersion(), disk.parent.location(onboard)
		if strings.EqualFold(d.Vendor, "NVMe") {
			d.Vendor = "" // the bus
		}
	}
	return d
}
