package depot

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// chunk is how much goes out under one stall limit.
const chunk = 256 << 10

// copyBuffer is how much is read at a time of what cannot go out by sendfile.
const copyBuffer = 64 << 10

// sender is the ResponseWriter of one request. It counts the content that goes
// out and moves the stall limit along. It keeps io.ReaderFrom, so that files
// still go out by sendfile.
type sender struct {
	http.ResponseWriter
	control *http.ResponseController
	d       *Depot
	plain   bool          // no TLS
	sent    *atomic.Int64 // of the file; nil where somebody else counts

	status  int
	total   int64 // bytes of the body
	short   bool  // the content ended before its length
	err     error // of the connection, or of reading a file that went out by sendfile
	readErr error // of reading the content otherwise
}

// Unwrap lets http.ResponseController find the connection.
func (s *sender) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *sender) extend() { _ = s.control.SetWriteDeadline(time.Now().Add(s.d.opts.Stall)) }

// WriteHeader implements http.ResponseWriter.
func (s *sender) WriteHeader(status int) {
	// Opening the payload may have taken long.
	s.extend()
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// count reports whether what goes out is content of the file, and not the text
// of an error.
func (s *sender) count() bool {
	return s.sent != nil && (s.status == http.StatusOK || s.status == http.StatusPartialContent)
}

// send counts want bytes before f sends them: who has received them finds them
// counted. What f did not send is taken back.
func (s *sender) send(want int64, f func() (int64, error)) (int64, error) {
	s.extend()
	count := s.count()
	if count {
		s.sent.Add(want)
	}
	n, err := f()
	if count {
		s.sent.Add(n - want)
	}
	s.total += n
	if err != nil {
		s.err = err
	}
	return n, err
}

// Write implements io.Writer.
func (s *sender) Write(p []byte) (int, error) {
	n, err := s.send(int64(len(p)), func() (int64, error) {
		n, err := s.ResponseWriter.Write(p)
		return int64(n), err
	})
	return int(n), err
}

// ReadFrom implements io.ReaderFrom in chunks: each gets a new stall limit.
func (s *sender) ReadFrom(r io.Reader) (int64, error) {
	lr, ok := r.(*io.LimitedReader)
	if !ok { // what ServeContent passes is limited
		return io.Copy(struct{ io.Writer }{s}, r)
	}
	rf, ok := s.ResponseWriter.(io.ReaderFrom)
	if _, file := lr.R.(syscall.Conn); !ok || !file || !s.plain {
		return s.copy(lr)
	}
	var total int64
	for left := lr.N; left > 0; {
		want := min(chunk, left)
		// The reader below, and not lr: sendfile looks behind one limit only.
		n, err := s.send(want, func() (int64, error) { return rf.ReadFrom(&io.LimitedReader{R: lr.R, N: want}) })
		total += n
		left -= n
		if err != nil {
			return total, err
		}
		if n < want {
			s.short = true
			return total, nil
		}
	}
	return total, nil
}

// copy is ReadFrom for what cannot go out by sendfile.
func (s *sender) copy(lr *io.LimitedReader) (int64, error) {
	buf, _ := s.d.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, copyBuffer)
		buf = &b
	}
	defer s.d.buffers.Put(buf)
	var total int64
	for lr.N > 0 {
		n, readErr := io.ReadFull(lr, (*buf)[:min(copyBuffer, lr.N)])
		if n > 0 {
			n, err := s.Write((*buf)[:n])
			total += int64(n)
			if err != nil {
				return total, err
			}
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			s.short = true
			return total, nil
		} else if readErr != nil {
			s.readErr = readErr
			return total, readErr
		}
	}
	return total, nil
}

// source is a payload that cannot go out by sendfile. It remembers why it could
// not be read; closing it waits for a Read under way.
type source struct {
	mu     sync.Mutex
	body   io.ReadSeekCloser
	sent   *atomic.Int64 // counts what is read, if set
	err    error
	closed bool
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, os.ErrClosed
	}
	n, err := s.body.Read(p)
	if s.sent != nil {
		s.sent.Add(int64(n))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Seek implements io.Seeker.
func (s *source) Seek(offset int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, os.ErrClosed
	}
	n, err := s.body.Seek(offset, whence)
	if err != nil {
		s.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	s.closed = true
	return s.body.Close()
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
