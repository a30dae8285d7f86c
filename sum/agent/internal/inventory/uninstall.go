package inventory

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// The sources of software of Windows.
const (
	sourceProgram   = "program"   // by the name that people see
	sourceUninstall = "uninstall" // by its key in the registry
	sourceMSI       = "msi"       // by its ProductCode, which also is its key
	sourceINF       = "inf"       // driver packages, by the name of the INF file
)

// uninstallEntry is one key below SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall.
type uninstallEntry struct {
	key         string // its name: the ProductCode of a package of Windows Installer
	display     string // DisplayName
	publisher   string // Publisher
	version     string // DisplayVersion
	packed      uint32 // Version: major.minor.build in 8, 8 and 16 bits
	parent      string // ParentKeyName: what an update belongs to
	releaseType string // ReleaseType: "Update", "Hotfix", ...
	msi         bool   // WindowsInstaller
	arch        string // of the view of the registry, as GOARCH names it; "" for any
}

var productCode = regexp.MustCompile(`^\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$`)

// software returns the entry by its key, and by the name that people see; both have the
// key as their ID. Updates of something else, and keys that only hold settings, are no software of their own.
func (e uninstallEntry) software() []transport.Software {
	if e.parent != "" || strings.EqualFold(e.releaseType, "Update") || strings.EqualFold(e.releaseType, "Hotfix") || strings.EqualFold(e.releaseType, "Security Update") {
		return nil
	}
	msi := e.msi && productCode.MatchString(e.key)
	if e.display == "" && !msi {
		return nil
	}
	s := transport.Software{ID: e.key, Name: e.key, Vendor: e.publisher, Version: e.version, Arch: e.arch, Source: sourceUninstall}
	if msi {
		s.ID = strings.ToUpper(e.key)
		s.Name, s.Source = s.ID, sourceMSI
		s.Version = cmp.Or(e.version, packedVersion(e.packed))
	}
	out := []transport.Software{s}
	if e.display != "" {
		s.Name, s.Source = e.display, sourceProgram
		out = append(out, s)
	}
	return out
}

// packedVersion formats what Windows Installer makes of ProductVersion.
func packedVersion(v uint32) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v>>24, v>>16&0xff, v&0xffff)
}
