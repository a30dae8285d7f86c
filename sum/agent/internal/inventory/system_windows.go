package inventory

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

func identity(_ context.Context, out *finds) {
	id := transport.Identity{OS: "windows", Arch: nativeArch()}
	var err error
	if id.Name, err = os.Hostname(); err != nil {
		out.problem("host name: %v", err)
	}
	if id.BootID, err = bootID(); err != nil {
		out.problem("boot: %v", err)
	}
	r := release(out)
	id.Version, id.Kernel = r.name(), r.kernel()
	out.who(id)

	b, err := readSMBIOS()
	if err != nil {
		out.problem("%v", err)
	}
	id.Vendor, id.Product, id.Serial, id.UUID = b.vendor, b.product, b.serial, b.uuid
	if id.Vendor == "" && id.Product == "" {
		// Windows keeps some of it where anybody can read it.
		id.Vendor, id.Product = hardwareDescription("SystemManufacturer"), hardwareDescription("SystemProductName")
	}
	out.who(id)
	if s := b.board.String(); s != "" {
		out.note("system board: %s", s)
	}
	if s := b.chassis.String(); s != "" {
		out.note("chassis: %s", s)
	}
}

func bios(_ context.Context, out *finds) {
	b, err := readSMBIOS()
	if err != nil {
		out.problem("%v", err)
	}
	d := transport.Device{ID: "bios", Class: transport.ClassBIOS, Name: "System BIOS", Vendor: b.biosVendor,
		Firmware: biosVersion(b.biosVendor, b.biosVersion, b.biosRelease, b.biosDate)}
	if d.Vendor == "" && d.Firmware == "" {
		d.Vendor, d.Firmware = hardwareDescription("BIOSVendor"), hardwareDescription("BIOSVersion")
		b.product = hardwareDescription("SystemProductName")
		b.biosDate = hardwareDescription("BIOSReleaseDate")
	}
	if d.Vendor == "" && d.Firmware == "" {
		return
	}
	if b.product != "" {
		d.HardwareIDs = []string{"product:" + b.product}
	}
	out.device(d)
	if b.biosDate != "" {
		out.note("date: %s", b.biosDate)
	}
}

// readSMBIOS asks the system for the tables of the firmware.
func readSMBIOS() (smbios, error) {
	p, err := procedure("kernel32.dll", "GetSystemFirmwareTable")
	if err != nil {
		return smbios{}, err
	}
	const provider = 'R'<<24 | 'S'<<16 | 'M'<<8 | 'B'
	for size := uintptr(64 << 10); ; {
		buf := make([]byte, size)
		n, _, err := p.Call(provider, 0, uintptr(unsafe.Pointer(&buf[0])), size)
		switch {
		case n == 0:
			return smbios{}, fmt.Errorf("SMBIOS tables: %w", err)
		case n > maxSMBIOS:
			return smbios{}, fmt.Errorf("SMBIOS tables of %d bytes: %w", n, errTooLong)
		case n > size:
			size = n // the tables are longer
		default:
			return parseRawSMBIOS(buf[:n])
		}
	}
}

// hardwareDescription returns what Windows noted of the firmware when it started.
func hardwareDescription(name string) string {
	return registryText(`HARDWARE\DESCRIPTION\System\BIOS`, name)
}

// registryText reads a text below HKEY_LOCAL_MACHINE that may well be missing.
func registryText(path, name string) string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return ""
	}
	defer k.Close()
	return text(k, name)
}

// text reads a value that may well be missing.
func text(k registry.Key, name string) string {
	s, _, _ := k.GetStringValue(name)
	return clean(s)
}

// number reads a value that may well be missing.
func number(k registry.Key, name string) uint32 {
	n, _, _ := k.GetIntegerValue(name)
	return uint32(n)
}

// release reads what Windows this is. What the program is told by GetVersionEx depends
// on its manifest.
func release(out *finds) windowsRelease {
	v := windows.RtlGetVersion()
	r := windowsRelease{major: v.MajorVersion, minor: v.MinorVersion, build: v.BuildNumber}
	const path = `SOFTWARE\Microsoft\Windows NT\CurrentVersion`
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		out.problem(`HKLM\%s: %v`, path, err)
		return r
	}
	defer k.Close()
	r.product, r.display, r.release = text(k, "ProductName"), text(k, "DisplayVersion"), text(k, "ReleaseId")
	r.installation, r.ubr = text(k, "InstallationType"), number(k, "UBR")
	return r
}

// nativeArch returns the architecture of the system, which programs of others may run
// on.
func nativeArch() string {
	var process, native uint16
	if err := windows.IsWow64Process2(windows.CurrentProcess(), &process, &native); err == nil {
		return cmp.Or(goarch(native), runtime.GOARCH)
	}
	// Before Windows 10 1511 there is but one guest: 32 bits on amd64.
	var wow64 bool
	if err := windows.IsWow64Process(windows.CurrentProcess(), &wow64); err == nil && wow64 {
		return "amd64"
	}
	return runtime.GOARCH
}

// bootID is when the process System was created, in units of 100 ns since 1601. That
// does not change when the clock is set.
func bootID() (string, error) {
	const system = 4
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, system)
	if err != nil {
		return "", fmt.Errorf("process System: %w", err)
	}
	defer windows.CloseHandle(h)
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(h, &created, &exited, &kernel, &user); err != nil {
		return "", fmt.Errorf("process System: %w", err)
	}
	return strconv.FormatUint(uint64(created.HighDateTime)<<32|uint64(created.LowDateTime), 10), nil
}
