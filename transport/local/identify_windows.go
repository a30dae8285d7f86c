package local

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/roundsman-go/roundsman/transport"
)

// system adds the release of Windows and what the firmware left in the registry.
// Windows counts no boots in a way that every edition has.
func system(id *transport.Identity) {
	id.Version = registryText(`SOFTWARE\Microsoft\Windows NT\CurrentVersion`, "ProductName")
	const bios = `HARDWARE\DESCRIPTION\System\BIOS`
	id.Vendor, id.Product = registryText(bios, "SystemManufacturer"), registryText(bios, "SystemProductName")
	// OSVERSIONINFOW; GetVersion would say what suits a program without a manifest.
	var v struct {
		size, major, minor, build, platform uint32
		servicePack                         [128]uint16
	}
	v.size = uint32(unsafe.Sizeof(v))
	get := syscall.NewLazyDLL("ntdll.dll").NewProc("RtlGetVersion")
	if status, _, _ := get.Call(uintptr(unsafe.Pointer(&v))); status == 0 {
		id.Kernel = fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.build)
	}
}

// registryText reads a text below HKEY_LOCAL_MACHINE; one that cannot be read is
// empty.
func registryText(path, name string) string {
	key16, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return ""
	}
	name16, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return ""
	}
	var key syscall.Handle
	if syscall.RegOpenKeyEx(syscall.HKEY_LOCAL_MACHINE, key16, 0, syscall.KEY_QUERY_VALUE, &key) != nil {
		return ""
	}
	defer syscall.RegCloseKey(key)
	var typ uint32
	var buf [512]uint16
	size := uint32(len(buf) * 2)
	if syscall.RegQueryValueEx(key, name16, nil, &typ, (*byte)(unsafe.Pointer(&buf)), &size) != nil || typ != syscall.REG_SZ {
		return ""
	}
	return syscall.UTF16ToString(buf[:size/2])
}
