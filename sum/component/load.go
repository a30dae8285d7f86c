package component

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// ManifestName is the name of the description in a component's directory.
const ManifestName = "component.json"

// maxManifest bounds component.json, in bytes.
const maxManifest = 1 << 20

// Load reads a component: a .deb, an .rpm, a .fwpkg, a component.json, or a directory
// with one. The signatures (.compsig) that stand beside the files of one for devices are
// loaded with it. It reads every file of the payload once for its digest and holds none
// in memory. Errors are [*Error]s, except for that of a context that ended.
func Load(ctx context.Context, path string) (*Component, error) {
	c, err := load(ctx, path)
	if err == nil {
		// Whoever finds it in a journal or a plan may work in another directory.
		if c.Source, err = filepath.Abs(path); err != nil {
			return nil, &Error{File: path, Err: err}
		}
		return c, nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return nil, cerr
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Err: err}
		if errors.Is(err, fs.ErrNotExist) {
			e.Hint = "give a .deb, an .rpm, a .fwpkg, a " + ManifestName + " or a directory with one"
		}
	}
	if e.File == "" {
		e.File = path
	}
	return nil, e
}

func load(ctx context.Context, path string) (*Component, error) {
	path, err := filepath.Abs(path) // later opens must not depend on the working directory
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		path = filepath.Join(path, ManifestName)
		if fi, err = os.Stat(path); err != nil {
			return nil, err
		}
	}
	if !fi.Mode().IsRegular() {
		return nil, &Error{File: path, Kind: ErrInvalid, Err: errors.New("not a regular file")}
	}
	if isSignature(path) {
		return nil, alone(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := readPackage(f)
	switch {
	case errors.Is(err, errNoPackage):
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return loadOther(ctx, f, path)
	case err != nil:
		return nil, at(path, err)
	}
	if err := c.check(); err != nil {
		return nil, at(path, err)
	}
	// A package is the one file of its component, under a name made of what is in
	// it: the name on disk may hold anything.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	file := &c.Payload.Files[0]
	file.Open = func(context.Context) (io.ReadSeekCloser, error) { return os.Open(path) }
	if file.Size, err = digest(ctx, f, file); err != nil {
		return nil, err
	}
	return c, nil
}

// errNoPackage is the error of readPackage for other files.
var errNoPackage = errors.New("neither a .deb nor an .rpm")

// readPackage reads the headers of a package.
func readPackage(f *os.File) (*Component, error) {
	var magic [8]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	switch {
	case string(magic[:]) == "!<arch>\n":
		return readDeb(f, fi.Size())
	case [4]byte(magic[:4]) == [4]byte{0xed, 0xab, 0xee, 0xdb}:
		return readRPM(f)
	}
	return nil, errNoPackage
}

// loadOther loads what is no package.
func loadOther(ctx context.Context, f *os.File, path string) (*Component, error) {
	r := bufio.NewReader(f)
	head, _ := r.Peek(512)
	// The other begins an archive without a file.
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06")) {
		return loadFwpkg(ctx, f, path)
	}
	if strings.EqualFold(filepath.Ext(path), ".json") || bytes.HasPrefix(bytes.TrimSpace(head), []byte("{")) {
		c, err := loadManifest(ctx, r, filepath.Dir(path))
		return c, at(path, err)
	}
	return nil, &Error{File: path, Kind: ErrInvalid, Err: errors.New("neither a .deb nor an .rpm, a .fwpkg nor JSON"),
		Hint: "describe it in a " + ManifestName + " beside it"}
}

// at adds the file to an error of this package and makes one of any other.
func at(file string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if e.File == "" {
			e.File = file
		}
		return e
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &Error{File: file, Err: err} // the file system's fault
	}
	return &Error{File: file, Kind: ErrInvalid, Err: err}
}

func loadManifest(ctx context.Context, r io.Reader, dir string) (*Component, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, err
	}
	// No name, and no symbolic link, leads out of the directory.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := m.fromPackage(root); err != nil {
		return nil, err
	}
	c, err := m.component()
	if err != nil {
		return nil, err
	}
	var missing []string
	for i, mf := range m.Files {
		fi, err := root.Stat(mf.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, fmt.Sprintf("%q", mf.Name))
		case err != nil:
			return nil, bad(fmt.Sprintf("files[%d].name", i), err, "")
		case !fi.Mode().IsRegular():
			return nil, bad(fmt.Sprintf("files[%d].name", i), fmt.Errorf("%q is not a regular file", mf.Name), "")
		}
	}
	if len(missing) > 0 {
		return nil, &Error{Field: "files", Kind: fs.ErrNotExist, Err: errors.New(strings.Join(missing, ", ")),
			Hint: "put them below " + dir + ", or take them off the list"}
	}
	for i, mf := range m.Files {
		file := transport.File{Name: mf.Name, Open: func(context.Context) (io.ReadSeekCloser, error) {
			return os.OpenInRoot(dir, mf.Name)
		}}
		f, err := root.Open(mf.Name)
		if err != nil {
			return nil, bad(fmt.Sprintf("files[%d].name", i), err, "")
		}
		file.Size, err = digest(ctx, f, &file)
		f.Close()
		if err != nil {
			return nil, err
		}
		if err := mf.verify(i, file); err != nil {
			return nil, err
		}
		c.Payload.Files = append(c.Payload.Files, file)
	}
	return c, c.addSignatures(ctx, root)
}

// digest reads r to its end and sets the SHA-256 of file.
func digest(ctx context.Context, r io.Reader, file *transport.File) (int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	h.Sum(file.SHA256[:0])
	return n, err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
