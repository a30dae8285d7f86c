//go:build unix

package local

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/roundsman-go/roundsman/transport"
)

// group is a program and what it started, unless that left for a group of its own.
type group struct{ cmd *exec.Cmd }

// newGroup makes cmd the leader of a session of its own, and so of a group: what
// is typed at the terminal of this process does not reach it.
func newGroup(cmd *exec.Cmd) *group {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return &group{cmd}
}

func (g *group) started() {}
func (g *group) close()   {}

// end asks the group to end, or with force ends it. The number of a group is not
// used again as long as it has members.
func (g *group) end(force bool) {
	sig := syscall.SIGTERM
	if force {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-g.cmd.Process.Pid, sig) // that it has ended is what is wanted
}

// alive reports whether the group has members.
func (g *group) alive() bool { return syscall.Kill(-g.cmd.Process.Pid, 0) == nil }

// signalNames are those of POSIX that end a program.
var signalNames = map[syscall.Signal]string{
	syscall.SIGABRT: "ABRT", syscall.SIGALRM: "ALRM", syscall.SIGBUS: "BUS", syscall.SIGFPE: "FPE", syscall.SIGHUP: "HUP",
	syscall.SIGILL: "ILL", syscall.SIGINT: "INT", syscall.SIGKILL: "KILL", syscall.SIGPIPE: "PIPE", syscall.SIGPROF: "PROF",
	syscall.SIGQUIT: "QUIT", syscall.SIGSEGV: "SEGV", syscall.SIGSYS: "SYS", syscall.SIGTERM: "TERM", syscall.SIGTRAP: "TRAP",
	syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2", syscall.SIGVTALRM: "VTALRM", syscall.SIGXCPU: "XCPU", syscall.SIGXFSZ: "XFSZ",
}

// exitOf is how a program ended.
func exitOf(ps *os.ProcessState) transport.Exit {
	ws, ok := ps.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return transport.Exit{Code: ps.ExitCode()}
	}
	name, ok := signalNames[ws.Signal()]
	if !ok {
		name = strconv.Itoa(int(ws.Signal()))
	}
	return transport.Exit{Code: -1, Signal: name}
}
