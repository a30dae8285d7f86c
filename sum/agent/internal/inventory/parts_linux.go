package inventory

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

func (o Options) systemParts() []part {
	h := host{root: filepath.Clean(cmp.Or(o.Root, "/"))}
	ask := o.driverInfo
	if ask == nil && h.live() {
		ask = ethtoolDriverInfo
	}
	return []part{
		{name: "identity", read: h.identity},
		{name: "bios", read: h.bios},
		{name: "network", read: func(ctx context.Context, out *finds) { h.network(ctx, ask, out) }},
		{name: "controllers", read: h.controllers},
		{name: "disks", read: h.disks},
		{name: "dpkg", read: h.dpkg},
		{name: "rpm", timeout: rpmTimeout, read: h.rpm},
	}
}

func (h host) dpkg(ctx context.Context, out *finds) {
	f, err := os.Open(h.path("/var/lib/dpkg/status"))
	if errors.Is(err, fs.ErrNotExist) {
		return // not a Debian system
	}
	if err == nil {
		defer f.Close()
		err = ParseDpkgStatus(f, out.installed)
	}
	if err != nil {
		out.problem("%v", err)
	}
}

// rpm lists packages where rpm is used, not where it is merely installed: asked
// for a database that is missing, the program would make one.
func (h host) rpm(ctx context.Context, out *finds) {
	database := ""
	for _, name := range RPMDatabases {
		if h.exists(name) {
			database = name
			break
		}
	}
	if database == "" {
		return
	}
	if !h.live() {
		out.problem("%s is there, but only the rpm program of that system can read it", database)
		return
	}
	for _, program := range []string{"/usr/bin/rpm", "/bin/rpm"} {
		if h.exists(program) {
			if err := runRPM(ctx, program, out.installed); err != nil {
				out.problem("%v", err)
			}
			return
		}
	}
	out.problem("%s is there, but no rpm program", database)
}
