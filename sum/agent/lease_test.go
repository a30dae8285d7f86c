package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func never() bool { return false }

func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := newLease(15 * time.Minute)
		require.NoError(t, l.wait(t.Context(), never, nil))
		require.Equal(t, 15*time.Minute, time.Since(begin))
	})
}

func TestLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := newLease(15 * time.Minute)
		go func() {
			for range 10 {
				time.Sleep(5 * time.Minute)
				l.renew()
			}
		}()
		require.NoError(t, l.wait(t.Context(), never, nil))
		require.Equal(t, 65*time.Minute, time.Since(begin))
	})
}

func TestLeaseDoesNotRunDuringJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var busy atomic.Bool
		busy.Store(true)
		go func() {
			time.Sleep(3 * time.Hour)
			busy.Store(false)
		}()
		l := newLease(time.Minute)
		require.NoError(t, l.wait(t.Context(), busy.Load, nil))
		over := time.Since(begin)
		require.LessOrEqual(t, over, 3*time.Hour+time.Minute)
		require.Greater(t, over, 3*time.Hour+time.Minute-pollOf(time.Minute)-time.Second, "it runs from the end of the job")
	})
}

func TestLeaseChangesItsLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := newLease(time.Hour)
		var noted []time.Duration
		go func() {
			time.Sleep(time.Minute)
			require.Equal(t, time.Hour, l.setLength(0), "0 leaves it")
			l.renew()
			require.Equal(t, 2*time.Minute, l.setLength(2*time.Minute))
		}()
		require.NoError(t, l.wait(t.Context(), never, func(d time.Duration) { noted = append(noted, d) }))
		require.Equal(t, 3*time.Minute, time.Since(begin))
		require.Equal(t, []time.Duration{2 * time.Minute}, noted)
	})
}

func TestLeaseWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(time.Minute)
			cancel(why)
		}()
		require.ErrorIs(t, newLease(time.Hour).wait(ctx, never, nil), why)
	})
}
