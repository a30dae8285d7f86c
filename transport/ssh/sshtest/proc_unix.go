//go:build unix

package sshtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// marker names the variable by which the commands of a server are found again.
const marker = "SSHTEST_SERVER="

// signalNames are the signals of RFC 4254, section 6.10.
var signalNames = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func signalGroup(pid int, name string) {
	if sig, ok := signalNames[name]; ok {
		_ = syscall.Kill(-pid, sig)
	}
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

// signalOf names the signal that ended a process, or returns "".
func signalOf(st *os.ProcessState) string {
	ws, ok := st.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return ""
	}
	for name, sig := range signalNames {
		if sig == ws.Signal() {
			return name
		}
	}
	return strconv.Itoa(int(ws.Signal())) + "@sshtest"
}

// killMarked ends the processes that left their process group. Where there is no
// /proc they cannot be found and stay.
func killMarked(id string) {
	if runtime.GOOS != "linux" {
		return
	}
	want := []byte(marker + id)
	for range 100 {
		found := false
		envs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, name := range envs {
			env, err := os.ReadFile(name)
			if err != nil || !bytes.Contains(env, want) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && pid != os.Getpid() {
				found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
