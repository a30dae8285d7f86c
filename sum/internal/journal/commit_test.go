package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeFile counts, and waits or fails where it is told.
type fakeFile struct {
	mu            sync.Mutex
	data          []byte
	writes, syncs int
	writeErr      error
	syncErr       error
	gate          chan struct{} // Sync takes one, when not nil
	closed        bool
}

func (f *fakeFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.writeErr != nil {
		n := len(p) / 2
		f.data = append(f.data, p[:n]...)
		return n, f.writeErr
	}
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *fakeFile) Sync() error {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return f.syncErr
}

func (f *fakeFile) Close() error { f.closed = true; return nil }

func newFake(f *fakeFile, unlock func() error) *Journal {
	j := &Journal{path: "fake", now: time.Now, file: f, unlock: unlock}
	j.start()
	return j
}

func noUnlock() error { return nil }

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		j := newFake(f, noUnlock)
		var acked atomic.Int32
		for i := range 64 {
			go func() {
				if err := j.Append(t.Context(), Record{Kind: "k", ID: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
				acked.Add(1)
			}()
		}
		synctest.Wait()
		require.Zero(t, acked.Load(), "nothing is acknowledged before its fsync")
		require.Equal(t, 1, f.writes)
		f.gate <- struct{}{}
		synctest.Wait()
		first := acked.Load()
		require.Positive(t, first)
		f.gate <- struct{}{}
		synctest.Wait()
		require.EqualValues(t, 64, acked.Load())
		require.Equal(t, 2, f.writes, "one write for all that waited")
		require.Equal(t, 2, f.syncs)
		require.NoError(t, j.Close(t.Context()))
		require.True(t, f.closed)
		n := 0
		for r, err := range scan(strings.NewReader(string(f.data)), "fake") {
			require.NoError(t, err)
			n++
			require.EqualValues(t, n, r.Seq)
		}
		require.Equal(t, 64, n)
	})
}

func TestFailureSticks(t *testing.T) {
	boom := errors.New("no space left")
	for name, f := range map[string]*fakeFile{"write": {writeErr: boom}, "fsync": {syncErr: boom}} {
		t.Run(name, func(t *testing.T) {
			j := newFake(f, noUnlock)
			err := j.Append(t.Context(), Record{Kind: "a"})
			require.ErrorIs(t, err, boom)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "append", e.Op)
			f.mu.Lock()
			f.writeErr, f.syncErr = nil, nil
			writes := f.writes
			f.mu.Unlock()
			require.ErrorIs(t, j.Append(t.Context(), Record{Kind: "b"}), boom, "the disk's recovery is not the journal's")
			require.ErrorIs(t, j.Retire(t.Context()), boom)
			require.NoError(t, j.Close(t.Context()))
			require.Equal(t, writes, f.writes)
			require.True(t, f.closed)
		})
	}
}

func TestHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		unlocked := false
		j := newFake(f, func() error { unlocked = true; return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, j.Append(ctx, Record{Kind: "a"}), context.DeadlineExceeded)
		start := time.Now()
		require.ErrorIs(t, j.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, closeGrace, time.Since(start)) // the clock is synctest's
		require.False(t, unlocked, "the run is alive as long as it may still write")
		close(f.gate)
		require.NoError(t, j.Close(t.Context()))
		require.True(t, unlocked)
		require.True(t, f.closed)
	})
}

// TestBackpressure: callers that give up on a hanging disk do not fill memory.
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeFile{gate: make(chan struct{})}
		j := newFake(f, noUnlock)
		big := json.RawMessage(`"` + strings.Repeat("a", MaxRecord/2) + `"`)
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		release := sync.OnceFunc(func() { close(f.gate) })
		defer release() // or a failed assertion would leave the bubble with a goroutine in it
		// One record first, until the disk holds it up: what comes after it piles up,
		// whatever the order in which the others run.
		wg.Go(func() { _ = j.Append(ctx, Record{Kind: "first"}) })
		synctest.Wait()
		for range 3 * maxPending / len(big) {
			wg.Go(func() { _ = j.Append(ctx, Record{Kind: "a", Data: big}) })
		}
		wg.Wait()
		require.ErrorIs(t, j.Append(ctx, Record{Kind: "a"}), context.DeadlineExceeded)
		j.mu.Lock()
		pending := len(j.pending)
		j.mu.Unlock()
		require.LessOrEqual(t, pending, maxPending)
		require.Greater(t, pending, maxPending/2)
		release()
		require.NoError(t, j.Append(t.Context(), Record{Kind: "after"}), "it goes on when the disk does")
		require.NoError(t, j.Close(t.Context()))
	})
}

func TestConcurrentAppendRetireClose(t *testing.T) {
	dir, ctx := newDir(t), t.Context()
	j := open(t, dir)
	var wg sync.WaitGroup
	var acked atomic.Int32
	for g := range 16 {
		wg.Go(func() {
			for i := range 20 {
				id := fmt.Sprintf("%d/%d", g, i)
				for _, r := range []Record{Opened("k", "t", id, nil), Closed("k", "t", id)} {
					switch err := j.Append(ctx, r); {
					case err == nil:
						acked.Add(1)
					case !errors.Is(err, ErrEnded):
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, j.Retire(ctx))
	run := only(t, dir)
	require.Equal(t, Ended, run.State)
	require.Len(t, read(t, run), int(acked.Load()))
}

func benchmarkAppend(b *testing.B, goroutines int) {
	j, err := Open(filepath.Join(b.TempDir(), "journal"), Options{})
	require.NoError(b, err)
	counted := &countingFile{logFile: j.file}
	j.mu.Lock() // no record is under way: the committer has not touched the file
	j.file = counted
	j.mu.Unlock()
	r := Opened("firewall.rule", "linux://root@web1:22", "rule-1", json.RawMessage(`{"port":63001,"peer":"192.0.2.7"}`))
	ctx := b.Context()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := j.Append(ctx, r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(counted.syncs.Load())/float64(b.N), "fsyncs/op")
	require.NoError(b, j.Close(context.WithoutCancel(ctx)))
}

type countingFile struct {
	logFile
	syncs atomic.Int64
}

func (f *countingFile) Sync() error {
	f.syncs.Add(1)
	return f.logFile.Sync()
}

func BenchmarkAppend1(b *testing.B)  { benchmarkAppend(b, 1) }
func BenchmarkAppend64(b *testing.B) { benchmarkAppend(b, 64) }
