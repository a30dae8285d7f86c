package ssh

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is the network connection below SSH. It knows when something last came in
// and what went wrong first, which the layers above do not pass on.
type line struct {
	net.Conn
	heard atomic.Int64 // UnixNano of the last byte that came in; 0: none yet
	once  sync.Once
	mu    sync.Mutex
	err   error
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
	}
	l.note(err)
	return n, err
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	l.note(err)
	return n, err
}

func (l *line) note(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// broken returns the first error of the line, if there was one.
func (l *line) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// silence is how long nothing has come in.
func (l *line) silence() time.Duration {
	return time.Since(time.Unix(0, l.heard.Load()))
}

// Close may be called often and by several goroutines.
func (l *line) Close() error {
	var err error
	l.once.Do(func() { err = l.Conn.Close() })
	return err
}
