package smb

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/rrp/winreg/v1"
	"github.com/roundsman-go/roundsman/transport"
)

// maxPrograms bounds the keys of one view of the registry.
const maxPrograms = 8192

var productCode = regexp.MustCompile(`^\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$`)

// programs lists what is installed for all users, in both views of the registry, with the
// sources of the agent: "uninstall" by the name of the key, "msi" by the product code
// that is one, and "program" by the name that people see.
//
// Win32_Product of WMI, which seems to be made for this, is never asked: it has Windows
// Installer check the consistency of every package, and repair those of which it thinks
// that they need it (Microsoft, "Event log message indicates that the Windows Installer
// reconfigured all installed applications"); and it knows no program of another installer.
func (r *registry) programs(arch string, end time.Time, found func(transport.Software)) error {
	views := []struct{ path, arch string }{
		{`SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall`, arch},
		{`SOFTWARE\WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall`, "386"},
	}
	if arch == "arm64" {
		views[0].arch = "" // programs for amd64 are there, too
	}
	listed := map[transport.Software]bool{}
	for i, v := range views {
		list, err := r.open(r.root, v.path)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			continue // Windows of 32 bits
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.path, err)
		}
		err = r.keys(list, maxPrograms, func(name string) error {
			if time.Now().After(end) {
				return fmt.Errorf("%w: not finished in time", transport.ErrTimeout)
			}
			p, err := r.program(list, name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil // uninstalled by now, or somebody's own
			}
			if err != nil {
				return err
			}
			for _, s := range p.software(v.arch) {
				if !listed[s] {
					listed[s] = true
					found(s)
				}
			}
			return nil
		})
		r.close(list)
		if err != nil {
			return fmt.Errorf("%s: %w", v.path, err)
		}
	}
	return nil
}

// program is one key below Uninstall.
type program struct {
	key                                string
	display, version, parent, released string
	publisher                          string
	msi                                bool
	packed                             string
}

func (r *registry) program(list *winreg.Key, name string) (p program, err error) {
	key, err := r.open(list, name)
	if err != nil {
		return p, err
	}
	defer r.close(key)
	read := func(name string) string {
		if err != nil {
			return ""
		}
		s := ""
		s, err = r.value(key, name)
		return cleanText(s)
	}
	p = program{key: cleanText(name), display: read("DisplayName"), msi: read("WindowsInstaller") == "1"}
	if p.display == "" && !p.msi {
		return p, err
	}
	p.version, p.parent, p.released = read("DisplayVersion"), read("ParentKeyName"), read("ReleaseType")
	p.publisher = read("Publisher")
	if p.msi && p.version == "" {
		p.packed = read("Version")
	}
	return p, err
}

// software returns the entry by its key, and by the name that people see; both have the
// key as their ID. Updates of something else are no software of their own.
func (p program) software(arch string) []transport.Software {
	switch strings.ToLower(p.released) {
	case "update", "hotfix", "security update":
		return nil
	}
	msi := p.msi && productCode.MatchString(p.key)
	if p.parent != "" || p.display == "" && !msi {
		return nil
	}
	s := transport.Software{ID: p.key, Name: p.key, Vendor: p.publisher, Version: p.version, Arch: arch, Source: "uninstall"}
	if msi {
		s.ID = strings.ToUpper(p.key)
		s.Name, s.Source = s.ID, "msi"
		s.Version = cmp.Or(p.version, packedVersion(p.packed))
	}
	out := []transport.Software{s}
	if p.display != "" {
		s.Name, s.Source = p.display, "program"
		out = append(out, s)
	}
	return out
}

// packedVersion formats what Windows Installer makes of ProductVersion: major, minor and
// build in 8, 8 and 16 bits.
func packedVersion(s string) string {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v>>24, v>>16&0xff, v&0xffff)
}
