package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("JOURNAL_TEST_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "journal") }

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = j.Close(context.WithoutCancel(t.Context())) })
	return j
}

// only returns the one run of a directory.
func only(t testing.TB, dir string) Run {
	t.Helper()
	runs, err := Runs(dir)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	return runs[0]
}

// read returns the records of a run that must be whole, without the journal's own.
func read(t testing.TB, run Run) []Record {
	t.Helper()
	var out []Record
	for r, err := range Read(run) {
		require.NoError(t, err)
		if !strings.HasPrefix(r.Kind, kindPrefix) {
			out = append(out, r)
		}
	}
	return out
}

func TestOpenCloseReplay(t *testing.T) {
	dir := newDir(t)
	before := time.Now()
	j := open(t, dir)
	ctx := t.Context()
	data := json.RawMessage(`{"port": 63001, "peer": "<any>"}`)
	require.NoError(t, j.Append(ctx, Opened("firewall.rule", "web1", "r1", data)))
	require.NoError(t, j.Append(ctx, Opened("firewall.rule", "web2", "r1", nil)))
	require.NoError(t, j.Append(ctx, Opened("agent", "web1", "r1", nil)))
	require.NoError(t, j.Append(ctx, Record{Kind: "note", Data: json.RawMessage(`"x"`)}))
	require.NoError(t, j.Append(ctx, Closed("firewall.rule", "web2", "r1")))
	require.NoError(t, j.Append(ctx, Closed("firewall.rule", "web3", "never opened")))

	run := only(t, dir)
	require.Equal(t, Live, run.State)
	require.Equal(t, j.ID(), run.ID)
	require.Equal(t, j.Path(), run.Path)
	require.WithinDuration(t, before, run.Started, time.Minute)
	require.Equal(t, os.Getpid(), run.Owner.PID)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, run.Owner.Host)
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		require.WithinDuration(t, before, run.Owner.ProcessStart, time.Hour)
		require.True(t, run.Owner.ProcessStart.Before(time.Now().Add(5*time.Second)))
	}

	left, err := run.Open()
	require.NoError(t, err)
	require.Len(t, left, 2)
	require.Equal(t, "web1", left[0].Target)
	require.Equal(t, "firewall.rule", left[0].Kind)
	require.JSONEq(t, string(data), string(left[0].Data))
	require.Equal(t, "agent", left[1].Kind)
	require.False(t, left[1].Time.IsZero())
	seqs := []uint64{}
	for _, r := range read(t, run) {
		seqs = append(seqs, r.Seq)
	}
	require.Equal(t, []uint64{2, 3, 4, 5, 6, 7}, seqs, "1 is the journal's own")

	_, err = Adopt(ctx, run, Options{})
	require.ErrorIs(t, err, ErrLive)
	require.NoError(t, j.Close(ctx))
	require.NoError(t, j.Close(ctx), "twice is fine")
	require.ErrorIs(t, j.Append(ctx, Record{Kind: "late"}), ErrClosed)
	require.Equal(t, Dead, only(t, dir).State, "closed but not retired")
}

func TestRetire(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	j := open(t, dir)
	require.NoError(t, j.Append(ctx, Opened("port", "", "80", nil)))
	require.ErrorIs(t, j.Retire(ctx), ErrStillOpen)
	require.NoError(t, j.Append(ctx, Closed("port", "", "80")), "a refused Retire changes nothing")
	require.NoError(t, j.Retire(ctx))
	require.ErrorIs(t, j.Append(ctx, Record{Kind: "late"}), ErrEnded)
	run := only(t, dir)
	require.Equal(t, Ended, run.State)
	left, err := run.Open()
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = Adopt(ctx, run, Options{})
	require.ErrorIs(t, err, ErrEnded)
}

func TestAdopt(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	dead := open(t, dir)
	require.NoError(t, dead.Append(ctx, Opened("port", "", "80", nil)))
	require.NoError(t, dead.Close(ctx))
	run := only(t, dir)

	// Of many recoverers one gets it, while others keep listing the runs.
	var mu sync.Mutex
	var won []*Journal
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			j, err := Adopt(ctx, run, Options{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, j)
				return
			}
			if !errors.Is(err, ErrLive) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := Runs(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	j := won[0]
	require.Equal(t, run.ID, j.ID())
	require.Equal(t, Live, only(t, dir).State)
	require.ErrorIs(t, j.Retire(ctx), ErrStillOpen, "what the dead run opened is still to be closed")
	require.NoError(t, j.Append(ctx, Closed("port", "", "80")))
	require.NoError(t, j.Retire(ctx))
	require.Equal(t, Ended, only(t, dir).State)
	require.Len(t, read(t, run), 2)

	gone := run
	gone.Path = strings.Replace(run.Path, run.ID, "0123456789abcdef", 1)
	_, err := Adopt(ctx, gone, Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, lockPath(gone.Path))
}

// TestProbingIsNotHolding: someone who lists the runs at the same time neither
// makes a dead run look alive nor keeps it from being adopted.
func TestProbingIsNotHolding(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	require.NoError(t, open(t, dir).Close(ctx))
	run := only(t, dir)
	probe := flock.New(lockPath(run.Path), flock.SetFlag(os.O_RDONLY))
	ok, err := probe.TryRLock()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, Dead, only(t, dir).State)
	type result struct {
		j   *Journal
		err error
	}
	got := make(chan result)
	go func() {
		j, err := Adopt(ctx, run, Options{})
		got <- result{j, err}
	}()
	select {
	case r := <-got:
		require.Fail(t, "adopted while another holds the lock", "%v", r.err)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, probe.Unlock())
	r := <-got
	require.NoError(t, r.err)
	require.NoError(t, r.j.Retire(ctx))
}

func TestInvalidRecordsLeaveTheJournalUsable(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	j := open(t, dir)
	for _, r := range []Record{
		{},
		{Kind: kindEnded},
		{Kind: "journal.other"},
		{Kind: "x", Op: "half-open"},
		{Kind: "x", ID: "\xff"},
		{Kind: "x", Data: json.RawMessage(`{`)},
	} {
		require.ErrorIs(t, j.Append(ctx, r), ErrRecord)
	}
	quoted := func(n int) json.RawMessage { return json.RawMessage(`"` + strings.Repeat("a", n) + `"`) }
	require.ErrorIs(t, j.Append(ctx, Record{Kind: "x", Data: quoted(MaxRecord)}), ErrTooLarge)

	// The longest that is accepted can be read back.
	low, high := 0, MaxRecord
	for low+1 < high {
		mid := (low + high) / 2
		if _, err := (Record{Time: time.Unix(0, 0).UTC(), Kind: "x", Data: quoted(mid)}).body(); err == nil {
			low = mid
		} else {
			high = mid
		}
	}
	require.Greater(t, low, MaxRecord-200)
	require.NoError(t, j.Append(ctx, Record{Time: time.Unix(0, 0).UTC(), Kind: "x", Data: quoted(low)}))
	require.NoError(t, j.Append(ctx, Record{Kind: "y"}))
	require.Len(t, read(t, only(t, dir)), 2)
}

func TestContext(t *testing.T) {
	j := open(t, newDir(t))
	why := errors.New("operator pressed stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	err := j.Append(ctx, Record{Kind: "x"})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, why)
	require.ErrorIs(t, j.Retire(ctx), context.Canceled)
	require.NoError(t, j.Append(t.Context(), Record{Kind: "x"}))
	require.NoError(t, j.Close(ctx), "an ended context still cleans up")
	_, err = Adopt(ctx, Run{Path: j.Path()}, Options{})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, Dead, only(t, filepath.Dir(j.Path())).State)
}

func TestPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access on Windows follows from access lists, not from mode bits")
	}
	dir := newDir(t)
	j := open(t, dir)
	for path, want := range map[string]fs.FileMode{dir: 0o700, j.Path(): 0o600, lockPath(j.Path()): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode().Perm(), path)
	}
	require.NoError(t, os.Chmod(dir, 0o770))
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, ErrUnsafe)
	_, err = Runs(dir)
	require.ErrorIs(t, err, ErrUnsafe)
	require.NoError(t, os.Chmod(dir, 0o755))
	open(t, dir)
}

func TestRunsIgnoresStrangers(t *testing.T) {
	dir := newDir(t)
	runs, err := Runs(dir)
	require.NoError(t, err)
	require.Empty(t, runs, "no directory, no runs")
	require.NoDirExists(t, dir)
	open(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.jsonl"), []byte("x"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run-20250101T000000.000000000Z-0123456789abcdef.jsonl"), 0o700))
	only(t, dir)
}

// TestDiedAtBirth: the process died before its first record was whole.
func TestDiedAtBirth(t *testing.T) {
	for _, content := range []string{"", `{"seq":1,"ti`} {
		dir, ctx := newDir(t), t.Context()
		require.NoError(t, os.Mkdir(dir, 0o700))
		path := filepath.Join(dir, "run-20250101T000000.000000000Z-0123456789abcdef.jsonl")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		run := only(t, dir)
		require.Equal(t, Dead, run.State)
		require.Zero(t, run.Owner)
		left, err := run.Open()
		require.NoError(t, err)
		require.Empty(t, left)
		j, err := Adopt(ctx, run, Options{})
		require.NoError(t, err)
		require.NoError(t, j.Retire(ctx))
		require.Equal(t, Ended, only(t, dir).State)
	}
}

func TestPrune(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	now := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	o := Options{Now: func() time.Time { return now }, KeepDone: 3, KeepAge: 24 * time.Hour}
	run := func(retire bool) string {
		now = now.Add(time.Minute)
		j, err := Open(dir, o)
		require.NoError(t, err)
		if retire {
			require.NoError(t, j.Retire(ctx))
		}
		require.NoError(t, j.Close(ctx))
		return j.ID()
	}
	ids := func() (out []string) {
		runs, err := Runs(dir)
		require.NoError(t, err)
		for _, r := range runs {
			out = append(out, r.ID)
		}
		return out
	}
	dead := run(false)
	var done []string
	for range 5 {
		done = append(done, run(true))
	}
	require.Equal(t, append([]string{dead}, done[1:]...), ids(), "Open keeps three, and began a fourth")
	require.NoError(t, Prune(dir, o))
	require.Equal(t, append([]string{dead}, done[2:]...), ids())

	orphan := filepath.Join(dir, "run-20240101T000000.000000000Z-0123456789abcdef.lock")
	require.NoError(t, os.WriteFile(orphan, nil, 0o600))
	young := filepath.Join(dir, "run-20240101T000000.000000000Z-0123456789abcdee.lock")
	require.NoError(t, os.WriteFile(young, nil, 0o600))
	now = now.Add(25 * time.Hour)
	require.NoError(t, os.Chtimes(orphan, now.Add(-2*time.Hour), now.Add(-2*time.Hour)))
	require.NoError(t, os.Chtimes(young, now, now))
	require.NoError(t, Prune(dir, o))
	require.Equal(t, []string{dead}, ids(), "too old, except what is still to be recovered")
	require.NoFileExists(t, orphan)
	require.FileExists(t, young)

	locks, err := filepath.Glob(filepath.Join(dir, "*"+lockSuffix))
	require.NoError(t, err)
	require.Len(t, locks, 2, fmt.Sprint(locks))
	require.NoError(t, Prune(filepath.Join(dir, "none"), o))
}
