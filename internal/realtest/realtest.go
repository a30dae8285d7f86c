// Package realtest finds the real counterparts that tests run against: OpenSSH,
// gSOAP, rpm and the like, and the rights that network namespaces need.
//
// A test that cannot find its counterpart is skipped and says what is missing.
// With ROUNDSMAN_REAL=require in the environment, as continuous integration sets
// it, the same absence fails the test, so that a green run proves that nothing
// was left out.
package realtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Required reports whether a missing counterpart must fail the test.
func Required() bool { return os.Getenv("ROUNDSMAN_REAL") == "require" }

// Missing ends the test: skipped, or failed when counterparts are required.
func Missing(t testing.TB, what string) {
	t.Helper()
	if Required() {
		t.Fatalf("missing on this machine and required by ROUNDSMAN_REAL=require: %s", what)
	}
	t.Skipf("not run: missing on this machine: %s", what)
}

// Need returns the absolute path of a program, also when it lies in one of the
// sbin directories that an ordinary user's PATH leaves out.
func Need(t testing.TB, program string) string {
	t.Helper()
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/openssh"} {
		p := filepath.Join(dir, program)
		if fi, err := os.Stat(p); err == nil && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	Missing(t, "the program "+program)
	return ""
}

// NeedRoot ends the test unless it runs as root, which namespaces, package
// installation and sshd with other users need.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root rights")
	}
}
