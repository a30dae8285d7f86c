package depot

import (
	"sync"
	"time"
)

// bucket is a token bucket: size tokens at most, of which rate come each second.
type bucket struct {
	rate, size float64

	mu   sync.Mutex
	left float64
	at   time.Time // when left was right
}

// take takes a token and returns 0, or the time until there is one.
func (b *bucket) take(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(b.size, b.left+passed.Seconds()*b.rate)
		b.at = now
	}
	if b.left < 1 {
		return time.Duration((1 - b.left) / b.rate * float64(time.Second))
	}
	b.left--
	return 0
}
