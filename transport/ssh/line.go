package ssh

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is the network connection below SSH. It knows when something last came in,
// whether it was SSH, and what went wrong first, which the layers above do not
// pass on.
type line struct {
	net.Conn
	made  time.Time
	heard atomic.Int64 // when the last byte came in: nanoseconds after made, whatever becomes of the wall clock
	ssh   atomic.Bool  // a version of SSH came in (RFC 4253, section 4.2)
	once  sync.Once
	mu    sync.Mutex
	err   error
	first []byte // what came in, until ssh
}

// maxFirst bounds what is kept of what is no SSH, in bytes.
const maxFirst = 4 << 10

func newLine(c net.Conn) *line { return &line{Conn: c, made: time.Now()} }

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(int64(time.Since(l.made)))
		if !l.ssh.Load() {
			l.greet(p[:n])
		}
	}
	l.note(err)
	return n, err
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	l.note(err)
	return n, err
}

// greet looks for the version, which other lines may precede.
func (l *line) greet(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first = append(l.first, p[:min(len(p), maxFirst-len(l.first))]...)
	if bytes.HasPrefix(l.first, []byte("SSH-")) || bytes.Contains(l.first, []byte("\nSSH-")) {
		l.ssh.Store(true)
		l.first = nil
	}
}

// said is what came in, if it was not SSH.
func (l *line) said() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.first)
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
	return time.Since(l.made) - time.Duration(l.heard.Load())
}

// Close may be called often and by several goroutines.
func (l *line) Close() error {
	var err error
	l.once.Do(func() { err = l.Conn.Close() })
	return err
}
