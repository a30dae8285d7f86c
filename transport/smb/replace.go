package smb

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
)

// A rename that replaces (MS-FSCC, section 2.4.37, ReplaceIfExists) would do in one step
// what is done here. The library sends 0 there, and nothing of it lets anybody say
// otherwise: the request is signed or encrypted when it reaches the line, with keys that
// the library keeps to itself. Nor would it do for a program that runs, which Windows lets
// nobody replace or remove, and everybody rename. So the file that is there goes aside
// first, under a name that no other Put has, and is removed when the new one has its name.
//
// Several managers may do so at once. What holds then:
//
//   - No rename replaces anything: of several files that are to have the name one gets it,
//     and the others are told, put that one aside, and try again.
//   - Whatever is aside before a Put gives its file the name is older than that file, and
//     of no use from then on. So a Put removes what it put aside itself, and what it saw
//     there before: never what somebody put aside later, which may be the only copy.
//   - Where nothing has the name, the manager that put the file aside, or its line, may
//     have ended: the next Put gives the name back to what was put aside last.

// asideLength is how many characters of chance a name has that ends in them.
const asideLength = 8

// retiredMark is the first of them where the file is of no use, and stays because a
// program still runs that was started from it. rand.Text has no such character.
const retiredMark = "0"

// asidePrefix is what the names begin with that a file has while another one takes its
// place.
func asidePrefix(file string) string { return beside(file, "old", ".old-") }

// asideName is one of these names, which nothing had so far.
func asideName(file string) string { return asidePrefix(file) + rand.Text()[:asideLength] }

// retiredName is one that is not given back.
func retiredName(file string) string {
	return asidePrefix(file) + retiredMark + rand.Text()[:asideLength-len(retiredMark)]
}

// asides lists what is aside of a file, and says which of it was put there last; "" if
// there is none that can be given back.
func asides(v volume, file string) (names []string, last string, err error) {
	prefix := asidePrefix(file)
	dir := parent(prefix)
	f, err := v.open(dir)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	var when time.Time
	for n := 0; n < maxList; {
		entries, err := f.Readdir(listBatch)
		for _, e := range entries {
			name := strings.TrimPrefix(dir+`\`+e.Name(), `\`)
			if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
				continue
			}
			names = append(names, name)
			if end := name[len(prefix):]; len(end) != asideLength || strings.HasPrefix(end, retiredMark) {
				continue
			}
			if t := changed(e); last == "" || t.After(when) {
				last, when = name, t
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return names, last, err
		}
		n += len(entries)
	}
	return names, last, nil
}

// changed is when a file got its name, unless something else of it was changed since
// (ChangeTime, MS-FSCC, section 2.4.10), by the clock of the server. What the operating
// system's own client lists does not tell it: then it is when the file was written.
func changed(fi os.FileInfo) time.Time {
	if st, ok := fi.Sys().(*smb2.FileStat); ok {
		return st.ChangeTime
	}
	return fi.ModTime()
}

// old describes the file that is there. One that a manager put aside and could not replace
// any more, since it or its line ended, gets its name back first.
func (p *put) old() (os.FileInfo, error) {
	v := p.c.volume
	stat := func() (os.FileInfo, error) { return v.stat(p.file) }
	fi, err := lib(p.call, stat, nil)
	if !errors.Is(err, fs.ErrNotExist) {
		return fi, err
	}
	type aside struct {
		names []string
		last  string
	}
	there, lerr := lib(p.call, func() (aside, error) {
		names, last, err := asides(v, p.file)
		return aside{names, last}, err
	}, nil)
	if lerr != nil {
		return fi, err // as where the directory is missing
	}
	p.older = there.names
	if there.last == "" {
		return fi, err
	}
	back := func() error { return v.rename(there.last, p.file) }
	rerr := lib0(p.call, back)
	if status(rerr) == statusSharing || nativeInUse(rerr) { // of a line that has ended the server may not have noticed that yet
		rerr = p.insist(back)
	}
	// Or another manager was faster, or has put a file there meanwhile and removed this one.
	if rerr == nil || errors.Is(rerr, fs.ErrExist) || errors.Is(rerr, fs.ErrNotExist) {
		return lib(p.call, stat, nil)
	}
	return fi, err
}

// look notes what is aside of the file now: once something has the name after that, it is
// of no use.
func (p *put) look() {
	names, err := lib(p.call, func() ([]string, error) {
		names, _, err := asides(p.c.volume, p.file)
		return names, err
	}, nil)
	if err == nil {
		p.older = names
	}
}

// rename gives the partial file its name.
func (p *put) rename() error {
	s := &swap{v: p.c.volume, part: p.part, file: p.file, older: p.older}
	err := p.insist(s.try)
	if err == nil || p.ctx.Err() != nil { // in the second case it may still be under way
		return err
	}
	aside, lost := lib(p.call, s.giveUp, nil)
	if e, ok := explain(&transport.Error{}, err).(*transport.Error); ok && lost != nil {
		e.Err = fmt.Errorf("%w; the old file is now %s, and gets its name back when another one is put: %w", e.Err, aside, lost)
		return e
	}
	return err
}

// swap has one file take the place of another.
type swap struct {
	v          volume
	part, file string
	older      []string // what was aside before
	looked     bool     // once there was a file to replace
	own        []string // what was put aside here
}

// try gives the partial file its name. If another Put comes between it fails with
// ErrBusy, and can be called again. That a call is given up does not come between. What
// does, such as the end of the manager or of the line, leaves the old file under a name
// where the next Put looks for it: see put.old.
func (s *swap) try() error {
	err := s.v.rename(s.part, s.file)
	if err == nil {
		s.tidy()
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !s.looked {
		names, _, err := asides(s.v, s.file)
		if err == nil {
			s.older, s.looked = names, true
		}
	}
	aside := asideName(s.file)
	err = s.v.rename(s.file, aside)
	switch {
	case err == nil:
		s.own = append(s.own, aside)
	case !errors.Is(err, fs.ErrNotExist): // else somebody has removed it, or puts another one there
		return fmt.Errorf("making room for the new file: %w", err)
	}
	err = s.v.rename(s.part, s.file)
	if err == nil {
		s.tidy()
		return nil
	}
	_, _ = s.giveBack() // or giveUp does
	if errors.Is(err, fs.ErrExist) {
		err = &transport.Error{Kind: transport.ErrBusy, Err: err, Hint: "somebody else has just put a file there"}
	}
	return err
}

// giveBack gives the name to what was put aside last, unless something has it, and says
// what that was if it fails.
func (s *swap) giveBack() (string, error) {
	if _, err := s.v.stat(s.file); !errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	_, last, err := asides(s.v, s.file)
	if err != nil && len(s.own) > 0 {
		last = s.own[len(s.own)-1]
	}
	if last == "" {
		return "", nil
	}
	// Another Put may be faster, in either of the two.
	if err = s.v.rename(last, s.file); errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return last, err
}

// giveUp leaves nothing but the file that is there, after try has failed for good. If
// it cannot, it says where that file is.
func (s *swap) giveUp() (string, error) {
	if len(s.own) == 0 {
		return "", nil
	}
	if last, err := s.giveBack(); err != nil {
		return last, err
	}
	if _, err := s.v.stat(s.file); err == nil {
		s.older = nil // what others left is for who has put that file there
		s.tidy()
	}
	return "", nil
}

// tidy removes what the file that is there has replaced.
func (s *swap) tidy() { retire(s.v, s.file, append(s.own, s.older...)) }

// retire removes what was aside of a file before that got its name. What runs can be
// renamed alone; it goes with a later Put, and is not given back.
func retire(v volume, file string, names []string) {
	n := len(asidePrefix(file))
	for _, name := range names {
		err := v.remove(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) || len(name) > n && strings.HasPrefix(name[n:], retiredMark) {
			continue
		}
		_ = v.rename(name, retiredName(file)) // what stays does so beside the file
	}
}
