package inventory

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
)

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", program, args, out)
	return string(out)
}

func TestThisMachine(t *testing.T) {
	inv := Collect(context.Background())
	id := inv.Identity
	require.Equal(t, strings.TrimSpace(run(t, realtest.Need(t, "uname"), "-r")), id.Kernel)
	name, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, name, id.Name)
	require.NotEmpty(t, id.Version)
	require.Len(t, id.BootID, 36)
	require.Zero(t, inv.Taken)
	for _, p := range inv.Problems {
		t.Log(p.Part, p.Text)
	}
}

func TestDpkgOfThisMachine(t *testing.T) {
	out := run(t, realtest.Need(t, "dpkg-query"), "-W", "-f", `${db:Status-Status} ${Package} ${Version} ${Architecture}\n`)
	want := map[string]bool{}
	for line := range strings.Lines(out) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			want[p] = true
		}
	}
	got := map[string]bool{}
	for _, s := range Collect(context.Background()).Software {
		if s.Source == "dpkg" {
			got[s.Name+" "+s.Version+" "+s.Arch] = true
			if s.Name == "dpkg" {
				require.NotEmpty(t, s.Version)
				got["dpkg"] = true
			}
		}
	}
	require.True(t, got["dpkg"])
	delete(got, "dpkg")
	require.Equal(t, want, got)
}

// TestRealRPM asks a real rpm about a database made for the test.
func TestRealRPM(t *testing.T) {
	rpm, rpmbuild := realtest.Need(t, "rpm"), realtest.Need(t, "rpmbuild")
	dir := t.TempDir()
	db := filepath.Join(dir, "db")
	for _, p := range []struct{ name, epoch string }{{"roundsman-one", ""}, {"roundsman-two", "Epoch: 3\n"}} {
		spec := filepath.Join(dir, p.name+".spec")
		require.NoError(t, os.WriteFile(spec, fmt.Appendf(nil, "Name: %s\nVersion: 1.2\nRelease: 4\n%sSummary: s\nLicense: none\nBuildArch: noarch\n%%description\nd\n%%files\n", p.name, p.epoch), 0o600))
		run(t, rpmbuild, "-bb", "--define", "_topdir "+dir, spec)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "RPMS", "*", "*.rpm"))
	require.NoError(t, err)
	require.Len(t, packages, 2)
	args := []string{"--dbpath", db, "-i", "--justdb", "--nodeps"}
	if _, err := os.Stat("/etc/debian_version"); err == nil {
		args = append(args, "--force-debian") // Debian's rpm asks for it before it installs
	}
	run(t, rpm, append(args, packages...)...)
	program := filepath.Join(dir, "rpm")
	require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nexec %s --dbpath %s \"$@\"\n", rpm, db), 0o700))

	var got []transport.Software
	require.NoError(t, runRPM(context.Background(), program, func(s transport.Software) { got = append(got, s) }))
	require.ElementsMatch(t, []transport.Software{
		{Name: "roundsman-one", Version: "1.2-4", Arch: "noarch", Source: "rpm"},
		{Name: "roundsman-two", Version: "3:1.2-4", Arch: "noarch", Source: "rpm"},
	}, got)
}

func TestRPMProgramThatFails(t *testing.T) {
	script := func(body string) string {
		p := filepath.Join(t.TempDir(), "rpm")
		require.NoError(t, os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o700))
		return p
	}
	drop := func(transport.Software) {}
	err := runRPM(context.Background(), script("echo no database >&2; exit 3"), drop)
	require.ErrorContains(t, err, "no database")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())

	// It writes without end; the reader gives up and the program is ended.
	require.ErrorContains(t, runRPM(context.Background(), script("exec yes"), drop), "unexpected line")

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, runRPM(ctx, script("exec sleep 1000"), drop), context.DeadlineExceeded)

	require.Error(t, runRPM(context.Background(), filepath.Join(t.TempDir(), "none"), drop))
}

// TestUnprivileged reads this machine as a user without any rights.
func TestUnprivileged(t *testing.T) {
	if os.Getenv("INVENTORY_CHILD") != "" {
		inv := Collect(context.Background())
		fmt.Printf("\nFOUND %s %d\n", inv.Identity.Kernel, len(inv.Devices))
		return
	}
	realtest.NeedRoot(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	copied := filepath.Join(os.TempDir(), fmt.Sprintf("inventory-test-%d", os.Getpid()))
	b, err := os.ReadFile(exe)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(copied, b, 0o755))
	defer os.Remove(copied)
	cmd := exec.Command(copied, "-test.run=^TestUnprivileged$")
	cmd.Env = []string{"INVENTORY_CHILD=1"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	inv := Collect(context.Background())
	require.True(t, bytes.Contains(out, fmt.Appendf(nil, "\nFOUND %s %d\n", inv.Identity.Kernel, len(inv.Devices))), "%s", out)
}
