package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// indexName is a log that is made when it is asked for and lists the others.
const indexName = "index.json"

type logIndex struct {
	Logs []logEntry `json:"logs"`
}

type logEntry struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // bytes
	Mode    uint32    `json:"mode"` // permissions
	ModTime time.Time `json:"mod_time"`
}

var _ channel.Logs = (*service)(nil)

// ReadLogAt implements channel.Logs.
func (s *service) ReadLogAt(_ context.Context, name string, p []byte, offset int64) (n int, size int64, err error) {
	s.lease.renew()
	if name == indexName {
		data, err := s.index()
		if err != nil || offset >= int64(len(data)) {
			return 0, int64(len(data)), err
		}
		return copy(p, data[offset:]), int64(len(data)), nil
	}
	rel := name
	if name != LogName {
		rel = "jobs/" + name
	}
	if !isLog(rel) {
		return 0, 0, fs.ErrNotExist
	}
	if id, ok := strings.CutSuffix(name, ".json"); ok {
		if _, err := s.settle(id); err != nil {
			return 0, 0, err
		}
	}
	return readAt(s.home.path(rel), p, offset)
}

func (s *service) index() ([]byte, error) {
	var x logIndex
	names, err := s.home.logs()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		fi, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		x.Logs = append(x.Logs, logEntry{filepath.Base(name), name, fi.Size(), uint32(fi.Mode().Perm()), fi.ModTime().UTC()})
	}
	return json.Marshal(x)
}

// maxAgentLog is the size over which the agent's log loses its older half, in bytes.
const maxAgentLog = 1 << 20

// agentLog is agent.log. Shims append to the same file; only the agent shortens it.
type agentLog struct {
	mu  sync.Mutex
	f   *os.File
	max int64
}

func openAgentLog(name string, max int64) (*agentLog, error) {
	f, err := openFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &agentLog{f: f, max: max}, nil
}

func (l *agentLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fi, err := l.f.Stat(); err == nil && fi.Size()+int64(len(p)) > l.max {
		if err := l.shorten(fi.Size()); err != nil {
			return 0, err
		}
	}
	return l.f.Write(p)
}

// shorten keeps the newer half, in whole lines.
func (l *agentLog) shorten(size int64) error {
	keep := make([]byte, min(size, l.max/2))
	if _, err := l.f.ReadAt(keep, size-int64(len(keep))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if i := bytes.IndexByte(keep, '\n'); i >= 0 {
		keep = keep[i+1:]
	}
	if err := emptyFile(l.f); err != nil {
		return err
	}
	_, err := l.f.Write(keep)
	return err
}

func (l *agentLog) Close() error { return l.f.Close() }
