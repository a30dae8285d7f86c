//go:build unix

package local

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
	"golang.org/x/sys/unix"
)

// classOfErrno is the class of an error number that package fs does not know.
func classOfErrno(err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return nil
	}
	switch no {
	case syscall.ENOTDIR: // below a file there is nothing
		return fs.ErrNotExist
	case syscall.EROFS:
		return fs.ErrPermission
	case syscall.EISDIR:
		return fs.ErrExist
	case syscall.ENOSPC, syscall.EDQUOT:
		return transport.ErrNoSpace
	case syscall.EBUSY, syscall.ETXTBSY:
		return transport.ErrBusy
	case syscall.ECONNREFUSED:
		return transport.ErrUnreachable
	}
	return nil
}

var errnoNames = map[syscall.Errno]string{
	syscall.EPERM: "EPERM", syscall.ENOENT: "ENOENT", syscall.EIO: "EIO", syscall.E2BIG: "E2BIG", syscall.ENOEXEC: "ENOEXEC",
	syscall.EACCES: "EACCES", syscall.EBUSY: "EBUSY", syscall.EEXIST: "EEXIST", syscall.EXDEV: "EXDEV", syscall.ENOTDIR: "ENOTDIR",
	syscall.EISDIR: "EISDIR", syscall.EINVAL: "EINVAL", syscall.EMFILE: "EMFILE", syscall.ETXTBSY: "ETXTBSY", syscall.EFBIG: "EFBIG",
	syscall.ENOSPC: "ENOSPC", syscall.EROFS: "EROFS", syscall.ENAMETOOLONG: "ENAMETOOLONG", syscall.ENOTEMPTY: "ENOTEMPTY",
	syscall.ELOOP: "ELOOP", syscall.EDQUOT: "EDQUOT", syscall.ESTALE: "ESTALE", syscall.ECONNREFUSED: "ECONNREFUSED",
}

// codeOf is the error number in err, if there is one: {"errno", "ENOSPC"}, or the
// number of one that is rare.
func codeOf(err error) transport.Code {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return transport.Code{}
	}
	name, ok := errnoNames[no]
	if !ok {
		name = strconv.Itoa(int(no))
	}
	return transport.Code{Space: "errno", Value: name}
}

// inUse reports whether a file cannot be renamed because somebody has it open.
func inUse(error) bool { return false }

// isOwn reports whether this user owns the file.
func isOwn(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// hasOneName reports whether the file has no other name under which somebody
// put it in the way: writing to it would change another file.
func hasOneName(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 1
}

// setMode sets the permissions of a file.
func setMode(f *os.File, perm fs.FileMode) error { return f.Chmod(perm) }

// setDirMode sets the permissions of a directory.
func setDirMode(dir string, perm fs.FileMode) error { return os.Chmod(dir, perm) }

// syncDir makes a rename survive a crash, where the file system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // one may write to a directory that one may not read
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// readable reports whether a pipe has something that was not read.
func readable(r *os.File) bool {
	yes := false
	raw, err := r.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		yes = err != nil || fds[0].Revents&unix.POLLIN != 0 // an interruption says nothing
	})
	return yes
}

// unixSockets reports whether the system has them.
func unixSockets() bool { return true }
