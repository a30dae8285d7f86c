package smb

import (
	"context"
	"errors"
	"math"
	"os"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
	"golang.org/x/sys/windows"
)

const isWindows = true

// nativeInUse is inUse for the operating system's own errors.
func nativeInUse(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_USER_MAPPED_FILE) ||
		errors.Is(err, windows.ERROR_DELETE_PENDING)
}

// nativePipeBusy reports whether all instances of a pipe are taken.
func nativePipeBusy(err error) bool { return errors.Is(err, windows.ERROR_PIPE_BUSY) }

// native is what this Windows host's own client for SMB makes of the rights of
// whoever runs the program. It has never run against a server.
type native struct{ host string }

// dialNative reaches a share with the credentials of whoever runs the program.
func dialNative(ctx context.Context, target, host string, port uint16, opts Options) (*conn, error) {
	if port != Port {
		return nil, &transport.Error{Kind: transport.ErrInvalid, Hint: "with the credentials of whoever runs the program Windows itself chooses the port"}
	}
	c := newConn(target, opts, &native{host: uncHost(host)}, nil)
	if err := c.mount(ctx); err != nil {
		return nil, err
	}
	c.host = host
	c.hello.computer, _, _ = strings.Cut(host, ".")
	return c, nil
}

func (s *native) mount(share string) (volume, error) {
	v := nativeVolume(`\\` + s.host + `\` + share)
	_, err := v.stat("")
	return v, err
}

// openPipe lets whoever serves the pipe know who asks, and act on behalf of nobody,
// unless the service is made to: another one may have taken the name.
func (s *native) openPipe(name string) (stream, error) {
	path := `\\` + s.host + `\pipe\` + name
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	level := uint32(windows.SECURITY_IDENTIFICATION)
	if impersonates(name) {
		level = windows.SECURITY_IMPERSONATION
	}
	h, err := windows.CreateFile(p, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_OVERLAPPED|windows.SECURITY_SQOS_PRESENT|level, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

func (s *native) logoff() error { return nil }
func (s *native) hangUp(error)  {}

// nativeVolume is a share as a path.
type nativeVolume string

func (v nativeVolume) path(name string) string {
	if name == "" {
		return string(v) + `\`
	}
	return string(v) + `\` + name
}

func (v nativeVolume) open(name string) (file, error) { return nativeFile(os.Open(v.path(name))) }

func (v nativeVolume) create(name string) (file, error) {
	return nativeFile(os.OpenFile(v.path(name), os.O_RDWR|os.O_CREATE, 0o600))
}

func nativeFile(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (v nativeVolume) stat(name string) (os.FileInfo, error) { return os.Lstat(v.path(name)) }
func (v nativeVolume) mkdir(name string) error               { return os.Mkdir(v.path(name), 0o700) }
func (v nativeVolume) remove(name string) error              { return os.Remove(v.path(name)) }

// rename replaces nothing, unlike os.Rename.
func (v nativeVolume) rename(from, to string) error {
	from, to = v.path(from), v.path(to)
	f, err := windows.UTF16PtrFromString(longPath(from))
	if err == nil {
		var t *uint16
		if t, err = windows.UTF16PtrFromString(longPath(to)); err == nil {
			err = windows.MoveFileEx(f, t, 0)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// longPath is a path for which there is no limit of 260 characters, as package os has it
// ("Naming Files, Paths, and Namespaces").
func longPath(path string) string {
	const limit = 248 // that of directories, which is the smaller one
	switch {
	case len(path) < limit || strings.HasPrefix(path, `\\?\`):
		return path
	case strings.HasPrefix(path, `\\`):
		return `\\?\UNC` + path[1:]
	}
	return `\\?\` + path
}

func (v nativeVolume) free(dir string) (int64, error) {
	p, err := windows.UTF16PtrFromString(v.path(dir))
	if err != nil {
		return 0, err
	}
	var n uint64
	if err := windows.GetDiskFreeSpaceEx(p, &n, nil, nil); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: v.path(dir), Err: err}
	}
	return int64(min(n, math.MaxInt64)), nil
}

func (v nativeVolume) close() error { return nil }
