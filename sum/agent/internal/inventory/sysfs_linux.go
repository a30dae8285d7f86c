package inventory

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/jaypipes/ghw"
)

// maxAttribute bounds one file of sysfs or procfs.
const maxAttribute = 16 << 10

// host is the file system that is read.
type host struct{ root string }

func (h host) path(name string) string { return filepath.Join(h.root, name) }

// live reports whether the running system is read, so that its kernel and
// programs may be asked.
func (h host) live() bool { return h.root == "/" }

// read returns the trimmed content of a small file.
func (h host) read(name string) (string, error) {
	f, err := os.Open(h.path(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAttribute))
	return clean(string(b)), err
}

// attr is read for attributes that may well be missing.
func (h host) attr(dir string, names ...string) string {
	for _, name := range names {
		if s, err := h.read(filepath.Join(dir, name)); err == nil && s != "" {
			return s
		}
	}
	return ""
}

func (h host) exists(name string) bool {
	_, err := os.Lstat(h.path(name))
	return err == nil
}

// list returns the sorted names in a directory; one that is missing is empty.
func (h host) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(h.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out, err
}

// link returns the last element of what a symbolic link points to.
func (h host) link(name string) string {
	dest, err := os.Readlink(h.path(name))
	if err != nil {
		return ""
	}
	return filepath.Base(dest)
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// pciParent returns the address of the PCI function that a device of sysfs
// hangs from, or "". Between the two may be other buses, such as virtio or SCSI.
func (h host) pciParent(name string) string {
	real, err := filepath.EvalSymlinks(h.path(name))
	if err != nil {
		return ""
	}
	parts := strings.Split(real, string(filepath.Separator))
	for _, p := range slices.Backward(parts) {
		if pciAddress.MatchString(p) {
			return p
		}
	}
	return ""
}

// moduleVersion returns the version that a driver module gives itself.
func (h host) moduleVersion(driver string) string {
	if driver == "" || strings.ContainsRune(driver, '/') {
		return ""
	}
	// The kernel's names of modules have underscores, those of drivers need not.
	return h.attr("/sys/module/"+strings.ReplaceAll(driver, "-", "_"), "version")
}

// ghwArgs makes ghw read the same file system, start no programs and be silent.
func (h host) ghwArgs() []any {
	return []any{
		ghw.WithChroot(h.root), ghw.WithDisableTools(), ghw.WithDisableTopology(),
		ghw.WithDisableWarnings(), ghw.WithLogger(slog.New(slog.DiscardHandler)),
	}
}

// known turns ghw's word for a missing value into none.
func known(s string) string {
	if s == "unknown" {
		return ""
	}
	return s
}
