package inventory

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

// maxPnP bounds the devices that are looked at, most of which are left out.
const maxPnP = 64 << 10

// devices lists the devices but for disks.
func devices(ctx context.Context, out *finds) {
	all := plugAndPlay(ctx, out)
	c := pnpContext{nvme: map[string]bool{}}
	b, err := readSMBIOS()
	if err != nil {
		out.problem("names of onboard devices: %v", err)
	}
	c.onboard, c.esrt = b.onboard, firmwareResources(registry.LOCAL_MACHINE, `HARDWARE\UEFI\ESRT`, out)
	for _, p := range all {
		if strings.EqualFold(p.setupClass, "DiskDrive") {
			c.nvme[strings.ToUpper(p.parent)] = true
		}
	}
	if c.adapters, err = networkAdapters(); err != nil {
		out.problem("network connections: %v", err)
	}
	var listed []transport.Device
	for _, p := range all {
		if d, ok := p.device(c); ok {
			out.device(d)
			listed = append(listed, d)
		}
	}
	for _, d := range c.unlisted(listed) {
		out.device(d)
	}
}

// firmwareResources returns the versions in the EFI System Resource Table, which
// Windows copies into the registry when it starts. Systems with a BIOS have none.
func firmwareResources(root registry.Key, path string, out *finds) map[string]uint32 {
	list, err := registry.OpenKey(root, path, registry.ENUMERATE_SUB_KEYS)
	if errors.Is(err, registry.ErrNotExist) {
		return nil
	}
	if err != nil {
		out.problem("%s: %v", path, err)
		return nil
	}
	defer list.Close()
	names, err := list.ReadSubKeyNames(maxDevices)
	if err != nil && err != io.EOF { // there are fewer
		out.problem("%s: %v", path, err)
	}
	versions := map[string]uint32{}
	for _, guid := range names {
		k, err := registry.OpenKey(list, guid, registry.QUERY_VALUE)
		if err != nil {
			out.problem(`%s\%s: %v`, path, guid, err)
			continue
		}
		if v, _, err := k.GetIntegerValue("Version"); err != nil {
			out.problem(`%s\%s: Version: %v`, path, guid, err)
		} else {
			versions[strings.ToUpper(guid)] = uint32(v)
		}
		k.Close()
	}
	return versions
}

// Keys of device properties (devpkey.h).
func deviceProperty(d1 uint32, d2, d3 uint16, d4 [8]byte, pid uint32) windows.DEVPROPKEY {
	return windows.DEVPROPKEY{FmtID: windows.DEVPROPGUID{Data1: d1, Data2: d2, Data3: d3, Data4: d4}, PID: windows.DEVPROPID(pid)}
}

func driverProperty(pid uint32) windows.DEVPROPKEY {
	return deviceProperty(0xa8b865dd, 0x2e3d, 0x4094, [8]byte{0xad, 0x97, 0xe5, 0x93, 0xa7, 0x0c, 0x75, 0xd6}, pid)
}

// plugAndPlay lists the devices that are present.
func plugAndPlay(ctx context.Context, out *finds) []pnpDevice {
	set, err := windows.SetupDiGetClassDevsEx(nil, "", 0, windows.DIGCF_ALLCLASSES|windows.DIGCF_PRESENT, 0, "")
	if err != nil {
		out.problem("devices: %v", err)
		return nil
	}
	defer set.Close()
	var all []pnpDevice
	for i := range maxPnP {
		if ctx.Err() != nil {
			break
		}
		data, err := set.EnumDeviceInfo(i)
		if err != nil {
			if err != windows.ERROR_NO_MORE_ITEMS {
				out.problem("device %d: %v", i, err)
			}
			break
		}
		q := pnpQuery{set, data}
		p, err := q.device()
		if err != nil {
			out.problem("device %d: %v", i, err)
			continue
		}
		all = append(all, p)
	}
	return all
}

// pnpQuery asks for the properties of one device.
type pnpQuery struct {
	set  windows.DevInfo
	data *windows.DevInfoData
}

func (q pnpQuery) device() (p pnpDevice, err error) {
	if p.instance, err = q.set.DeviceInstanceID(q.data); err != nil {
		return p, err
	}
	p.setupClass, p.service = q.text(windows.SPDRP_CLASS), q.text(windows.SPDRP_SERVICE)
	p.maker, p.desc, p.friendly = q.text(windows.SPDRP_MFG), q.text(windows.SPDRP_DEVICEDESC), q.text(windows.SPDRP_FRIENDLYNAME)
	p.hardware, p.compatible = q.texts(windows.SPDRP_HARDWAREID), q.texts(windows.SPDRP_COMPATIBLEIDS)
	bus, ok := q.registry(windows.SPDRP_BUSNUMBER).(uint32)
	address, ok2 := q.registry(windows.SPDRP_ADDRESS).(uint32)
	p.located, p.bus, p.address = ok && ok2, bus, address
	p.slot, _ = q.registry(windows.SPDRP_UI_NUMBER).(uint32)

	p.parent = q.property(deviceProperty(0x4340a6c5, 0x93fa, 0x4706, [8]byte{0x97, 0x2c, 0x7b, 0x64, 0x80, 0x08, 0xa5, 0xa7}, 8))
	p.driverVersion, p.inf = q.property(driverProperty(3)), q.property(driverProperty(5))
	if p.inf == "" {
		p.driverVersion, p.inf = q.driverKey("DriverVersion"), q.driverKey("InfPath")
	}
	if strings.EqualFold(p.setupClass, "Net") {
		p.connection = q.driverKey("NetCfgInstanceId")
	}
	return p, nil
}

// registry returns a property, or nil for one that the device does not have.
func (q pnpQuery) registry(property windows.SPDRP) (v any) {
	defer func() { _ = recover() }() // x/sys does for a value of no bytes
	v, _ = q.set.DeviceRegistryProperty(q.data, property)
	return v
}

func (q pnpQuery) text(property windows.SPDRP) string {
	s, _ := q.registry(property).(string)
	return clean(s)
}

func (q pnpQuery) texts(property windows.SPDRP) []string {
	s, _ := q.registry(property).([]string)
	return s
}

// property returns a property that newer systems have, and that is text.
func (q pnpQuery) property(key windows.DEVPROPKEY) string {
	v, _ := windows.SetupDiGetDeviceProperty(q.set, q.data, &key)
	s, _ := v.(string)
	return clean(s)
}

// driverKey returns a value of the key in which the device's driver has its own.
func (q pnpQuery) driverKey(name string) string {
	driver := q.text(windows.SPDRP_DRIVER)
	if driver == "" {
		return ""
	}
	return registryText(`SYSTEM\CurrentControlSet\Control\Class\`+driver, name)
}

// networkAdapters lists the network connections by the upper-case GUIDs of their
// adapters.
func networkAdapters() (map[string]adapter, error) {
	const flags = windows.GAA_FLAG_SKIP_UNICAST | windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST |
		windows.GAA_FLAG_SKIP_DNS_SERVER | windows.GAA_FLAG_INCLUDE_ALL_INTERFACES
	for size := uint32(64 << 10); ; {
		buf := make([]uint64, size/8+1) // aligned
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		switch {
		case err == windows.ERROR_BUFFER_OVERFLOW && size <= 16<<20:
			continue
		case err == windows.ERROR_NO_DATA:
			return nil, nil
		case err != nil:
			return nil, os.NewSyscallError("GetAdaptersAddresses", err)
		}
		found := map[string]adapter{}
		for a := first; a != nil; a = a.Next {
			n := min(a.PhysicalAddressLength, uint32(len(a.PhysicalAddress)))
			found[strings.ToUpper(windows.BytePtrToString(a.AdapterName))] = adapter{
				name: windows.UTF16PtrToString(a.FriendlyName), mac: net.HardwareAddr(a.PhysicalAddress[:n]).String(),
			}
		}
		return found, nil
	}
}
