package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

func TestPolicyScript(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		realtest.Missing(t, "/bin/sh")
	}
	program := filepath.Join(t.TempDir(), "it's a program")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700))
	out, err := exec.Command("/bin/sh", "-c", policyScript, "sh", program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	p := parsePolicy(out)
	require.True(t, p.access)
	require.NoError(t, os.Chmod(program, 0o600))
	out, err = exec.Command("/bin/sh", "-c", policyScript, "sh", program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	p = parsePolicy(out)
	require.False(t, p.access)
	enforce, _ := os.ReadFile("/sys/fs/selinux/enforce")
	require.Equal(t, string(enforce) == "1", p.enforcing)
	for line := range strings.Lines(string(out)) {
		require.Contains(t, line, "=", "nothing but facts")
	}
}

func TestParsePolicy(t *testing.T) {
	require.Equal(t, policy{
		access: true, enforcing: true, file: "unconfined_u:object_r:var_lib_t:s0", dir: "system_u:object_r:var_lib_t:s0",
		user: "staff_u:staff_r:staff_t:s0-s0:c0.c1023", fapolicyd: true,
	}, parsePolicy([]byte("access=yes\nenforce=1\nfile=unconfined_u:object_r:var_lib_t:s0\ndir=system_u:object_r:var_lib_t:s0\n"+
		"user=staff_u:staff_r:staff_t:s0-s0:c0.c1023\nfapolicyd=running\npermissive=0\n")))
	require.Equal(t, policy{permissive: true}, parsePolicy([]byte("Welcome!\naccess=no\nenforce=0\nfile=?\ndir=\nuser=\nfapolicyd=running\npermissive=1\n")))
	require.Zero(t, parsePolicy(nil))
}

func TestWhoRefused(t *testing.T) {
	for _, tt := range []struct {
		p     policy
		errno string
		want  string
	}{
		{policy{}, "", byNobody},
		{policy{}, "EACCES", byNobody},
		{policy{access: true}, "EPERM", byNobody},
		{policy{enforcing: true}, "", bySELinux},
		{policy{enforcing: true, fapolicyd: true}, "", bySELinux},
		{policy{access: true, enforcing: true}, "", bySELinux},
		{policy{fapolicyd: true}, "", byNobody},
		{policy{access: true, fapolicyd: true}, "", byFapolicyd},
		{policy{access: true, fapolicyd: true, enforcing: true}, "", byEither},
		{policy{access: true, fapolicyd: true, enforcing: true}, "EPERM", byFapolicyd},
		{policy{access: true, fapolicyd: true, enforcing: true}, "EACCES", bySELinux},
	} {
		require.Equal(t, tt.want, tt.p.who(tt.errno), "%+v %s", tt.p, tt.errno)
	}
}

func TestInherited(t *testing.T) {
	const data, program = "system_u:object_r:var_lib_t:s0", "unconfined_u:object_r:bin_t:s0"
	require.True(t, policy{file: "unconfined_u:object_r:var_lib_t:s0:c1,c2", dir: data}.inherited())
	for _, p := range []policy{{}, {file: program, dir: data}, {file: program, dir: program}, {file: data}, {dir: data}} {
		require.False(t, p.inherited(), "%+v", p)
	}
}

func TestPolicyHint(t *testing.T) {
	p := policy{user: "staff_u:staff_r:staff_t:s0"}
	const program = "/var/lib/roundsman/m1/roundsman-agent"
	sum := strings.Repeat("ab", 32)
	trust := p.hint(byFapolicyd, program, sum)
	require.Contains(t, trust, "allow perm=execute all : path="+program+" sha256hash="+sum)
	require.Contains(t, trust, "allow perm=any exe="+program+" : dir=/var/lib/roundsman/m1/jobs/")
	require.NotContains(t, trust, "semanage")
	label := p.hint(bySELinux, program, sum)
	require.Contains(t, label, "semanage fcontext -a -t bin_t "+program)
	require.Contains(t, label, p.user)
	require.NotContains(t, label, "fapolicyd")
	both := p.hint(byEither, program, sum)
	require.Contains(t, both, trust)
	require.Contains(t, both, label)
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("access=yes\nenforce=1\nfile=a:b:c:s0\ndir=a:b:c\nfapolicyd=running\npermissive=1\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		p := parsePolicy(out)
		if p.fapolicyd && p.permissive || p.inherited() && labelType(p.file) == "" {
			t.Fatalf("%+v", p)
		}
	})
}
