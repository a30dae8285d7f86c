package local

import (
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
)

// system adds what the kernel, its firmware tables and os-release tell.
func system(id *transport.Identity) {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err == nil {
		id.Name, id.Kernel, id.Arch = text(u.Nodename[:]), text(u.Release[:]), goarch(text(u.Machine[:]))
	}
	id.BootID = fact("/proc/sys/kernel/random/boot_id")
	const dmi = "/sys/class/dmi/id/"
	id.Vendor, id.Product = fact(dmi+"sys_vendor"), fact(dmi+"product_name")
	// Only root may read these.
	id.Serial, id.UUID = fact(dmi+"product_serial"), strings.ToLower(fact(dmi+"product_uuid"))
	id.Version = prettyName(fact("/etc/os-release"))
}

// text is what uname(2) filled in.
func text[T int8 | uint8](field []T) string {
	var b []byte
	for _, c := range field {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

// maxFact bounds the size of one fact, in bytes.
const maxFact = 64 << 10

// fact reads a small file; one that cannot be read is empty.
func fact(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFact))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), ""))
}

// goarch translates the machine of uname(2), which may be another than this
// program was built for: a 64-bit kernel runs 32-bit programs.
func goarch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "loongarch64":
		return "loong64"
	}
	if strings.HasPrefix(machine, "armv") {
		return "arm"
	}
	return machine // the rest has the same name, such as ppc64le and s390x
}

// prettyName reads PRETTY_NAME of os-release(5): an assignment as in a shell,
// without any expansion.
func prettyName(osRelease string) string {
	found := ""
	for line := range strings.Lines(osRelease) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME=")
		if !ok {
			continue
		}
		found = value
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			found = value[1 : n-1]
			if value[0] == '"' {
				found = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\$`, `$`, "\\`", "`").Replace(found)
			}
		}
	}
	return found
}
