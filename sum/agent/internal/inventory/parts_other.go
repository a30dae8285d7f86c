//go:build !linux && !windows

package inventory

import (
	"context"
	"os"
	"runtime"

	"github.com/roundsman-go/roundsman/transport"
)

func (o Options) systemParts() []part {
	return []part{{name: "identity", read: func(ctx context.Context, out *finds) {
		id := transport.Identity{OS: runtime.GOOS, Arch: runtime.GOARCH}
		if name, err := os.Hostname(); err != nil {
			out.problem("host name: %v", err)
		} else {
			id.Name = name
		}
		system(&id, out)
		out.who(id)
		out.problem("devices and packages are read on Linux and Windows only")
	}}}
}
