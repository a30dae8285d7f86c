package component

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestFirmwareRPM: a package that carries a setup program is not installed when
// rpm is done, and a description may leave the command to it.
func TestFirmwareRPM(t *testing.T) {
	const lib = "/usr/lib/x86_64-linux-gnu/"
	for name, program := range map[string]string{
		"scexe":   lib + "scexe-compat/CP062165.scexe",
		"old":     lib + "hp-scexe-compat/CP023826.scexe",
		"setup":   lib + "firmware-thing-2.36-1.1/setup",
		"hpsetup": lib + "hp-firmware-thing-2.36-1.1/hpsetup",
	} {
		t.Run(name, func(t *testing.T) {
			built := buildRPM(t, strings.NewReplacer("%EPOCH%", "", "%DIR%/x", program, "%DIR%", filepath.Dir(program)).Replace(helloSpec), "-bb")
			c, err := Load(t.Context(), built)
			require.NoError(t, err)
			require.False(t, c.Provable())
			require.Equal(t, agent.ProfileHPELinux, c.Profile)
			require.Equal(t, []string{"sh", "-c", installSetup, "sh", "./hello-2.10-3.el9.noarch.rpm", program}, c.Job("", JobOptions{}).Argv)
			require.Equal(t, "-f", c.Job("", JobOptions{Rewrite: true}).Argv[6])

			dir := t.TempDir()
			require.NoError(t, os.Rename(built, filepath.Join(dir, "fw.rpm")))
			description := func(more string) string {
				return `{"name":"fw","version":"2.36","scheme":"hpe","device":{"class":"bios","part":"firmware"},"files":[{"name":"fw.rpm"}]` + more + `}`
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestName), []byte(description("")), 0o600))
			c, err = Load(t.Context(), dir)
			require.NoError(t, err)
			require.NotNil(t, c.Match.Device)
			require.Equal(t, agent.ProfileHPELinux, c.Profile)
			require.True(t, c.NoKill)
			require.Equal(t, []string{"sh", "-c", installSetup, "sh", "./fw.rpm", program}, c.Job("", JobOptions{}).Argv)

			require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestName), []byte(description(`,"profile":"zero-ok"`)), 0o600))
			_, err = Load(t.Context(), dir)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, "install")
			require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestName), []byte(description(`,"profile":"zero-ok","install":["./run"]`)), 0o600))
			_, err = Load(t.Context(), dir)
			require.ErrorContains(t, err, `"run" is not one of the files`)
		})
	}
}

// TestInstallSetup runs the script with an rpm that tells what it is given.
func TestInstallSetup(t *testing.T) {
	dir := folder(t, map[string]string{"bin/rpm": "#!/bin/sh\necho rpm \"$@\"\nexit ${RM_RPM:-0}\n",
		"a b/setup": "#!/bin/sh\necho setup \"$@\" in \"${PWD##*/}\"\nexit ${RM_SETUP:-0}\n"})
	require.NoError(t, os.Chmod(filepath.Join(dir, "bin/rpm"), 0o700))
	program := filepath.Join(dir, "a b/setup")
	install := func(program string, env ...string) (string, int) {
		cmd := exec.Command("sh", "-c", installSetup, "sh", "./x.rpm", program, "-f")
		cmd.Env = append(env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
		out, _ := cmd.Output()
		return string(out), cmd.ProcessState.ExitCode()
	}
	const asked = "rpm -U --replacepkgs --oldpackage ./x.rpm\n"
	_, status := install(program)
	require.Equal(t, 126, status, "it is no program yet, and 1 would mean a reboot")
	require.NoError(t, os.Chmod(program, 0o700))
	out, status := install(program)
	require.Equal(t, asked+"setup -s -f in a b\n", out)
	require.Zero(t, status)
	_, status = install(program, "RM_SETUP=2")
	require.Equal(t, 2, status)
	out, status = install(program, "RM_RPM=1")
	require.Equal(t, asked, out)
	require.Equal(t, 3, status)
	_, status = install("/no/such/setup")
	require.Equal(t, 3, status)
}
