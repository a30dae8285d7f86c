package inventory

import (
	"fmt"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

// system adds the release of Windows and what the firmware left in the registry.
func system(id *transport.Identity, out *finds) {
	v := windows.RtlGetVersion()
	id.Kernel = fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	read := func(path string, values map[string]*string) {
		k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE)
		if err != nil {
			out.problem("%s: %v", path, err)
			return
		}
		defer k.Close()
		for name, dst := range values {
			if s, _, err := k.GetStringValue(name); err == nil {
				*dst = s
			}
		}
	}
	read(`SOFTWARE\Microsoft\Windows NT\CurrentVersion`, map[string]*string{"ProductName": &id.Version})
	read(`HARDWARE\DESCRIPTION\System\BIOS`, map[string]*string{
		"SystemManufacturer": &id.Vendor, "SystemProductName": &id.Product,
	})
}
