package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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
	blob := "blobs/" + strings.Repeat("0123456789abcdef", 4)
	full := slices.Clip(with(BinaryName, BootstrapName, ReadyName, "lock", blob, blob[:len(blob)-1]+"0.part", "jobs/"+job+"/spec.json", "jobs/.tmp-1", ".tmp-1"))
	touch := func(name string) func(t *testing.T, h home, age time.Duration) {
		return func(t *testing.T, h home, age time.Duration) {
			require.NoError(t, os.WriteFile(h.path(name), []byte("{"), 0o600))
			agePath(t, string(h), age)
		}
	}
	without := func(name string) func(t *testing.T, h home, age time.Duration) {
		return func(t *testing.T, h home, age time.Duration) {
			require.NoError(t, os.Remove(h.path(name)))
			agePath(t, string(h), age)
		}
	}
	fifo := func(name string) func(t *testing.T, h home, age time.Duration) {
		return func(t *testing.T, h home, age time.Duration) {
			_ = os.Remove(h.path(name))
			require.NoError(t, unix.Mkfifo(h.path(name), 0o600))
			agePath(t, string(h), age)
		}
	}
	mode := func(perm os.FileMode) func(t *testing.T, h home, _ time.Duration) {
		return func(t *testing.T, h home, _ time.Duration) { require.NoError(t, os.Chmod(string(h), perm)) }
	}
	others := func(name string) func(t *testing.T, h home, _ time.Duration) {
		return func(t *testing.T, h home, _ time.Duration) {
			realtest.NeedRoot(t)
			require.NoError(t, os.Chown(h.path(name), 12345, 12345))
		}
	}
	for name, x := range map[string]struct {
		id    string
		files []string
		age   time.Duration
		also  func(t *testing.T, h home, age time.Duration)
		gone  bool
	}{
		"a killed one":            {"0123456789abcdef", full, 2 * time.Hour, lease(15 * time.Minute), true},
		"a program alone":         {"0123456789abcdef", []string{BinaryName}, 2 * time.Hour, nil, true},
		"one that was being sent": {"0123456789abcdef", []string{"." + BinaryName + ".0123456789abcdef.part"}, 2 * time.Hour, nil, true},
		"one that was put aside":  {"0123456789abcdef", []string{"." + BinaryName + ".0123456789abcdef.old-ABCDEFGH"}, 2 * time.Hour, nil, true},
		"keys":                    {"0123456789abcdef", []string{BootstrapName}, 2 * time.Hour, nil, true},
		"directories alone": {"0123456789abcdef", nil, 2 * time.Hour, func(t *testing.T, h home, age time.Duration) {
			require.NoError(t, os.Mkdir(h.blobs(), 0o700))
			agePath(t, string(h), age)
		}, true},
		"a blob alone":              {"0123456789abcdef", []string{blob}, 2 * time.Hour, nil, false},
		"a lock and a blob":         {"0123456789abcdef", []string{blob, "lock"}, 2 * time.Hour, nil, true},
		"others may enter":          {"0123456789abcdef", full, 2 * time.Hour, mode(0o755), false},
		"a pipe as its lease":       {"0123456789abcdef", full, 2 * time.Hour, fifo("lease"), false},
		"a pipe as a record":        {"0123456789abcdef", full, 2 * time.Hour, fifo("jobs/" + job + ".json"), false},
		"a pipe as its program":     {"0123456789abcdef", full, 2 * time.Hour, fifo(BinaryName), false},
		"another user's lease":      {"0123456789abcdef", append(full, "lease"), 2 * time.Hour, others("lease"), false},
		"another user's blob":       {"0123456789abcdef", full, 2 * time.Hour, others(blob), false},
		"somebody's own jobs":       {"0123456789abcdef", []string{"lock", "jobs/payroll/data"}, 2 * time.Hour, nil, false},
		"somebody's own blobs":      {"0123456789abcdef", []string{"lock", "blobs/precious"}, 2 * time.Hour, nil, false},
		"its record is torn":        {"0123456789abcdef", full, 2 * time.Hour, touch("jobs/" + job + ".json"), false},
		"its record is lost":        {"0123456789abcdef", append(full, "jobs/"+job+"/lock"), 2 * time.Hour, without("jobs/" + job + ".json"), false},
		"it was never recorded":     {"0123456789abcdef", full, 2 * time.Hour, without("jobs/" + job + ".json"), true},
		"its program writes":        {"0123456789abcdef", append(full, "jobs/"+job+"/work/x/y"), 2 * time.Hour, young("jobs/" + job + "/work/x/y"), false},
		"of a clock that was set":   {"0123456789abcdef", full, time.Since(firstLog) + day, nil, false},
		"a job's directory alone":   {"0123456789abcdef", with("jobs/" + job + "/work/x"), 2 * time.Hour, nil, true},
		"its lease is in force":     {"0123456789abcdef", full, 14 * time.Minute, lease(15 * time.Minute), false},
		"its lease is just over":    {"0123456789abcdef", full, 31 * time.Minute, lease(15 * time.Minute), false},
		"its lease is over":         {"0123456789abcdef", full, 33 * time.Minute, lease(15 * time.Minute), true},
		"a short lease":             {"0123456789abcdef", full, time.Minute, lease(time.Second), false},
		"a short lease is over":     {"0123456789abcdef", full, 3 * time.Minute, lease(time.Second), true},
		"a long lease":              {"0123456789abcdef", full, 19 * time.Hour, lease(10 * time.Hour), false},
		"it has not begun":          {"0123456789abcdef", []string{BinaryName}, 50 * time.Minute, nil, false},
		"somebody comes back":       {"0123456789abcdef", full, 2 * time.Hour, young(BootstrapName), false},
		"somebody stages":           {"0123456789abcdef", full, 2 * time.Hour, young(blob), false},
		"its job ended lately":      {"0123456789abcdef", full, 2 * time.Hour, young("jobs/" + job + ".json"), false},
		"of a clock that was wrong": {"0123456789abcdef", full, -2 * time.Hour, lease(time.Second), false},
		"logs":                      {"0123456789abcdef", logs, 2 * time.Hour, nil, false},
		"logs and a lock":           {"0123456789abcdef", with("lock"), 2 * time.Hour, nil, false},
		"something else":            {"0123456789abcdef", append([]string{"README"}, full...), 2 * time.Hour, nil, false},
		"without agent":             {"0123456789abcdef", append([]string{"agentless", blob}, logs...), 2 * time.Hour, nil, false},
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
			require.NoError(t, os.Remove(h.record(job)))
			require.NoError(t, unix.Mkfifo(h.record(job), 0o600)) // on which whoever opens it waits
			agePath(t, string(h), 2*time.Hour)
			require.NoError(t, os.Chown(string(h), 12345, 12345))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir := oldHome(t, base, x.id, x.age, x.files...)
			if slices.Contains(x.files, "jobs/"+job+".json") {
				require.NoError(t, home(dir).writeRecord(record{Version: fileVersion, ID: job, State: Accepted}))
				agePath(t, dir, x.age)
			}
			if x.also != nil {
				x.also(t, home(dir), x.age)
			}
			before := listing(t, dir)
			swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(t.Context(), slog.New(slog.DiscardHandler))
			if !x.gone {
				require.Empty(t, swept)
				require.Equal(t, before, listing(t, dir))
				return
			}
			require.Equal(t, []string{dir}, swept)
			var want []string
			for _, f := range x.files {
				// The log says nothing of note.
				if _, err := os.Stat(filepath.Join(dir, f)); isLog(f) && f != LogName && (err == nil || name != "it was never recorded") {
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
			require.Empty(t, home(filepath.Join(base, "fedcba9876543210")).reconcile(t.Context(), slog.New(slog.DiscardHandler)), "there is no more")
		})
	}
	t.Run("a link to one", func(t *testing.T) {
		base, elsewhere := t.TempDir(), t.TempDir()
		dir := oldHome(t, elsewhere, "0123456789abcdef", 2*time.Hour, full...)
		require.NoError(t, os.Symlink(dir, filepath.Join(base, "0123456789abcdef")))
		before := listing(t, elsewhere)
		require.Empty(t, home(filepath.Join(base, "fedcba9876543210")).reconcile(t.Context(), slog.New(slog.DiscardHandler)))
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
	swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	require.Equal(t, []string{second}, swept)
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), string(first))
	require.FileExists(t, first.path(BinaryName))
}

// What came between the first look and the lock stays, and the lock that was made for the
// second does not.
func TestReconcileLooksTwice(t *testing.T) {
	base := t.TempDir()
	h := home(oldHome(t, base, "0123456789abcdef", 2*time.Hour, BinaryName))
	require.NoError(t, os.WriteFile(h.path(BootstrapName), nil, 0o600)) // just now
	before := listing(t, string(h))
	done, err := h.takeLocked(t.Context(), time.Now())
	require.NoError(t, err)
	require.False(t, done)
	require.Equal(t, before, listing(t, string(h)))

	gone := home(oldHome(t, base, "1123456789abcdef", 2*time.Hour)) // taken by another meanwhile
	require.NoError(t, os.Remove(gone.jobs()))
	done, err = gone.takeLocked(t.Context(), time.Now())
	require.NoError(t, err)
	require.False(t, done)
	require.NoDirExists(t, string(gone))
}

// slowLog takes its time for each line that tells of something removed.
type slowLog struct {
	slog.Handler
	removed func()
}

func (l slowLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo {
		l.removed()
	}
	return l.Handler.Handle(ctx, r)
}

// A start does not wait for all that the dead have left, nor when its context ends. The
// next goes on, wherever.
func TestReconcileEnds(t *testing.T) {
	for name, slow := range map[string]func(cancel func()){
		"its time is over": func(func()) { time.Sleep(leftoverTime + time.Second) },
		"cancelled":        func(cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := t.TempDir()
				var dirs []string
				for _, id := range []string{"0123456789abcdef", "1123456789abcdef", "2123456789abcdef"} {
					dirs = append(dirs, oldHome(t, base, id, 2*time.Hour, BinaryName))
				}
				var all []string
				for n := range dirs {
					ctx, cancel := context.WithCancel(t.Context())
					var log strings.Builder
					swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(ctx, slog.New(slowLog{slog.NewTextHandler(&log, nil), func() { slow(cancel) }}))
					cancel()
					require.Len(t, swept, 1, "start %d: %s", n, log.String())
					require.Contains(t, log.String(), "the next agent that begins goes on")
					all = append(all, swept...)
				}
				require.ElementsMatch(t, dirs, all)
			})
		})
	}
}

// Each start begins somewhere else: what always fails does not keep the same ones waiting.
func TestReconcileBeginsAnywhere(t *testing.T) {
	begun := make(map[string]bool)
	for range 200 {
		base := t.TempDir()
		for _, id := range []string{"0123456789abcdef", "1123456789abcdef"} {
			oldHome(t, base, id, 2*time.Hour, BinaryName)
		}
		ctx, cancel := context.WithCancel(t.Context())
		swept := home(filepath.Join(base, "fedcba9876543210")).reconcile(ctx, slog.New(slowLog{slog.DiscardHandler, cancel}))
		require.NotEmpty(t, swept)
		if begun[filepath.Base(swept[0])] = true; len(begun) == 2 {
			return
		}
	}
	t.Fatal("it always begins with the same one")
}

// Of what cannot be looked at the log tells.
func TestReconcileWithoutBase(t *testing.T) {
	var log strings.Builder
	h := home(filepath.Join(t.TempDir(), "none", "fedcba9876543210"))
	require.Empty(t, h.reconcile(t.Context(), slog.New(slog.NewTextHandler(&log, nil))))
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), h.base())
}

// A directory in which something cannot be deleted keeps its lock: by that the next knows
// what the rest is.
func TestClearKeepsTheLock(t *testing.T) {
	dir := home(oldHome(t, t.TempDir(), "0123456789abcdef", 2*time.Hour, BinaryName, "lock"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dir.clearFiles(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.FileExists(t, dir.lockPath())
	_, err = dir.clearFiles(t.Context())
	require.NoError(t, err)
	require.NoDirExists(t, string(dir))
}

// A manager that is its own agent takes away what the dead left, too, and shows others
// that it lives as long as somebody asks it, and when it closes.
func TestInProcessReconciles(t *testing.T) {
	base := t.TempDir()
	dead := oldHome(t, base, "0123456789abcdef", 2*time.Hour, BinaryName)
	mine := home(filepath.Join(base, "fedcba9876543210"))
	require.NoError(t, os.Mkdir(string(mine), 0o700))
	c, err := NewInProcess(t.Context(), InProcessOptions{Target: "test", Dir: string(mine)})
	require.NoError(t, err)
	require.NoDirExists(t, dead)

	past := time.Now().Add(-day)
	old := func() {
		require.NoError(t, os.Chtimes(mine.leasePath(), past, past))
	}
	touched := func() bool {
		fi, err := os.Stat(mine.leasePath())
		require.NoError(t, err)
		return !fi.ModTime().Equal(past)
	}
	old()
	_, err = c.Jobs(t.Context())
	require.NoError(t, err)
	require.False(t, touched(), "that often it need not be")
	p := c.ch.(*inProcess)
	p.mu.Lock()
	p.noted = p.noted.Add(-noteEvery(DefaultLease))
	p.mu.Unlock()
	_, err = c.Jobs(t.Context())
	require.NoError(t, err)
	require.True(t, touched())
	old()
	require.NoError(t, c.Close(t.Context()))
	require.True(t, touched())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = NewInProcess(ctx, InProcessOptions{Target: "test", Dir: string(mine)})
	require.ErrorIs(t, err, context.Canceled)
	lock, err := lockFile(mine.lockPath(), false)
	require.NoError(t, err)
	require.NotNil(t, lock, "it was given back")
	require.NoError(t, lock.Close())
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
			return assert.NoError(t, err) && !fi.ModTime().Equal(past)
		}
		go func() {
			time.Sleep(10 * time.Minute)
			s.lease.renew()
			time.Sleep(time.Minute)
			assert.False(t, noted(), "that often it need not be")
			time.Sleep(10 * time.Minute)
			s.lease.renew()
			time.Sleep(time.Minute)
			assert.True(t, noted())
			assert.Equal(t, time.Hour, s.home.noteInForce())
		}()
		require.NoError(t, s.lease.wait(t.Context(), never, s.note))
	})
}
