package transporttest

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// What a file system refuses and io/fs has no name for.
var (
	errIsDir    = errors.New("is a directory")
	errNotDir   = errors.New("not a directory")
	errNotEmpty = errors.New("directory not empty")
	errBadName  = errors.New("the file system does not allow this name")
)

// memFS is the file system of one target. Its methods return classes of error
// that fsError puts into a *transport.Error.
type memFS struct {
	mu      sync.Mutex
	nodes   map[string]*node // by key
	space   int64            // 0: any number
	windows bool
}

type node struct {
	base    string // as it was created
	dir     bool
	data    []byte
	mode    fs.FileMode
	modTime time.Time
	busy    bool // a Put writes to it
}

func newMemFS(windows bool, space int64) *memFS {
	return &memFS{windows: windows, space: space, nodes: map[string]*node{"/": {base: "/", dir: true, mode: 0o755, modTime: time.Now()}}}
}

// key returns the place of a name in the map: absolute and clean.
func (m *memFS) key(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", errBadName
	}
	k := path.Clean("/" + name)
	if m.windows {
		// Microsoft, "Naming Files, Paths, and Namespaces".
		for _, part := range strings.Split(k, "/") {
			if strings.ContainsAny(part, "<>:\"\\|?*") || strings.ContainsFunc(part, func(r rune) bool { return r < 32 }) ||
				strings.HasSuffix(part, " ") || strings.HasSuffix(part, ".") {
				return "", errBadName
			}
		}
		k = strings.ToLower(k)
	}
	return k, nil
}

// find returns a node and its key; m.mu is held. A node that is missing is nil,
// if the directory that it would be in exists.
func (m *memFS) find(name string) (string, *node, error) {
	k, err := m.key(name)
	if err != nil {
		return "", nil, err
	}
	if n := m.nodes[k]; n != nil {
		return k, n, nil
	}
	for up := path.Dir(k); ; up = path.Dir(up) {
		if n := m.nodes[up]; n != nil {
			if !n.dir {
				return "", nil, errNotDir
			}
			if up != path.Dir(k) {
				return "", nil, fs.ErrNotExist
			}
			return k, nil, nil
		}
	}
}

// existing is find for what must be there.
func (m *memFS) existing(name string) (string, *node, error) {
	k, n, err := m.find(name)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	return k, n, err
}

func (m *memFS) native(name string) string {
	k := path.Clean("/" + name)
	if m.windows {
		return `C:\Windows` + strings.TrimSuffix(strings.ReplaceAll(k, "/", `\`), `\`)
	}
	return k
}

func (m *memFS) info(name string, n *node) transport.FileInfo {
	fi := transport.FileInfo{Name: n.base, Native: m.native(name), Size: int64(len(n.data)), Mode: n.mode, ModTime: n.modTime}
	if m.windows { // no permissions but read-only
		fi.Mode = 0o666
		if n.dir {
			fi.Mode = 0o777
		}
	}
	if n.dir {
		fi.Mode |= fs.ModeDir
	}
	return fi
}

func (m *memFS) stat(name string) (transport.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.existing(name)
	if err != nil {
		return transport.FileInfo{}, err
	}
	return m.info(name, n), nil
}

// below returns the keys of what is in a directory; m.mu is held.
func (m *memFS) below(key string, deep bool) []string {
	prefix := strings.TrimSuffix(key, "/") + "/"
	var out []string
	for k := range m.nodes {
		if rest, ok := strings.CutPrefix(k, prefix); ok && rest != "" && (deep || !strings.Contains(rest, "/")) {
			out = append(out, k)
		}
	}
	return out
}

func (m *memFS) list(name string) ([]transport.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, n, err := m.existing(name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, errNotDir
	}
	var out []transport.FileInfo
	for _, k := range m.below(key, false) {
		out = append(out, m.info(path.Join(name, m.nodes[k].base), m.nodes[k]))
	}
	slices.SortFunc(out, func(a, b transport.FileInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (m *memFS) mkdir(name string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mkdirLocked(name, perm)
}

func (m *memFS) mkdirLocked(name string, perm fs.FileMode) error {
	k, err := m.key(name)
	if err != nil {
		return err
	}
	if n := m.nodes[k]; n != nil {
		if !n.dir {
			return errNotDir
		}
		return nil
	}
	clean := path.Clean("/" + name)
	if err := m.mkdirLocked(path.Dir(clean), perm); err != nil {
		return err
	}
	m.nodes[k] = &node{base: path.Base(clean), dir: true, mode: perm.Perm(), modTime: time.Now()}
	return nil
}

func (m *memFS) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, n, err := m.existing(name)
	switch {
	case err != nil:
		return err
	case k == "/":
		return fs.ErrPermission
	case n.dir && len(m.below(k, false)) > 0:
		return errNotEmpty
	}
	delete(m.nodes, k)
	return nil
}

// removeBelow empties a directory.
func (m *memFS) removeBelow(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k, err := m.key(dir); err == nil {
		for _, b := range m.below(k, true) {
			delete(m.nodes, b)
		}
	}
}

func (m *memFS) read(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.existing(name)
	if err == nil && n.dir {
		err = errIsDir
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return bytes.Clone(n.data), nil
}

// readAt copies from a file; n is 0 at its end.
func (m *memFS) readAt(name string, p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.existing(name)
	if err != nil {
		return 0, err
	}
	if n.dir {
		return 0, errIsDir
	}
	if off >= int64(len(n.data)) {
		return 0, nil
	}
	return copy(p, n.data[off:]), nil
}

func (m *memFS) write(name string, data []byte, mode fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mkdirLocked(path.Dir(path.Clean("/"+name)), 0o755); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	k, n, err := m.find(name)
	if err == nil && n != nil && n.dir {
		err = errIsDir
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	m.nodes[k] = &node{base: path.Base(path.Clean("/" + name)), data: data, mode: mode, modTime: time.Now()}
	return nil
}

func (m *memFS) files() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for k, n := range m.nodes {
		if !n.dir {
			out = append(out, path.Join(path.Dir(k), n.base))
		}
	}
	slices.Sort(out)
	return out
}

// openPartial returns the partial file for a Put, new or with what an earlier
// one left, and how much that is.
func (m *memFS) openPartial(name, final string, size int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, n, err := m.find(final); err != nil {
		return 0, err
	} else if n != nil && n.dir {
		return 0, errIsDir
	}
	k, n, err := m.find(name)
	if err != nil {
		return 0, err
	}
	if n != nil && n.busy {
		return 0, transport.ErrBusy
	}
	if n == nil || n.dir || int64(len(n.data)) > size {
		n = &node{base: path.Base(path.Clean("/" + name)), mode: 0o600, modTime: time.Now()}
		m.nodes[k] = n
	}
	n.busy = true
	return int64(len(n.data)), nil
}

// left is how many bytes may still be written.
func (m *memFS) left() int64 {
	if m.space <= 0 {
		return math.MaxInt64
	}
	left := m.space
	for _, n := range m.nodes {
		left -= int64(len(n.data))
	}
	return left
}

// free is how many bytes may still be written in a directory.
func (m *memFS) free(dir string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.existing(dir)
	if err != nil {
		return 0, err
	}
	if !n.dir {
		return 0, errNotDir
	}
	return max(0, m.left()), nil
}

// appendTo writes as much of p as there is space for.
func (m *memFS) appendTo(name string, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.existing(name)
	if err != nil {
		return err
	}
	if left := m.left(); left < int64(len(p)) {
		n.data = append(n.data, p[:max(0, left)]...)
		return transport.ErrNoSpace
	}
	n.data = append(n.data, p...)
	n.modTime = time.Now()
	return nil
}

// closePartial ends the writing to a partial file, and removes it if it is of no
// use to a later Put.
func (m *memFS) closePartial(name string, remove bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k, n, err := m.existing(name); err == nil {
		n.busy = false
		if remove || len(n.data) == 0 {
			delete(m.nodes, k)
		}
	}
}

// rename moves a finished partial file onto its name.
func (m *memFS) rename(from, to string, mode fs.FileMode) (transport.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kf, n, err := m.existing(from)
	if err != nil {
		return transport.FileInfo{}, err
	}
	kt, old, err := m.find(to)
	if err != nil {
		return transport.FileInfo{}, err
	}
	if old != nil && old.dir {
		return transport.FileInfo{}, errIsDir
	}
	delete(m.nodes, kf)
	n.base, n.mode, n.busy = path.Base(path.Clean("/"+to)), mode, false
	m.nodes[kt] = n
	return m.info(to, n), nil
}
