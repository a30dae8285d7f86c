// Package winlab is as much of a Windows server as Linux has: a Wine of one's own, with
// its service control manager and its pipes. Tests have it by package realtest, and
// examples/quickstart has it as a target.
package winlab

// A MissingError says what a machine lacks for a lab.
type MissingError struct {
	What    string // such as "the program smbd"
	Package string // of Debian; "" where none helps
}

// Error implements error.
func (e *MissingError) Error() string {
	if e.Package == "" {
		return "missing: " + e.What
	}
	return "missing: " + e.What + " (Debian: apt-get install " + e.Package + ")"
}
