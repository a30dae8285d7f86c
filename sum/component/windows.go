package component

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// device matches what Windows takes for a device, in every directory and with whatever
// behind the first dot ("Naming Files, Paths, and Namespaces").
var device = regexp.MustCompile(`(?i)^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)`)

// drive is the beginning of a path that has one.
var drive = regexp.MustCompile(`^[a-zA-Z]:`)

// notOnWindows says why a path means something else on Windows than it says, or "".
func notOnWindows(name string) string {
	for part := range strings.FieldsFuncSeq(drive.ReplaceAllString(name, ""), func(r rune) bool { return r == '/' || r == '\\' }) {
		switch {
		case part == "." || part == "..":
		case device.MatchString(part):
			return fmt.Sprintf("%q is a device", part)
		case strings.TrimRight(part, ". ") != part:
			return fmt.Sprintf("%q would lose its last character", part)
		case strings.ContainsAny(part, `<>:"|?*`):
			return fmt.Sprintf("%q has a character that names cannot have", part)
		}
	}
	return ""
}

// checkWindows looks at the programs of a component for Windows.
func (c *Component) checkWindows() error {
	for field, argv := range map[string][]string{"install[0]": c.Install, "probe.argv[0]": c.ProbeArgv} {
		if len(argv) == 0 {
			continue
		}
		if why := notOnWindows(argv[0]); why != "" {
			return bad(field, errors.New("on Windows "+why), "name a program that Windows can start")
		}
	}
	return nil
}
