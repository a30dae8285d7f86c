package smb

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// old describes the file that is there. One that a manager put aside and could not replace
// any more, since it or its line ended, gets its name back first.
func (p *put) old() (os.FileInfo, error) {
	stat := func() (os.FileInfo, error) { return p.c.volume.stat(p.file) }
	fi, err := lib(p.call, stat, nil)
	if !errors.Is(err, fs.ErrNotExist) {
		return fi, err
	}
	back := func() error { return p.c.volume.rename(oldName(p.file), p.file) }
	rerr := lib0(p.call, back)
	if status(rerr) == statusSharing { // of a line that has ended the server may not have noticed that yet
		rerr = p.insist(back)
	}
	switch {
	case rerr == nil, errors.Is(rerr, fs.ErrExist): // or another manager was faster
		return lib(p.call, stat, nil)
	case !errors.Is(rerr, fs.ErrNotExist):
		p.stale = true
	}
	return fi, err
}

// rename gives the partial file its name.
func (p *put) rename() error {
	v, replaced := p.c.volume, false
	err := p.insist(func() (err error) {
		replaced, err = replaceFile(v, p.part, p.file)
		return err
	})
	if err == nil && (replaced || p.stale) {
		_ = lib0(p.call, func() error { return tidy(v, p.file) }) // what stays does so beside the file
	}
	return err
}

// replaceFile gives the file part the name of another, and reports whether there was one.
//
// A rename that replaces (MS-FSCC, section 2.4.37, ReplaceIfExists) would do it in one
// step. The library sends 0 there, and nothing of it lets anybody say otherwise: the
// request is signed or encrypted when it reaches the line, with keys that the library
// keeps to itself. Nor would it do for a program that runs, which Windows lets nobody
// replace or remove, and everybody rename. So the other file goes aside, under a name of
// its own, comes back if part cannot take its place, and is removed when it has. That a
// call is given up does not come between. What does, such as the end of the manager or of
// the line, leaves the file under that name, where the next Put of it looks: see
// put.old.
func replaceFile(v volume, part, file string) (replaced bool, err error) {
	err = v.rename(part, file)
	if !errors.Is(err, fs.ErrExist) && !(isWindows && err != nil && inUse(err)) {
		return false, err
	}
	aside := oldName(file)
	err = v.rename(file, aside)
	if errors.Is(err, fs.ErrExist) { // since there is a file, that is of no use
		if err = retire(v, aside); err == nil {
			err = v.rename(file, aside)
		}
		if errors.Is(err, fs.ErrExist) { // it goes when somebody who has it open closes it
			err = &transport.Error{Kind: transport.ErrBusy, Err: err, Hint: hintInUse}
		}
	}
	switch {
	case err == nil:
		replaced = true
	case !errors.Is(err, fs.ErrNotExist): // else somebody has removed it
		return false, fmt.Errorf("making room for the new file: %w", err)
	}
	if err = v.rename(part, file); err == nil {
		return replaced, nil
	}
	if replaced {
		if back := v.rename(aside, file); back != nil && !errors.Is(back, fs.ErrExist) {
			return false, fmt.Errorf("%w; the old file is now %s, and gets its name back when another one is put: %w", err, aside, back)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		err = &transport.Error{Kind: transport.ErrBusy, Err: err, Hint: "somebody else has just put a file there"}
	}
	return false, err
}

// retire removes a file that was replaced. What runs can be renamed alone, so that its name
// is free, and goes with a later Put: see tidy.
func retire(v volume, aside string) error {
	err := v.remove(aside)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return v.rename(aside, aside+"-"+rand.Text()[:8])
}

// tidy removes what was replaced of a file: just now, and before, when it still ran.
func tidy(v volume, file string) error {
	aside := oldName(file)
	if err := retire(v, aside); err != nil {
		return err
	}
	dir := parent(aside)
	f, err := v.open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	prefix := strings.TrimPrefix(aside[len(dir):], `\`) + "-"
	for n := 0; n < maxList; {
		entries, err := f.Readdir(listBatch)
		for _, e := range entries {
			if name := e.Name(); len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
				_ = v.remove(strings.TrimPrefix(dir+`\`+name, `\`))
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n += len(entries)
	}
	return nil
}
