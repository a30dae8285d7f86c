package inventory

import (
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/transport"
)

// system adds what sysctl tells.
func system(id *transport.Identity, out *finds) {
	id.Vendor = "Apple"
	for name, dst := range map[string]*string{
		"kern.osrelease":        &id.Kernel,
		"kern.osproductversion": &id.Version,
		"kern.bootsessionuuid":  &id.BootID,
		"hw.model":              &id.Product,
	} {
		s, err := unix.Sysctl(name)
		if err != nil {
			out.problem("%s: %v", name, err)
			continue
		}
		*dst = s
	}
}
