package agent

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/channel"
)

func namedJob(names ...string) Job {
	j := Job{ID: channel.NewJobID(), Argv: []string{"x"}}
	for _, n := range names {
		j.Files = append(j.Files, JobFile{Name: n, SHA256: strings.Repeat("0", 64)})
	}
	return j
}

// TestWindowsNames: what Windows takes for a device, a stream, another file or another
// drive is no name of a file.
func TestWindowsNames(t *testing.T) {
	for _, name := range []string{
		"nul", "NUL", "Con", "aux.txt", "prn .x", "com0", "COM1", "lpt9.inf", "com¹", "LPT³.x", "conin$", "CONOUT$", "sub/nul", "nul/setup.exe",
		"setup.exe.", "setup.exe ", "setup . .", "dir./x", "...", "setup.exe:stream", "setup.exe::$DATA", "c:setup.exe", `sub\setup.exe`,
		`\\server\share`, "a*b", "a?b", "a<b", "a>b", "a|b", `a"b`, "a\x01b", "a\x7fb",
	} {
		err := checkWindowsNames(namedJob(name).Files)
		require.ErrorContains(t, err, "on Windows", "%q", name)
		if runtime.GOOS == "windows" {
			require.Error(t, namedJob(name).Check(), "%q", name)
		}
	}
	for _, names := range [][]string{{"a", "A"}, {"d/x", "D/X"}, {"a", "A/b"}, {"x/y/z", "x/Y"}} {
		require.Error(t, checkWindowsNames(namedJob(names...).Files), "%q", names)
	}
	for _, name := range []string{
		"setup.exe", "sub/cp012345.exe", ".hidden", "com", "com10", "lpt", "nulled", "null.txt", "console", "aux1", "änderung.inf", "a b.exe", "a..b", "x.nul", "com¹x", "~1",
	} {
		require.NoError(t, checkWindowsNames(namedJob(name).Files), "%q", name)
		if runtime.GOOS == "windows" {
			require.True(t, filepath.IsLocal(filepath.FromSlash(name)), name)
			require.NoError(t, namedJob(name).Check(), name)
		}
	}
	if runtime.GOOS != "windows" {
		require.NoError(t, namedJob("aux.txt", "AUX.txt", "c:x").Check(), "elsewhere these are names as others")
	}
}
