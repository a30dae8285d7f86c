package winlab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HostPath is the path on this host of a file that has a path of Windows there, or "".
func (w *Wine) HostPath(native string) string {
	drive, rest, ok := strings.Cut(native, `:\`)
	rest = strings.ReplaceAll(rest, `\`, "/")
	switch {
	case ok && strings.EqualFold(drive, "C"):
		if strings.EqualFold(rest, "windows") {
			return w.Admin()
		}
		if n := len("windows/"); len(rest) > n && strings.EqualFold(rest[:n], "windows/") {
			return filepath.Join(w.Admin(), rest[n:])
		}
		return filepath.Join(w.C(), rest)
	case ok && strings.EqualFold(drive, "Z"):
		return "/" + rest
	}
	return ""
}

// Admin is the directory that is C:\Windows there, which the share ADMIN$ is.
func (w *Wine) Admin() string { return filepath.Join(w.C(), "windows") }

// mapped reports whether a process has a file of this host mapped, as its program or
// otherwise: Wine's server has it open as long.
func (w *Wine) mapped(file string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(w.server.Process.Pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, e := range entries {
		if name, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && name == file {
			return true
		}
	}
	return false
}

const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h

// keep prevents, or allows again, that anybody deletes a file, or writes to it, as nobody
// can on Windows while a program runs. File systems that know nothing of the sort
// let that be done.
func keep(file string, on bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return notSupported(err)
	}
	want := flags &^ immutable
	if on {
		want |= immutable
	}
	if want == flags {
		return nil
	}
	return notSupported(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(want)))
}

func notSupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// letDelete undoes keep for all programs of a prefix.
func letDelete(prefix string) {
	_ = filepath.WalkDir(filepath.Join(prefix, "drive_c", "windows", "roundsman"), func(file string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.EqualFold(filepath.Ext(file), ".exe") {
			_ = keep(file, false)
		}
		return nil
	})
}
