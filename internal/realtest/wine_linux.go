package realtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Wine is a Windows of a test's own: a prefix of Wine in a temporary directory, in
// which programs of Go run. Nothing of it goes on to run when the test has ended. Of a test
// process that was killed its server ends with it, but not what ran there: the next
// NewWine ends that, and deletes the directory.
//
// It is not Windows. Among other things, the program of a process that runs can be
// deleted there, and rights to files are no more than modes of Unix.
type Wine struct {
	Dir     string // the prefix, and more; for files that both sides use, too
	wine    string
	program string // its server's
	server  *exec.Cmd
	ended   chan struct{} // closed when the server has
}

const winePattern = "realtest-wine-"

// NewWine makes one, which takes about 15 seconds. It needs the programs wine, with
// the 64-bit one of its loaders, and x86_64-w64-mingw32-gcc, which makes a library that
// Go programs need and Wine 8 lacks.
func NewWine(t testing.TB) *Wine {
	t.Helper()
	w := &Wine{wine: needWine(t, "wine64"), program: needWine(t, "wineserver64")}
	gcc := Need(t, "x86_64-w64-mingw32-gcc")
	sweepWine()
	var err error
	if w.Dir, err = os.MkdirTemp("", winePattern+strconv.Itoa(os.Getpid())+"-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close(t) })
	if err := os.Mkdir(w.prefix(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.startServer(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Services of Wine, which go on to run, hold the pipe of its output.
	if out, err := w.Command(ctx, "cmd.exe", "/c", "exit").CombinedOutput(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("wineboot: %v: %s", err, out)
	}
	w.forwarder(t, gcc)
	return w
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

// needWine finds a program of Wine where Debian has it.
func needWine(t testing.TB, name string) string {
	t.Helper()
	for _, file := range []string{"/usr/lib/wine/" + name, "/usr/lib/wine/" + strings.TrimSuffix(name, "64"), "/opt/wine-stable/bin/" + name} {
		if fi, err := os.Stat(file); err == nil && fi.Mode()&0o111 != 0 {
			return file
		}
	}
	return Need(t, name)
}

func (w *Wine) prefix() string { return filepath.Join(w.Dir, "prefix") }

func (w *Wine) env() []string {
	return append(os.Environ(), "WINEPREFIX="+w.prefix(), "WINEARCH=win64", "WINEDEBUG=-all", "DISPLAY=", "TMPDIR="+w.Dir, "WINEDLLOVERRIDES=mscoree,mshtml=")
}

// forwarder puts a library into the prefix that programs of Go 1.21 and later need. It
// hands on to one that has the same under another name.
func (w *Wine) forwarder(t testing.TB, gcc string) {
	t.Helper()
	def := filepath.Join(w.Dir, "bcryptprimitives.def")
	if err := os.WriteFile(def, []byte("LIBRARY bcryptprimitives.dll\nEXPORTS\n  ProcessPrng = advapi32.SystemFunction036\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dll := filepath.Join(w.prefix(), "drive_c/windows/system32/bcryptprimitives.dll")
	if _, err := os.Stat(dll); err == nil {
		return
	}
	if out, err := exec.CommandContext(t.Context(), gcc, "-shared", "-nostdlib", "-o", dll, def, "-ladvapi32").CombinedOutput(); err != nil {
		t.Fatalf("the library for Go programs: %v: %s", err, out)
	}
}

// Command is a Windows program with its arguments, by a path of this host or the name
// of one that Wine has.
func (w *Wine) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.wine, append([]string{program}, args...)...)
	cmd.Env, cmd.WaitDelay = w.env(), time.Second
	return cmd
}

// Path is the name that a file of this host has there.
func (w *Wine) Path(file string) string { return "Z:" + strings.ReplaceAll(file, "/", `\`) }

// C is the directory that is C:\ there.
func (w *Wine) C() string { return filepath.Join(w.prefix(), "drive_c") }

// close ends all that runs there, and deletes the directory.
func (w *Wine) close(t testing.TB) {
	if w.server != nil && w.server.Process != nil {
		_ = w.server.Process.Kill()
		<-w.ended
	}
	if err := w.endProcesses(); err != nil {
		t.Error(err)
	}
	letDelete(w.prefix())
	if err := os.RemoveAll(w.Dir); err != nil {
		t.Error(err)
	}
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

// sweepWine deletes what a test that was killed left.
func sweepWine() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), winePattern+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), winePattern), "-")
		n, err := strconv.Atoi(pid)
		if err != nil || syscall.Kill(n, 0) == nil {
			continue
		}
		for _, pid := range processesWith("WINEPREFIX=" + filepath.Join(dir, "prefix")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		letDelete(filepath.Join(dir, "prefix"))
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "what a killed test left of Wine:", err)
		}
	}
}
