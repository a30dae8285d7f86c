package agent

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMSICommandLine(t *testing.T) {
	for want, args := range map[string][]string{
		`msiexec.exe /i C:\w\x.msi /qn`:                                   {"msiexec.exe", "/i", `C:\w\x.msi`, "/qn"},
		`"C:\Program Files\msiexec.exe" /i "C:\a b\x.msi"`:                {`C:\Program Files\msiexec.exe`, "/i", `C:\a b\x.msi`},
		`msiexec /i x.msi INSTALLDIR="C:\Program Files\x\"`:               {"msiexec", "/i", "x.msi", `INSTALLDIR=C:\Program Files\x\`},
		`msiexec /i x.msi REBOOT=ReallySuppress A.b_1="say ""hi"" to=me"`: {"msiexec", "/i", "x.msi", "REBOOT=ReallySuppress", `A.b_1=say "hi" to=me`},
		`msiexec /i x.msi EMPTY="" ""`:                                    {"msiexec", "/i", "x.msi", "EMPTY=", ""},
		`msiexec /x {0A6D-1} "1=a b" "C:\a=b c"`:                          {"msiexec", "/x", "{0A6D-1}", "1=a b", `C:\a=b c`},
	} {
		require.Equal(t, want, msiCommandLine(args))
	}
	for name, want := range map[string]bool{
		`C:\Windows\System32\MsiExec.exe`: true, "msiexec": true, "C:/Windows/msiexec.exe": true,
		`C:\msiexec.exe\setup.exe`: false, "mymsiexec.exe": false,
	} {
		require.Equal(t, want, isMSIExec(name), name)
	}
}

func TestPlaceArgs(t *testing.T) {
	dir := t.TempDir()
	require.Equal(t, []string{"p", filepath.Join(dir, "a", "x.msi"), dir, "--to=" + dir + "/a", "a/b"},
		placeArgs([]string{"p", "{dir}/a/x.msi", "{dir}", "--to={dir}/a", "a/b"}, dir))
}
