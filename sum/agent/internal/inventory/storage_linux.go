package inventory

import (
	"context"
	"regexp"
	"strings"

	"github.com/jaypipes/ghw"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	scsiHosts = "/sys/class/scsi_host"
	fcHosts   = "/sys/class/fc_host"
	nvmeClass = "/sys/class/nvme"
)

// Attributes of scsi_host by which drivers tell about their controller. Each
// driver has names of its own; no two drivers use one name for different things.
var (
	hostFirmware = []string{
		"fw_version",        // qla2xxx, fnic
		"fwrev",             // lpfc
		"version_fw",        // mpt3sas
		"firmware_version",  // smartpqi
		"firmware_revision", // hpsa
	}
	hostModel         = []string{"model_name", "modelname", "board_name", "model"}
	hostSerial        = []string{"serial_num", "serialnum", "serial_number", "board_tracer"}
	hostDriverVersion = []string{"driver_version", "lpfc_drvr_version"}
)

// controllers lists the PCI functions that lead to storage, other than NVMe
// drives, which are disks.
func (h host) controllers(ctx context.Context, out *finds) {
	hosts := h.hostsByFunction(out)
	names := &pciNames{h: h}
	for _, f := range h.pciFunctions(out, "01", "0c04") {
		if strings.HasPrefix(f.class, "0108") {
			continue
		}
		class := transport.ClassController
		if strings.HasPrefix(f.class, "0c04") {
			class = transport.ClassHBA
		}
		d := h.base(f, class)
		// A function may have several hosts (the ports of a SATA controller). They
		// share one firmware.
		for _, host := range hosts[f.address] {
			dir := scsiHosts + "/" + host
			if d.Firmware == "" {
				d.Firmware = firmwareVersion(h.attr(dir, hostFirmware...))
			}
			if d.Firmware == "" {
				d.Firmware = symbolicFirmware(h.attr(fcHosts+"/"+host, "symbolic_name"))
			}
			if d.Model == "" {
				d.Model = h.attr(dir, hostModel...)
			}
			if d.Serial == "" {
				d.Serial = h.attr(dir, hostSerial...)
			}
			if d.DriverVersion == "" {
				d.DriverVersion = driverVersion(h.attr(dir, hostDriverVersion...))
			}
		}
		if hs := hosts[f.address]; len(hs) > 0 {
			d.Name = strings.Join(hs, ",")
		}
		names.name(f, &d)
		out.device(d)
	}
}

// hostsByFunction maps PCI addresses to the SCSI hosts on them.
func (h host) hostsByFunction(out *finds) map[string][]string {
	names, err := h.list(scsiHosts)
	if err != nil {
		out.problem("%v", err)
	}
	hosts := map[string][]string{}
	for _, name := range names {
		if addr := h.pciParent(scsiHosts + "/" + name); addr != "" {
			hosts[addr] = append(hosts[addr], name)
		}
	}
	return hosts
}

// firmwareVersion takes the version out of what drivers print:
// "8.08.05 (d0d5)" by qla2xxx, "11.4.204.33, sli-4:2:c" by lpfc.
func firmwareVersion(s string) string {
	if i := strings.IndexAny(s, ", ("); i > 0 {
		return s[:i]
	}
	return s
}

// driverVersion takes the version out of "Emulex LightPulse Fibre Channel SCSI
// driver 14.2.0.8", as lpfc prints it.
func driverVersion(s string) string {
	if f := strings.Fields(s); len(f) > 1 && strings.HasPrefix(s, "Emulex") {
		return f[len(f)-1]
	}
	return s
}

var symbolicName = regexp.MustCompile(`\bFW:v?([0-9][^\s,]*)|\bFV([0-9][^\s,]*)`)

// symbolicFirmware finds the version in the name that a Fibre Channel port gives
// the fabric: "QLE2692 FW:v8.08.05 DVR:v10.01" or "Emulex SN1200E2P FV12.0.1 DV14.2".
func symbolicFirmware(s string) string {
	if m := symbolicName.FindStringSubmatch(s); m != nil {
		return m[1] + m[2]
	}
	return ""
}

// disks lists NVMe drives by their controllers and others by block device.
func (h host) disks(ctx context.Context, out *finds) {
	h.nvme(out)
	if _, err := h.list("/sys/block"); err != nil {
		out.problem("%v", err) // ghw would report no disks
	}
	info, err := ghw.Block(h.ghwArgs()...)
	if err != nil {
		out.problem("%v", err)
		return
	}
	byID := map[string]int{}
	var found []transport.Device
	for _, disk := range info.Disks {
		if !isDisk(disk.Name) {
			continue
		}
		d := h.disk(disk)
		// The paths to one drive are block devices of their own.
		if i, ok := byID[d.ID]; ok {
			found[i].Name += "," + d.Name
			continue
		}
		byID[d.ID] = len(found)
		found = append(found, d)
	}
	for _, d := range found {
		out.device(d)
	}
}

// blockDisk matches the kernel's names of whole disks on SCSI, IDE, virtio, Xen
// and MMC. All else (loop, ram, dm, md, optical) has no firmware or is listed by
// what it consists of.
var blockDisk = regexp.MustCompile(`^((sd|hd|vd|xvd)[a-z]+|mmcblk[0-9]+)$`)

func isDisk(name string) bool { return blockDisk.MatchString(name) }

func (h host) disk(disk *ghw.Disk) transport.Device {
	dir := "/sys/block/" + disk.Name + "/device"
	d := transport.Device{
		Class: transport.ClassDisk, Name: disk.Name,
		Vendor:   known(disk.Vendor),
		Model:    h.attr(dir, "model", "name"), // MMC has "name"
		Serial:   known(disk.SerialNumber),
		Firmware: h.attr(dir, "rev", "fwrev"),
		Driver:   h.link(dir + "/driver"),
	}
	if strings.HasPrefix(d.Vendor, "0x") {
		d.Vendor = "" // virtio has a number there
	}
	if d.Model == "" {
		d.Model = known(disk.Model) // as udev noted it, with underscores for spaces
	}
	if d.Serial == "" {
		d.Serial = h.attr(dir, "serial")
	}
	if d.Serial == "" {
		d.Serial = h.attr("/sys/block/"+disk.Name, "serial") // virtio
	}
	if path := known(disk.BusPath); path != "" {
		d.Location = path
	}
	if d.Model != "" {
		d.HardwareIDs = []string{"model:" + d.Model}
	}
	d.ID = "disk:" + disk.Name
	if wwn := known(disk.WWN); wwn != "" {
		d.ID = "disk:" + wwn
	} else if wwid := h.attr(dir, "wwid"); wwid != "" {
		d.ID = "disk:" + strings.Join(strings.Fields(wwid), "_")
	} else if d.Serial != "" {
		d.ID = "disk:" + d.Serial
	}
	return d
}

// nvme lists the NVMe controllers that are PCI functions of this host. Those
// behind a network are disks of another.
func (h host) nvme(out *finds) {
	names, err := h.list(nvmeClass)
	if err != nil {
		out.problem("%v", err)
	}
	byAddress := map[string]string{}
	for _, name := range names {
		if addr := h.pciParent(nvmeClass + "/" + name); addr != "" {
			byAddress[addr] = name
		}
	}
	db := &pciNames{h: h}
	for _, f := range h.pciFunctions(out, "0108") {
		d := h.base(f, transport.ClassDisk)
		if name := byAddress[f.address]; name != "" {
			dir := nvmeClass + "/" + name
			d.Name = name
			d.Model = h.attr(dir, "model")
			d.Serial = h.attr(dir, "serial")
			d.Firmware = h.attr(dir, "firmware_rev")
			if d.Model != "" {
				d.HardwareIDs = append([]string{"model:" + d.Model}, d.HardwareIDs...)
			}
		}
		db.name(f, &d)
		out.device(d)
	}
}
