package transporttest

import (
	"fmt"
	"net/netip"

	"github.com/roundsman-go/roundsman/transport"
)

// NewShellServer returns a fake with one server that has a shell: files,
// commands (scripted with [Target.OnRun]), tunnels to Unix and TCP sockets, and
// reboot.
func NewShellServer() (*Fake, *Target) {
	f := New()
	return f, f.AddShellServer("shell.example")
}

// AddShellServer adds a target as [NewShellServer] has it.
func (f *Fake) AddShellServer(address string) *Target {
	cfg := newConfig(address, transport.Identity{Name: address, OS: "linux", Version: "Debian GNU/Linux 13 (trixie)",
		Kernel: "6.12.43", Arch: "amd64", Vendor: "HPE", Product: "ProLiant DL380 Gen10", Serial: serial(address)})
	cfg.Caps = transport.CapFiles | transport.CapRun | transport.CapTunnelUnix | transport.CapTunnelTCP | transport.CapReboot
	cfg.Volatile = []string{"/run", "/tmp"}
	t := f.Add(cfg)
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", "/root", "/etc"} {
		_ = t.fs.mkdir(dir, 0o755) // a new file system refuses none of these
	}
	return t
}

// NewServiceServer returns a fake with one server that runs services but no
// commands, as Windows does: files on a share, services (scripted with
// [Target.OnService]) and tunnels to named pipes.
func NewServiceServer() (*Fake, *Target) {
	f := New()
	return f, f.AddServiceServer("services.example")
}

// AddServiceServer adds a target as [NewServiceServer] has it.
func (f *Fake) AddServiceServer(address string) *Target {
	cfg := newConfig(address, transport.Identity{Name: address, OS: "windows", Version: "Windows Server 2022 Datacenter",
		Kernel: "10.0.20348", Arch: "amd64", Vendor: "HPE", Product: "ProLiant DL380 Gen10", Serial: serial(address)})
	cfg.Caps = transport.CapFiles | transport.CapServices | transport.CapTunnelPipe | transport.CapSpace | transport.CapClock
	cfg.Windows = true
	t := f.Add(cfg)
	_ = t.fs.mkdir("/Temp", 0o755)
	return t
}

// NewPushDevice returns a fake with one device that takes its firmware over the
// connection, as a management processor does: inventory, update, undo, reboot.
func NewPushDevice() (*Fake, *Target) {
	f := New()
	return f, f.AddPushDevice("push.example")
}

// AddPushDevice adds a target as [NewPushDevice] has it.
func (f *Fake) AddPushDevice(address string) *Target { return f.Add(deviceConfig(address)) }

// NewPullDevice returns a fake with one device that fetches its firmware itself:
// Update has it get the URLs of UpdateOptions.Publish over real HTTP, from
// 127.0.0.1, and check what it gets.
func NewPullDevice() (*Fake, *Target) {
	f := New()
	return f, f.AddPullDevice("pull.example")
}

// AddPullDevice adds a target as [NewPullDevice] has it.
func (f *Fake) AddPullDevice(address string) *Target {
	cfg := deviceConfig(address)
	cfg.Pull = true
	cfg.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return f.Add(cfg)
}

// NewHostGroup returns a fake with n hosts behind one login, as a vCenter has
// them. The login has children; each host is reached through the login's address
// with the object that its child names, is updated there, and dials back from
// its own address.
func NewHostGroup(n int) (f *Fake, login *Target, hosts []*Target) {
	f = New()
	login, hosts = f.AddHostGroup("vcenter.example", n)
	return f, login, hosts
}

// AddHostGroup adds targets as [NewHostGroup] has them.
func (f *Fake) AddHostGroup(address string, n int) (login *Target, hosts []*Target) {
	cfg := newConfig(address, transport.Identity{Name: address, OS: "vcenter", Version: "8.0.3", Vendor: "VMware, Inc.",
		Product: "VMware vCenter Server", UUID: serial(address)})
	cfg.Caps = transport.CapChildren
	cfg.CallbackFrom = []netip.Prefix{} // nobody: the hosts do
	for i := range n {
		name := fmt.Sprintf("esx%d.%s", i+1, address)
		host := deviceConfig(address)
		host.Object = fmt.Sprintf("host-%d", i+1)
		host.Addr = netip.AddrFrom4([4]byte{203, 0, 113, byte(i%254 + 1)})
		host.Identity = transport.Identity{Name: name, OS: "esxi", Version: "8.0.3", Vendor: "HPE",
			Product: "ProLiant DL380 Gen10", Serial: serial(name)}
		host.Behind = true
		hosts = append(hosts, f.Add(host))
		cfg.Children = append(cfg.Children, transport.Child{Object: host.Object, Name: name, Type: "HostSystem"})
	}
	return f.Add(cfg), hosts
}

// NewEnclosure returns a fake with an enclosure, as an Onboard Administrator is:
// it has an inventory and updates of its own, and children: two device bays
// whose management processors answer at addresses of their own, and two
// interconnect bays that are reached through the enclosure as objects.
func NewEnclosure() (f *Fake, enclosure *Target, bays []*Target) {
	f = New()
	enclosure, bays = f.AddEnclosure("oa.example")
	return f, enclosure, bays
}

// AddEnclosure adds targets as [NewEnclosure] has them.
func (f *Fake) AddEnclosure(address string) (enclosure *Target, bays []*Target) {
	cfg := deviceConfig(address)
	cfg.Caps |= transport.CapChildren
	cfg.Identity = transport.Identity{Name: address, Vendor: "HP", Product: "BladeSystem c7000 DDR2 Onboard Administrator with KVM",
		Serial: serial(address), OS: "oa", Version: "4.85"}
	cfg.Devices = []transport.Device{{ID: "oa", Class: transport.ClassBMC, Name: "Onboard Administrator", Vendor: "HP", Firmware: "4.85"}}
	for i := range 2 {
		own := fmt.Sprintf("ilo-bay%d.%s", i+1, address)
		bays = append(bays, f.AddPushDevice(own))
		cfg.Children = append(cfg.Children, transport.Child{Object: fmt.Sprintf("bay-%d", i+1), Name: own, Type: "iLO", Address: own})
	}
	for i := range 2 {
		bay := deviceConfig(address)
		bay.Object = fmt.Sprintf("interconnect-%d", i+1)
		name := fmt.Sprintf("vc%d.%s", i+1, address)
		bay.Identity = transport.Identity{Name: name, Vendor: "HP", Product: "VC Flex-10/10D", Serial: serial(name), OS: "vc", Version: "4.63"}
		bay.Devices = []transport.Device{{ID: "vc", Class: transport.ClassSwitch, Name: "Virtual Connect", Vendor: "HP", Firmware: "4.63"}}
		bay.Behind = true
		bays = append(bays, f.Add(bay))
		cfg.Children = append(cfg.Children, transport.Child{Object: bay.Object, Name: name, Type: "interconnect"})
	}
	return f.Add(cfg), bays
}

// newConfig is what all personalities share. User and password differ from
// target to target, so that mixing them up shows.
func newConfig(address string, id transport.Identity) TargetConfig {
	return TargetConfig{Address: address, Identity: id, User: "admin",
		Password: transport.NewSecret("password-of-" + serial(address)), HostKey: hostKey(address)}
}

func deviceConfig(address string) TargetConfig {
	cfg := newConfig(address, transport.Identity{Name: address, Vendor: "HPE", Product: "ProLiant DL380 Gen10",
		Serial: serial(address), OS: "ilo5", Version: "2.10"})
	cfg.Caps = transport.CapInventory | transport.CapUpdate | transport.CapUndo | transport.CapReboot
	yes := true
	cfg.Devices = []transport.Device{
		{ID: "bmc", Class: transport.ClassBMC, Name: "iLO 5", Vendor: "HPE", Model: "iLO 5", Firmware: "2.10", Updateable: &yes},
		{ID: "bios", Class: transport.ClassBIOS, Name: "System ROM", Vendor: "HPE", Model: "U30", Firmware: "2.36", Updateable: &yes},
		{ID: "nic1", Class: transport.ClassNIC, Name: "Ethernet 10Gb 2-port 562FLR-SFP+", Vendor: "Intel", Model: "562FLR-SFP+",
			Location: "Embedded ALOM", Firmware: "10.54.7", HardwareIDs: []string{"pci:8086:1572:103c:22fc"}, Updateable: &yes},
	}
	return cfg
}

// serial makes up a serial number for a name.
func serial(name string) string { return fmt.Sprintf("SN%08X", fnv(name)) }

func fnv(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
