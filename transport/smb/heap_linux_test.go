package smb_test

import (
	"context"
	"crypto/sha256"
	"io"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// maxHeap is what the heap may grow to while a file of any size is moved.
const maxHeap = 32 << 20

// watchHeap samples the bytes in heap objects, dead ones included, until the function
// that it returns is called for the peak.
func watchHeap() func() uint64 {
	runtime.GC()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			peak.Store(max(peak.Load(), sample[0].Value.Uint64()))
			select {
			case <-tick.C:
			case <-stop: // what was taken since the last look counts, too
				metrics.Read(sample)
				peak.Store(max(peak.Load(), sample[0].Value.Uint64()))
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-done
		return peak.Load()
	}
}

// zeros is a large file that is in no memory.
type zeros struct{ *io.SectionReader }

func (zeros) Close() error { return nil }

type zero struct{}

func (zero) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// TestHeapStaysSmall moves a file there and back. The heap is that of the driver and of
// the proxy of the lab together. No other test may run meanwhile.
func TestHeapStaysSmall(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("a measurement, and a large file: not with the race detector, nor where time is short")
	}
	const size = 8 * maxHeap
	file := transport.File{Name: "big", Size: size, Open: func(context.Context) (io.ReadSeekCloser, error) {
		return zeros{io.NewSectionReader(zero{}, 0, size)}, nil
	}}
	sum := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{io.NewSectionReader(zero{}, 0, size)}, make([]byte, 1<<20))
	require.NoError(t, err)
	sum.Sum(file.SHA256[:0])
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	heap := watchHeap()
	res, err := transport.Put(t.Context(), conn, "big", file, transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, size, res.Sent)
	n, err := transport.Get(t.Context(), conn, "big", io.Discard, transport.GetOptions{})
	peak := heap()
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	t.Logf("peak heap %d KiB for %d MiB", peak>>10, int64(size)>>20)
	require.Less(t, peak, uint64(maxHeap))
}

// A file that is held in memory as a whole would be seen.
func TestWatchHeap(t *testing.T) {
	heap := watchHeap()
	b := make([]byte, maxHeap)
	require.GreaterOrEqual(t, heap(), uint64(maxHeap))
	runtime.KeepAlive(b)
}
