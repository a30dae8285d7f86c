package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows"
)

// inUse reports an error of a file that somebody else has open, or that is being
// deleted.
func inUse(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_LOCK_VIOLATION) ||
		errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_DELETE_PENDING)
}

// patience is how long somebody is waited for who has a file open: a reader of ours, or
// a program that looks for viruses.
const patience = 3 * time.Second

// deniedPatience is how long somebody is waited for where Windows only says that access is
// denied. It says so of a file that is being deleted while somebody has it open, as well as
// of one that nobody will ever get.
const deniedPatience = 200 * time.Millisecond

// patiently tries again while a file is in use.
func patiently(try func() error) error {
	return tryFor(context.Background(), patience, deniedPatience, try)
}

// tryFor tries no more when ctx has ended.
func tryFor(ctx context.Context, used, denied time.Duration, try func() error) error {
	for begun, pause := time.Now(), time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := try()
		limit := used
		if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
			limit = denied
		}
		if err == nil || !inUse(err) || time.Since(begun) > limit || ctx.Err() != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// openFile opens a file so that others can rename, replace and delete it meanwhile
// (FILE_SHARE_DELETE), as os.Root does and os.OpenFile does not. What is written with
// os.O_APPEND goes to the end of the file, also by a program that inherits it.
func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if flag&os.O_APPEND != 0 && flag&os.O_TRUNC != 0 {
		// Together they would give more than the right to append.
		f, err := dir.OpenFile(filepath.Base(name), flag&^os.O_APPEND, perm)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		flag &^= os.O_TRUNC | os.O_EXCL
	}
	return dir.OpenFile(filepath.Base(name), flag, perm)
}

// readFile reads a file that may be replaced at this moment.
func readFile(name string) (data []byte, err error) {
	err = patiently(func() error {
		f, err := openFile(name, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err = io.ReadAll(f)
		return err
	})
	return data, err
}

// renameFile replaces one file by another of the same directory or one below it, also
// where somebody has it open as openFile does.
func renameFile(from, to string) error {
	return patiently(func() error {
		dir, err := os.OpenRoot(filepath.Dir(to))
		if err != nil {
			return err
		}
		defer dir.Close()
		rel, err := filepath.Rel(filepath.Dir(to), from)
		if err != nil {
			return err
		}
		if dir.Rename(rel, filepath.Base(to)) == nil {
			return nil
		}
		return os.Rename(from, to)
	})
}

// removeFile deletes a file. One that this process has open, as locks and the log of an
// agent are, would on older systems keep its name, and its directory, until it is
// closed: so it gets another name first, in the directory above.
func removeFile(name string) error { return removeFileWithin(context.Background(), name) }

func removeFileWithin(ctx context.Context, name string) error {
	if base := filepath.Base(name); base == lockName || base == LogName {
		gone := filepath.Join(filepath.Dir(filepath.Dir(name)), tempPrefix+rand.Text())
		if os.Rename(name, gone) == nil {
			name = gone
		}
	}
	return tryFor(ctx, patience, deniedPatience, func() error { return os.Remove(name) })
}

// removeAll deletes a tree, but for the program of this process, which cannot be deleted
// while it runs, and the directories that this is in. An agent's program that another
// process runs goes with the next boot, if no agent deletes it before; also under the name
// that it got when a manager put a newer one in its place.
func removeAll(name string) error { return removeWithin(context.Background(), name) }

// removeWithin is removeAll, and goes no further when ctx has ended.
func removeWithin(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var self os.FileInfo
	if exe, err := os.Executable(); err == nil {
		self, _ = os.Stat(exe)
	}
	denied, program := deniedPatience, isProgram(filepath.Base(name))
	if program {
		denied = patience // its process may be about to end
	}
	err := tryFor(ctx, patience, denied, func() error {
		_, err := removeTree(ctx, name, self)
		return err
	})
	if err != nil && inUse(err) && program {
		if uerr := home(filepath.Dir(name)).putAway(name); uerr != nil {
			return errors.Join(err, uerr)
		}
		return nil
	}
	return err
}

// isProgram reports whether a file is an agent's program, or one that was put aside for a
// newer one while it ran.
func isProgram(name string) bool {
	return strings.EqualFold(name, programName) || isTransfer(name, programName)
}

// oldProgram begins the names of programs that the next boot deletes.
const oldProgram = tempPrefix + "old-"

// putAway has the next boot delete an agent's program that runs, under another name in the
// base directory. Its own stays free: who brings the program anew before that boot keeps it,
// and the directory can go now. Where even that is refused it goes at the boot under its
// own name, with its directory if nothing else is in there.
func (h home) putAway(program string) error {
	old := filepath.Join(h.base(), oldProgram+rand.Text()+".exe")
	err := os.Rename(program, old)
	if err == nil {
		return deleteAtBoot(old)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if berr := deleteAtBoot(program); berr != nil {
		return errors.Join(err, berr)
	}
	dir := filepath.Dir(program)
	if entries, err := os.ReadDir(dir); err == nil && len(entries) == 1 {
		return deleteAtBoot(dir)
	}
	return nil
}

// sweepPrograms deletes the programs in the base directory that were put away, but for
// those that run still.
func (h home) sweepPrograms() {
	old, _ := filepath.Glob(filepath.Join(h.base(), oldProgram+"*.exe"))
	for _, name := range old {
		_ = os.Remove(name)
	}
}

// removeTree is os.RemoveAll by what older systems know, too, but for one file. It reports
// whether that stays. Nobody else can exchange what is in our directories meanwhile.
func removeTree(ctx context.Context, name string, but os.FileInfo) (stays bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	fi, err := os.Lstat(name)
	if err == nil && !fi.IsDir() {
		if but != nil && os.SameFile(fi, but) {
			return true, nil
		}
		err = removeFileWithin(ctx, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !fi.IsDir() {
		return false, err
	}
	entries, err := os.ReadDir(name)
	errs := []error{err}
	for _, e := range entries {
		stay, err := removeTree(ctx, filepath.Join(name, e.Name()), but)
		stays, errs = stays || stay, append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || stays {
		return stays, err
	}
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, nil
}

// deleteAtBoot has Windows delete a file when it starts next. Only administrators may ask for that.
func deleteAtBoot(name string) error {
	path, err := windows.UTF16PtrFromString(name)
	if err == nil {
		err = windows.MoveFileEx(path, nil, windows.MOVEFILE_DELAY_UNTIL_REBOOT)
	}
	if err != nil {
		return &fs.PathError{Op: "MoveFileEx", Path: name, Err: err}
	}
	return nil
}

// leaveRest is for what an agent cannot delete itself, where nobody is there to do it: its
// program goes with the next boot, and its directory now, if nothing else is in it.
func (h home) leaveRest() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(string(h), self)
	if err != nil || !filepath.IsLocal(rel) {
		return nil
	}
	if err := h.putAway(h.path(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What is empty goes, and nothing else.
	for dir := filepath.Dir(rel); dir != "."; dir = filepath.Dir(dir) {
		_ = os.Remove(h.path(dir))
	}
	_ = os.Remove(string(h))
	return nil
}

// emptyFile empties a file that may be open only to append.
func emptyFile(f *os.File) error {
	w, err := openFile(f.Name(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.Truncate(0), w.Close())
}

// linkProgram gives a program another name: as a copy, since a link to a program that
// runs cannot be deleted either.
func linkProgram(program, name string) error {
	return copyFile(name, program, 0o700, io.Discard)
}

// isBusy reports a program that cannot be started because somebody has it open.
func isBusy(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}

// lockFile opens a file and locks it (LockFileEx), without waiting. It reports nil
// when another process has the lock. With create false a file that is not there
// is fs.ErrNotExist. The lock ends with the process or with Close.
func lockFile(name string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	return lockOpened(name, flags, windows.LOCKFILE_EXCLUSIVE_LOCK)
}

// shareFile is lockFile with create for a lock that others may have, too.
func shareFile(name string) (*os.File, error) {
	return lockOpened(name, os.O_RDWR|os.O_CREATE, 0)
}

func lockOpened(name string, flags int, how uint32) (*os.File, error) {
	for {
		var f *os.File
		// A file that was deleted while somebody has it open may be there until it is
		// closed, and is then denied to all.
		err := patiently(func() (err error) {
			f, err = openFile(name, flags, 0o600)
			return err
		})
		if err != nil {
			return nil, err
		}
		err = lockByte(f, how)
		if err == windows.ERROR_LOCK_VIOLATION || err == windows.ERROR_IO_PENDING {
			f.Close()
			return nil, nil
		}
		if err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "LockFileEx", Path: name, Err: err}
		}
		// Whoever cleans up removes the file while holding its lock: then this is
		// the lock of a file that no one else will find.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
		if flags&os.O_CREATE == 0 {
			return nil, &fs.PathError{Op: "LockFileEx", Path: name, Err: fs.ErrNotExist}
		}
	}
}

// lockByte locks a byte that no file reaches: of those that are, others could not be
// read.
func lockByte(f *os.File, how uint32) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := conn.Control(func(fd uintptr) {
		lerr = windows.LockFileEx(windows.Handle(fd), how|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	}); err != nil {
		return err
	}
	return lerr
}

// tryLock locks an open file, and reports false where that cannot be. A lock that it
// has for itself, and may be sharing, it gives up for that.
func tryLock(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) {
		_ = windows.UnlockFileEx(windows.Handle(fd), 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	})
	return lockByte(f, windows.LOCKFILE_EXCLUSIVE_LOCK) == nil
}
