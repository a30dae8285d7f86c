package ssh

import (
	"errors"
	"io/fs"
	"os"

	"github.com/pkg/sftp"
)

// own reports whether this is a plain file of the user who is logged in. Others
// could change their own file later, and a link leads to where they like. SFTP does
// not say who is logged in, but who owns what is created.
func (p *put) own(t *transfer, fi fs.FileInfo) bool {
	if !fi.Mode().IsRegular() {
		return false
	}
	known := &p.k.c.sftpUser
	if known.Load() == nil {
		probe := p.part + ".own"
		_ = t.s.Client.Remove(probe) // of one that was interrupted
		f, err := t.s.OpenFile(probe, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			// Nobody can replace anything here, and whoever is not root changes the
			// mode of no file but their own, which is what comes next.
			return errors.Is(err, fs.ErrPermission)
		}
		created, err := f.Stat()
		_ = f.Close()
		_ = t.s.Client.Remove(probe)
		if err != nil {
			return false
		}
		known.Store(ownerOf(created))
	}
	owner, self := ownerOf(fi), known.Load()
	return owner != nil && self != nil && *owner == *self
}

// ownerOf is the number of a file's owner; nil if package sftp does not say it.
func ownerOf(fi fs.FileInfo) *uint32 {
	if st, ok := fi.Sys().(*sftp.FileStat); ok {
		return &st.UID
	}
	return nil
}
