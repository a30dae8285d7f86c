package redfishtest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/roundsman-go/roundsman/transport"
)

// The form of a raw image:
//
//	magic, JSON of meta, blanks up to 1024 bytes
//	the body, blocks of 4 KiB that begin with their number
//	SHA-256 of all that, 32 bytes
//	Ed25519 signature of the digest, 64 bytes
const (
	imageMagic  = "redfishtest image 1\n"
	imageHeader = 1024
	imageBlock  = 4096
	imageTail   = sha256.Size + ed25519.SignatureSize
)

// meta is what an image says of itself.
type meta struct {
	DeviceClass string   `json:"deviceClass,omitempty"`
	Targets     []string `json:"targets"`
	Version     string   `json:"version"`
	Minimum     string   `json:"minimum,omitempty"`
	Size        int64    `json:"size"` // of the whole file
}

// ImageSpec describes an image of firmware.
type ImageSpec struct {
	Name        string // of the file; "" means "image.bin"
	DeviceClass string // "" fits any
	Targets     []string
	Version     string
	// Minimum is the version that must be there already; see
	// MinimumFirmwareVersionRequirementNotMet.
	Minimum string
	// Size in bytes; what is less than the least possible one is made that.
	Size int64
	// Forged images are signed with a key that is not the vendor's.
	Forged bool
}

// vendor is the key with which images are signed, forger is not.
func vendor() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("redfishtest: the vendor's key   "))
}
func forger() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("redfishtest: another one's key  "))
}

// Image makes a valid raw image (.bin), as iLO's SimpleUpdate wants it. It is made
// as it is read: only its digests are computed at once, which takes a moment where
// Size is large. Readers can be used at the same time.
func Image(spec ImageSpec) transport.File {
	if spec.Name == "" {
		spec.Name = "image.bin"
	}
	spec.Size = max(spec.Size, imageHeader+imageTail)
	head := []byte(imageMagic)
	b, err := json.Marshal(meta{spec.DeviceClass, spec.Targets, spec.Version, spec.Minimum, spec.Size})
	if err != nil || len(head)+len(b) > imageHeader {
		panic(fmt.Sprintf("redfishtest: an image's description is longer than %d bytes", imageHeader-len(head)))
	}
	head = append(head, b...)
	for len(head) < imageHeader {
		head = append(head, ' ')
	}
	p := newPattern(head, spec.Size-imageTail, spec.Version)
	h := sha256.New()
	_, _ = io.Copy(h, io.NewSectionReader(p, 0, p.size))
	digest := h.Sum(nil)
	key := vendor()
	if spec.Forged {
		key = forger()
	}
	p.tail = append(digest, ed25519.Sign(key, digest)...)
	_, _ = h.Write(p.tail)
	f := transport.File{Name: spec.Name, Size: spec.Size, Open: p.open}
	h.Sum(f.SHA256[:0])
	return f
}

// pattern is the content of an image.
type pattern struct {
	head, tail []byte
	size       int64            // without tail
	block      [imageBlock]byte // what every block is but for its number
}

// newPattern makes the content of a file of size bytes before its tail.
func newPattern(head []byte, size int64, seed string) *pattern {
	p := &pattern{head: head, size: size}
	sum := sha256.Sum256([]byte(seed))
	for i := range imageBlock / sha256.Size {
		copy(p.block[i*sha256.Size:], sum[:])
	}
	return p
}

func (p *pattern) open(context.Context) (io.ReadSeekCloser, error) {
	return nopCloser{io.NewSectionReader(p, 0, p.size+int64(len(p.tail)))}, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// ReadAt implements io.ReaderAt.
func (p *pattern) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		switch {
		case off < int64(len(p.head)):
			k := copy(b[n:], p.head[off:])
			n, off = n+k, off+int64(k)
		case off >= p.size:
			tail := off - p.size
			if tail >= int64(len(p.tail)) {
				return n, io.EOF
			}
			k := copy(b[n:], p.tail[tail:])
			n, off = n+k, off+int64(k)
		default:
			at := int(off % imageBlock)
			k := copy(b[n:], p.block[at:min(imageBlock, at+int(min(p.size-off, imageBlock)))])
			if at < 8 {
				var number [8]byte
				binary.BigEndian.PutUint64(number[:], uint64(off/imageBlock))
				copy(b[n:n+k], number[at:])
			}
			n, off = n+k, off+int64(k)
		}
	}
	return n, nil
}

// Corrupt returns a copy of a file in which the byte at off is another one. Its
// digest is that of the copy.
func Corrupt(f transport.File, off int64) (transport.File, error) {
	return reread(transport.File{Name: f.Name, Size: f.Size, Open: func(ctx context.Context) (io.ReadSeekCloser, error) {
		r, err := f.Open(ctx)
		if err != nil {
			return nil, err
		}
		return &corruptReader{r: r, off: off}, nil
	}})
}

// Truncate returns the first n bytes of a file.
func Truncate(f transport.File, n int64) (transport.File, error) {
	if n > f.Size {
		return transport.File{}, fmt.Errorf("redfishtest: %s has %d bytes, not %d", f.Name, f.Size, n)
	}
	return part(f, f.Name, 0, n)
}

// part returns bytes of a file as another file.
func part(f transport.File, name string, off, n int64) (transport.File, error) {
	return reread(transport.File{Name: name, Size: n, Open: func(ctx context.Context) (io.ReadSeekCloser, error) {
		r, err := f.Open(ctx)
		if err != nil {
			return nil, err
		}
		return &partReader{r: r, base: off, size: n}, nil
	}})
}

// reread computes the digest of a file.
func reread(f transport.File) (transport.File, error) {
	r, err := f.Open(context.Background())
	if err != nil {
		return transport.File{}, err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return transport.File{}, fmt.Errorf("redfishtest: reading %s: %w", f.Name, err)
	}
	h.Sum(f.SHA256[:0])
	return f, nil
}

type corruptReader struct {
	r   io.ReadSeekCloser
	pos int64
	off int64
}

func (c *corruptReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.off >= c.pos && c.off < c.pos+int64(n) {
		p[c.off-c.pos] ^= 0x55
	}
	c.pos += int64(n)
	return n, err
}

func (c *corruptReader) Seek(off int64, whence int) (n int64, err error) {
	c.pos, err = c.r.Seek(off, whence)
	return c.pos, err
}

func (c *corruptReader) Close() error { return c.r.Close() }

type partReader struct {
	r          io.ReadSeekCloser
	base, size int64
	pos        int64
	sought     bool
}

func (s *partReader) Read(p []byte) (int, error) {
	if !s.sought {
		if _, err := s.r.Seek(s.base+s.pos, io.SeekStart); err != nil {
			return 0, err
		}
		s.sought = true
	}
	if s.pos >= s.size {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.size-s.pos)])
	s.pos += int64(n)
	return n, err
}

func (s *partReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.pos
	case io.SeekEnd:
		off += s.size
	}
	if off < 0 {
		return 0, errors.New("redfishtest: seek before the beginning")
	}
	s.pos, s.sought = off, false
	return off, nil
}

func (s *partReader) Close() error { return s.r.Close() }
