package agent

import (
	"fmt"
	"path"
	"strings"
	"unicode"
)

// checkWindowsNames refuses the files of a job that Windows would take for something else
// than it is told, or two for one ("Naming Files, Paths, and Namespaces").
func checkWindowsNames(files []JobFile) error {
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		for part := range strings.SplitSeq(f.Name, "/") {
			if why := notWindowsName(part); why != "" {
				return fmt.Errorf("file name %q: on Windows %q %s", f.Name, part, why)
			}
		}
		key := strings.ToLower(f.Name)
		if seen[key] {
			return fmt.Errorf("file name %q is given twice: Windows does not tell upper from lower case", f.Name)
		}
		seen[key] = true
	}
	for name := range seen {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				return fmt.Errorf("file name %q is that of a directory, too", dir)
			}
		}
	}
	return nil
}

// notWindowsName says what is wrong with one element of a path; "" is nothing.
func notWindowsName(name string) string {
	if i := strings.IndexFunc(name, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune(`<>:"/\|?*`, r) }); i >= 0 {
		// A colon leads to a stream of the file, or to another drive.
		return fmt.Sprintf("has the character %q", []rune(name[i:])[0])
	}
	if trimmed := strings.TrimRight(name, ". "); trimmed != name {
		return "would lose its last character"
	}
	// Devices are there in every directory, whatever follows a dot or spaces.
	base, _, _ := strings.Cut(name, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return "is a device"
	}
	for _, prefix := range []string{"COM", "LPT"} {
		if n, ok := strings.CutPrefix(base, prefix); ok && (len(n) == 1 && n >= "0" && n <= "9" || n == "¹" || n == "²" || n == "³") {
			return "is a device"
		}
	}
	return ""
}
