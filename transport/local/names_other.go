//go:build !windows

package local

import (
	"path"
	"strings"
)

// native returns the path for a name, which starts at the root whether it says so
// or not, or why it is none.
func native(name string) (file, hint string) {
	if name == "" || strings.Contains(name, "\x00") {
		return "", "not a file name"
	}
	return path.Clean("/" + name), ""
}

// isRoot reports whether a path has no directory above it.
func isRoot(file string) bool { return file == "/" }
