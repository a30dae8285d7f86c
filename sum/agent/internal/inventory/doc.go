// Package inventory reads what is in the host that it runs on: who it is, its
// devices with firmware and drivers, and its packages.
//
//	inv := inventory.Collect(ctx)
//
// There is no error to return: what cannot be read is a [transport.Problem] in
// the result, next to everything that could. The parts (identity, bios, network,
// controllers, disks, dpkg, rpm) run side by side, each under a limit of its
// own, and what a part found before its limit is kept. Nothing needs root,
// though serial numbers and the system UUID are hidden from other users by the
// kernel.
//
// # Sources on Linux
//
// The system, its BIOS, the block devices and the network interfaces come from
// package ghw. PCI functions are read from /sys/bus/pci directly, because a host
// without the database of PCI names, or with one odd function, has devices all
// the same; the database only adds names where it is installed. Firmware
// versions of network adapters come from ETHTOOL_GDRVINFO, those of disks,
// storage controllers and Fibre Channel adapters from sysfs. Packages are read
// from dpkg's status file and asked of the rpm program.
//
// # Identifiers
//
// Device.ID is the PCI address where there is one, "bios" for the BIOS,
// "disk:" and the world-wide name or serial number for disks on other buses.
// Names such as sda or eth0 change with a boot, so they are used in an ID only
// where nothing better is known.
//
// Device.HardwareIDs, most exact first:
//
//	pci:vvvv:dddd:ssss:ssss   vendor, device, subsystem vendor, subsystem device
//	pci:vvvv:dddd             vendor and device, as lower-case hexadecimal
//	model:MO000400JWDKU       the model that a disk reports
//	product:ProLiant DL380    the system that a BIOS belongs to
//
// A driver that is part of the kernel has no version of its own, and none is
// reported. On systems other than Linux only the identity is read.
package inventory
