package agent

import (
	"path/filepath"
	"regexp"
	"strings"
)

// placeArgs puts the job's directory into its arguments. A path that begins with it has
// the separators of this system throughout: msiexec.exe and others do not know both.
func placeArgs(argv []string, dir string) []string {
	args := make([]string, len(argv))
	for i, a := range argv {
		if strings.HasPrefix(a, dirMark) {
			a = filepath.FromSlash(a)
		}
		args[i] = strings.ReplaceAll(a, dirMark, dir)
	}
	return args
}

// msiProperty is a public property with its value, as on the command line of msiexec.exe.
var msiProperty = regexp.MustCompile(`(?s)^([A-Za-z_][A-Za-z0-9_.]*)=(.*)$`)

// isMSIExec reports whether a program is msiexec.exe, which does not read its command line
// as other programs do.
func isMSIExec(program string) bool {
	base := strings.ToLower(program[strings.LastIndexAny(program, `\/`)+1:])
	return base == "msiexec.exe" || base == "msiexec"
}

// msiCommandLine is the command line of msiexec.exe. Its quotes are around the value of a
// property and not around the argument, one within is doubled, and a backslash is only
// that ("Command-Line Options" of Windows Installer).
func msiCommandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		name, value := "", a
		if m := msiProperty.FindStringSubmatch(a); m != nil && i > 0 {
			name, value = m[1]+"=", m[2]
		}
		if value == "" || strings.ContainsAny(value, " \t\r\n\"") {
			value = `"` + strings.ReplaceAll(value, `"`, `""`) + `"`
		}
		quoted[i] = name + value
	}
	return strings.Join(quoted, " ")
}
