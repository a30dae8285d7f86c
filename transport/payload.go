package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A Payload is what one update needs: the image or package, and signatures,
// sections or directory trees that belong to it.
type Payload struct {
	Name    string
	Version string
	Files   []File
}

// A File is a stream with a known length and digest that can be opened many
// times, also at the same time. It is never held in memory as a whole.
type File struct {
	Name   string // slash-separated and relative; unique in its Payload
	Size   int64  // bytes
	SHA256 [sha256.Size]byte
	Open   func(ctx context.Context) (io.ReadSeekCloser, error)
}

// Digest returns the SHA-256 as lower-case hexadecimal.
func (f File) Digest() string { return hex.EncodeToString(f.SHA256[:]) }

// Check says what is wrong with the description of the file, if anything: a name
// that is absolute or climbs out of its directory, a negative size, no Open.
func (f File) Check() error {
	switch {
	case f.Name == "" || strings.HasPrefix(f.Name, "/") || strings.ContainsAny(f.Name, "\\\x00") ||
		path.Clean(f.Name) != f.Name || f.Name == "." || f.Name == ".." || strings.HasPrefix(f.Name, "../"):
		return &Error{Op: "payload", Path: f.Name, Kind: ErrInvalid, Hint: "want a clean relative path with forward slashes"}
	case f.Size < 0:
		return &Error{Op: "payload", Path: f.Name, Kind: ErrInvalid, Err: fmt.Errorf("negative size %d", f.Size)}
	case f.Open == nil:
		return &Error{Op: "payload", Path: f.Name, Kind: ErrInvalid, Err: fmt.Errorf("no Open function")}
	}
	return nil
}

// Size is the sum of the sizes of the files, in bytes.
func (p Payload) Size() int64 {
	var n int64
	for _, f := range p.Files {
		n += f.Size
	}
	return n
}

// BytesFile describes content that is in memory already.
func BytesFile(name string, content []byte) File {
	return File{
		Name: name, Size: int64(len(content)), SHA256: sha256.Sum256(content),
		Open: func(context.Context) (io.ReadSeekCloser, error) {
			return nopSeekCloser{bytes.NewReader(content)}, nil
		},
	}
}

type nopSeekCloser struct{ io.ReadSeeker }

func (nopSeekCloser) Close() error { return nil }

// DiskFile describes a file on the manager's disk under the given payload name.
// It reads the file once, for its digest. Whoever changes the file afterwards is
// found out when the target checks the digest.
func DiskFile(ctx context.Context, name, filename string) (File, error) {
	f, err := os.Open(filename)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, &ctxReader{ctx, f})
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", filename, err)
	}
	out := File{Name: name, Size: n, Open: func(context.Context) (io.ReadSeekCloser, error) { return os.Open(filename) }}
	h.Sum(out.SHA256[:0])
	return out, nil
}

// DiskTree describes the regular files below a directory of the manager's disk,
// sorted by name; see DiskFile. Symbolic links to files inside the directory are
// read as what they point to, links that lead out of it are refused, as is
// anything that is neither file nor directory.
func DiskTree(ctx context.Context, dir string) ([]File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var files []File
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := root.Stat(name) // not where a link leads outside
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return &Error{Op: "payload", Path: name, Kind: ErrInvalid, Err: fmt.Errorf("%v", fi.Mode()),
				Hint: "a directory tree holds files and links to files"}
		}
		f, err := DiskFile(ctx, name, filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		files = append(files, f)
		return f.Check()
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", dir, err)
	}
	return files, nil
}

// ctxReader ends a long local read when its context ends.
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

// State is what a driver needs to go on after the line or the manager died: it
// is written to the journal before every request that cannot be taken back, with
// Sent set, and again after its answer. It holds no secrets.
type State struct {
	Driver  string          `json:"driver"`
	Version int             `json:"version"` // of the form of Data; a driver refuses versions it does not know
	Phase   string          `json:"phase"`
	Sent    bool            `json:"sent"` // the request of this phase may have reached the target
	Data    json.RawMessage `json:"data,omitempty"`
}
