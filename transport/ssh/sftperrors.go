package ssh

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
)

// sftpFail is k.fail for an answer of SFTP, or for the end of its session.
func (k *call) sftpFail(s *sftpClient, err error) error {
	if s.over(err) {
		err = k.c.explain(k.ctx, &transport.Error{Kind: transport.ErrProtocol, Err: err, Hint: "the SFTP session ended"})
	}
	return k.fail(err)
}

// answered reports whether err comes from an answer of the server's.
func answered(err error) bool {
	var status *sftp.StatusError
	var te *transport.Error
	return errors.As(err, &status) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.As(err, &te)
}

// sftpErrCode is the status in an error of package sftp.
func sftpErrCode(err error) transport.Code {
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return sftpCode(status.Code)
	}
	return transport.Code{}
}

// noSpace says why something could not be written of which so many bytes were
// still to come.
func (s *sftpClient) noSpace(name string, left int64, err error) error {
	vfs := s.fileSystem(name, err)
	if vfs == nil {
		return err
	}
	e := &transport.Error{Kind: transport.ErrNoSpace, Code: sftpErrCode(err), Err: err}
	switch {
	case vfs.Flag&statReadOnly != 0:
		return s.readOnly(name, err)
	case vfs.Frsize*vfs.Bavail < uint64(max(left, 1)):
	case vfs.Files > 0 && vfs.Favail == 0:
		e.Hint = "the file system takes no more files"
	case s.quota(name, min(max(left, 1), int64(s.packet))):
		e.Hint = "the file system has room: a quota or another limit of this user leaves none"
	default:
		return err
	}
	return e
}

// readOnly says why something could not be changed.
func (s *sftpClient) readOnly(name string, err error) error {
	if vfs := s.fileSystem(name, err); vfs != nil && vfs.Flag&statReadOnly != 0 {
		return &transport.Error{Kind: fs.ErrPermission, Code: sftpErrCode(err), Err: err, Hint: "the file system is read-only"}
	}
	return err
}

// statReadOnly is a flag of statvfs@openssh.com (OpenSSH PROTOCOL, section 4.4).
const statReadOnly = 1

// fileSystem asks for the state of the file system of name after a failure that the
// server has no status for but "failure": version 3 of SFTP has none for a file
// system that is full or read-only. Otherwise it returns nil.
func (s *sftpClient) fileSystem(name string, err error) *sftp.StatVFS {
	var status *sftp.StatusError
	if !errors.As(err, &status) || status.Code != 4 {
		return nil
	}
	vfs, verr := s.StatVFS(path.Dir(name))
	if verr != nil {
		return nil
	}
	return vfs
}

// quota reports whether so many bytes cannot be written beside name, either.
func (s *sftpClient) quota(name string, bytes int64) bool {
	var status *sftp.StatusError
	f, err := s.OpenFile(name+".x", os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return errors.As(err, &status) && status.Code == 4
	}
	_, err = f.Write(make([]byte, bytes))
	_ = f.Close()
	_ = s.Client.Remove(name + ".x")
	return err != nil
}
