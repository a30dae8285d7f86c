package channel

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Lengths of the identifiers that may become part of a path on the target. They
// are fixed-length lower-case hexadecimal, so that no identifier can traverse.
const (
	jobIDLen  = 32
	sha256Len = 64
)

// NewJobID returns a random job identifier: 32 lower-case hexadecimal digits.
func NewJobID() string {
	var b [jobIDLen / 2]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b[:])
}

// ValidJobID reports whether s has the form of a job identifier.
func ValidJobID(s string) bool { return isLowerHex(s, jobIDLen) }

// ValidSHA256 reports whether s has the form of a blob's name: 64 lower-case
// hexadecimal digits.
func ValidSHA256(s string) bool { return isLowerHex(s, sha256Len) }

// ValidLogName reports whether s may name a log: up to 128 letters, digits, and
// inner dots, dashes and underscores. No such name can traverse a directory or
// mean a device on Windows.
func ValidLogName(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.' || c == '-' || c == '_':
			if i == 0 || i == len(s)-1 || s[i-1] == '.' && c == '.' {
				return false
			}
		default:
			return false
		}
	}
	return !reservedOnWindows(s)
}

// reservedOnWindows reports names that Windows takes for devices, whatever
// their extension.
func reservedOnWindows(name string) bool {
	base, _, _ := strings.Cut(strings.ToUpper(name), ".")
	base = strings.TrimRight(base, " ")
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	return len(base) == 4 && (strings.HasPrefix(base, "COM") || strings.HasPrefix(base, "LPT")) &&
		'0' <= base[3] && base[3] <= '9'
}

func isLowerHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validator is a request with rules of its own. They hold on both sides: the
// client does not send what the server would refuse.
type validator interface{ validate() error }

func badJobID() error {
	return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("JobId must be %d lower-case hexadecimal digits", jobIDLen)}
}

func (r *StatusRequest) validate() error {
	if !ValidJobID(r.JobID) {
		return badJobID()
	}
	if r.LogOffset < 0 {
		return &Fault{Code: CodeBadRequest, Message: "LogOffset must not be negative"}
	}
	return nil
}

func (r *CancelRequest) validate() error {
	if !ValidJobID(r.JobID) {
		return badJobID()
	}
	return nil
}

func (r *InstallRequest) validate() error {
	if !ValidJobID(r.JobID) {
		return badJobID()
	}
	if len(r.Args) == 0 || r.Args[0] == "" {
		return &Fault{Code: CodeBadRequest, Message: "Install needs at least one Arg, the program"}
	}
	seen := make(map[string]bool, len(r.Files))
	for _, f := range r.Files {
		if !validFileName(f.Name) {
			return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("File name %q is not a clean relative path", f.Name)}
		}
		// Compared without case: the target's file system may not tell them apart.
		if key := strings.ToLower(f.Name); seen[key] {
			return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("File name %q is given twice", f.Name)}
		} else {
			seen[key] = true
		}
		if !ValidSHA256(f.SHA256) {
			return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("File %q: Sha256 must be 64 lower-case hexadecimal digits", f.Name)}
		}
		if f.Size < 0 {
			return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("File %q: Size must not be negative", f.Name)}
		}
	}
	for _, e := range r.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return &Fault{Code: CodeBadRequest, Message: "Env must be NAME=value"}
		}
	}
	return nil
}

// validFileName accepts what [fs.ValidPath] does, less what Windows reads
// differently: back slashes, drive letters and streams, device names.
func validFileName(name string) bool {
	if name == "." || !fs.ValidPath(name) || strings.ContainsAny(name, "\\:\x00") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		// Windows takes final dots and spaces away.
		if reservedOnWindows(part) || strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") {
			return false
		}
	}
	return true
}
