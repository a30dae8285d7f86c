package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The record of a job's end must find room also where the job, or somebody else, has
// filled the disk meanwhile. So the room is taken before the program starts: a file
// "result" in the job's directory, on the file system of the record. At the end it
// is overwritten in place, flushed, and renamed to be the record, in whose place it
// comes: a directory entry that is there already.
//
// It is filled with bytes that cannot be compressed, and not by fallocate(2), which
// takes nothing from a thinly provisioned volume and on some file systems is only a
// promise. To overwrite blocks that were written takes no others on ext4, XFS (of
// files that share none) and tmpfs. File systems that copy on write (btrfs, ZFS,
// bcachefs, f2fs when it is nearly full) may want new ones even for that, although
// they keep some back for such moments. There the file is deleted when it does not
// help, which gives its blocks back, and the record is written anew: at once, or
// where blocks come free only with the next transaction a few seconds later. In
// between another program may take them, and then the end waits for room; see
// shim.end.

// resultSpare is how much more than at its start a record may need at the job's end,
// in bytes: maxText as JSON has it, and numbers.
const resultSpare = 16 << 10

func (h home) result(id string) string { return filepath.Join(h.jobDir(id), "result") }

// reserve takes the room for the record of a job's end, if it is not taken yet. The
// job's directory is there.
func (h home) reserve(r record) error {
	data, err := encodeJSON(r)
	if err != nil {
		return err
	}
	size := int64(len(data) + resultSpare)
	if fi, err := os.Lstat(h.result(r.ID)); err == nil && fi.Size() >= size {
		return nil
	}
	if err := takeRoom(h.result(r.ID), size); err != nil {
		_ = os.Remove(h.result(r.ID))
		return fmt.Errorf("no room for the result of the job: %w", err)
	}
	return nil
}

// takeRoom makes a file that takes so many bytes on the disk.
func takeRoom(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, rand.Reader, size); err == nil {
		err = f.Sync() // some file systems find out only now
	}
	return errors.Join(err, f.Close())
}

// writeEnd is writeRecord for a job that is over: it uses the room that was taken.
func (h home) writeEnd(r record) error {
	err := h.useReserve(r)
	if err == nil {
		return nil
	}
	if isNoSpace(err) {
		_ = os.Remove(h.result(r.ID))
	}
	return h.writeRecord(r)
}

// useReserve makes the room that was taken the job's record.
func (h home) useReserve(r record) error {
	data, err := encodeJSON(r)
	if err != nil {
		return err
	}
	f, err := openFile(h.result(r.ID), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() < int64(len(data)) {
		err = &fs.PathError{Op: "write", Path: f.Name(), Err: io.ErrShortWrite}
	}
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := renameFile(f.Name(), h.record(r.ID)); err != nil {
		return err
	}
	return syncDir(h.jobs())
}
