package smb

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"sync"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/transport"
)

// openings looks at requests to open files (CREATE, MS-SMB2, section 2.2.13), and to
// remove or rename what is open (SET_INFO, section 2.2.39), and at how they are refused,
// for the codes that the library loses: it makes the same error of two that say that a
// file is missing, and of two that say that something may not be done. Where the session
// is encrypted they cannot be seen. Nothing is concluded from a code that does not fit the
// library's own error, which has checked the signature.
type openings struct {
	mu    sync.Mutex
	asked map[uint64]asking // by MessageId
	open  map[fileID]string // names in UTF-16 of what is open
	said  map[string]uint32 // what was last answered, where the library loses that, by name
}

// asking is a request about a file.
type asking struct {
	command uint16
	name    string // in UTF-16
}

// fileID is an SMB2_FILEID (MS-SMB2, section 2.2.14.1).
type fileID [16]byte

// maxOpenings bounds the maps: a client has 128 requests under way at the most, and looks
// for the code when it has been refused.
const maxOpenings = 1024

// The commands that are looked at.
const (
	commandCreate  = 5
	commandClose   = 6
	commandSetInfo = 17
)

// maxOpening bounds what is read into memory of a reply to CREATE: it has 88 bytes and
// contexts, of which the library asks for none.
const maxOpening = 4096

// Classes of information of files (MS-FSCC, section 2.4).
const (
	fileRenameInformation      = 10
	fileDispositionInformation = 13
)

// asks notes a request.
func (o *openings) asks(f frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	body := f[headerSize:]
	var name string
	switch f.command() {
	case commandCreate:
		if len(body) < 56 {
			return
		}
		at, size := int(binary.LittleEndian.Uint16(body[44:])), int(binary.LittleEndian.Uint16(body[46:]))
		if at+size > len(f) {
			return
		}
		name = string(f[at : at+size])
	case commandSetInfo:
		if len(body) < 32 || body[2] != 1 || body[3] != fileRenameInformation && body[3] != fileDispositionInformation {
			return
		}
		var ok bool
		if name, ok = o.open[fileID(body[16:32])]; !ok {
			return
		}
	case commandClose:
		if len(body) >= 24 {
			delete(o.open, fileID(body[8:24]))
		}
		return
	}
	o.asked = bounded(o.asked)
	o.asked[f.message()] = asking{f.command(), name}
}

// answered notes a reply, of which the header is there, and of one that says that
// something is open 24 bytes more at the least.
func (o *openings) answered(f frame) {
	if f.isInterim() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	r, ok := o.asked[f.message()]
	delete(o.asked, f.message())
	switch status := f.status(); {
	case !ok || r.command != f.command():
	case status == 0 && r.command == commandCreate:
		if body := f[headerSize:]; len(body) >= 80 {
			o.open = bounded(o.open)
			o.open[fileID(body[64:80])] = r.name
		}
	case lostClass(status) == nil:
	// Of what cannot be removed the library tries to change the attributes next.
	case status == statusAccessDenied && o.said[r.name] == statusCannotDelete:
	default:
		o.said = bounded(o.said)
		o.said[r.name] = status
	}
}

// bounded is a map that has room.
func bounded[K comparable, V any](m map[K]V) map[K]V {
	if m == nil || len(m) >= maxOpenings {
		return map[K]V{}
	}
	return m
}

// lostClass is the error that the library makes of a code that it loses, or nil.
func lostClass(status uint32) error {
	switch status {
	case statusNameNotFound, statusPathNotFound:
		return fs.ErrNotExist
	case statusAccessDenied, statusCannotDelete:
		return fs.ErrPermission
	case statusCollision:
		return fs.ErrExist
	}
	return nil
}

// explain adds the code to what the library makes of the refusal to open, remove or rename
// a file.
func (o *openings) explain(name string, err error) error {
	var key []byte
	for _, u := range utf16.Encode([]rune(name)) {
		key = binary.LittleEndian.AppendUint16(key, u)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	status, ok := o.said[string(key)]
	delete(o.said, string(key))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist): // of nothing else, whatever was asked
		return &refusal{err, statusCollision}
	case !ok || lostClass(status) == nil || !errors.Is(err, lostClass(status)):
		return err
	}
	return &refusal{err, status}
}

// refusal is an error of the library, and the code that it has lost.
type refusal struct {
	error
	status uint32
}

func (r *refusal) Unwrap() error { return r.error }

// ErrorCode is for transport.CodeOf.
func (r *refusal) ErrorCode() transport.Code { return ntCode(r.status) }

// missing notes which of two codes has said that a file is missing, where that could not be
// seen: the two tell whether the directory is there.
func (k *call) missing(e *transport.Error) {
	name, err := nameOf(k.path)
	if err != nil || k.c.volume == nil || e.Kind != fs.ErrNotExist || !transport.CodeOf(e).IsZero() {
		return
	}
	dir := parent(name)
	if dir != "" {
		_, err = lib(k, func() (os.FileInfo, error) { return k.c.volume.stat(dir) }, nil)
	}
	switch {
	case err == nil:
		e.Code = ntCode(statusNameNotFound)
	case errors.Is(err, fs.ErrNotExist):
		e.Code = ntCode(statusPathNotFound)
	}
}
