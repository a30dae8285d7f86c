package inventory

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	maxRPMOutput = 64 << 20
	maxRPMLine   = 8 << 10
)

// rpmFormat makes one line a package. None of the four tags can hold a tab or a
// line feed, and rpm writes no byte of its own between packages.
const rpmFormat = `%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n`

// RPMDatabases are the files that an rpm database consists of, by backend.
var RPMDatabases = []string{
	"/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages.db", "/var/lib/rpm/Packages",
	"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages",
}

// RPMArgs are the arguments with which rpm lists packages as ParseRPM reads them.
var RPMArgs = []string{"-qa", "--nosignature", "--nodigest", "--qf", rpmFormat}

// ParseRPM reads what rpm prints with RPMArgs.
func ParseRPM(r io.Reader, found func(transport.Software)) error {
	limited := &io.LimitedReader{R: r, N: maxRPMOutput + 1}
	sc := bufio.NewScanner(limited)
	sc.Buffer(nil, maxRPMLine)
	count := 0
	for sc.Scan() {
		f := strings.Split(sc.Text(), "\t")
		if len(f) != 3 || f[0] == "" || f[1] == "" {
			return fmt.Errorf("unexpected line %.80q from rpm", sc.Text())
		}
		if f[0] == "gpg-pubkey" {
			continue // a trusted key; the database keeps them as packages
		}
		if count++; count > maxSoftware {
			return fmt.Errorf("more than %d packages: %w", maxSoftware, errTooLong)
		}
		if f[2] == "(none)" {
			f[2] = ""
		}
		found(transport.Software{Name: f[0], Version: f[1], Arch: f[2], Source: "rpm"})
	}
	if limited.N <= 0 {
		return fmt.Errorf("output of rpm: %w", errTooLong)
	}
	return sc.Err()
}
