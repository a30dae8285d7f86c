package install

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

const maxOutput = 64 << 10 // bytes that are kept of a program's output

// system is what must be known of a target before anything is put there.
type system struct {
	goos, goarch string
	uid          int // -1 on Windows
	home         string
}

// baseDirs are the base directories of who is not told any.
func (s system) baseDirs() []string {
	if s.goos == "windows" {
		return []string{windowsBase}
	}
	return agent.DefaultBaseDirs(s.uid == 0, s.home)
}

// probeScript prints one "name=value" a line, in any POSIX shell.
const probeScript = `echo "os=$(uname -s)"; echo "machine=$(uname -m)"; echo "uid=$(id -u)"; echo "home=$HOME"`

// probe finds out what the target is, without changing anything.
func probe(ctx context.Context, conn transport.Conn) (system, error) {
	id, err := conn.Identify(ctx)
	if err != nil {
		return system{}, err
	}
	if isWindows(conn) {
		return windowsSystem(id)
	}
	out, exit, err := output(ctx, conn, "/bin/sh", "-c", probeScript)
	if err != nil {
		return system{}, err
	}
	s, err := parseProbe(out)
	if err != nil {
		return system{}, &transport.Error{Op: "probe", Kind: transport.ErrProtocol, Code: exitCode(exit), Err: err,
			Hint: "the login must run commands with a POSIX shell and print nothing else"}
	}
	if id.OS != "" {
		s.goos = id.OS
	}
	if id.Arch != "" {
		s.goarch = id.Arch
	}
	return s, nil
}

func parseProbe(out []byte) (system, error) {
	s := system{uid: -1}
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		name, value, _ := strings.Cut(sc.Text(), "=")
		switch name {
		case "os":
			s.goos = strings.ToLower(value)
		case "machine":
			s.goarch = goarch(value)
		case "uid":
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return system{}, fmt.Errorf("user ID %.20q", value)
			}
			s.uid = n
		case "home":
			s.home = value
		}
	}
	if s.uid < 0 || s.goos == "" {
		return system{}, fmt.Errorf("answer %.200q", out)
	}
	return s, nil
}

// goarch translates what uname -m prints.
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

// output runs a program and returns the first of what it prints to its standard
// output, or if that is nothing and it failed, to its standard error.
func output(ctx context.Context, conn transport.Conn, argv ...string) ([]byte, transport.Exit, error) {
	var stdout, stderr head
	exit, err := transport.Run(ctx, conn, transport.Command{Argv: argv, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return nil, exit, err
	}
	out := stdout.buf.Bytes()
	if len(out) == 0 && (exit.Code != 0 || exit.Signal != "") {
		out = stderr.buf.Bytes()
	}
	return out, exit, nil
}

// head keeps the first maxOutput bytes.
type head struct{ buf bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.buf.Write(p[:min(len(p), maxOutput-h.buf.Len())])
	return len(p), nil
}

func exitCode(e transport.Exit) transport.Code {
	if e.Signal != "" {
		return transport.Code{Space: "signal", Value: e.Signal}
	}
	return transport.Code{Space: "exit", Value: strconv.Itoa(e.Code)}
}

// mount is a line of /proc/self/mounts (proc(5)).
type mount struct {
	dir     string
	options []string
}

func (m mount) has(option string) bool {
	for _, o := range m.options {
		if o == option {
			return true
		}
	}
	return false
}

// mountOf returns the mount that a directory is on.
func mountOf(mounts []byte, dir string) (mount, bool) {
	var best mount
	found := false
	sc := bufio.NewScanner(bytes.NewReader(mounts))
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 4 {
			continue
		}
		at := unescapeMount(fields[1])
		below := dir == at || at == "/" || strings.HasPrefix(dir, at+"/")
		// A later line of the same directory is mounted over the earlier one.
		if below && (!found || len(at) >= len(best.dir)) {
			best, found = mount{at, strings.Split(fields[3], ",")}, true
		}
	}
	return best, found
}

// unescapeMount undoes \040 and the like.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountAt returns the mount that a directory of a target is on.
func mountAt(ctx context.Context, conn transport.Conn, dir string) (mount, bool) {
	out, exit, err := output(ctx, conn, "cat", "/proc/self/mounts")
	if err != nil || exit.Code != 0 {
		return mount{}, false
	}
	return mountOf(out, dir)
}

// explain says why a directory cannot be used, from its mount. It returns "" if
// the mount is not the reason.
func explain(ctx context.Context, conn transport.Conn, dir string) string {
	m, ok := mountAt(ctx, conn, dir)
	switch {
	case ok && m.has("ro"):
		return "the file system at " + m.dir + " is mounted read-only"
	case ok && m.has("noexec"):
		return "the file system at " + m.dir + " is mounted noexec"
	}
	return ""
}

// candidates are the directories to try, best first.
func candidates(opts agent.StartOptions, s system) []string {
	if opts.Place != nil {
		return []string{opts.Place.Dir}
	}
	bases := opts.BaseDirs
	if bases == nil {
		bases = s.baseDirs()
	}
	var out []string
	for _, b := range bases {
		out = append(out, path.Join(expand(b, s.home), opts.ID))
	}
	return out
}

// inHome reports whether a base directory is meant below the home directory of
// the user of the connection.
func inHome(base string) bool { return strings.HasPrefix(base, "~/") }

// expand replaces "~/". Without a home directory the result is not absolute, and
// is refused as such.
func expand(base, home string) string {
	if inHome(base) {
		return path.Join(home, base[len("~/"):])
	}
	return base
}
