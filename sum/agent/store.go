package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// codeNoSpace and codeJobRunning are fault codes of the agent's own.
const (
	codeNoSpace    = "NoSpace"
	codeNoRecords  = "NoRecords"
	codeJobRunning = "JobRunning"
)

// spaceReserve is what an upload leaves free: a full disk breaks more than the
// installation.
const spaceReserve = 16 << 20 // bytes

// store keeps staged files in a directory, by their digest: unfinished ones as
// <sha256>.part, finished and verified ones as <sha256>, read-only.
type store struct {
	dir string
	// free is freeSpace, or what a test puts there.
	free func(dir string) (int64, error)

	mu   sync.Mutex
	busy map[string]bool
}

var _ channel.Blobs = (*store)(nil)

func newStore(dir string) *store {
	return &store{dir: dir, free: freeSpace, busy: make(map[string]bool)}
}

func (s *store) file(digest string) string { return filepath.Join(s.dir, digest) }
func (s *store) part(digest string) string { return filepath.Join(s.dir, digest+".part") }

// has reports whether a file of this digest and size is complete.
func (s *store) has(digest string, size int64) (bool, error) {
	fi, err := os.Lstat(s.file(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return fi.Mode().IsRegular() && fi.Size() == size, nil
}

// Offset implements channel.Blobs.
func (s *store) Offset(ctx context.Context, digest string, size int64) (int64, error) {
	if ok, err := s.has(digest, size); ok || err != nil {
		return size, err
	}
	fi, err := os.Lstat(s.part(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	case fi.Size() < size:
		return fi.Size(), nil
	}
	// All there, but the line broke before it was verified.
	return s.verify(ctx, digest, size)
}

// verify finishes an unfinished file that has all its bytes.
func (s *store) verify(ctx context.Context, digest string, size int64) (int64, error) {
	if !s.enter(digest) {
		return 0, errUploading(digest)
	}
	defer s.leave(digest)
	f, err := openFile(s.part(digest), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := s.finish(ctx, f, digest, size)
	if errors.Is(err, channel.ErrDigest) {
		return 0, nil // it begins anew
	}
	return n, err
}

func (s *store) enter(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[digest] {
		return false
	}
	s.busy[digest] = true
	return true
}

func (s *store) leave(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, digest)
}

func errUploading(digest string) error {
	return &channel.Fault{Code: channel.CodeBusy, Retryable: true, Message: "file " + digest + " is being uploaded on another connection"}
}

// Append implements channel.Blobs.
func (s *store) Append(ctx context.Context, digest string, size, offset int64, r io.Reader) (int64, error) {
	if !s.enter(digest) {
		return 0, errUploading(digest)
	}
	defer s.leave(digest)
	if ok, err := s.has(digest, size); err != nil {
		return 0, err
	} else if ok {
		if offset != size {
			return size, channel.ErrOffset
		}
		return size, nil
	}
	f, err := openFile(s.part(digest), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, s.explain(err)
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if have != offset || offset > size {
		return have, channel.ErrOffset
	}
	if free, err := s.free(s.dir); err != nil {
		return have, err
	} else if need := size - have; need > 0 && free-spaceReserve < need {
		return have, &channel.Fault{Code: codeNoSpace, Message: fmt.Sprintf(
			"%s has %d bytes free, and %d are needed and %d kept in reserve", s.dir, free, need, spaceReserve)}
	}
	n, err := io.Copy(f, io.LimitReader(&ctxReader{ctx, r}, size-have))
	have += n
	if err != nil {
		return have, s.explain(err)
	}
	if have < size {
		return have, nil
	}
	return s.finish(ctx, f, digest, size)
}

// finish verifies a file that has all its bytes and gives it its name.
func (s *store) finish(ctx context.Context, f *os.File, digest string, size int64) (int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return size, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, &ctxReader{ctx, f}); err != nil {
		return size, err
	}
	if hex.EncodeToString(h.Sum(nil)) != digest {
		return 0, errors.Join(channel.ErrDigest, os.Remove(f.Name()))
	}
	if err := f.Chmod(0o400); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, s.explain(err)
	}
	if err := renameFile(f.Name(), s.file(digest)); err != nil {
		return 0, err
	}
	return size, syncDir(s.dir)
}

// explain marks an error that says that the disk is full.
func (s *store) explain(err error) error {
	if isNoSpace(err) {
		return &channel.Fault{Code: codeNoSpace, Message: err.Error()}
	}
	return err
}

// ctxReader ends a copy when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// place puts a stored file into a job's directory and verifies it there once
// more. A file that is to be executed is a copy, because a link would share its
// permissions; others are links where the file system allows that.
func (s *store) place(f JobFile, dir string) error {
	target := filepath.Join(dir, filepath.FromSlash(f.Name))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	h := sha256.New()
	if f.Executable || os.Link(s.file(f.SHA256), target) != nil {
		mode := fs.FileMode(0o400)
		if f.Executable {
			mode = 0o700
		}
		if err := copyFile(target, s.file(f.SHA256), mode, h); err != nil {
			return err
		}
	} else if err := hashFile(target, h); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		// Without the bad file, the next Stage brings a good one.
		return errors.Join(fmt.Errorf("file %s: %w", f.Name, channel.ErrDigest), os.Remove(s.file(f.SHA256)))
	}
	return nil
}

func copyFile(target, source string, mode fs.FileMode, also io.Writer) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.TeeReader(in, also))
	if err == nil {
		err = out.Chmod(mode)
	}
	return errors.Join(err, out.Close())
}

func hashFile(name string, h io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}
