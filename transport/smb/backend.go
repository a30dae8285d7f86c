package smb

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"runtime"

	smb2 "github.com/hirochachacha/go-smb2"
	"github.com/roundsman-go/roundsman/transport"
)

// session is a login on a server: a library's, or the operating system's own. Its
// calls take no context: they end when the connection does, which [call.lib] makes
// bearable. Errors are the backend's own; see [explain].
type session interface {
	// mount connects to a share.
	mount(share string) (volume, error)
	// openPipe opens an instance of a named pipe.
	openPipe(name string) (stream, error)
	// logoff ends the session when nothing else of it is under way.
	logoff() error
	// hangUp ends it at once, and every call.
	hangUp(why error)
}

// volume is a share. Names are relative, with backslashes; "" is the share itself.
type volume interface {
	open(name string) (file, error)
	create(name string) (file, error)      // to read and write; what is there stays
	stat(name string) (os.FileInfo, error) // of a link itself
	mkdir(name string) error
	rename(from, to string) error   // fs.ErrExist if to is there, which stays
	remove(name string) error       // of a link itself
	free(dir string) (int64, error) // bytes that may be written there
	close() error
}

// file is an open file or directory. ReadAt and WriteAt may be called at the same
// time.
type file interface {
	io.ReaderAt
	io.WriterAt
	Stat() (os.FileInfo, error)
	Readdir(n int) ([]os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// stream is an instance of a named pipe. Read and Write may be called at the same
// time.
type stream interface {
	io.ReadWriteCloser
}

// library is a session of go-smb2.
type library struct {
	s    *smb2.Session
	line *line
	host string // as paths name the server
}

func (l *library) path(share string) string { return `\\` + l.host + `\` + share }

func (l *library) mount(share string) (volume, error) {
	s, err := l.s.Mount(l.path(share))
	if err != nil {
		return nil, err
	}
	return &libraryVolume{s, &l.line.openings}, nil
}

func (l *library) logoff() error { return l.s.Logoff() }

func (l *library) hangUp(why error) { l.line.hangUp(why) }

// libraryVolume is a share of go-smb2. Its files are never left to the garbage
// collector, whose goroutine would wait for the server.
type libraryVolume struct {
	s    *smb2.Share
	said *openings
}

func (v *libraryVolume) open(name string) (file, error) {
	f, err := v.s.Open(name)
	return own(f, v.said.explain(name, err))
}

func (v *libraryVolume) create(name string) (file, error) {
	f, err := v.s.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	return own(f, v.said.explain(name, err))
}

func own(f *smb2.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return disown(f), nil
}

// disown takes the file from the garbage collector.
func disown(f *smb2.File) *smb2.File {
	runtime.SetFinalizer(f, nil)
	return f
}

func (v *libraryVolume) stat(name string) (os.FileInfo, error) {
	fi, err := v.s.Lstat(name)
	return fi, v.said.explain(name, err)
}

func (v *libraryVolume) mkdir(name string) error {
	return v.said.explain(name, v.s.Mkdir(name, 0o700))
}

func (v *libraryVolume) rename(from, to string) error {
	return v.said.explain(from, v.s.Rename(from, to))
}

func (v *libraryVolume) remove(name string) error {
	return v.said.explain(name, removeItself(v.s, name))
}

// removeItself removes a file, or a link and not what it leads to. Of what it may not
// remove the library takes away the attribute that it may not be written, and there it
// would follow a link. So it is asked for one only if that cannot be: who may rename a
// link, if to the name that it has, may remove it (both take the right DELETE), unless it
// has the attribute.
func removeItself(s interface {
	Lstat(name string) (os.FileInfo, error)
	Rename(from, to string) error
	Remove(name string) error
}, name string) error {
	if fi, err := s.Lstat(name); err == nil && isLink(fi) {
		if fi.Mode()&0o200 == 0 {
			return &transport.Error{Kind: transport.ErrRejected, Err: errors.New("this is a link that has the read-only attribute"),
				Hint: "take the attribute from the link itself, on the host (attrib -r /l)"}
		}
		if err := s.Rename(name, name); errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return s.Remove(name)
}

func (v *libraryVolume) free(dir string) (int64, error) {
	st, err := v.s.Statfs(dir)
	if err != nil {
		return 0, v.said.explain(dir, err)
	}
	// What the library calls blocks and fragments are sectors and their number in an
	// allocation unit (MS-FSCC, section 2.5.4).
	hi, n := bits.Mul64(st.AvailableBlockCount(), st.BlockSize()*st.FragmentSize())
	if hi != 0 || n > math.MaxInt64 || st.BlockSize() > math.MaxUint32 || st.FragmentSize() > math.MaxUint32 {
		return 0, badFrame("a volume with %d units of %d sectors of %d bytes", st.AvailableBlockCount(), st.FragmentSize(), st.BlockSize())
	}
	return int64(n), nil
}

func (v *libraryVolume) close() error { return v.s.Umount() }

// openPipe opens the pipe in a connection to IPC$ of its own.
func (l *library) openPipe(name string) (stream, error) {
	s, err := l.s.Mount(l.path("IPC$"))
	if err != nil {
		return nil, err
	}
	f, err := s.OpenFile(name, os.O_RDWR, 0o600)
	if err != nil {
		_ = s.Umount()
		return nil, l.line.openings.explain(name, err)
	}
	return &libraryPipe{disown(f), s}, nil
}

type libraryPipe struct {
	f *smb2.File
	s *smb2.Share
}

// Read returns what one read of the pipe brings.
func (p *libraryPipe) Read(b []byte) (int, error) { return p.f.ReadAt(b, 0) }

func (p *libraryPipe) Write(b []byte) (int, error) { return p.f.WriteAt(b, 0) }

// Close must not be called while a read waits: Samba closes nothing before it ends.
func (p *libraryPipe) Close() error { return errors.Join(p.f.Close(), p.s.Umount()) }

// alone is a pipe with a session of its own.
type alone struct {
	stream
	session session
}

// Close ends the session, and so a read that waits, which this library cannot cancel.
func (a *alone) Close() error {
	a.session.hangUp(errClosed)
	return nil
}
