package inventory

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/jaypipes/ghw"

	"github.com/roundsman-go/roundsman/transport"
)

const dmiDir = "/sys/class/dmi/id"

func (h host) identity(ctx context.Context, out *finds) {
	id := transport.Identity{OS: "linux", Arch: runtime.GOARCH}
	id.Name = h.attr("/", "proc/sys/kernel/hostname", "etc/hostname")
	id.Kernel = h.attr("/proc/sys/kernel", "osrelease")
	id.BootID = h.attr("/proc/sys/kernel/random", "boot_id")
	id.Version = h.osRelease(out)
	out.who(id) // what follows asks firmware tables

	product, err := ghw.Product(h.ghwArgs()...)
	if err != nil {
		out.problem("system: %v", err)
		return
	}
	id.Vendor, id.Product = known(product.Vendor), known(product.Name)
	id.Serial, id.UUID = known(product.SerialNumber), strings.ToLower(known(product.UUID))
	out.who(id)
	for _, name := range []string{"product_serial", "product_uuid"} {
		if _, err := h.read(dmiDir + "/" + name); errors.Is(err, fs.ErrPermission) {
			out.problem("%s: only root may read it", name)
		}
	}
}

func (h host) osRelease(out *finds) string {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		f, err := os.Open(h.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			out.problem("%v", err)
			continue
		}
		defer f.Close()
		vars := parseOSRelease(f)
		if s := vars["PRETTY_NAME"]; s != "" {
			return s
		}
		return strings.TrimSpace(vars["NAME"] + " " + vars["VERSION"])
	}
	out.problem("no os-release file")
	return ""
}

func (h host) bios(ctx context.Context, out *finds) {
	bios, err := ghw.BIOS(h.ghwArgs()...)
	if err != nil {
		out.problem("%v", err)
		return
	}
	d := transport.Device{ID: "bios", Class: transport.ClassBIOS, Name: "System BIOS", Vendor: known(bios.Vendor)}
	d.Firmware = biosVersion(d.Vendor, known(bios.Version), h.attr(dmiDir, "bios_release"), known(bios.Date))
	if d.Vendor == "" && d.Firmware == "" {
		return // a guest without firmware tables has no BIOS that anybody could update
	}
	if product, err := ghw.Product(h.ghwArgs()...); err == nil && known(product.Name) != "" {
		d.HardwareIDs = []string{"product:" + strings.TrimSpace(product.Name)}
	}
	out.device(d)
}
