package ssh

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
)

// facts are the files that say who a Linux server is, each with its place in
// Identity.
var facts = []string{
	"/proc/sys/kernel/hostname",
	"/proc/sys/kernel/ostype",
	"/proc/sys/kernel/osrelease",
	"/proc/sys/kernel/arch", // since Linux 6.1; uname -m where there is a shell
	"/proc/sys/kernel/random/boot_id",
	"/sys/class/dmi/id/sys_vendor",
	"/sys/class/dmi/id/product_name",
	"/sys/class/dmi/id/product_serial",
	"/sys/class/dmi/id/product_uuid",
	"/etc/os-release",
}

// identifyScript prints the facts in the order above, each with a NUL byte behind
// it. What uname knows comes from there, for the sake of other systems.
const identifyScript = `
f() { cat "$1" 2>/dev/null; printf '\0'; }
for o in -n -s -r -m; do uname $o 2>/dev/null; printf '\0'; done
shift 4
for x; do f "$x"; done
`

// maxFact bounds the size of one fact.
const maxFact = 64 << 10

// Identify implements transport.Conn. It takes one command, or reads the same
// files by SFTP; a server for forwarding alone remains anonymous.
func (c *conn) Identify(ctx context.Context) (transport.Identity, error) {
	k, err := c.begin(ctx, "identify", "")
	if err != nil {
		return transport.Identity{}, err
	}
	defer k.end()
	var values []string
	switch {
	case c.shell:
		out, err := k.script(identifyScript, facts...)
		if err != nil {
			return transport.Identity{}, err
		}
		values = strings.Split(out, "\x00")
	case c.caps.Has(transport.CapFiles):
		if values, err = k.readFacts(); err != nil {
			return transport.Identity{}, err
		}
	}
	if !c.shell {
		// It is alive, at least: a file that could not be read may be a line that
		// was lost, and then nothing is known.
		if _, err := do(k.ctx, c, func() (struct{}, error) { return struct{}{}, c.ask() }, nil); err != nil {
			return transport.Identity{}, k.fail(c.explain(k.ctx, err))
		}
	}
	return identityOf(values), nil
}

// readFacts reads the facts by SFTP. Files that are missing or cannot be read are
// empty; a chroot may hide them all.
func (k *call) readFacts() ([]string, error) {
	values, _, err := overSFTP(k, func(s *sftpClient, _ *bool) ([]string, error) {
		values := make([]string, len(facts))
		var wg sync.WaitGroup
		for i, name := range facts {
			wg.Go(func() {
				f, err := s.Open(name)
				if err != nil {
					return
				}
				defer f.Close()
				if b, err := io.ReadAll(io.LimitReader(f, maxFact)); err == nil {
					values[i] = string(b)
				}
			})
		}
		wg.Wait()
		select {
		case <-s.gone:
			return nil, sftp.ErrSSHFxConnectionLost
		default:
			return values, nil
		}
	})
	return values, err
}

// identityOf puts an identity together from the values of facts.
func identityOf(values []string) transport.Identity {
	get := func(i int) string {
		if i >= len(values) {
			return ""
		}
		return strings.TrimSpace(strings.ToValidUTF8(values[i][:min(len(values[i]), maxFact)], ""))
	}
	return transport.Identity{
		Name:    get(0),
		OS:      strings.ToLower(get(1)),
		Kernel:  get(2),
		Arch:    goarch(get(3)),
		BootID:  get(4),
		Vendor:  get(5),
		Product: get(6),
		Serial:  get(7),
		UUID:    strings.ToLower(get(8)),
		Version: osRelease(get(9))["PRETTY_NAME"],
	}
}

// goarch translates what uname -m prints.
func goarch(machine string) string {
	switch machine {
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "ppc64le", "ppc64", "s390x", "riscv64", "mips64", "mips", "loong64":
		return machine
	case "loongarch64":
		return "loong64"
	}
	if strings.HasPrefix(machine, "armv") {
		return "arm"
	}
	return machine
}

// osRelease parses os-release (freedesktop.org, os-release(5)): assignments as in
// a shell, without any expansion.
func osRelease(content string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(content) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			quote := value[0]
			value = value[1 : len(value)-1]
			if quote == '"' {
				value = unescape(value)
			}
		}
		out[name] = value
	}
	return out
}

// unescape drops the backslashes that double quotes need.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
