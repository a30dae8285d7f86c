package inventory

import (
	"fmt"
	"strings"
)

// windowsRelease is what a Windows says of itself in the registry, below
// SOFTWARE\Microsoft\Windows NT\CurrentVersion, and its kernel.
type windowsRelease struct {
	product      string // ProductName: "Windows Server 2022 Standard"
	display      string // DisplayVersion: "21H2"; from Windows 10 20H2 on
	release      string // ReleaseId: "1809"; from Windows 10 1511 on
	installation string // InstallationType: "Client", "Server", "Server Core"

	major, minor, build uint32
	ubr                 uint32 // the revision of the build, which updates raise; 0 if there is none
}

// firstBuild11 is the build of the first Windows 11, the name of which the
// registry does not know.
const firstBuild11 = 22000

// name returns product, edition and release as people know them.
func (r windowsRelease) name() string {
	product := r.product
	if edition, ok := strings.CutPrefix(product, "Windows 10"); ok && r.build >= firstBuild11 {
		product = "Windows 11" + edition
	}
	feature := r.display
	if feature == "" {
		feature = r.release
	}
	name := strings.TrimSpace(product + " " + feature)
	if r.installation == "Server Core" {
		name += " (Server Core)"
	}
	return name
}

// kernel returns the version with build and revision: "10.0.20348.2340".
func (r windowsRelease) kernel() string {
	s := fmt.Sprintf("%d.%d.%d", r.major, r.minor, r.build)
	if r.ubr != 0 {
		s += fmt.Sprintf(".%d", r.ubr)
	}
	return s
}

// goarch returns the name that Go has for a machine of PE files
// (IMAGE_FILE_MACHINE_...), or "".
func goarch(machine uint16) string {
	switch machine {
	case 0x14c:
		return "386"
	case 0x8664:
		return "amd64"
	case 0x1c4:
		return "arm"
	case 0xaa64:
		return "arm64"
	}
	return ""
}
