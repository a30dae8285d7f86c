package smb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/transport"
)

// nameOf converts a name of the caller's to that of a file within the share: without
// the slash at its beginning, with backslashes. "" is the share itself. A relative
// name that leads above that is refused, as it would mean another file than the caller has
// in mind; what is above the root of a rooted one is the root, as path.Clean has it.
func nameOf(name string) (string, error) {
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(name, "/") {
			break
		}
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return "", errors.New("it leads out of the share, above which there is nothing")
			}
		default:
			depth++
		}
	}
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		return "", nil
	}
	for part := range strings.SplitSeq(clean, "/") {
		if err := checkName(part); err != nil {
			return "", err
		}
	}
	return strings.ReplaceAll(clean, "/", `\`), nil
}

// checkName refuses what Windows takes for something other than the name of a file
// (MS-FSCC, section 2.1.5, and "Naming Files, Paths, and Namespaces"): a colon begins a
// stream, a trailing dot or blank goes away, and COM1 is a device in every directory.
func checkName(part string) error {
	switch {
	case !utf8.ValidString(part):
		return fmt.Errorf("%q is not valid UTF-8", part)
	case strings.ContainsAny(part, `\:*?"<>|`) || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' }):
		return fmt.Errorf(`%q has a character in it that no name of Windows has: \ : * ? " < > | and control characters`, part)
	case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
		return fmt.Errorf("%q ends in a dot or blank, which Windows drops", part)
	}
	base, _, _ := strings.Cut(part, ".")
	switch base = strings.ToUpper(strings.TrimRight(base, " ")); {
	case base == "CON", base == "PRN", base == "AUX", base == "NUL", base == "CONIN$", base == "CONOUT$",
		len(base) > 3 && (strings.HasPrefix(base, "COM") || strings.HasPrefix(base, "LPT")) && len([]rune(base)) == 4 && strings.Contains("0123456789¹²³", base[3:]):
		return fmt.Errorf("%q is the name of a device on Windows", part)
	}
	return nil
}

// file begins a call that names a file.
func (c *conn) file(ctx context.Context, op, name string) (*call, string, error) {
	native, err := nameOf(name)
	if err != nil {
		return nil, "", &transport.Error{Op: op, Target: c.target, Path: name, Kind: transport.ErrInvalid, Err: err}
	}
	k, err := c.begin(ctx, op, name)
	return k, native, err
}

// info describes a file. Windows has no permission bits: what says how a file may be
// used is its access control list. What is like them is the attribute that it may not be
// written, which this driver shows but does not set: the library could not take it back.
//
// A link to a directory is a link: Windows says that it is both.
func info(root, name string, fi os.FileInfo) transport.FileInfo {
	mode := fi.Mode().Type()
	if isLink(fi) {
		mode = fs.ModeSymlink
	}
	switch {
	case mode.IsDir():
		mode |= 0o700
	case fi.Mode()&0o200 == 0:
		mode |= 0o400
	default:
		mode |= 0o600
	}
	out := transport.FileInfo{Name: name[strings.LastIndexByte(name, '\\')+1:], Native: root, Size: fi.Size(), Mode: mode, ModTime: fi.ModTime()}
	if name != "" {
		out.Native += `\` + name
	}
	if mode.IsDir() {
		out.Size = 0
	}
	return out
}

// isLink reports whether a file is a reparse point (MS-FSCC, section 2.1.2): a symbolic
// link, a junction, or something else that whoever opens it need not find there.
func isLink(fi os.FileInfo) bool { return fi.Mode()&fs.ModeSymlink != 0 }

// parent is the directory in which a file of the share is; "" is the share itself.
func parent(name string) string { return name[:max(0, strings.LastIndexByte(name, '\\'))] }

// Stat implements transport.FileStore.
func (c *conn) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	k, file, err := c.file(ctx, "stat", name)
	if err != nil {
		return transport.FileInfo{}, err
	}
	defer k.end()
	fi, err := k.stat(file)
	return fi, k.fail(err)
}

func (k *call) stat(file string) (transport.FileInfo, error) {
	fi, err := lib(k, func() (os.FileInfo, error) { return k.c.volume.stat(file) }, nil)
	if err != nil {
		return transport.FileInfo{}, err
	}
	root, err := k.shareRoot()
	return info(root, file, fi), err
}

// Space implements transport.Spacer: what quotas leave of the room for this account.
func (c *conn) Space(ctx context.Context, dir string) (int64, error) {
	k, file, err := c.file(ctx, "space", dir)
	if err != nil {
		return 0, err
	}
	defer k.end()
	free, err := lib(k, func() (int64, error) { return c.volume.free(file) }, nil)
	return free, k.fail(err)
}

// Bounds of what a server may list.
const (
	listBatch = 1000
	maxList   = 1 << 20
)

// List implements transport.FileStore.
func (c *conn) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	k, file, err := c.file(ctx, "list", dir)
	if err != nil {
		return nil, err
	}
	defer k.end()
	out, err := work(k, func() ([]transport.FileInfo, error) { return k.list(file) })
	return out, err
}

func (k *call) list(dir string) ([]transport.FileInfo, error) {
	root, err := k.shareRoot()
	if err != nil {
		return nil, err
	}
	f, err := k.open(dir)
	if err != nil {
		return nil, err
	}
	defer k.close(f)
	own, err := lib(k, f.Stat, nil)
	if err != nil {
		return nil, err
	}
	if !own.IsDir() {
		return nil, &transport.Error{Kind: transport.ErrRejected, Err: errors.New("this is no directory")}
	}
	var out []transport.FileInfo
	for {
		entries, err := lib(k, func() ([]os.FileInfo, error) { return f.Readdir(listBatch) }, nil)
		for _, e := range entries {
			out = append(out, info(root, strings.TrimPrefix(dir+`\`+e.Name(), `\`), e))
		}
		switch {
		case errors.Is(err, io.EOF):
			sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
			return out, nil
		case err != nil:
			return nil, err
		case len(out) > maxList:
			return nil, &transport.Error{Kind: transport.ErrProtocol, Err: fmt.Errorf("more than %d entries", maxList)}
		}
	}
}

// open opens a file or directory for reading.
func (k *call) open(name string) (file, error) {
	return lib(k, func() (file, error) { return k.c.volume.open(name) }, func(f file) { _ = f.Close() })
}

// close closes a file, also when the call has ended.
func (k *call) close(f file) { k.closeAfter(new(sync.WaitGroup), f) }

func (k *call) closeAfter(uses *sync.WaitGroup, f file) {
	done := make(chan struct{})
	k.c.lib.Go(func() {
		defer close(done)
		uses.Wait()
		_, _ = guard(func() (any, error) { return nil, f.Close() })
	})
	select {
	case <-done:
	case <-k.ctx.Done():
	}
}

// Mkdir implements transport.FileStore. Directories get the access rights of the one
// above them; perm means nothing here.
func (c *conn) Mkdir(ctx context.Context, dir string, _ fs.FileMode) error {
	k, file, err := c.file(ctx, "mkdir", dir)
	if err != nil {
		return err
	}
	defer k.end()
	return k.fail(k.mkdir(file))
}

func (k *call) mkdir(dir string) error {
	fi, err := lib(k, func() (os.FileInfo, error) { return k.c.volume.stat(dir) }, nil)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return &transport.Error{Kind: fs.ErrExist, Err: errors.New("there is a file of this name")}
	case !errors.Is(explain(&transport.Error{}, err), fs.ErrNotExist):
		return err
	}
	if above := parent(dir); above != "" {
		if err := k.mkdir(above); err != nil {
			return err
		}
	}
	err = lib0(k, func() error { return k.c.volume.mkdir(dir) })
	if errors.Is(err, fs.ErrExist) { // somebody else made it
		if fi, serr := lib(k, func() (os.FileInfo, error) { return k.c.volume.stat(dir) }, nil); serr == nil && fi.IsDir() {
			return nil
		}
	}
	return err
}

// Remove implements transport.FileStore. A file that is in use is tried again for a
// while: a program that has just ended, and what a virus scanner looks at, can be
// removed a moment later. Of a link it removes that itself.
func (c *conn) Remove(ctx context.Context, name string) error {
	k, file, err := c.file(ctx, "remove", name)
	if err != nil {
		return err
	}
	defer k.end()
	if file == "" {
		return k.invalid("this is the share itself")
	}
	err = k.insist(func() error { return k.c.volume.remove(file) })
	if err == nil || errors.Is(explain(&transport.Error{}, err), fs.ErrNotExist) {
		// What a Put has left of an older one must not come back by the next.
		_ = lib0(k, func() error {
			names, _, err := asides(k.c.volume, file)
			retire(k.c.volume, file, names)
			return err
		})
	}
	return k.fail(err)
}

// busyTime is how long what is in use is tried again.
const busyTime = 10 * time.Second

// insist is the function insist for what returns an error alone.
func (k *call) insist(f func() error) error {
	_, err := insist(k, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// insist runs f as lib does, until it fails for another reason than that a file is in
// use, for busyTime at most.
func insist[T any](k *call, f func() (T, error), drop func(T)) (T, error) {
	end := time.Now().Add(busyTime)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		v, err := lib(k, f, drop)
		if err == nil || !inUse(err) || k.ctx.Err() != nil || time.Now().After(end) {
			return v, refused(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.ctx.Done():
			timer.Stop()
			return v, err
		}
	}
}

// refused says of a refusal that does not tell whether the file is in use that it may be.
func refused(err error) error {
	if te := new(transport.Error); !errors.Is(err, fs.ErrPermission) || errors.As(err, &te) {
		return err
	}
	e := &transport.Error{Kind: fs.ErrPermission, Code: transport.CodeOf(err), Err: err, Hint: "the account may not, or " + hintInUse}
	if status(err) == statusCannotDelete {
		e.Kind, e.Hint = transport.ErrBusy, hintInUse // and the cause is that it may not be removed
	}
	return e
}

// Get implements transport.FileStore.
func (c *conn) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	k, file, err := c.file(ctx, "get", name)
	if err != nil {
		return 0, err
	}
	defer k.end()
	if opts.Offset < 0 || opts.Limit < 0 {
		return 0, k.invalid("Offset and Limit cannot be negative")
	}
	sum := &counter{w: w}
	_, err = work(k, func() (struct{}, error) {
		f, err := k.open(file)
		if err != nil {
			return struct{}{}, err
		}
		fi, err := lib(k, f.Stat, nil)
		if err == nil && fi.IsDir() {
			err = &transport.Error{Kind: transport.ErrRejected, Err: errors.New("this is a directory")}
		}
		if err != nil {
			k.close(f)
			return struct{}{}, err
		}
		to := fi.Size()
		if opts.Limit > 0 {
			to = min(to, opts.Offset+opts.Limit)
		}
		return struct{}{}, k.read(f, opts.Offset, to, func(b []byte) error {
			if _, err := sum.Write(b); err != nil {
				return &streamError{err}
			}
			return nil
		})
	})
	return sum.n.Load(), err
}
