package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// oldHome makes a directory as an agent leaves it, last written so long ago.
func oldHome(t *testing.T, base, id string, age time.Duration, files ...string) string {
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

const day = 24 * time.Hour

func TestPrune(t *testing.T) {
	job := channel.NewJobID()
	logs := []string{LogName, "jobs/" + job + ".json", "jobs/" + job + ".log"}
	with := func(more ...string) []string { return append(more, logs...) }
	for name, x := range map[string]struct {
		id    string
		files []string
		age   time.Duration
		keep  time.Duration
		also  func(t *testing.T, dir string)
		gone  bool
	}{
		"old":              {"0123456789abcdef", logs, 31 * day, 0, nil, true},
		"old without jobs": {"0123456789abcdef", []string{LogName}, 31 * day, 0, nil, true},
		"empty":            {"0123456789abcdef", nil, 31 * day, 0, nil, true},
		"young":            {"0123456789abcdef", logs, 29 * day, 0, nil, false},
		"young here":       {"0123456789abcdef", []string{LogName}, 2 * day, day, nil, true},
		"another's record": {"0123456789abcdef", logs, 2 * day, day, nil, false},
		"another clock":    {"0123456789abcdef", logs, 9999 * day, 0, nil, false},
		"old here":         {"0123456789abcdef", logs, 31 * day, 40 * day, nil, false},
		"for ever":         {"0123456789abcdef", logs, 9999 * day, -1, nil, false},
		"another name":     {"0123456789abcdeg", logs, 31 * day, 0, nil, false},
		"a shorter name":   {"0123456789abcde", logs, 31 * day, 0, nil, false},
		"upper case":       {"0123456789ABCDEF", logs, 31 * day, 0, nil, false},
		"this agent's":     {"fedcba9876543210", logs, 31 * day, 0, nil, false},
		"locked": {"0123456789abcdef", with("lock"), 31 * day, 0, func(t *testing.T, dir string) {
			lock, err := lockFile(dir+"/lock", false)
			require.NoError(t, err)
			t.Cleanup(func() { _ = lock.Close() })
		}, false},
		"was locked":       {"0123456789abcdef", with("lock"), 31 * day, 0, nil, true},
		"a young lock":     {"0123456789abcdef", with("lock"), 31 * day, 0, func(t *testing.T, dir string) { agePath(t, dir+"/lock", day) }, false},
		"just made":        {"0123456789abcdef", nil, time.Minute, time.Nanosecond, nil, false},
		"made a while ago": {"0123456789abcdef", nil, 2 * time.Hour, time.Nanosecond, nil, true},
		"program":          {"0123456789abcdef", with(BinaryName), 31 * day, 0, nil, false},
		"without agent":    {"0123456789abcdef", with("agentless"), 31 * day, 0, nil, false},
		"being prepared":   {"0123456789abcdef", with(BootstrapName), 31 * day, 0, nil, false},
		"files":            {"0123456789abcdef", with("blobs/x"), 31 * day, 0, nil, false},
		"a job":            {"0123456789abcdef", with("jobs/" + job + "/spec.json"), 31 * day, 0, nil, false},
		"something else":   {"0123456789abcdef", with("README"), 31 * day, 0, nil, false},
		"else among jobs":  {"0123456789abcdef", with("jobs/notes.log"), 31 * day, 0, nil, false},
		"hidden":           {"0123456789abcdef", with(".x"), 31 * day, 0, nil, false},
		"a young log":      {"0123456789abcdef", logs, 31 * day, 0, func(t *testing.T, dir string) { agePath(t, dir+"/"+LogName, day) }, false},
		"a young record":   {"0123456789abcdef", logs, 31 * day, 0, func(t *testing.T, dir string) { agePath(t, dir+"/jobs/"+job+".json", day) }, false},
		"others may enter": {"0123456789abcdef", logs, 31 * day, 0, func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o750)) }, false},
		"a link among logs": {"0123456789abcdef", logs, 31 * day, 0, func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(dir+"/"+LogName))
			require.NoError(t, os.Symlink("/etc/passwd", dir+"/"+LogName))
			require.NoError(t, exec.Command("touch", "-h", "-d", "40 days ago", dir+"/"+LogName).Run())
			agePath(t, dir, 31*day)
		}, false},
		"jobs is a link": {"0123456789abcdef", []string{LogName}, 31 * day, 0, func(t *testing.T, dir string) {
			other := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(other, job+".log"), nil, 0o600))
			require.NoError(t, os.Remove(dir+"/jobs"))
			require.NoError(t, os.Symlink(other, dir+"/jobs"))
			agePath(t, dir, 31*day)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir := oldHome(t, base, x.id, x.age, x.files...)
			if x.also != nil {
				x.also(t, dir)
			}
			before := listing(t, base)
			home(filepath.Join(base, "fedcba9876543210")).prune(x.keep, slog.New(slog.DiscardHandler))
			if x.gone {
				require.NoDirExists(t, dir)
			} else {
				require.Equal(t, before, listing(t, base))
			}
		})
	}
	t.Run("a link to one", func(t *testing.T) {
		base, elsewhere := t.TempDir(), t.TempDir()
		dir := oldHome(t, elsewhere, "0123456789abcdef", 31*day, logs...)
		require.NoError(t, os.Symlink(dir, filepath.Join(base, "0123456789abcdef")))
		before := listing(t, elsewhere)
		home(filepath.Join(base, "fedcba9876543210")).prune(0, slog.New(slog.DiscardHandler))
		require.Equal(t, before, listing(t, elsewhere))
	})
	t.Run("another user's", func(t *testing.T) {
		realtest.NeedRoot(t)
		base := t.TempDir()
		dir := oldHome(t, base, "0123456789abcdef", 31*day, logs...)
		require.NoError(t, os.Chown(dir, 12345, 12345))
		agePath(t, dir, 31*day)
		home(filepath.Join(base, "fedcba9876543210")).prune(0, slog.New(slog.DiscardHandler))
		require.DirExists(t, dir)
	})
}

// Whoever has begun to use a directory since it was looked at keeps what is there.
func TestPruneLooksAgain(t *testing.T) {
	base := t.TempDir()
	dir := oldHome(t, base, "0123456789abcdef", 31*day, LogName)
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	before := time.Now().Add(-day)
	files, err := prunable(root, before, before, false)
	require.NoError(t, err)
	require.Equal(t, []string{LogName, "jobs"}, files)
	lock, err := lockRoot(root)
	require.NoError(t, err)
	require.NotNil(t, lock)
	again, err := lockRoot(root)
	require.NoError(t, err)
	require.Nil(t, again)
	files, err = prunable(root, before, before, true)
	require.NoError(t, err)
	require.Equal(t, []string{LogName, "jobs"}, files)
	require.NoError(t, os.Mkdir(dir+"/blobs", 0o700))
	files, err = prunable(root, before, before, true)
	require.NoError(t, err)
	require.Nil(t, files)
	require.NoError(t, lock.Close())
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

// An agent that did nothing but answer leaves nothing; one that has something to say
// leaves that.
func TestQuietAgentLeavesNothing(t *testing.T) {
	for name, x := range map[string]struct {
		log  string
		job  bool
		stay bool
	}{
		"quiet":   {"time=x level=INFO msg=\"agent serves\"\ntime=x level=DEBUG msg=y\n", false, false},
		"empty":   {"", false, false},
		"warning": {"time=x level=INFO msg=y\ntime=x level=WARN msg=\"level=INFO\"\n", false, true},
		"error":   {"time=x level=ERROR msg=y\n", false, true},
		"panic":   {"time=x level=INFO msg=y\npanic: x\n\ngoroutine 1\n", false, true},
		"long":    {"time=x level=INFO msg=" + strings.Repeat("x", 1<<20) + "\n", false, true},
		"job":     {"time=x level=INFO msg=y\n", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := home(filepath.Join(t.TempDir(), "agent"))
			require.NoError(t, os.Mkdir(string(h), 0o700))
			require.NoError(t, h.prepare())
			require.NoError(t, os.WriteFile(h.path(LogName), []byte(x.log), 0o600))
			if x.job {
				require.NoError(t, h.writeRecord(record{ID: channel.NewJobID(), State: Done}))
			}
			lock, err := lockFile(h.lockPath(), true)
			require.NoError(t, err)
			defer lock.Close()
			left, err := h.clear()
			require.NoError(t, err)
			_, err = os.Lstat(string(h))
			if x.stay {
				require.Contains(t, left, h.path(LogName))
				require.FileExists(t, h.path(LogName))
			} else {
				require.Empty(t, left)
				require.True(t, errors.Is(err, fs.ErrNotExist))
			}
		})
	}
}
