package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

func fileCases() []Case {
	file := func(name string, f func(ctx context.Context, e *env, conn transport.Conn, dir string) error) Case {
		return Case{Name: "files/" + name, Needs: transport.CapFiles, run: func(ctx context.Context, e *env) error {
			return e.withDir(ctx, func(conn transport.Conn, dir string) error { return f(ctx, e, conn, dir) })
		}}
	}
	return []Case{
		file("sizes", filesSizes),
		file("names", filesNames),
		file("missing", filesMissing),
		file("mode", filesMode),
		file("mkdir", filesMkdir),
		file("list", filesList),
		file("remove", filesRemove),
		file("range", filesRange),
		file("concurrent", filesConcurrent),
		file("overwrite", filesOverwrite),
		file("onto-directory", filesOntoDirectory),
		file("integrity", filesIntegrity),
		file("wrong-size", filesWrongSize),
		file("source-fails", filesSourceFails),
		file("sink-fails", filesSinkFails),
		file("progress", filesProgress),
		file("resume", filesResume),
		file("resume-over-old", filesResumeOverOld),
		file("resume-other", filesResumeOther),
		file("cancel", filesCancel),
	}
}

func filesSizes(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	for _, size := range []int{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 3 << 20} {
		base := fmt.Sprintf("size-%d", size)
		name := path.Join(dir, base)
		content := pattern(size)
		res, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{})
		if err != nil {
			f.addf("put of %d bytes: %w", size, err)
			continue
		}
		if res.Sent != int64(size) || res.Kept != 0 {
			f.addf("put of %d bytes: Sent %d, Kept %d, want all sent and none kept", size, res.Sent, res.Kept)
		}
		f.add(wantInfo("put", res.Info, base, int64(size)))
		fi, err := transport.Stat(ctx, conn, name)
		if err != nil {
			f.addf("stat after put of %d bytes: %w", size, err)
		} else {
			f.add(wantInfo("stat", fi, base, int64(size)))
			if fi.Native != res.Info.Native {
				f.addf("Native is %q in Put and %q in Stat", res.Info.Native, fi.Native)
			}
		}
		f.add(wantContent(ctx, conn, name, content))
	}
	return f.err()
}

func wantInfo(what string, fi transport.FileInfo, base string, size int64) error {
	if fi.Name != base || fi.Size != size || !fi.Mode.IsRegular() || fi.Native == "" {
		return fmt.Errorf("%s: %+v, want a regular file named %q of %d bytes with a native path", what, fi, base, size)
	}
	return nil
}

func filesNames(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	for i, base := range e.Names {
		name := path.Join(dir, base)
		content := fmt.Appendf(nil, "content %d", i)
		if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{}); err != nil {
			f.addf("put under the name %q: %w", base, err)
			continue
		}
		f.add(wantContent(ctx, conn, name, content))
		if fi, err := transport.Stat(ctx, conn, name); err != nil || fi.Name != base {
			f.addf("stat of %q: name %q, error %v", base, fi.Name, err)
		}
	}
	f.add(wantNames(ctx, conn, dir, e.Names))
	for _, base := range e.Names {
		if err := transport.Remove(ctx, conn, path.Join(dir, base)); err != nil {
			f.addf("remove of %q: %w", base, err)
		}
	}
	f.add(wantNames(ctx, conn, dir, nil))
	for _, base := range e.Names {
		sub := path.Join(dir, base)
		if err := transport.Mkdir(ctx, conn, sub, 0o755); err != nil {
			f.addf("mkdir %q: %w", base, err)
			continue
		}
		if _, err := transport.List(ctx, conn, sub); err != nil {
			f.addf("list of directory %q: %w", base, err)
		}
	}
	return f.err()
}

// wantNames checks which names a directory holds: partial files show here.
func wantNames(ctx context.Context, conn transport.Conn, dir string, want []string) error {
	list, err := transport.List(ctx, conn, dir)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	var got []string
	for _, fi := range list {
		got = append(got, fi.Name)
	}
	if !slices.IsSorted(got) {
		return fmt.Errorf("list is not sorted by name: %q", got)
	}
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("the directory holds %q, want %q", got, want)
	}
	return nil
}

func filesMissing(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	name := path.Join(dir, "missing")
	below := path.Join(name, "file")
	small := transport.BytesFile("payload", []byte("x"))
	_, err := transport.List(ctx, conn, name)
	f.add(e.wantErr("list of a missing directory", err, fs.ErrNotExist))
	_, err = transport.Get(ctx, conn, name, io.Discard, transport.GetOptions{})
	f.add(e.wantErr("get of a missing file", err, fs.ErrNotExist))
	f.add(e.wantErr("remove of a missing file", transport.Remove(ctx, conn, name), fs.ErrNotExist))
	_, err = transport.Put(ctx, conn, below, small, transport.PutOptions{})
	f.add(e.wantErr("put into a missing directory", err, fs.ErrNotExist))
	f.add(e.wantMissing(ctx, conn, name))
	f.add(e.wantMissing(ctx, conn, below))
	if err := transport.RemoveAll(ctx, conn, name); err != nil {
		f.addf("RemoveAll of what is missing: %w", err)
	}
	return f.err()
}

func filesMode(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	for _, tt := range []struct{ ask, want fs.FileMode }{{0, 0o600}, {0o700, 0o700}, {0o644, 0o644}, {0o755, 0o755}, {0o400, 0o400}} {
		name := path.Join(dir, fmt.Sprintf("mode-%o", tt.ask))
		res, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", []byte("x")), transport.PutOptions{Mode: tt.ask})
		if err != nil {
			f.addf("put with mode %v: %w", tt.ask, err)
			continue
		}
		fi, err := transport.Stat(ctx, conn, name)
		if err != nil || fi.Mode.Perm() != tt.want || res.Info.Mode.Perm() != tt.want {
			f.addf("put with mode %v: Put says %v, Stat %v (%v), want %v", tt.ask, res.Info.Mode, fi.Mode, err, tt.want)
		}
	}
	// An overwritten file gets the mode of the new one.
	name := path.Join(dir, "mode-755")
	if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", []byte("y")), transport.PutOptions{}); err != nil {
		f.addf("overwriting: %w", err)
	} else if fi, err := transport.Stat(ctx, conn, name); err != nil || fi.Mode.Perm() != 0o600 {
		f.addf("overwriting with mode 0: Stat says %v (%v), want %v", fi.Mode, err, fs.FileMode(0o600))
	}
	sub := path.Join(dir, "sub")
	if err := transport.Mkdir(ctx, conn, sub, 0o700); err != nil {
		f.addf("mkdir: %w", err)
	} else if fi, err := transport.Stat(ctx, conn, sub); err != nil || fi.Mode.Perm() != 0o700 {
		f.addf("mkdir with mode 0700: Stat says %v (%v)", fi.Mode, err)
	}
	return f.err()
}

func filesMkdir(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	deep := path.Join(dir, "a", "b", "c")
	for range 2 { // that it exists is no error
		if err := transport.Mkdir(ctx, conn, deep, 0o755); err != nil {
			f.addf("mkdir: %w", err)
		}
	}
	for _, d := range []string{path.Join(dir, "a"), path.Join(dir, "a", "b"), deep} {
		if fi, err := transport.Stat(ctx, conn, d); err != nil || !fi.IsDir() {
			f.addf("after mkdir %q is no directory: %v, %v", d, fi.Mode, err)
		}
	}
	name := path.Join(dir, "file")
	if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", []byte("x")), transport.PutOptions{}); err != nil {
		return err
	}
	f.add(e.wantErr("mkdir over a file", transport.Mkdir(ctx, conn, name, 0o755)))
	f.add(e.wantErr("mkdir below a file", transport.Mkdir(ctx, conn, path.Join(name, "sub"), 0o755)))
	f.add(wantContent(ctx, conn, name, []byte("x")))
	return f.err()
}

func filesList(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	f := failures{}
	f.add(wantNames(ctx, conn, dir, nil))
	var want []string
	for i := range 150 { // more than one answer of SFTP holds
		base := fmt.Sprintf("d%03d", (i*37)%150)
		want = append(want, base)
		if err := transport.Mkdir(ctx, conn, path.Join(dir, base), 0o755); err != nil {
			return err
		}
	}
	for _, base := range []string{"B", "a", "e"} {
		want = append(want, base)
		if _, err := transport.Put(ctx, conn, path.Join(dir, base), transport.BytesFile("payload", []byte("abc")), transport.PutOptions{}); err != nil {
			return err
		}
	}
	f.add(wantNames(ctx, conn, dir, want))
	list, err := transport.List(ctx, conn, dir)
	f.add(err)
	for _, fi := range list {
		if len(fi.Name) == 4 != fi.IsDir() || (!fi.IsDir() && fi.Size != 3) || fi.Native == "" {
			f.addf("list: bad entry %+v", fi)
		}
	}
	_, err = transport.List(ctx, conn, path.Join(dir, "a"))
	f.add(e.wantErr("list of a file", err))
	return f.err()
}

func filesRemove(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	sub := path.Join(dir, "sub")
	name := path.Join(sub, "file")
	f.add(transport.Mkdir(ctx, conn, sub, 0o755))
	_, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", []byte("x")), transport.PutOptions{})
	f.add(err)
	f.add(e.wantErr("remove of a directory that is not empty", transport.Remove(ctx, conn, sub)))
	f.add(wantContent(ctx, conn, name, []byte("x")))
	for _, n := range []string{name, sub} {
		if err := transport.Remove(ctx, conn, n); err != nil {
			f.addf("remove: %w", err)
		}
		f.add(e.wantMissing(ctx, conn, n))
	}
	return f.err()
}

func filesRange(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var f failures
	content := pattern(100_000)
	name := path.Join(dir, "file")
	if _, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{}); err != nil {
		return err
	}
	size := int64(len(content))
	for _, o := range []transport.GetOptions{
		{}, {Offset: 1}, {Offset: 65_537}, {Offset: size - 1}, {Offset: size}, {Offset: size + 1},
		{Limit: 1}, {Limit: 40_000}, {Limit: size}, {Limit: size + 1}, {Offset: 40_000, Limit: 40_000}, {Offset: size - 1, Limit: 5},
	} {
		from := min(o.Offset, size)
		to := size
		if o.Limit > 0 {
			to = min(from+o.Limit, size)
		}
		var b bufferAt
		n, err := transport.Get(ctx, conn, name, &b, o)
		if err != nil || n != to-from || string(b) != string(content[from:to]) {
			f.addf("get with %+v: returned %d, wrote %d bytes, want [%d:%d], error %v", o, n, len(b), from, to, err)
		}
	}
	for _, o := range []transport.GetOptions{{Offset: -1}, {Limit: -1}} {
		_, err := transport.Get(ctx, conn, name, io.Discard, o)
		f.add(e.wantErr(fmt.Sprintf("get with %+v", o), err, transport.ErrInvalid))
	}
	return f.err()
}

// bufferAt is a writer without ReadFrom, as callers' writers are.
type bufferAt []byte

func (b *bufferAt) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func filesConcurrent(ctx context.Context, e *env, conn transport.Conn, dir string) error {
	var mu sync.Mutex
	var f failures
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := path.Join(dir, fmt.Sprint("file", i))
			content := append(pattern(200_000), byte(i))
			_, err := transport.Put(ctx, conn, name, transport.BytesFile("payload", content), transport.PutOptions{})
			if err == nil {
				err = wantContent(ctx, conn, name, content)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				f.addf("transfer %d of 8 at the same time: %w", i, err)
			}
		})
	}
	err := e.within("transfers at the same time", func() error { wg.Wait(); return nil })
	if errors.Is(err, errHung) {
		return err
	}
	return f.err()
}
