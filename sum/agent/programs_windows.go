package agent

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/windows"
)

const (
	// programName is what the agent's program is called in its directory.
	programName = WindowsBinaryName

	// pipedOutput is false: a job's program has its log itself, and so loses nothing
	// when its shim is killed.
	pipedOutput = false

	// firstProcess is the number of the process System, which lives as long as the host
	// runs.
	firstProcess = 4

	defaultNetwork = "pipe"

	// ownPathFirst: what any installer puts before them must not stand in for programs of
	// Windows.
	ownPathFirst = true

	// staysWhileItRuns: the program of a process that runs cannot be deleted.
	staysWhileItRuns = true
)

// windowsDir is where Windows is.
func windowsDir() string {
	if dir, err := windows.GetSystemWindowsDirectory(); err == nil && filepath.IsAbs(dir) {
		return dir
	}
	return `C:\Windows`
}

// nativeBaseDirs are the default base directories of this host, for an administrator and
// for a user with a home directory. Below the first administrators alone can write.
func nativeBaseDirs(administrator bool, home string) []string {
	if administrator {
		return []string{filepath.Join(windowsDir(), "roundsman")}
	}
	return []string{filepath.Join(home, `AppData\Local\roundsman`)}
}

// hostBaseDirs are those of the user of this process.
func hostBaseDirs() []string {
	home, err := windows.KnownFolderPath(windows.FOLDERID_Profile, 0)
	if err != nil || !filepath.IsAbs(home) {
		home = windowsDir()
	}
	return nativeBaseDirs(windows.GetCurrentProcessToken().IsElevated(), home)
}

// rootDir is a directory that is always there.
func rootDir() string { return filepath.VolumeName(windowsDir()) + `\` }

// workDir is the working directory of what the agent starts of itself: not its own,
// which could not be deleted then.
func (home) workDir() string { return rootDir() }

// volatileDir is for files that end with the run of the host; Windows has none. In this
// one only administrators can write.
func volatileDir() string { return windowsDir() }

// defaultPath is the search path that Windows itself sets.
func defaultPath() string {
	dir := windowsDir()
	system := filepath.Join(dir, "System32")
	return strings.Join([]string{system, dir, filepath.Join(system, "Wbem"), filepath.Join(system, `WindowsPowerShell\v1.0`)}, ";")
}

// passedOn are the variables of the agent's environment that programs get: those that
// Windows sets for every process, and none that changes how programs are found.
func passedOn() []string {
	return []string{
		"ALLUSERSPROFILE", "APPDATA", "CommonProgramFiles", "CommonProgramFiles(x86)", "CommonProgramW6432", "COMPUTERNAME",
		"DriverData", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "NUMBER_OF_PROCESSORS", "OS", "PROCESSOR_ARCHITECTURE",
		"PROCESSOR_IDENTIFIER", "PROCESSOR_LEVEL", "PROCESSOR_REVISION", "ProgramData", "ProgramFiles", "ProgramFiles(x86)",
		"ProgramW6432", "PUBLIC", "SystemDrive", "TEMP", "TMP", "USERDOMAIN", "USERNAME", "USERPROFILE",
	}
}

// baseEnv is the environment of what the agent starts. Nothing else of its own
// environment is passed on.
func baseEnv() []string {
	dir := windowsDir()
	env := []string{
		"PATH=" + searchPath(os.Getenv("PATH")), "PATHEXT=.COM;.EXE;.BAT;.CMD", "SystemRoot=" + dir, "windir=" + dir,
		"ComSpec=" + filepath.Join(dir, `System32\cmd.exe`),
	}
	for _, name := range passedOn() {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tempEnv names the directory for temporary files of a job.
func tempEnv(dir string) []string { return []string{"TEMP=" + dir, "TMP=" + dir} }

// isVariable reports whether an entry of an environment sets a variable, whose name may
// be in other letters.
func isVariable(entry, name string) bool {
	have, _, ok := strings.Cut(entry, "=")
	return ok && strings.EqualFold(have, name)
}

// executables are the names that a program may have in a directory of the search path.
// Scripts are not among them: they need an interpreter, to be named by the job.
func executables(name string) []string {
	if strings.ContainsAny(name, `\/:`) {
		return nil // it would lead elsewhere
	}
	if ext := filepath.Ext(name); strings.EqualFold(ext, ".exe") || strings.EqualFold(ext, ".com") {
		return []string{name}
	}
	return []string{name + ".com", name + ".exe"}
}

// isExecutable reports whether a file may be executed, as far as its name does not say
// that.
func isExecutable(fi fs.FileInfo) bool { return fi.Mode().IsRegular() }

// runningProgram is the program of this process.
func runningProgram() (string, error) { return os.Executable() }

// thisBitLocker is that of the drive of Windows. A program of 32 bits finds those of 64 bits
// in Sysnative.
func thisBitLocker() bitLocker {
	tool := filepath.Join(windowsDir(), `Sysnative\manage-bde.exe`)
	if _, err := os.Stat(tool); err != nil {
		tool = filepath.Join(windowsDir(), `System32\manage-bde.exe`)
	}
	return bitLocker{tool: tool, drive: filepath.VolumeName(windowsDir()), run: runInGroup}
}

// setCommandLine makes the command line of a program that does not read it as others do.
func setCommandLine(cmd *exec.Cmd) {
	if isMSIExec(cmd.Path) {
		cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: msiCommandLine(cmd.Args)}
	}
}

// printed is what a program has printed, as UTF-8. Programs of the console write in the
// code page of that, which for those without one is the OEM code page.
func printed(output []byte) []byte {
	start := output
	for i := 0; i < utf8.UTFMax-1 && len(start) > 0 && !utf8.RuneStart(start[0]); i++ {
		start = start[1:] // of a character that was cut
	}
	for i := 1; i < utf8.UTFMax && i <= len(start); i++ {
		if c := start[len(start)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(start[len(start)-i:]) {
				start = start[:len(start)-i]
			}
			break
		}
	}
	if utf8.Valid(start) {
		return output
	}
	const oemCodePage = 1 // CP_OEMCP
	wide := make([]uint16, len(output))
	n, err := windows.MultiByteToWideChar(oemCodePage, 0, &output[0], int32(len(output)), &wide[0], int32(len(wide)))
	if err != nil {
		return output
	}
	return []byte(string(utf16.Decode(wide[:n])))
}

// installerRuns reports whether Windows Installer installs something ("_MSIExecute Mutex").
func installerRuns() bool {
	name, err := windows.UTF16PtrFromString(installerMutex)
	if err != nil {
		return false
	}
	runtime.LockOSThread() // which may come to own it
	defer runtime.UnlockOSThread()
	h, err := windows.OpenMutex(windows.SYNCHRONIZE, false, name)
	if err != nil {
		return err == windows.ERROR_ACCESS_DENIED
	}
	defer windows.CloseHandle(h)
	event, err := windows.WaitForSingleObject(h, 0)
	if err == nil && (event == windows.WAIT_OBJECT_0 || event == windows.WAIT_ABANDONED) {
		_ = windows.ReleaseMutex(h)
		return false
	}
	return err == nil
}

const installerMutex = `Global\_MSIExecute`
