package component

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// windowsManifest is that of a component for kinds, whose program is one of its files.
func windowsManifest(t *testing.T, kinds []string, program string, edit func(map[string]any)) string {
	t.Helper()
	m := map[string]any{
		"name": "x", "version": "1.0", "scheme": "numeric", "kinds": kinds, "profile": "zero-ok",
		"install": []string{"./" + program}, "files": []map[string]any{{"name": program}},
	}
	if edit != nil {
		edit(m)
	}
	text, err := json.Marshal(m)
	require.NoError(t, err)
	return folder(t, map[string]string{ManifestName: string(text), program: "x"})
}

// TestWindowsPrograms: a program that Windows takes for a device, or for another file, is
// refused where the component is for Windows.
func TestWindowsPrograms(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"con.exe", "nul", "NUL.txt", "com1.x", "LPT9", "com¹.exe", "prn .x", "sub/aux.exe", "aux/setup.exe", "setup.exe.", "setup.exe ", "dir /setup.exe", "a?.exe", "conin$"} {
		_, err := Load(t.Context(), windowsManifest(t, []string{"linux", "windows"}, name, nil))
		var e *Error
		require.ErrorAs(t, err, &e, name)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "on Windows", name)
		require.Equal(t, "files[0].name", e.Field, name)
		_, err = Load(t.Context(), windowsManifest(t, []string{"linux"}, name, nil))
		require.NoError(t, err, "elsewhere it is a name as others: %s", name)
	}
	for _, name := range []string{"setup.exe", "console.exe", "null.exe", "com10.exe", "sub/cp012345.exe", "a..b", "x.nul", ".hidden"} {
		_, err := Load(t.Context(), windowsManifest(t, []string{"windows"}, name, nil))
		require.NoError(t, err, name)
	}
	// What is on the target already.
	for program, good := range map[string]bool{
		`C:\Windows\System32\msiexec.exe`: true, "msiexec.exe": true, "pnputil": true, `C:/Tools/x.exe`: true, `{dir}\x.exe`: true,
		"nul": false, `C:\Tools\con.exe`: false, `C:\Tools \x.exe`: false, "com1": false,
	} {
		for field, edit := range map[string]func(map[string]any){
			"install[0]":    func(m map[string]any) { m["install"] = []string{program} },
			"probe.argv[0]": func(m map[string]any) { m["probe"] = map[string]any{"argv": []string{program}} },
		} {
			_, err := Load(t.Context(), windowsManifest(t, []string{"windows"}, "setup.exe", edit))
			if good {
				require.NoError(t, err, program)
				continue
			}
			var e *Error
			require.ErrorAs(t, err, &e, program)
			require.Equal(t, field, e.Field)
		}
	}
}

// TestWindowsExample: the example of the package documentation is one.
func TestWindowsExample(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	text := regexp.MustCompile(`(?s)//\t\{\n.*?\n//\t\}\n`).FindString(string(doc))
	require.NotEmpty(t, text)
	dir := folder(t, map[string]string{ManifestName: strings.ReplaceAll(text, "//\t", ""), "ssacli.msi": "x"})
	c, err := Load(t.Context(), filepath.Join(dir, ManifestName))
	require.NoError(t, err)
	require.Equal(t, []string{"windows"}, c.Kinds)
	require.Contains(t, c.Job("9f3c", JobOptions{Rewrite: true}).Argv, "REINSTALL=ALL")
	require.NotContains(t, c.Job("9f3c", JobOptions{}).Argv, "REINSTALL=ALL")
}
