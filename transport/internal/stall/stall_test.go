package stall_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport/internal/stall"
	"github.com/stretchr/testify/require"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		w := stall.New(time.Minute, func() { ended.Add(1) })
		after := func(d time.Duration, want int, why string) {
			time.Sleep(d)
			synctest.Wait()
			require.EqualValues(t, want, ended.Load(), why)
		}
		after(time.Hour, 0, "it is at rest")
		w.Touch()
		after(59*time.Second, 0, "not yet")
		w.Touch()
		after(59*time.Second, 0, "a byte moved")
		w.Pause()
		after(time.Hour, 0, "nobody waits")
		w.Reset(2 * time.Minute)
		after(119*time.Second, 0, "a longer limit")
		w.Touch()
		after(119*time.Second, 0, "which stays")
		after(2*time.Second, 1, "now")
		w.Touch()
		w.Stop()
		after(time.Hour, 1, "it has stopped")
		w.Touch()
		after(time.Hour, 1, "for good")
	})
}

func TestNoLimit(t *testing.T) {
	for _, limit := range []time.Duration{0, -1} {
		w := stall.New(limit, func() { t.Error("called") })
		require.Nil(t, w)
		w.Touch()
		w.Reset(time.Nanosecond)
		w.Pause()
		w.Stop()
	}
}
