//go:build !linux && !darwin && !windows

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"

	"github.com/roundsman-go/roundsman/transport"
)

// supported says whether the service runs on this system. Where it does not, Main
// never comes to what is below.
const supported = false

func errPlatform(what string) error {
	return fmt.Errorf("%s is not supported on %s: %w", what, runtime.GOOS, errors.ErrUnsupported)
}

func lockFile(string, bool) (*os.File, error) { return nil, errPlatform("locking files") }
func shareFile(string) (*os.File, error)      { return nil, errPlatform("locking files") }
func tryLock(*os.File) bool                   { return false }
func detach(*exec.Cmd)                        {}
func ownGroup(*exec.Cmd)                      {}
func endGroup(int, string, bool) error        { return errPlatform("ending programs") }
func askToEnd(holder) error                   { return errPlatform("ending programs") }
func endProcess(int) error                    { return errPlatform("ending programs") }
func endNow(int)                              {}
func exitOf(ps *os.ProcessState) (int, string) {
	return ps.ExitCode(), ""
}
func systemCode(error) transport.Code    { return transport.Code{} }
func isNoSpace(error) bool               { return false }
func mayPass(error) bool                 { return false }
func freeSpace(string) (int64, error)    { return 0, errPlatform("asking for free space") }
func ownedByMe(string, fs.FileInfo) bool { return true }
func usualUmask()                        {}
func syncDir(string) error               { return nil }
func lookAtProcess(int) (string, error)  { return "", nil }
func pidNamespace() string               { return "" }
func bootID() string                     { return "" }
func spareReader(*os.File) *os.File      { return nil }
func logTo(home) error                   { return errPlatform("systemd") }

var endSignals = []os.Signal{os.Interrupt}
