//go:build !unix && !windows

package local

import (
	"io/fs"
	"os"

	"github.com/roundsman-go/roundsman/transport"
)

func classOfErrno(error) error                      { return nil }
func codeOf(error) transport.Code                   { return transport.Code{} }
func inUse(error) bool                              { return false }
func isOwn(fs.FileInfo) bool                        { return true }
func hasOneName(fs.FileInfo) bool                   { return true }
func setMode(f *os.File, perm fs.FileMode) error    { return f.Chmod(perm) }
func setDirMode(dir string, perm fs.FileMode) error { return os.Chmod(dir, perm) }
func syncDir(string) error                          { return nil }
func readable(*os.File) bool                        { return false }
func tryLock(*os.File) (bool, error)                { return true, nil }
func unixSockets() bool                             { return false }
