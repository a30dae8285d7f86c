package inventory

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/windows"
)

func (o Options) systemParts() []part {
	if o.Root != "" && filepath.Clean(o.Root) != `\` {
		return []part{{name: "root", read: func(_ context.Context, out *finds) {
			out.problem("only the running Windows can be read, and not one at %s", o.Root)
		}}}
	}
	return []part{
		{name: "identity", read: identity},
		{name: "bios", read: bios},
		{name: "devices", read: devices},
		{name: "disks", read: disks},
		{name: "programs", read: programs},
		{name: "drivers", read: drivers},
	}
}

// procedure finds a function of the system that x/sys/windows does not have. Older
// systems, and Wine, lack some.
func procedure(library, name string) (*windows.LazyProc, error) {
	p := windows.NewLazySystemDLL(library).NewProc(name)
	if err := p.Find(); err != nil {
		return nil, err
	}
	return p, nil
}
