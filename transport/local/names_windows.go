package local

import (
	"path"
	"path/filepath"
	"strings"
)

// native returns the path for a name, or why it is none. "/C:/a/b" stands for
// `C:\a\b`, as in OpenSSH for Windows.
func native(name string) (file, hint string) {
	const want = `names are absolute, such as "/C:/dir/file"`
	clean := path.Clean("/" + name)[1:]
	drive, rest, _ := strings.Cut(clean, "/")
	if len(drive) != 2 || drive[1] != ':' || !isLetter(drive[0]) {
		return "", want
	}
	for part := range strings.SplitSeq(rest, "/") {
		switch {
		case part == "":
		case strings.ContainsAny(part, "\\:<>\"|?*"), strings.ContainsFunc(part, func(r rune) bool { return r < ' ' }):
			return "", "Windows allows no such character in a file name"
		case strings.HasSuffix(part, "."), strings.HasSuffix(part, " "):
			return "", "Windows would leave out the dot or space at the end of the name"
		case !filepath.IsLocal(part):
			return "", "Windows has a device of this name"
		}
	}
	return drive + `\` + strings.ReplaceAll(rest, "/", `\`), ""
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// isRoot reports whether a path has no directory above it.
func isRoot(file string) bool { return len(file) == len(`C:\`) }
