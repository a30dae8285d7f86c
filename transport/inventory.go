package transport

import "time"

// Inventory is what is in a target: devices with firmware and drivers, software,
// and what could not be read.
type Inventory struct {
	Taken    time.Time  `json:"taken"` // on the manager's clock
	Identity Identity   `json:"identity"`
	Devices  []Device   `json:"devices,omitempty"`
	Software []Software `json:"software,omitempty"`
	Problems []Problem  `json:"problems,omitempty"`
	// Notes say more of what was read than there is a place for, and why something
	// is not listed that somebody may miss. They are no problems.
	Notes []Problem `json:"notes,omitempty"`
}

// Device classes that drivers and the agent use. Others may appear.
const (
	ClassBIOS       = "bios"
	ClassBMC        = "bmc"
	ClassNIC        = "nic"
	ClassHBA        = "hba"
	ClassDisk       = "disk"
	ClassController = "storage-controller"
	ClassPSU        = "psu"
	ClassSwitch     = "switch"
)

// Device is a part that has firmware or a driver.
type Device struct {
	// ID is stable within the target: a PCI address, a Redfish @odata.id.
	ID            string   `json:"id"`
	Class         string   `json:"class"`
	Name          string   `json:"name,omitempty"`
	Vendor        string   `json:"vendor,omitempty"`
	Model         string   `json:"model,omitempty"`
	Serial        string   `json:"serial,omitempty"`
	Location      string   `json:"location,omitempty"`
	Firmware      string   `json:"firmware,omitempty"` // version
	Driver        string   `json:"driver,omitempty"`   // name
	DriverVersion string   `json:"driver_version,omitempty"`
	HardwareIDs   []string `json:"hardware_ids,omitempty"` // "pci:vvvv:dddd:ssss:ssss" and the like, most exact first
	Updateable    *bool    `json:"updateable,omitempty"`   // nil: the target does not say
}

// Software is an installed package or component.
type Software struct {
	// ID is what the system knows it by, where that is not always Name: the ProductCode
	// of Windows Installer, the name of its key in the registry. Entries of one program
	// that differ in Source have the same.
	ID      string `json:"id,omitempty"`
	Name    string `json:"name"`
	Vendor  string `json:"vendor,omitempty"` // who made it, as the system says
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
	Source  string `json:"source,omitempty"` // "dpkg", "rpm", "probe", "vib", ...
}

// Problem is a part of the inventory that could not be read, and why.
type Problem struct {
	Part string `json:"part"`
	Text string `json:"text"`
}
