package inventory

import (
	"strings"
	"sync"

	"github.com/jaypipes/pcidb"

	"github.com/roundsman-go/roundsman/transport"
)

const pciDevices = "/sys/bus/pci/devices"

// pciFunction is one function of a PCI device. The identifiers are lower-case
// hexadecimal without "0x".
type pciFunction struct {
	address              string
	class                string // 6 digits: class, subclass, programming interface
	vendor, device       string // 4 digits
	subVendor, subDevice string // 4 digits, or ""
	driver               string
}

// pciFunctions lists the functions whose class begins with one of the prefixes.
// Virtual functions (SR-IOV) are left out: they have no firmware of their own.
func (h host) pciFunctions(out *finds, classes ...string) []pciFunction {
	names, err := h.list(pciDevices)
	if err != nil {
		out.problem("%v", err)
	}
	var fns []pciFunction
	for _, name := range names {
		dir := pciDevices + "/" + name
		if !pciAddress.MatchString(name) || h.exists(dir+"/physfn") {
			continue
		}
		f := pciFunction{address: name}
		if f.class = h.hexID(dir+"/class", 6); !hasPrefix(f.class, classes) {
			continue
		}
		f.vendor, f.device = h.hexID(dir+"/vendor", 4), h.hexID(dir+"/device", 4)
		if f.vendor == "" || f.device == "" {
			out.problem("PCI function %s does not tell its vendor and device", name)
			continue
		}
		f.subVendor, f.subDevice = h.hexID(dir+"/subsystem_vendor", 4), h.hexID(dir+"/subsystem_device", 4)
		f.driver = h.link(dir + "/driver")
		fns = append(fns, f)
	}
	return fns
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// hexID reads "0x8086" as "8086".
func (h host) hexID(name string, digits int) string {
	s, err := h.read(name)
	s = strings.ToLower(strings.TrimPrefix(s, "0x"))
	if err != nil || len(s) != digits || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}

// base fills in what is the same for every class of device.
func (h host) base(f pciFunction, class string) transport.Device {
	d := transport.Device{ID: f.address, Class: class, Driver: f.driver, DriverVersion: h.moduleVersion(f.driver)}
	pair := "pci:" + f.vendor + ":" + f.device
	if f.subVendor != "" && f.subDevice != "" && f.subVendor != "0000" {
		d.HardwareIDs = append(d.HardwareIDs, pair+":"+f.subVendor+":"+f.subDevice)
	}
	d.HardwareIDs = append(d.HardwareIDs, pair)
	d.Location = h.slot(f.address)
	return d
}

// slot says where a function sits: the name that the firmware gives an onboard
// device, or the slot.
func (h host) slot(address string) string {
	if label := h.attr(pciDevices+"/"+address, "label"); label != "" {
		return label
	}
	device, _, _ := strings.Cut(address, ".")
	slots, _ := h.list("/sys/bus/pci/slots")
	for _, s := range slots {
		if h.attr("/sys/bus/pci/slots/"+s, "address") == device {
			return "PCI slot " + s
		}
	}
	return ""
}

// pciNames is the database of PCI names of the host, read when first asked.
type pciNames struct {
	h    host
	once sync.Once
	db   *pcidb.PCIDB
}

func (n *pciNames) load() {
	// The library stops the program at a line that it does not understand, and
	// names are not worth that. It is given the file, because left to look for
	// one it would try the home directory and the network.
	defer func() { _ = recover() }()
	for _, name := range []string{
		"/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids",
		"/usr/share/hwdata/pci.ids.gz", "/usr/share/misc/pci.ids.gz",
	} {
		if n.h.exists(name) {
			if db, err := pcidb.New(pcidb.WithPath(n.h.path(name))); err == nil {
				n.db = db
				return
			}
		}
	}
}

// name adds vendor and model, where the host has the database. It is an extra:
// hosts without it miss nothing that an update needs.
func (n *pciNames) name(f pciFunction, d *transport.Device) {
	n.once.Do(n.load)
	if n.db == nil {
		return
	}
	if v := n.db.Vendors[f.vendor]; v != nil && d.Vendor == "" {
		d.Vendor = v.Name
	}
	p := n.db.Products[f.vendor+f.device]
	if p == nil || d.Model != "" {
		return
	}
	d.Model = p.Name
	for _, sub := range p.Subsystems {
		if sub.VendorID == f.subVendor && sub.ID == f.subDevice {
			d.Model = sub.Name
		}
	}
}
