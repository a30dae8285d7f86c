package smb

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// Attributes of files (MS-FSCC, section 2.6).
const (
	attrReadOnly  = 0x1
	attrDirectory = 0x10
	attrReparse   = 0x400
)

// linkShare is a share with links as Windows has them and Samba does not show them: what is
// opened is what a link leads to, and what is looked at, renamed or removed is the link.
type linkShare struct {
	volume
	files map[string]uint32 // attributes by name
	to    map[string]string // what links lead to
	deny  map[string]bool   // names that may be neither renamed nor removed
	fail  func(from, to string) error

	when     map[string]time.Time // ChangeTime; nil: there is none
	clock    time.Time            // of the last change
	running  map[uint32]bool      // programs that run, by attributes
	removing func(name string)
}

func (w *linkShare) stat(name string) (os.FileInfo, error) {
	attrs, ok := w.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &smb2.FileStat{FileName: name[strings.LastIndexByte(name, '\\')+1:], FileAttributes: attrs, ChangeTime: w.when[name]}, nil
}

func (w *linkShare) rename(from, to string) error {
	if w.fail != nil {
		if err := w.fail(from, to); err != nil {
			return err
		}
	}
	attrs, ok := w.files[from]
	_, taken := w.files[to]
	switch {
	case !ok:
		return fs.ErrNotExist
	case w.deny[from]:
		return fs.ErrPermission
	case from == to:
		return nil
	case taken:
		return fs.ErrExist
	}
	delete(w.files, from)
	w.files[to] = attrs
	if w.when != nil {
		w.clock = w.clock.Add(time.Second)
		w.when[to] = w.clock
	}
	return nil
}

func (w *linkShare) remove(name string) error {
	if w.removing != nil {
		w.removing(name)
	}
	if w.running[w.files[name]] {
		return &refusal{fs.ErrPermission, statusCannotDelete}
	}
	return removeItself((*linkLibrary)(w), name)
}

// list returns what is below a directory, also of one that a link leads to.
func (w *linkShare) open(name string) (file, error) {
	if to, ok := w.to[name]; ok {
		name = to
	}
	dir := &linkDir{own: &smb2.FileStat{FileAttributes: w.files[name] | attrDirectory}}
	for _, f := range slices.Sorted(maps.Keys(w.files)) {
		if parent(f) == name {
			fi, _ := w.stat(f)
			dir.entries = append(dir.entries, fi)
		}
	}
	return dir, nil
}

type linkDir struct {
	file
	own     os.FileInfo
	entries []os.FileInfo
}

func (d *linkDir) Stat() (os.FileInfo, error) { return d.own, nil }
func (d *linkDir) Close() error               { return nil }

func (d *linkDir) Readdir(int) ([]os.FileInfo, error) { return d.entries, io.EOF }

// linkLibrary does as the library does.
type linkLibrary linkShare

func (w *linkLibrary) Lstat(name string) (os.FileInfo, error) { return (*linkShare)(w).stat(name) }
func (w *linkLibrary) Rename(from, to string) error           { return (*linkShare)(w).rename(from, to) }

func (w *linkLibrary) Remove(name string) error {
	attrs, ok := w.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	for f := range w.files {
		if parent(f) == name && attrs&attrReparse == 0 {
			return &smb2.ResponseError{Code: statusNotEmpty}
		}
	}
	if attrs&attrReadOnly != 0 || w.deny[name] {
		target := name
		if to, ok := w.to[name]; ok {
			target = to
		}
		w.files[target] &^= attrReadOnly
		if w.files[name]&attrReadOnly != 0 || w.deny[name] {
			return fs.ErrPermission
		}
	}
	delete(w.files, name)
	return nil
}

// A link is removed itself, and what it leads to stays as it is, whatever the server
// says of the link.
func TestRemoveLink(t *testing.T) {
	t.Parallel()
	start := func() (*linkShare, transport.Conn) {
		w := &linkShare{files: map[string]uint32{
			"dir": attrDirectory, `dir\file`: attrReadOnly, "plain": attrReadOnly,
			"run": attrDirectory, `run\tofile`: attrReparse, `run\junction`: attrReparse | attrDirectory,
		}, to: map[string]string{`run\tofile`: `dir\file`, `run\junction`: "dir"}, deny: map[string]bool{}}
		c := newConn("db1", Options{ShareRoot: `C:\Windows`}, hung{}, w)
		t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
		return w, c
	}
	kept := func(w *linkShare) {
		t.Helper()
		require.EqualValues(t, attrDirectory, w.files["dir"])
		require.EqualValues(t, attrReadOnly, w.files[`dir\file`])
	}
	w, c := start()
	fi, err := transport.Stat(t.Context(), c, "run/junction")
	require.NoError(t, err)
	require.False(t, fi.IsDir(), "nobody is to look for files behind it")
	require.Equal(t, fs.ModeSymlink, fi.Mode.Type())
	require.NoError(t, transport.RemoveAll(t.Context(), c, "run"))
	require.Equal(t, []string{"dir", `dir\file`, "plain"}, slices.Sorted(maps.Keys(w.files)))
	kept(w)
	require.NoError(t, transport.Remove(t.Context(), c, "plain"), "what is no link")

	for _, link := range []string{"run/tofile", "run/junction"} {
		name := strings.ReplaceAll(link, "/", `\`)
		w, c = start()
		w.files[name] |= attrReadOnly
		err = transport.RemoveAll(t.Context(), c, link)
		require.ErrorIs(t, err, transport.ErrRejected)
		require.ErrorContains(t, err, "attrib")
		kept(w)
		w, _ = start()
		w.deny[name] = true
		require.ErrorIs(t, w.remove(name), fs.ErrPermission)
		kept(w)
	}
}

// moved is a share of which nothing is a link.
func moved(files map[string]uint32) *linkShare {
	return &linkShare{files: files, when: map[string]time.Time{}}
}

// aside is what is aside of x, by what it holds.
func (w *linkShare) aside(t *testing.T) (attrs []uint32) {
	t.Helper()
	names, _, err := asides(w, "x")
	require.NoError(t, err)
	for _, name := range names {
		attrs = append(attrs, w.files[name])
	}
	return attrs
}

// What cannot get the name of another file leaves that where it was.
func TestReplaceFileFails(t *testing.T) {
	t.Parallel()
	start := func(stale bool) (*linkShare, *swap) {
		w := moved(map[string]uint32{"x": 1 << 20, "part": 2 << 20})
		if stale {
			w.files[asideName("x")] = 3 << 20
		}
		return w, &swap{v: w, part: "part", file: "x"}
	}
	for _, stale := range []bool{false, true} {
		w, s := start(stale)
		require.NoError(t, s.try())
		require.Equal(t, map[string]uint32{"x": 2 << 20}, w.files)

		// The second rename of the new file fails, for a reason, or since there is one again.
		for _, why := range []error{fs.ErrPermission, fs.ErrExist} {
			w, s := start(stale)
			tries := 0
			w.fail = func(from, _ string) error {
				if from == "part" {
					if tries++; tries == 2 {
						return why
					}
				}
				return nil
			}
			err := s.try()
			require.ErrorIs(t, err, why)
			require.Equal(t, why == fs.ErrExist, inUse(err) && transport.Temporary(explain(&transport.Error{}, err)))
			require.EqualValues(t, 1<<20, w.files["x"], "it has its name again")
			require.EqualValues(t, 2<<20, w.files["part"])
			require.NoError(t, s.try())
			require.Equal(t, map[string]uint32{"x": 2 << 20}, w.files)
		}
		// The old one cannot be moved, or is gone.
		w, s = start(stale)
		w.fail = func(from, _ string) error {
			if from == "x" {
				return &smb2.ResponseError{Code: statusSharing}
			}
			return nil
		}
		require.True(t, inUse(s.try()))
		require.EqualValues(t, 1<<20, w.files["x"])
	}
}

// between runs f once, before a rename that it is for.
func (w *linkShare) between(is func(from, to string) bool, f func()) {
	w.fail = func(from, to string) error {
		if is(from, to) {
			w.fail = nil
			f()
		}
		return nil
	}
}

// Of two managers that replace a file at once neither takes from the other what that has
// put there, or put aside, at whatever point they meet.
func TestSwapsMeet(t *testing.T) {
	t.Parallel()
	isAside := func(name string) bool { return strings.HasPrefix(name, asidePrefix("x")) }
	nth := func(n int, is func(from, to string) bool) func() func(from, to string) bool {
		return func() func(from, to string) bool {
			seen := 0
			return func(from, to string) bool {
				if is(from, to) {
					seen++
				}
				return seen == n
			}
		}
	}
	for name, is := range map[string]func() func(from, to string) bool{
		"before it looks":               nth(1, func(from, _ string) bool { return from == "mine" }),
		"before the old one goes aside": nth(1, func(_, to string) bool { return isAside(to) }),
		"before the new one comes":      nth(2, func(from, _ string) bool { return from == "mine" }),
	} {
		// The other one is complete in between.
		w := moved(map[string]uint32{"x": 1 << 20, "mine": 2 << 20, "other": 3 << 20})
		mine, other := &swap{v: w, part: "mine", file: "x"}, &swap{v: w, part: "other", file: "x"}
		w.between(is(), func() { require.NoError(t, other.try(), name) })
		err := mine.try()
		if err != nil {
			require.ErrorIs(t, err, transport.ErrBusy, name)
			require.EqualValues(t, 3<<20, w.files["x"], name)
			require.NoError(t, mine.try(), name)
		}
		require.Equal(t, map[string]uint32{"x": 2 << 20}, w.files, name)

		// The same, and this one is never tried again.
		w = moved(map[string]uint32{"x": 1 << 20, "mine": 2 << 20, "other": 3 << 20})
		mine, other = &swap{v: w, part: "mine", file: "x"}, &swap{v: w, part: "other", file: "x"}
		w.between(is(), func() { require.NoError(t, other.try(), name) })
		if mine.try() != nil {
			_, err := mine.giveUp()
			require.NoError(t, err)
			require.Equal(t, map[string]uint32{"x": 3 << 20, "mine": 2 << 20}, w.files, name)
		}
	}

	// What another one has put aside after this one has looked is not removed: it may be the
	// only copy.
	w := moved(map[string]uint32{"x": 1 << 20, "mine": 2 << 20})
	mine := &swap{v: w, part: "mine", file: "x"}
	live := asideName("x")
	removes := 0
	w.removing = func(string) {
		if removes++; removes == 1 {
			require.NoError(t, w.rename("x", live))
		}
	}
	require.NoError(t, mine.try())
	require.Equal(t, map[string]uint32{live: 2 << 20}, w.files)
	require.Equal(t, 1, removes)
}

// The name goes to what was put aside last, and never to what was replaced.
func TestGiveBack(t *testing.T) {
	t.Parallel()
	now := time.Time{}.Add(time.Hour)
	w := moved(map[string]uint32{})
	s := &swap{v: w, file: "x"}
	for i, name := range []string{asideName("x"), asideName("X"), asideName("x")} {
		w.files[name], w.when[name] = uint32(i+1)<<20, now.Add(time.Duration(i%2)*time.Second)
	}
	retired := retiredName("x")
	w.files[retired], w.when[retired] = 4<<20, now.Add(time.Minute)
	for _, other := range []string{asidePrefix("x") + "short", asideName("y"), asidePrefix("x")} {
		w.files[other], w.when[other] = 5<<20, now.Add(time.Minute)
	}
	_, err := s.giveBack()
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, w.files["x"])
	_, err = s.giveBack()
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, w.files["x"], "something has the name")
}

// What still runs stays aside, is not given back, and goes when it has ended.
func TestRetire(t *testing.T) {
	t.Parallel()
	w := moved(map[string]uint32{"x": 1 << 20, "mine": 2 << 20})
	w.running = map[uint32]bool{1 << 20: true}
	require.NoError(t, (&swap{v: w, part: "mine", file: "x"}).try())
	require.Equal(t, []uint32{1 << 20}, w.aside(t))
	names, last, err := asides(w, "x")
	require.NoError(t, err)
	require.Empty(t, last)
	require.Regexp(t, `^\.x\.[0-9a-f]{16}\.old-[0-9A-Z]{8}$`, names[0])
	retire(w, "x", names)
	require.Contains(t, w.files, names[0], "it is renamed once")
	w.running = nil
	w.files["mine"] = 3 << 20
	require.NoError(t, (&swap{v: w, part: "mine", file: "x"}).try())
	require.Equal(t, map[string]uint32{"x": 3 << 20}, w.files)
}

func TestAsideName(t *testing.T) {
	t.Parallel()
	require.Regexp(t, `^dir\\\.setup\.exe\.[0-9a-f]{16}\.old-[2-7A-Z]{8}$`, asideName(`dir\setup.exe`))
	require.NotEqual(t, asideName("x"), asideName("x"))
	require.Len(t, []rune(asideName(strings.Repeat("ä", 255))), 1+100+1+16+len(".old-")+8)
}

// Two Puts of one connection to one file go one after the other, whatever they put.
func TestPutsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConn("db1", Options{ShareRoot: `C:\Windows`}, hung{}, moved(map[string]uint32{}))
		why := errors.New("there is nothing to send")
		opened, goOn := make(chan string, 3), make(chan struct{})
		put := func(name, content string) <-chan error {
			f := transport.BytesFile("x", []byte(content))
			f.Open = func(context.Context) (io.ReadSeekCloser, error) {
				opened <- content
				<-goOn
				return nil, why
			}
			done := make(chan error, 1)
			go func() {
				_, err := transport.Put(t.Context(), c, name, f, transport.PutOptions{})
				done <- err
			}()
			synctest.Wait()
			return done
		}
		first, second, other := put("d/X", "first"), put("d/x", "second"), put("d/y", "other")
		require.Len(t, opened, 2)
		require.Equal(t, "first", <-opened)
		require.Equal(t, "other", <-opened, "it has another name")
		close(goOn)
		for _, done := range []<-chan error{first, second, other} {
			require.ErrorIs(t, <-done, why)
		}
		require.Equal(t, "second", <-opened)
		require.NoError(t, c.Close(context.Background()))
	})
}
