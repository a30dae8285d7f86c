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

// openings looks at requests to open files (CREATE, MS-SMB2, section 2.2.13) and at how
// they are refused, for the codes that the library loses: it makes the same error of two
// that say that a file is missing, and of two that say that something may not be done.
// Where the session is encrypted they cannot be seen. Nothing is concluded from a code
// that does not fit the library's own error, which has checked the signature.
type openings struct {
	mu    sync.Mutex
	asked map[uint64]string // names in UTF-16, by MessageId
	said  map[string]uint32 // what was last answered, where the library loses that
}

// maxOpenings bounds both maps: a client has 128 requests under way at the most, and looks
// for the code when it has been refused.
const maxOpenings = 1024

// commandCreate is the command CREATE.
const commandCreate = 5

// asks notes a request.
func (o *openings) asks(f frame) {
	body := f[headerSize:]
	if len(body) < 56 {
		return
	}
	at, size := int(binary.LittleEndian.Uint16(body[44:])), int(binary.LittleEndian.Uint16(body[46:]))
	if at+size > len(f) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked == nil || len(o.asked) >= maxOpenings {
		o.asked = map[uint64]string{}
	}
	o.asked[f.message()] = string(f[at : at+size])
}

// answered notes a reply, of which the header is there.
func (o *openings) answered(f frame) {
	if f.isInterim() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	name, ok := o.asked[f.message()]
	delete(o.asked, f.message())
	if !ok || lostClass(f.status()) == nil {
		return
	}
	if o.said == nil || len(o.said) >= maxOpenings {
		o.said = map[string]uint32{}
	}
	o.said[name] = f.status()
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

// explain adds the code to what the library makes of the refusal to open a file.
func (o *openings) explain(name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrExist) { // of nothing else, whatever was asked
		return &refusal{err, statusCollision}
	}
	var key []byte
	for _, u := range utf16.Encode([]rune(name)) {
		key = binary.LittleEndian.AppendUint16(key, u)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	status, ok := o.said[string(key)]
	delete(o.said, string(key))
	if class := lostClass(status); !ok || !errors.Is(err, class) {
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
