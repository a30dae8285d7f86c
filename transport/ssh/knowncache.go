package ssh

import (
	"context"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A knownCache keeps known_hosts files for the dials of one Transport: reading one
// with ten thousand lines takes longer than a login. A file that has changed is
// read again. The zero value is ready for use; it is safe for concurrent use.
type knownCache struct {
	mu    sync.Mutex
	files map[string]*cachedKnown
	cost  int64 // of all files
	uses  int
}

// cachedKnown is a file that is being read, or was.
type cachedKnown struct {
	info fs.FileInfo // before it was read
	used int         // when it was last asked for
	done chan struct{}
	file *knownFile
	err  error
}

const (
	// maxCached bounds what a knownCache keeps, in bytes of the files and
	// perFile for each.
	maxCached = 16 << 20
	perFile   = 4 << 10
	// unsettled is how soon after a change a file may change again without that
	// showing: some file systems count in steps of two seconds.
	unsettled = 3 * time.Second
)

// get returns a known_hosts file as it is now.
func (c *knownCache) get(ctx context.Context, name string) (*knownFile, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || cost(info) > maxCached || time.Since(info.ModTime()) < unsettled {
		return readKnown(name)
	}
	e, mine := c.entry(name, info)
	if mine {
		e.file, e.err = readKnown(name)
		close(e.done)
	}
	select {
	case <-e.done:
		return e.file, e.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// entry returns the entry of a file, and whether the caller is to read it.
func (c *knownCache) entry(name string, info fs.FileInfo) (e *cachedKnown, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses++
	e = c.files[name]
	if e != nil && same(e.info, info) && !e.failed() {
		e.used = c.uses
		return e, false
	}
	c.drop(name)
	for c.cost+cost(info) > maxCached {
		oldest := ""
		for n, e := range c.files {
			if oldest == "" || e.used < c.files[oldest].used {
				oldest = n
			}
		}
		c.drop(oldest)
	}
	if c.files == nil {
		c.files = map[string]*cachedKnown{}
	}
	e = &cachedKnown{info: info, used: c.uses, done: make(chan struct{})}
	c.files[name] = e
	c.cost += cost(info)
	return e, true
}

// drop forgets a file. The caller holds mu.
func (c *knownCache) drop(name string) {
	if e := c.files[name]; e != nil {
		c.cost -= cost(e.info)
		delete(c.files, name)
	}
}

func cost(info fs.FileInfo) int64 { return info.Size() + perFile }

// same reports whether nothing has happened to a file.
func same(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

// failed reports whether the file could not be read.
func (e *cachedKnown) failed() bool {
	select {
	case <-e.done:
		return e.err != nil
	default:
		return false
	}
}
