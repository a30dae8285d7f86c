package agentless

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
)

const day = 24 * time.Hour

// oldDir makes a directory as an agent leaves it, last written so long ago.
func oldDir(t *testing.T, base, id string, age time.Duration, files ...string) string {
	t.Helper()
	dir := filepath.Join(base, id)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "jobs"), 0o700))
	for _, f := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o600))
	}
	agePath(t, dir, age)
	return dir
}

func agePath(t *testing.T, dir string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(p, at, at)
		}
		return err
	}))
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		out = append(out, p)
		return err
	}))
	return out
}

func TestPrune(t *testing.T) {
	t.Parallel()
	job := channel.NewJobID()
	const id = "0123456789abcdef"
	logs := []string{agent.LogName, "jobs/" + job + ".json", "jobs/" + job + ".log"}
	with := func(more ...string) []string { return append(more, logs...) }
	shells := [][]string{{"sh"}, {realtest.Need(t, "busybox"), "sh"}}
	for name, x := range map[string]struct {
		id    string
		files []string
		age   time.Duration
		keep  time.Duration
		also  func(t *testing.T, dir string)
		gone  bool
	}{
		"old":              {id, logs, 31 * day, 0, nil, true},
		"old without jobs": {id, []string{agent.LogName}, 31 * day, 0, nil, true},
		"empty":            {id, nil, 31 * day, 0, nil, true},
		"young":            {id, logs, 29 * day, 0, nil, false},
		"days round up":    {id, logs, 23 * time.Hour, time.Hour, nil, false},
		"young here":       {id, []string{agent.LogName}, 2 * day, time.Hour, nil, true},
		"another's record": {id, logs, 2 * day, time.Hour, nil, false},
		"another clock":    {id, logs, 9999 * day, 0, nil, false},
		"for ever":         {id, logs, 9999 * day, -1, nil, false},
		"another name":     {"0123456789abcdeg", logs, 31 * day, 0, nil, false},
		"a shorter name":   {"0123456789abcde", logs, 31 * day, 0, nil, false},
		"this one's":       {"fedcba9876543210", logs, 31 * day, 0, nil, false},
		"marked":           {id, with(Marker), 31 * day, 0, nil, false},
		"locked":           {id, with("lock"), 31 * day, 0, nil, false},
		"files":            {id, with("blobs/x"), 31 * day, 0, nil, false},
		"a job":            {id, with("jobs/" + job + "/spec"), 31 * day, 0, nil, false},
		"else among jobs":  {id, with("jobs/notes.log"), 31 * day, 0, nil, false},
		"a short name":     {id, with("jobs/abc.log"), 31 * day, 0, nil, false},
		"another's log":    {id, with("jobs/agent.log"), 31 * day, 0, nil, false},
		"hidden":           {id, with(".x"), 31 * day, 0, nil, false},
		"hidden job":       {id, with("jobs/..x"), 31 * day, 0, nil, false},
		"a young record":   {id, logs, 31 * day, 0, func(t *testing.T, dir string) { agePath(t, dir+"/jobs/"+job+".json", day) }, false},
		"others may enter": {id, logs, 31 * day, 0, func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o750)) }, false},
		"a link among logs": {id, logs, 31 * day, 0, func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(dir+"/"+agent.LogName))
			old := filepath.Join(t.TempDir(), "old")
			require.NoError(t, os.WriteFile(old, nil, 0o600))
			agePath(t, old, 31*day)
			require.NoError(t, os.Symlink(old, dir+"/"+agent.LogName))
			link := exec.Command("touch", "-h", "-d", "40 days ago", dir+"/"+agent.LogName)
			require.NoError(t, link.Run())
			agePath(t, dir, 31*day)
		}, false},
		"jobs is a link": {id, []string{agent.LogName}, 31 * day, 0, func(t *testing.T, dir string) {
			other := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(other, job+".log"), nil, 0o600))
			require.NoError(t, os.Remove(dir+"/jobs"))
			require.NoError(t, os.Symlink(other, dir+"/jobs"))
			agePath(t, dir, 31*day)
		}, false},
		"is a link": {id, nil, 31 * day, 0, func(t *testing.T, dir string) {
			other := oldDir(t, t.TempDir(), id, 31*day, logs...)
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.Symlink(other, dir))
			t.Cleanup(func() { require.Len(t, listing(t, other), 5) })
		}, false},
	} {
		for _, shell := range shells {
			t.Run(name+" "+filepath.Base(shell[0]), func(t *testing.T) {
				base := t.TempDir()
				dir := oldDir(t, base, x.id, x.age, x.files...)
				if x.also != nil {
					x.also(t, dir)
				}
				before := listing(t, base)
				script := functions + pruneFunctions + "D=$1\n[ -z \"$2\" ] || prune \"$2\"\n"
				said, err := exec.Command(shell[0], append(shell[1:], "-c", compact(script), "sh", base+"/fedcba9876543210", keepDays(x.keep))...).CombinedOutput()
				require.NoError(t, err)
				require.Empty(t, string(said))
				if x.gone {
					require.NoDirExists(t, dir)
				} else {
					require.Equal(t, before, listing(t, base))
				}
			})
		}
	}
}

// One start does not delete, or look at, more than it has time for.
func TestPruneIsBounded(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{{"sh"}, {realtest.Need(t, "busybox"), "sh"}} {
		base := t.TempDir()
		for i := range 9 {
			age := 31 * day
			if i < 2 {
				age = day
			}
			oldDir(t, base, fmt.Sprintf("%016x", i), age, agent.LogName)
		}
		prune := func(looks, deletes string, want int) {
			t.Helper()
			script := functions + pruneFunctions + "D=$1\nprune 30\n"
			for old, now := range map[string]string{"-le 1000 ]": "-le " + looks + " ]", "-lt 100 ] || break": "-lt " + deletes + " ] || break"} {
				require.Equal(t, 1, strings.Count(pruneFunctions, old))
				script = strings.ReplaceAll(script, old, now)
			}
			said, err := exec.Command(shell[0], append(shell[1:], "-c", compact(script), "sh", base+"/fedcba9876543210")...).CombinedOutput()
			require.NoError(t, err, "%s", said)
			left, err := os.ReadDir(base)
			require.NoError(t, err)
			require.Len(t, left, want)
		}
		prune("1000", "3", 6)
		prune("4", "100", 4)
		prune("1000", "100", 2)
	}
}

// What Start made goes again, with the directory above, and nothing else.
func TestRemoveLeavesNothing(t *testing.T) {
	l := newLab(t)
	for _, there := range []bool{false, true} {
		if there {
			require.NoError(t, os.Mkdir(l.base, 0o700))
		}
		left, err := l.start(0).Remove(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
		_, err = os.Stat(l.base)
		require.Equal(t, there, err == nil)
	}
}

// Whoever begins removes what is old, and an inventory leaves nothing.
func TestStartPrunes(t *testing.T) {
	l := newLab(t)
	require.NoError(t, os.Mkdir(l.base, 0o700))
	for keep, stays := range map[time.Duration]bool{0: false, 60 * day: true, -1: true} {
		old := oldDir(t, l.base, "0123456789abcdef", 31*day, agent.LogName)
		a, err := (&Installer{}).Start(t.Context(), l.conn, agent.StartOptions{Target: "here", ID: "fedcba9876543210", BaseDirs: []string{l.base}, KeepLogs: keep})
		require.NoError(t, err)
		_, err = os.Stat(old)
		require.Equal(t, stays, err == nil, keep)
		require.NoError(t, os.RemoveAll(old))
		left, err := a.Remove(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
	}
	require.Equal(t, []string{l.base}, listing(t, l.base))
}
