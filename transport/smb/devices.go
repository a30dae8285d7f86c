package smb

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// fromWMI reads the machine and its devices. What one class does not tell is a problem of
// that alone, unless the connection is of no more use.
func (in *inventory) fromWMI(w *wmiSession) error {
	var other error
	ask := func(part, class string, properties []string, f func(r row)) {
		if other != nil {
			return
		}
		err := w.query(class, properties, f)
		switch {
		case err == nil:
		case noSuchClass(err), errors.Is(rpcError(err), transport.ErrRejected), errors.Is(err, transport.ErrTimeout):
			in.problem(part, err)
		default:
			other = err
		}
	}
	ask("identity", "Win32_OperatingSystem", []string{"CSName", "Version"}, func(r row) {
		// Somebody else may answer where the port is forwarded, or the name is of several.
		if name := r.get("CSName"); in.id.Name != "" && name != "" && !strings.EqualFold(short(name), short(in.id.Name)) {
			other = &transport.Error{Kind: transport.ErrTrust, Hint: "WMI is answered by " + name + ", and SMB by " + in.id.Name}
		}
	})
	ask("identity", "Win32_ComputerSystemProduct", []string{"Vendor", "Name", "IdentifyingNumber", "UUID"}, func(r row) {
		in.id.Vendor, in.id.Product = cmp.Or(r.get("Vendor"), in.id.Vendor), cmp.Or(r.get("Name"), in.id.Product)
		in.id.Serial, in.id.UUID = r.get("IdentifyingNumber"), strings.ToLower(r.get("UUID"))
	})
	ask("bios", "Win32_BIOS", []string{"Manufacturer", "SMBIOSBIOSVersion", "SystemBiosMajorVersion", "SystemBiosMinorVersion", "ReleaseDate"}, func(r row) {
		in.bios.Vendor = cmp.Or(r.get("Manufacturer"), in.bios.Vendor)
		in.bios.Firmware = cmp.Or(biosVersion(r), in.bios.Firmware)
	})
	ask("devices", "Win32_PnPEntity", []string{"DeviceID", "Name", "Manufacturer", "Service", "HardwareID", "CompatibleID"}, in.pnp)
	ask("drivers", "Win32_PnPSignedDriver", []string{"DeviceID", "DeviceClass", "DriverVersion", "InfName"}, in.driver)
	ask("network", "Win32_NetworkAdapter", []string{"PNPDeviceID", "NetConnectionID", "MACAddress"}, func(r row) {
		if d := in.devices[strings.ToUpper(r.get("PNPDeviceID"))]; d != nil && d.Class == transport.ClassNIC {
			d.Name, d.Serial = cmp.Or(r.get("NetConnectionID"), d.Name), strings.ToLower(r.get("MACAddress"))
		}
	})
	var disks []row
	ask("disks", "Win32_DiskDrive", []string{"DeviceID", "PNPDeviceID", "Model", "SerialNumber", "FirmwareRevision"}, func(r row) { disks = append(disks, r) })
	in.disks(disks)
	// Of what has no class it was seen by its driver that it is part of Windows.
	for id, d := range in.devices {
		if d.Class == "" {
			delete(in.devices, id)
		}
	}
	return other
}

// short is a computer's name as NetBIOS has it.
func short(name string) string {
	name, _, _ = strings.Cut(name, ".")
	return name[:min(len(name), 15)]
}

var romFamily = regexp.MustCompile(`^[A-Z][0-9]{2}$`)

// biosVersion is the version of a BIOS. HPE's tell only the ROM family in it ("U30");
// release and date follow then, as HPE's own tools show them: "U30 2.36 07/16/2020".
func biosVersion(r row) string {
	version, maker, date := r.get("SMBIOSBIOSVersion"), r.get("Manufacturer"), r.get("ReleaseDate")
	if (maker != "HP" && maker != "HPE") || !romFamily.MatchString(version) {
		return version
	}
	if major, minor := r.get("SystemBiosMajorVersion"), r.get("SystemBiosMinorVersion"); major != "" && minor != "" {
		version += " " + major + "." + minor
	}
	if len(date) >= 8 { // yyyymmddHHMMSS.mmmmmmsUUU
		version += " " + date[4:6] + "/" + date[6:8] + "/" + date[:4]
	}
	return version
}

// Identifiers of PCI functions, and of what is behind them.
var (
	pciHardwareID  = regexp.MustCompile(`(?i)^PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})(?:&SUBSYS_([0-9A-F]{4})([0-9A-F]{4}))?`)
	pciClassCode   = regexp.MustCompile(`(?i)^PCI\\(?:.*&)?CC_([0-9A-F]{4,6})`)
	windowsVersion = regexp.MustCompile(`^(10\.0|6\.[0-3])\.`)
	publishedINF   = regexp.MustCompile(`(?i)^oem[0-9]+\.inf$`)
)

// pnp notes a device. It has the IDs of the agent: the device instance ID in upper case,
// and as hardware IDs those that all systems share, then those of Windows.
func (in *inventory) pnp(r row) {
	id := strings.ToUpper(r.get("DeviceID"))
	if id == "" || len(in.devices) >= maxRows {
		return
	}
	d := &transport.Device{ID: id, Name: r.get("Name"), Model: r.get("Name"), Vendor: r.get("Manufacturer"), Driver: r.get("Service")}
	if strings.HasPrefix(d.Vendor, "(") {
		d.Vendor = "" // what Windows calls the makers of standard devices
	}
	code, exact, pair := "", "", ""
	for _, h := range slices.Concat(r["HardwareID"], r["CompatibleID"]) {
		if m := pciClassCode.FindStringSubmatch(h); m != nil && len(m[1]) > len(code) {
			code = strings.ToLower(m[1])
		}
	}
	for _, h := range r["HardwareID"] {
		if m := pciHardwareID.FindStringSubmatch(strings.ToLower(h)); m != nil {
			pair = "pci:" + m[1] + ":" + m[2]
			if m[4] != "" && m[4] != "0000" && exact == "" {
				exact = pair + ":" + m[4] + ":" + m[3] // Windows names the device before its vendor
			}
		}
	}
	for _, h := range []string{exact, pair} {
		if h != "" {
			d.HardwareIDs = append(d.HardwareIDs, h)
		}
	}
	for _, h := range r["HardwareID"] {
		d.HardwareIDs = append(d.HardwareIDs, strings.ToUpper(h))
	}
	switch {
	case !strings.HasPrefix(id, `PCI\`):
	case strings.HasPrefix(code, "02"):
		d.Class = transport.ClassNIC
	case strings.HasPrefix(code, "0108"): // NVMe: its disks are listed
	case strings.HasPrefix(code, "01"):
		d.Class = transport.ClassController
	case strings.HasPrefix(code, "0c04"):
		d.Class = transport.ClassHBA
	}
	in.devices[id] = d
}

// driver adds the driver to a device. One that did not come with Windows makes a device
// worth telling of, whatever it is.
func (in *inventory) driver(r row) {
	d := in.devices[strings.ToUpper(r.get("DeviceID"))]
	if d == nil {
		return
	}
	thirdParty := publishedINF.MatchString(r.get("InfName"))
	// The version of the Windows that a driver is a part of does not compare with what a
	// maker's driver has in its place.
	if v := r.get("DriverVersion"); thirdParty || !windowsVersion.MatchString(v) {
		d.DriverVersion = v
	}
	if class := strings.ToLower(r.get("DeviceClass")); d.Class == "" && thirdParty && class != "diskdrive" {
		d.Class = cmp.Or(class, "other")
		if class == "net" {
			d.Class = transport.ClassNIC
		}
	}
}

// disks adds the disks: by serial number, or where several have the same, by device.
func (in *inventory) disks(rows []row) {
	serials := map[string]int{}
	for _, r := range rows {
		serials[r.get("SerialNumber")]++
	}
	for _, r := range rows {
		instance := strings.ToUpper(r.get("PNPDeviceID"))
		d := transport.Device{Class: transport.ClassDisk, Name: strings.TrimPrefix(r.get("DeviceID"), `\\.\`), Model: r.get("Model"),
			Serial: r.get("SerialNumber"), Firmware: r.get("FirmwareRevision")}
		if on := in.devices[instance]; on != nil {
			d.Driver, d.DriverVersion = on.Driver, on.DriverVersion
		}
		if d.Model != "" {
			d.HardwareIDs = []string{"model:" + d.Model}
		}
		switch {
		case d.Serial != "" && serials[d.Serial] == 1:
			d.ID = "disk:" + d.Serial
		default:
			d.ID = "disk:" + cmp.Or(instance, d.Name)
		}
		in.devices[d.ID] = &d
	}
}
