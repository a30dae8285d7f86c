package inventory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jaypipes/ghw"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/transport"
)

const netClass = "/sys/class/net"

// driverInfoFunc asks the kernel about the driver of a network interface.
type driverInfoFunc func(ifname string) (driverInfo, error)

type driverInfo struct{ driver, version, firmware string }

// network lists the adapters: PCI functions of the network class with the
// interfaces on them, and interfaces on other buses. Bridges, bonds and the like
// are no devices.
func (h host) network(ctx context.Context, ask driverInfoFunc, out *finds) {
	if _, err := h.list(netClass); err != nil {
		out.problem("%v", err) // ghw would report no interfaces
	}
	info, err := ghw.Network(h.ghwArgs()...)
	if err != nil {
		out.problem("%v", err)
		info = &ghw.NetworkInfo{}
	}
	onPCI := map[string][]*ghw.NIC{}
	var elsewhere []*ghw.NIC
	for _, nic := range info.NICs {
		switch addr := h.pciParent(netClass + "/" + nic.Name + "/device"); {
		case nic.IsVirtual || !h.exists(netClass+"/"+nic.Name+"/device"):
		case h.exists(pciDevices + "/" + addr + "/physfn"): // a virtual function
		case addr != "":
			onPCI[addr] = append(onPCI[addr], nic)
		default:
			elsewhere = append(elsewhere, nic)
		}
	}
	names := &pciNames{h: h}
	var adapters []transport.Device
	var interfaces [][]*ghw.NIC
	add := func(d transport.Device, nics []*ghw.NIC) {
		describe(&d, nics)
		out.device(d)
		adapters, interfaces = append(adapters, d), append(interfaces, nics)
	}
	for _, f := range h.pciFunctions(out, "02") {
		d := h.base(f, transport.ClassNIC)
		names.name(f, &d)
		nics := onPCI[f.address]
		for _, nic := range nics {
			// Where another bus lies between, as with virtio, the driver of the
			// adapter is not that of the PCI function.
			if driver := h.link(netClass + "/" + nic.Name + "/device/driver"); driver != "" && driver != d.Driver {
				d.Driver, d.DriverVersion = driver, h.moduleVersion(driver)
			}
		}
		add(d, nics)
		delete(onPCI, f.address)
	}
	// What is left hangs from functions of another class, such as a USB adapter
	// from its host controller.
	for _, nics := range onPCI {
		elsewhere = append(elsewhere, nics...)
	}
	for _, nic := range elsewhere {
		d := transport.Device{ID: "net:" + cmp.Or(nic.MACAddress, nic.Name), Class: transport.ClassNIC,
			Driver: h.link(netClass + "/" + nic.Name + "/device/driver")}
		d.DriverVersion = h.moduleVersion(d.Driver)
		add(d, []*ghw.NIC{nic})
	}
	if ask == nil {
		return
	}
	// Asking reaches into drivers and adapters, which may hang. It comes last, so
	// that this costs no more than the answers.
	for i, d := range adapters {
		if len(interfaces[i]) == 0 || ctx.Err() != nil {
			continue
		}
		h.firmware(&d, interfaces[i][0].Name, ask, out)
		out.device(d)
	}
}

// describe adds what the interfaces of an adapter tell.
func describe(d *transport.Device, nics []*ghw.NIC) {
	slices.SortFunc(nics, func(a, b *ghw.NIC) int { return cmp.Compare(a.Name, b.Name) })
	var names []string
	for _, nic := range nics {
		names = append(names, nic.Name)
		d.Serial = cmp.Or(d.Serial, nic.MACAddress)
	}
	d.Name = strings.Join(names, ",")
}

// firmware adds what the kernel says about an interface of the adapter.
func (h host) firmware(d *transport.Device, ifname string, ask driverInfoFunc, out *finds) {
	info, err := ask(ifname)
	switch {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.ENODEV):
		return // the driver does not tell, or the interface is gone by now
	case err != nil:
		out.problem("%s: driver and firmware: %v", ifname, err)
		return
	}
	d.Driver = cmp.Or(d.Driver, info.driver)
	if v := info.version; d.DriverVersion == "" && v != "N/A" && v != h.attr("/proc/sys/kernel", "osrelease") {
		d.DriverVersion = v
	}
	if info.firmware != "N/A" {
		d.Firmware = info.firmware
	}
}

// ethtoolDriverInfo asks the running kernel (ETHTOOL_GDRVINFO of
// linux/ethtool.h), which any user may.
func ethtoolDriverInfo(ifname string) (driverInfo, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		// A host may have IPv6 only, or neither; netlink sockets are always there.
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	}
	if err != nil {
		return driverInfo{}, err
	}
	defer unix.Close(fd)
	v, err := unix.IoctlGetEthtoolDrvinfo(fd, ifname)
	if err != nil {
		return driverInfo{}, err
	}
	return driverInfo{
		driver:   unix.ByteSliceToString(v.Driver[:]),
		version:  unix.ByteSliceToString(v.Version[:]),
		firmware: unix.ByteSliceToString(v.Fw_version[:]),
	}, nil
}
