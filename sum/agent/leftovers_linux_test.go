package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// TestReconcile: which directories of others are taken away, and that logs stay.
func TestReconcile(t *testing.T) {
	job := channel.NewJobID()
	logs := []string{LogName, "jobs/" + job + ".json", "jobs/" + job + ".log"}
	with := func(more ...string) []string { return append(more, logs...) }
	lease := func(length time.Duration) func(t *testing.T, h home, age time.Duration) {
		return func(t *testing.T, h home, age time.Duration) {
			require.NoError(t, h.noteLease(length))
			agePath(t, string(h), age)
		}
	}
	young := func(name string) func(t *testing.T, h home, _ time.Duration) {
		return func(t *testing.T, h home, _ time.Duration) { agePath(t, h.path(name), time.Minute) }
	}
	full := with(BinaryName, BootstrapName, ReadyName, "lock", "blobs/x", "jobs/"+job+"/spec.json", "jobs/.tmp-1", ".tmp-1")
	for name, x := range map[string]struct {
		id    string
		files []string
		age   time.Duration
		also  func(t *testing.T, h home, age time.Duration)
		gone  bool
	}{
		"a killed one":              {"0123456789abcdef", full, 2 * time.Hour, lease(15 * time.Minute), true},
		"a program alone":           {"0123456789abcdef", []string{BinaryName}, 2 * time.Hour, nil, true},
		"one that was being sent":   {"0123456789abcdef", []string{"." + BinaryName + ".0123456789abcdef.part"}, 2 * time.Hour, nil, true},
		"one that was put aside":    {"0123456789abcdef", []string{"." + BinaryName + ".0123456789abcdef.old-ABCDEFGH"}, 2 * time.Hour, nil, true},
		"keys":                      {"0123456789abcdef", []string{BootstrapName}, 2 * time.Hour, nil, true},
		"directories alone":         {"0123456789abcdef", []string{"blobs/x"}, 2 * time.Hour, nil, true},
		"a job's directory alone":   {"0123456789abcdef", with("jobs/" + job + "/work/x"), 2 * time.Hour, nil, true},
		"its lease is in force":     {"0123456789abcdef", full, 14 * time.Minute, lease(15 * time.Minute), false},
		"its lease is just over":    {"0123456789abcdef", full, 31 * time.Minute, lease(15 * time.Minute), false},
		"its lease is over":         {"0123456789abcdef", full, 33 * time.Minute, lease(15 * time.Minute), true},
		"a short lease":             {"0123456789abcdef", full, time.Minute, lease(time.Second), false},
		"a short lease is over":     {"0123456789abcdef", full, 3 * time.Minute, lease(time.Second), true},
		"a long lease":              {"0123456789abcdef", full, 19 * time.Hour, lease(10 * time.Hour), false},
		"it has not begun":          {"0123456789abcdef", []string{BinaryName}, 50 * time.Minute, nil, false},
		"somebody comes back":       {"0123456789abcdef", full, 2 * time.Hour, young(BootstrapName), false},
		"somebody stages":           {"0123456789abcdef", full, 2 * time.Hour, young("blobs/x"), false},
		"its job ended lately":      {"0123456789abcdef", full, 2 * time.Hour, young("jobs/" + job + ".json"), false},
		"of a clock that was wrong": {"0123456789abcdef", full, -2 * time.Hour, lease(time.Second), false},
		"logs":                      {"0123456789abcdef", logs, 2 * time.Hour, nil, false},
		"logs and a lock":           {"0123456789abcdef", with("lock"), 2 * time.Hour, nil, false},
		"something else":            {"0123456789abcdef", append([]string{"README"}, full...), 2 * time.Hour, nil, false},
		"without agent":             {"0123456789abcdef", append([]string{"agentless", "blobs/x"}, logs...), 2 * time.Hour, nil, false},
		"another name":              {"0123456789abcdeg", full, 2 * time.Hour, nil, false},
		"this agent's":              {"fedcba9876543210", full, 2 * time.Hour, nil, false},
		"it lives": {"0123456789abcdef", full, 2 * time.Hour, func(t *testing.T, h home, _ time.Duration) {
			lock, err := lockFile(h.lockPath(), false)
			require.NoError(t, err)
			t.Cleanup(func() { _ = lock.Close() })
		}, false},
		"a job runs": {"0123456789abcdef", with(BinaryName, "jobs/"+job+"/lock"), 2 * time.Hour, func(t *testing.T, h home, _ time.Duration) {
			lock, err := lockFile(h.jobLock(job), false) // as its shim has it
			require.NoError(t, err)
			t.Cleanup(func() { _ = lock.Close() })
		}, false},
		"another user's": {"0123456789abcdef", full, 2 * time.Hour, func(t *testing.T, h home, _ time.Duration) {
			realtest.NeedRoot(t)
			require.NoError(t, os.Chown(string(h), 12345, 12345))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir := oldHome(t, base, x.id, x.age, x.files...)
			if x.also != nil {
				x.also(t, home(dir), x.age)
			}
			before := listing(t, dir)
			swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(slog.New(slog.DiscardHandler))
			if !x.gone {
				require.Empty(t, swept)
				require.Equal(t, before, listing(t, dir))
				return
			}
			require.Equal(t, []string{dir}, swept)
			var want []string
			for _, f := range x.files {
				if isLog(f) && f != LogName { // that says nothing of note
					want = append(want, filepath.Join(dir, f))
				}
			}
			if len(want) == 0 {
				require.NoDirExists(t, dir)
				return
			}
			left, err := home(dir).logs()
			require.NoError(t, err)
			require.Subset(t, left, want)
			require.Len(t, listing(t, dir), len(left)+2, "the two directories: %q", listing(t, dir))
			require.Empty(t, home(filepath.Join(base, "fedcba9876543210")).reconcile(slog.New(slog.DiscardHandler)), "there is no more")
		})
	}
	t.Run("a link to one", func(t *testing.T) {
		base, elsewhere := t.TempDir(), t.TempDir()
		dir := oldHome(t, elsewhere, "0123456789abcdef", 2*time.Hour, full...)
		require.NoError(t, os.Symlink(dir, filepath.Join(base, "0123456789abcdef")))
		before := listing(t, elsewhere)
		require.Empty(t, home(filepath.Join(base, "fedcba9876543210")).reconcile(slog.New(slog.DiscardHandler)))
		require.Equal(t, before, listing(t, elsewhere))
	})
}

// What cannot be taken away is told, and keeps nobody from the rest.
func TestReconcileFails(t *testing.T) {
	base := t.TempDir()
	first := home(oldHome(t, base, "0123456789abcdef", 2*time.Hour, BinaryName))
	second := oldHome(t, base, "1123456789abcdef", 2*time.Hour, BinaryName)
	require.NoError(t, os.Mkdir(first.lockPath(), 0o700)) // no file
	agePath(t, base, 2*time.Hour)
	var log strings.Builder
	swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(slog.New(slog.NewTextHandler(&log, nil)))
	require.Equal(t, []string{second}, swept)
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), string(first))
	require.FileExists(t, first.path(BinaryName))
}

// TestLeaseIsNoted: others see by the file of the lease that it is renewed.
func TestLeaseIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testService(t)
		s.lease = newLease(time.Hour)
		require.NoError(t, s.home.noteLease(time.Hour))
		past := time.Now().Add(-day)
		require.NoError(t, os.Chtimes(s.home.leasePath(), past, past))
		noted := func() bool {
			fi, err := os.Stat(s.home.leasePath())
			require.NoError(t, err)
			return !fi.ModTime().Equal(past)
		}
		go func() {
			time.Sleep(10 * time.Minute)
			s.lease.renew()
			time.Sleep(time.Minute)
			require.False(t, noted(), "that often it need not be")
			time.Sleep(10 * time.Minute)
			s.lease.renew()
			time.Sleep(time.Minute)
			require.True(t, noted())
			require.Equal(t, time.Hour, s.home.noteInForce())
		}()
		require.NoError(t, s.lease.wait(t.Context(), never, s.note))
	})
}
