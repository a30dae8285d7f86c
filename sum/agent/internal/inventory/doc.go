// Package inventory reads what is in the host that it runs on: who it is, its
// devices with firmware and drivers, and its packages.
//
//	inv := inventory.Collect(ctx)
//
// There is no error to return: what cannot be read is a [transport.Problem] in
// the result, next to everything that could. The parts (identity, bios, network,
// controllers, disks, dpkg, rpm) run side by side, each under a limit of its
// own, and what a part found before its limit is kept. Nothing needs root,
// though Linux hides serial numbers and the system UUID from other users.
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
// reported. On systems other than Linux and Windows only the identity is read.
//
// # Sources on Windows
//
// The parts are identity, bios, devices, disks, programs and drivers. They ask the
// system itself: no program is started, no WMI and no installer is asked, and
// nothing is opened for writing.
//
// The system and its BIOS come from the tables of SMBIOS (DMTF DSP0134; by
// GetSystemFirmwareTable), as on Linux, or where there are none from
// HKLM\HARDWARE\DESCRIPTION\System\BIOS. The release is what the registry's key
// Windows NT\CurrentVersion says; Kernel has the build with its revision. BootID is
// when the process System was created. Devices and their drivers come from SetupAPI,
// network connections from GetAdaptersAddresses, versions of UEFI firmware
// resources from HKLM\HARDWARE\UEFI\ESRT, disks from IOCTL_STORAGE_QUERY_PROPERTY.
// Windows has no one place for the firmware of network adapters, storage
// controllers and Fibre Channel adapters, and none is reported for them: that takes
// a probe, or the management processor.
//
// Listed are network adapters, storage controllers, Fibre Channel adapters, disks
// and the BIOS, as on Linux; firmware resources (class "firmware", the version a
// decimal number); and what else has a driver that did not come with Windows, or is
// a PCI function that may get one: its class is the lower-case name of its device
// setup class, such as "display", or "other". No version is reported for a driver
// that has the version of Windows.
//
// # Identifiers on Windows
//
// They are those by which Windows itself knows a thing, so that others who ask it,
// such as by WMI, come to the same:
//
//	bios                 the BIOS
//	PCI\VEN_8086&...     the device instance ID in upper case (PNPDeviceID of WMI).
//	                     The PCI address is in Device.Location.
//	UEFI\RES_{GUID}\0    that of a firmware resource
//	disk:S4X             the serial number of a disk (SerialNumber of Win32_DiskDrive),
//	                     unless it is that of several; then
//	disk:SCSI\DISK&...   its device instance ID in upper case
//
// Device.HardwareIDs has the forms above, and after them the hardware IDs of
// Windows in upper case, as INF files name them. Those of firmware resources are
// without the version. An NVMe drive has those of its PCI function.
//
// Software is listed under the names that a component can know, so that a program
// has two lines:
//
//	Source     Name
//	program    DisplayName of its key below ...\CurrentVersion\Uninstall
//	msi        its ProductCode in upper case, if it is a package of Windows Installer
//	uninstall  the name of the key, if it is not
//	inf        the INF file of a driver package in the driver store, in lower case,
//	           as its maker named it; where Windows does not tell, as oem7.inf
//
// Arch is that of the view of the registry: "386", or the system's own; on arm64,
// where that view also has programs for amd64, it is empty. Programs of single
// users, and updates of something else, are left out.
//
// # What Wine shows
//
// The tests run the real calls under Wine. It shows that they are made as Wine
// understands them: the registry in both views, SetupAPI's devices with their
// properties and driver keys, the SMBIOS tables, network connections with their
// addresses, and the names and the descriptors of disks, which are empty there.
// What it has not, only a real Windows can show: the boot (there is no process
// System), PCI addresses and slots, properties of drivers other than by driver
// keys, the devices of disks, original names of INF files, the ESRT, a processor
// that is not the program's, and what happens without administrator rights.
package inventory
