package redfishtest

import (
	"archive/zip"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// content is a file that a service has received.
type content struct {
	name   string
	size   int64
	digest string // SHA-256, in hexadecimal
	form   form
	images []imagePart
	by     []string // who can apply it
	reset  bool     // ResetRequired
	err    error    // what is wrong with it
}

// form is the form of a file, found in what it contains.
type form string

const (
	rawForm   form = "raw"   // an image of Image
	fwpkgForm form = "fwpkg" // a zip with payload.json
	otherForm form = "other" // a Smart Component, or anything else
)

// imagePart is an image of a component.
type imagePart struct {
	meta
	digest string
	direct bool // the management processor can write it
	uefi   bool
}

// checker receives a file as a stream. It keeps a few bytes of a raw image, and
// writes a zip to a temporary file, because its directory is at its end.
type checker struct {
	size  int64
	head  []byte // the first imageHeader bytes
	tail  []byte // the last imageTail bytes, not hashed yet
	hash  hash.Hash
	spool *os.File
}

func newChecker() *checker { return &checker{hash: sha256.New()} }

func (c *checker) Write(p []byte) (int, error) {
	if missing := imageHeader - len(c.head); missing > 0 {
		before := len(c.head)
		c.head = append(c.head, p[:min(missing, len(p))]...)
		if before < 4 && len(c.head) >= 4 && bytes.HasPrefix(c.head, []byte("PK\x03\x04")) {
			f, err := os.CreateTemp("", "redfishtest")
			if err != nil {
				return 0, err
			}
			c.spool = f
			if _, err := f.Write(c.head[:before]); err != nil {
				return 0, err
			}
		}
	}
	if c.spool != nil {
		if _, err := c.spool.Write(p); err != nil {
			return 0, err
		}
	}
	c.size += int64(len(p))
	if all := len(c.tail) + len(p); all <= imageTail {
		c.tail = append(c.tail, p...)
	} else if len(p) >= imageTail {
		_, _ = c.hash.Write(c.tail)
		_, _ = c.hash.Write(p[:len(p)-imageTail])
		c.tail = append(c.tail[:0], p[len(p)-imageTail:]...)
	} else {
		out := all - imageTail
		_, _ = c.hash.Write(c.tail[:out])
		c.tail = append(c.tail[:copy(c.tail, c.tail[out:])], p...)
	}
	return len(p), nil
}

// received is what a checker has received.
type received struct {
	size       int64
	head, tail []byte
	hash       hash.Hash
}

func (c *checker) received() received {
	h, err := c.hash.(hash.Cloner).Clone()
	if err != nil {
		panic(err) // SHA-256 can be cloned
	}
	return received{c.size, slices.Clone(c.head), slices.Clone(c.tail), h}
}

// undo forgets what was received since.
func (c *checker) undo(r received) error {
	c.size, c.head, c.tail, c.hash = r.size, r.head, r.tail, r.hash
	if c.spool == nil {
		return nil
	}
	if r.size < 4 { // it was not known yet to be a zip
		c.discard()
		return nil
	}
	if err := c.spool.Truncate(r.size); err != nil {
		return err
	}
	_, err := c.spool.Seek(r.size, io.SeekStart)
	return err
}

// discard gives the temporary file back.
func (c *checker) discard() {
	if c.spool != nil {
		_ = c.spool.Close()
		_ = os.Remove(c.spool.Name())
		c.spool = nil
	}
}

// finish says what was received, and discards.
func (c *checker) finish(name string) *content {
	defer c.discard()
	inner := c.hash.Sum(nil)
	_, _ = c.hash.Write(c.tail)
	out := &content{name: name, size: c.size, digest: hex.EncodeToString(c.hash.Sum(nil)), form: otherForm, by: []string{"RuntimeAgent"}}
	switch {
	case bytes.HasPrefix(c.head, []byte(imageMagic)):
		out.form, out.by = rawForm, nil
		m, err := c.image(inner)
		out.err = err
		out.images = []imagePart{{meta: m, digest: out.digest, direct: true, uefi: true}}
	case c.spool != nil:
		out.readPackage(c.spool, c.size)
	}
	return out
}

// image reads the header of an image and checks its end.
func (c *checker) image(digest []byte) (meta, error) {
	var m meta
	if len(c.head) < imageHeader || json.Unmarshal(c.head[len(imageMagic):], &m) != nil || m.Size != c.size {
		return m, bad("UpdateInvalidFile")
	}
	if !bytes.Equal(digest, c.tail[:sha256.Size]) {
		return m, bad("UpdateInvalidFile")
	}
	if !ed25519.Verify(vendor().Public().(ed25519.PublicKey), digest, c.tail[sha256.Size:]) {
		return m, bad("UpdateSignatureValidationFailed")
	}
	return m, nil
}

// payloadJSON is what payload.json of a .fwpkg tells. Files of HPE's spell some of
// the names in two ways, as DirectFlashOk and DirectFlashOK, which encoding/json
// takes for the same.
type payloadJSON struct {
	DeviceClass   string
	PackageFormat string
	UpdatableBy   []string
	Devices       struct {
		Device []payloadDevice
	}
	Package object `json:",omitempty"`
}

type payloadDevice struct {
	DeviceName           string
	Target               string
	Version              string
	MinimumActiveVersion string `json:",omitempty"`
	FirmwareImages       []payloadImage
}

type payloadImage struct {
	FileName             string
	DirectFlashOk        bool
	UefiFlashable        bool `json:"UefiFlashable"`
	ResetRequired        bool
	PLDMImage            bool
	Order                int
	InstallDurationSec   int
	DelayAfterInstallSec int
	Type                 string
}

var errNoPackage = errors.New("no payload.json")

// readPackage reads a zip. One without payload.json is not a .fwpkg but something
// else.
func (c *content) readPackage(f *os.File, size int64) {
	err := func() error {
		z, err := zip.NewReader(f, size)
		if err != nil {
			return err
		}
		files := make(map[string]*zip.File)
		for _, zf := range z.File {
			files[path.Base(zf.Name)] = zf
		}
		pj := files["payload.json"]
		if pj == nil {
			return errNoPackage
		}
		c.form = fwpkgForm
		r, err := pj.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		var p payloadJSON
		if err := json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&p); err != nil {
			return err
		}
		c.by = p.UpdatableBy
		done := make(map[string]bool)
		left := int64(packageSize)
		for _, d := range p.Devices.Device {
			for _, i := range d.FirmwareImages {
				c.reset = c.reset || i.ResetRequired
				if done[i.FileName] {
					continue
				}
				done[i.FileName] = true
				zf := files[i.FileName]
				if zf == nil {
					return fmt.Errorf("no file %q", i.FileName)
				}
				part, err := readImage(zf, &left)
				if err != nil {
					return err
				}
				part.direct, part.uefi = i.DirectFlashOk, i.UefiFlashable
				c.images = append(c.images, part)
			}
		}
		return nil
	}()
	var m *message
	switch {
	case errors.Is(err, errNoPackage):
	case errors.As(err, &m):
		c.err = m
	case err != nil:
		c.err = bad("UpdateInvalidFile")
	}
}

// packageSize bounds what the images of a package are unpacked to, in bytes.
const packageSize = 4 << 30

// readImage checks an image inside a package, of at most *left bytes, and counts
// them.
func readImage(zf *zip.File, left *int64) (imagePart, error) {
	r, err := zf.Open()
	if err != nil {
		return imagePart{}, err
	}
	defer r.Close()
	c := newChecker()
	defer c.discard()
	n, err := io.Copy(c, io.LimitReader(r, *left+1))
	if err != nil {
		return imagePart{}, err
	}
	if *left -= n; *left < 0 {
		return imagePart{}, bad("UpdateInvalidFile")
	}
	if c.spool != nil || !bytes.HasPrefix(c.head, []byte(imageMagic)) {
		return imagePart{}, bad("UpdateInvalidFile")
	}
	out := c.finish(zf.Name)
	return out.images[0], out.err
}

// component reports whether a file needs a signature of its own. Raw images and
// packages contain theirs.
func (c *content) component() bool { return c.form == otherForm }

// isTarget reports whether a URI or ID of an inventory entry is in the list. An
// empty list has all.
func isTarget(targets []string, id string) bool {
	if len(targets) == 0 {
		return true
	}
	for _, t := range targets {
		t = strings.TrimRight(t, "/")
		if strings.EqualFold(t[strings.LastIndexByte(t, '/')+1:], id) {
			return true
		}
	}
	return false
}
