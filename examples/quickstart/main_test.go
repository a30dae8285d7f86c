package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent/install"
)

var self install.Self

func TestMain(m *testing.M) {
	self = install.RunAgent() // the copies of the test's program are agents
	if os.Getenv(asProgram) != "" {
		os.Args = os.Args[:1]
		main()
		return
	}
	os.Exit(m.Run())
}

// asProgram makes the test's program the quickstart.
const asProgram = "ROUNDSMAN_QUICKSTART"

// printed returns what f prints.
func printed(t *testing.T, f func() error) (string, error) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	stdout := os.Stdout
	os.Stdout = out
	defer func() { os.Stdout = stdout }()
	failed := f()
	data, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	t.Logf("%s", data)
	return string(data), failed
}

var (
	updated = regexp.MustCompile(`(?m)^  win    Updated    "" -> "2\.10"  exit 0$`)
	skipped = regexp.MustCompile(`(?m)^  win    skip hello 2\.10: 2\.10 is there already$`)
	without = regexp.MustCompile(`(?m)^  Windows  left out: (.*)$`)
)

// TestQuickstart runs the program as a user would; it fails by itself where an
// outcome, or what is left, is not as it should be.
func TestQuickstart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: the agent runs on Linux")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	out, err := printed(t, func() error { return run(t.Context(), self, t.TempDir()) })
	require.NoError(t, err)
	if why := without.FindStringSubmatch(out); why != nil {
		require.NotContains(t, out, "  win ")
		realtest.Missing(t, "for the Windows server: "+why[1])
	}
	require.Regexp(t, updated, out)
	require.Regexp(t, skipped, out)
	require.Regexp(t, `(?m)^  win    C:\\Windows\\roundsman\\[0-9a-f]+\\agent\.log$`, out)
	requireNothing(t, tmp)
}

// TestLeftOut: where a program is missing, the name of its package is said.
func TestLeftOut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: elsewhere it is always left out")
	}
	t.Setenv("WINELOADER", "/nonexistent/wine64") // first looked at: see wine(1)
	var l *lab
	out, err := printed(t, func() (err error) {
		l, err = newLab(t.Context(), windowsServer(t.TempDir(), self))
		return err
	})
	require.NoError(t, err)
	require.Empty(t, l.machines)
	line := without.FindString(out)
	require.Contains(t, line, "the program /nonexistent/wine64")
	require.Regexp(t, `\(Debian: apt-get install [a-z0-9 -]*\bwine64\b[a-z0-9 -]*\)$`, line)
	require.Equal(t, 1, strings.Count(out, "\n"), out)
}

// requireNothing: no process of Wine's or Samba's, nor their directories, or not for long.
func requireNothing(t *testing.T, tmp string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		left = nil
		for _, pattern := range []string{"roundsman-wine-*", "smbtest*"} {
			files, err := filepath.Glob(filepath.Join(tmp, pattern))
			require.NoError(t, err)
			left = append(left, files...)
		}
		environs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, file := range environs {
			env, err := os.ReadFile(file)
			wine := bytes.Contains(env, []byte("\x00WINEPREFIX="+tmp+"/"))
			if smbd := bytes.Contains(env, []byte("TMPDIR="+tmp+"/smbtest")); err == nil && (wine || smbd) {
				left = append(left, filepath.Dir(file))
			}
		}
		if len(left) == 0 {
			return
		}
	}
	require.Empty(t, left)
}
