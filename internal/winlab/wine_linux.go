package winlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// Wine is a Windows of one's own: a prefix of Wine in a temporary directory, in which
// programs of Go run. Nothing of it goes on to run, and the directory is gone, when it was
// closed, or this process ended in whatever way.
//
// It is not Windows. Among other things, the program of a process that runs can be
// deleted there, and rights to files are no more than modes of Unix.
type Wine struct {
	Dir     string // the prefix, and more; for files that both sides use, too
	wine    string
	program string // its server's
	server  *exec.Cmd
	ended   chan struct{} // closed when the server has
	guard   *exec.Cmd
	life    io.Closer    // as long as it is open, the guard waits
	owner   *flock.Flock // of this process, and free when it has ended
}

const (
	winePattern = "roundsman-wine-"
	ownerLock   = "owner" // in the directory
)

// Find says whether this machine has what New needs: the programs wine64 and
// wineserver64, or those that WINELOADER and WINESERVER name (wine(1)), a processor for
// them, and 1 GB of room for temporary files. It is a MissingError if not.
func Find() error {
	_, _, err := find()
	return err
}

func find() (wine, server string, err error) {
	if runtime.GOARCH != "amd64" {
		return "", "", &MissingError{What: "a processor that runs programs of windows/amd64"}
	}
	if wine, err = findWine("WINELOADER", "wine64"); err == nil {
		server, err = findWine("WINESERVER", "wineserver64")
	}
	var st unix.Statfs_t
	if dir := os.TempDir(); err == nil && unix.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) < 1<<30 {
		err = &MissingError{What: "1 GB of room in " + dir}
	}
	return wine, server, err
}

// findWine finds a program of Wine where Debian has it, unless the environment names it.
func findWine(variable, name string) (string, error) {
	if file := os.Getenv(variable); file != "" {
		if _, err := exec.LookPath(file); err != nil {
			return "", &MissingError{What: "the program " + file + " that " + variable + " names", Package: "wine64"}
		}
		return file, nil
	}
	for _, file := range []string{"/usr/lib/wine/" + name, "/usr/lib/wine/" + strings.TrimSuffix(name, "64"), "/opt/wine-stable/bin/" + name} {
		if fi, err := os.Stat(file); err == nil && fi.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	if file, err := exec.LookPath(name); err == nil {
		return file, nil
	}
	return "", &MissingError{What: "the program " + name, Package: "wine64"}
}

// New makes one, which takes about 15 seconds. It is to be closed.
func New(ctx context.Context) (_ *Wine, err error) {
	w := new(Wine)
	if w.wine, w.program, err = find(); err != nil {
		return nil, err
	}
	sweepWine()
	if err := w.makeDir(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := os.Mkdir(w.prefix(), 0o700); err != nil {
		return nil, err
	}
	if err := w.startGuard(); err != nil {
		return nil, err
	}
	if err := w.startServer(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	// Services of Wine, which go on to run, hold the pipe of its output.
	if out, err := w.Command(ctx, "cmd.exe", "/c", "exit").CombinedOutput(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("wineboot: %w: %s", err, out)
	}
	// Programs of Go 1.21 and later need this library, and Wine 8 lacks it.
	dll := filepath.Join(w.prefix(), "drive_c/windows/system32/bcryptprimitives.dll")
	if _, err := os.Stat(dll); err == nil {
		return w, nil
	}
	if err := os.WriteFile(dll, forwarder("bcryptprimitives.dll", "ProcessPrng", "advapi32.SystemFunction036"), 0o600); err != nil {
		return nil, err
	}
	return w, nil
}

// makeDir makes the directory, and locks it.
func (w *Wine) makeDir() (err error) {
	for {
		if w.Dir, err = os.MkdirTemp("", winePattern); err != nil {
			return err
		}
		w.owner = flock.New(filepath.Join(w.Dir, ownerLock), flock.SetPermissions(0o600))
		ours, err := w.owner.TryLock()
		if ours {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, os.RemoveAll(w.Dir))
		}
		// Who sweeps has found it before it was locked.
	}
}

// guardScript waits until its input ends, which it does as this process ends. What then
// still runs is killed, and the directory deleted. Its own environment does not name the
// prefix.
const guardScript = `
read -r _
while files=$(grep -lszxF "WINEPREFIX=$1/prefix" /proc/[0-9]*/environ); [ -n "$files" ]; do
	for file in $files; do pid=${file#/proc/}; kill -KILL "${pid%/environ}" 2>/dev/null; done
	sleep 0.1
done
umount -l "$1/prefix/drive_c/windows/roundsman" 2>/dev/null # a disk of a test
find "$1/prefix/drive_c/windows/roundsman" -name '*.exe' -exec chattr -i {} + 2>/dev/null
rm -rf "$1" || rm -rf "$1"
`

func (w *Wine) startGuard() error {
	w.guard = exec.Command("/bin/sh", "-c", guardScript, "winlab", w.Dir)
	w.guard.Env, w.guard.Dir = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	w.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the terminal is not for it
	life, err := w.guard.StdinPipe()
	if err != nil {
		return err
	}
	if err := w.guard.Start(); err != nil {
		w.guard = nil
		return err
	}
	w.life = life
	return nil
}

// startServer starts the server, which ends with this process.
func (w *Wine) startServer() error {
	w.server, w.ended = exec.Command(w.program, "-f", "-p"), make(chan struct{})
	w.server.Env = w.env()
	w.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() { // Pdeathsig is of the thread
		defer close(w.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := w.server.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = w.server.Wait()
	}()
	if err := <-started; err != nil {
		return err
	}
	return w.awaitServer()
}

// awaitServer waits until the server can be found: else the first program would start
// another.
func (w *Wine) awaitServer() error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if sockets, _ := filepath.Glob(filepath.Join(w.Dir, "*/server-*/socket")); len(sockets) > 0 {
			return nil
		}
		select {
		case <-w.ended:
			return errors.New("the server of Wine ended at once")
		default:
		}
		if time.Now().After(end) {
			return errors.New("the server of Wine does not listen")
		}
	}
}

func (w *Wine) prefix() string { return filepath.Join(w.Dir, "prefix") }

// env is the environment of all that is Wine's. It has a home of its own, and no program
// that would bring what is installed there to the menus of this host.
func (w *Wine) env() []string {
	return append(os.Environ(), "WINEPREFIX="+w.prefix(), "WINEARCH=win64", "WINEDEBUG=-all", "DISPLAY=", "HOME="+w.Dir, "TMPDIR="+w.Dir,
		"WINEDLLOVERRIDES=mscoree,mshtml=;winemenubuilder.exe=d")
}

// Command is a Windows program with its arguments, by a path of this host or the name
// of one that Wine has. An interrupt from the terminal does not reach it.
func (w *Wine) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.wine, append([]string{program}, args...)...)
	cmd.Env, cmd.WaitDelay = w.env(), time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Path is the name that a file of this host has there.
func (w *Wine) Path(file string) string { return "Z:" + strings.ReplaceAll(file, "/", `\`) }

// C is the directory that is C:\ there.
func (w *Wine) C() string { return filepath.Join(w.prefix(), "drive_c") }

// Close ends all that runs there, and deletes the directory.
func (w *Wine) Close() error {
	if w.server != nil && w.server.Process != nil {
		_ = w.server.Process.Kill()
		<-w.ended
	}
	err := w.endProcesses()
	letDelete(w.prefix())
	err = errors.Join(err, os.RemoveAll(w.Dir), w.owner.Close())
	if w.guard != nil {
		_ = w.life.Close()
		_ = w.guard.Wait() // it finds nothing to do
	}
	return err
}

// endProcesses ends what runs there, when the server has ended: processes of Wine end
// when they find that it is gone.
func (w *Wine) endProcesses() error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		pids := processesWith("WINEPREFIX=" + w.prefix())
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes of Wine do not end: %v", pids)
		}
	}
}

// processesWith lists processes that have an entry in their environment, and are no
// zombies: this process itself never is among them.
func processesWith(entry string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range dirs {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(append([]byte{0}, data...), []byte("\x00"+entry+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sweepWine deletes what a process left whose guard was killed with it. A lock tells
// whether a process is there still; its ID does not, where it has another namespace.
func sweepWine() {
	locks, _ := filepath.Glob(filepath.Join(os.TempDir(), winePattern+"*", ownerLock))
	for _, file := range locks {
		dir, owner := filepath.Dir(file), flock.New(file, flock.SetFlag(os.O_RDWR))
		if free, err := owner.TryLock(); err != nil || !free {
			continue
		}
		for _, pid := range processesWith("WINEPREFIX=" + filepath.Join(dir, "prefix")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		letDelete(filepath.Join(dir, "prefix"))
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "what a killed process left of Wine:", err)
		}
		_ = owner.Close()
	}
}
