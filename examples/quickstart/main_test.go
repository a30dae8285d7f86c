package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
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

// without is the line that says why there is no Windows server.
var without = regexp.MustCompile(`(?m)^  Windows  left out: (.*)$`)

// TestQuickstart runs the program as a user would, on a computer on which the usual ports
// are taken; it fails by itself where an outcome, or what is left, is not as it should be.
func TestQuickstart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: the agent runs on Linux")
	}
	for _, port := range []string{"63001", "63002"} {
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil { // else somebody else has it
			defer ln.Close()
		}
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	out, err := printed(t, func() error { return run(t.Context(), self, t.TempDir()) })
	require.NoError(t, err)
	for _, line := range []string{
		`  fresh  Updated    "" -> "2\.10"  exit 0`,
		`  old    Updated    "2\.9" -> "2\.10"  exit 0`,
		`  new    NotNeeded  "2\.10" -> "2\.10"  `,
		// The firmware is pushed to the one, and fetched by the other.
		`  ilo    install iLO 5 3\.10: 3\.10 is newer than 2\.72 .*`,
		`  ilo    upload 100%`,
		`  ilo    Updated    "2\.72 [^"]*" -> "3\.10"  .*`,
		`  ilo    skip iLO 5 3\.10: 3\.10 is there already`,
		`  ilo    no session, no subscription, no component and no task`,
		`  flex   install RMC Firmware 3\.50\.58: 3\.50\.58 is newer than 3\.0\.494`,
		`  flex   has fetched 8\.0 MiB from the manager`,
		`  flex   Updated    "3\.0\.494" -> "3\.50\.58"  .*`,
		`  flex   skip RMC Firmware 3\.50\.58: 3\.50\.58 is there already`,
		`  flex   no session, no subscription, no component and no task`,
	} {
		require.Regexp(t, `(?m)^`+line+`$`, out)
	}
	require.NotRegexp(t, `(?m)^  flex   upload`, out)
	require.NotRegexp(t, `(?m)^  ilo    has fetched`, out)
	if why := without.FindStringSubmatch(out); why != nil {
		require.NotContains(t, out, "  win ")
		requireNothing(t, tmp)
		realtest.Missing(t, "for the Windows server: "+why[1])
	}
	for _, line := range []string{
		`  win    Updated    "" -> "2\.10"  exit 0`,
		`  win    skip hello 2\.10: 2\.10 is there already`,
		`  win    C:\\Windows\\roundsman\\[0-9a-f]+\\agent\.log`,
	} {
		require.Regexp(t, `(?m)^`+line+`$`, out)
	}
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

// requireNothing: no process of the lab's, nor a directory but those named, or not for long:
// an agent whose manager was killed ends with its lease.
func requireNothing(t *testing.T, tmp string, but ...string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(lease + time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		left = processes(tmp)
		files, err := filepath.Glob(filepath.Join(tmp, "*"))
		require.NoError(t, err)
		for _, file := range files {
			if !slices.Contains(but, file) {
				left = append(left, file)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	require.Empty(t, left)
}

// processes lists those of Wine, Samba and agents whose files are below a directory.
func processes(tmp string) (out []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if bytes.Contains(env, []byte("\x00WINEPREFIX="+tmp+"/")) || bytes.Contains(env, []byte("TMPDIR="+tmp+"/smbtest")) || bytes.HasPrefix(command, []byte(tmp+"/")) {
			out = append(out, dir+" "+string(command))
		}
	}
	return out
}

// TestScratch: what a run that was killed left is removed by the next one, and what one has
// that lives is not.
func TestScratch(t *testing.T) {
	tmp := t.TempDir()
	for _, name := range []string{"TMPDIR", "TMP"} { // the latter for Windows
		t.Setenv(name, tmp)
	}
	dead, err := newScratch()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dead.dir, "file"), nil, 0o600))
	alive, err := newScratch()
	require.NoError(t, err)
	require.DirExists(t, dead.dir)
	require.NotEqual(t, dead.dir, alive.dir)

	require.NoError(t, dead.lock.Unlock()) // as the end of its process does
	next, err := newScratch()
	require.NoError(t, err)
	require.NoDirExists(t, dead.dir)
	require.NoFileExists(t, dead.lock.Path())
	require.DirExists(t, alive.dir)
	require.DirExists(t, next.dir)
	require.NoError(t, next.remove())
	require.NoError(t, alive.remove())
	files, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, files)
}
