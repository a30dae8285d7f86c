//go:build !windows

package agent

import (
	"context"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

const (
	// programName is what the agent's program is called in its directory.
	programName = BinaryName

	// pipedOutput says that the output of a job's program comes to its shim by a
	// pipe.
	pipedOutput = true

	// firstProcess is the number of a process that lives as long as the host runs.
	firstProcess = 1

	defaultNetwork = "unix"

	// ownPathFirst is false: an administrator's path comes before that of defaultPath.
	ownPathFirst = false

	// staysWhileItRuns is for Windows.
	staysWhileItRuns = false
)

// defaultPath is for an agent that was started without one. Package managers refuse
// to work without the sbin directories.
func defaultPath() string { return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }

// nativeBaseDirs is for Windows.
func nativeBaseDirs(bool, string) []string { return nil }

// hostBaseDirs are the default base directories of this host.
func hostBaseDirs() []string { return DefaultBaseDirs(os.Geteuid() == 0, homeDir()) }

func homeDir() string {
	if dir := os.Getenv("HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return rootDir()
}

// rootDir is a directory that is always there.
func rootDir() string { return "/" }

// workDir is the working directory of what the agent starts of itself.
func (h home) workDir() string { return string(h) }

// volatileDir is for files that end with the run of the host.
func volatileDir() string { return "/run" }

// baseEnv is the environment of what the agent starts. Nothing else of its own
// environment is passed on.
func baseEnv() []string {
	return []string{"PATH=" + searchPath(os.Getenv("PATH")), "HOME=" + homeDir(), "LANG=C.UTF-8"}
}

// tempEnv names the directory for temporary files of a job, and what else only jobs
// get.
func tempEnv(dir string) []string {
	return []string{"DEBIAN_FRONTEND=noninteractive", "TMPDIR=" + dir}
}

// isVariable reports whether an entry of an environment sets a variable.
func isVariable(entry, name string) bool { return strings.HasPrefix(entry, name+"=") }

// executables are the names that a program may have in a directory of the search path.
func executables(name string) []string { return []string{name} }

// isExecutable reports whether a file's mode lets it be executed.
func isExecutable(fi os.FileInfo) bool { return fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 }

// installerUmask makes what a program creates readable, as installers expect.
const installerUmask = 0o022

// startProgram starts a program with the umask that installers expect. release is to
// be called when it has ended, or is left to itself.
func startProgram(cmd *exec.Cmd, _ string) (release func(), err error) {
	start := cmd.Start
	if umask() != installerUmask {
		start = func() error { return startWithUmask(cmd) }
	}
	return func() {}, start()
}

// newGroup is for Windows, where the group of a program has a name.
func newGroup() string { return "" }

// setCommandLine is for Windows, where a program gets one string.
func setCommandLine(*exec.Cmd) {}

// startDetached starts a process that goes on when this one ends.
func startDetached(cmd *exec.Cmd) (_ *exec.Cmd, confined bool, err error) {
	detach(cmd)
	return cmd, false, cmd.Start()
}

// printed is what a program has printed.
func printed(output []byte) []byte { return output }

// installerRuns is for Windows, where a service does what an installer asks for.
func installerRuns() bool { return false }

// runInGroup is cmd.Run for the leader of a process group, all of which ends where its
// context does.
func runInGroup(cmd *exec.Cmd) error {
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return endGroup(cmd.Process.Pid, "", true) }
	}
	return cmd.Run()
}

// startByShell starts a program with installerUmask: a process has one umask for
// all its threads, so a shell in between sets it.
func startByShell(cmd *exec.Cmd) error {
	cmd.Args = append([]string{"sh", "-c", `umask 022; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return cmd.Start()
}

// askable is for systems without signals.
func askable(ctx context.Context) (asked context.Context, event string, stop func()) {
	return ctx, "", func() {}
}

// listenPipe is for Windows.
func listenPipe(string) (net.Listener, error) { return nil, errNotHere }
func pipeName(_ home, name string) string     { return name }

// dialLocal dials the socket of an agent of this host.
func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// serveAsService is for Windows.
func serveAsService(home, string) error { return errNotHere }

// removeAsService is for Windows.
func removeAsService(home, string) error { return errNotHere }

// forgetService is for Windows.
func (home) forgetService() error { return nil }

// forgetServices is for Windows.
func (home) forgetServices() error { return nil }

// forgetOrphans is for Windows.
func (home) forgetOrphans(context.Context, time.Time) ([]string, error) { return nil, nil }

// leaveRest is for Windows, where the program of a process that runs cannot be deleted.
func (home) leaveRest() error { return nil }

// sweepPrograms is for Windows, too.
func (home) sweepPrograms() {}

// checkRights is for Windows, where a directory has a list of rights beside its owner.
func (home) checkRights() error { return nil }

// thisBitLocker is for Windows.
func thisBitLocker() bitLocker { return bitLocker{run: runInGroup} }
