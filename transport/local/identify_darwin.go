package local

import (
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
)

// system adds what sysctl(3) tells.
func system(id *transport.Identity) {
	id.Vendor = "Apple"
	for name, dst := range map[string]*string{
		"kern.osrelease":        &id.Kernel,
		"kern.osproductversion": &id.Version,
		"kern.bootsessionuuid":  &id.BootID,
		"hw.model":              &id.Product,
	} {
		if s, err := syscall.Sysctl(name); err == nil {
			*dst = s
		}
	}
}
