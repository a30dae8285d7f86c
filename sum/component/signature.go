package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// signatureExt is the extension of a file with the signature of another one, which has
// its name but for the extension. A file that goes in sections has one for each, with
// _part1, _part2 and so on before the extension.
const signatureExt = ".compsig"

// maxSignature bounds a signature, in bytes.
const maxSignature = 1 << 20

var sectionSuffix = regexp.MustCompile(`(?i)_part[0-9]{1,4}$`)

func isSignature(name string) bool { return strings.EqualFold(path.Ext(name), signatureExt) }

// signs reports whether a file of the same directory is the signature of another one, or
// of a section of it. Upper and lower case are the same.
func signs(signature, name string) bool {
	if !isSignature(signature) || isSignature(name) {
		return false
	}
	stem := strings.TrimSuffix(signature, path.Ext(signature))
	of := strings.TrimSuffix(name, path.Ext(name))
	return strings.EqualFold(stem, of) || strings.EqualFold(sectionSuffix.ReplaceAllString(stem, ""), of)
}

// signatures are the names of those entries of a file's directory that are signatures of
// it.
func signatures(entries []fs.DirEntry, name string) []string {
	var out []string
	for _, e := range entries {
		if signs(e.Name(), path.Base(name)) && !e.IsDir() {
			out = append(out, path.Join(path.Dir(name), e.Name()))
		}
	}
	return out
}

// fileOf makes a file of a payload, with its digest, of what open opens.
func fileOf(ctx context.Context, name string, open func() (*os.File, error)) (transport.File, error) {
	file := transport.File{Name: name, Open: func(context.Context) (io.ReadSeekCloser, error) { return open() }}
	f, err := open()
	if err != nil {
		return file, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return file, err
	case !fi.Mode().IsRegular():
		return file, bad("", fmt.Errorf("%q is not a regular file", name), "")
	case isSignature(name) && fi.Size() > maxSignature:
		return file, bad("", fmt.Errorf("%q has more than %d bytes, and no signature has", name, maxSignature), "take it away")
	}
	file.Size, err = digest(ctx, f, &file)
	return file, err
}

// addSignatures adds those that stand beside the files of a component for devices, below
// root. Agents on servers have no use for them.
func (c *Component) addSignatures(ctx context.Context, root *os.Root) error {
	if !slices.ContainsFunc(c.Kinds, func(k string) bool { return !slices.Contains(servers, k) }) {
		return nil
	}
	listed := map[string]bool{}
	for _, f := range c.Payload.Files {
		listed[strings.ToLower(f.Name)] = true
	}
	dir := root.Name()
	for _, f := range slices.Clone(c.Payload.Files) {
		entries, err := fs.ReadDir(root.FS(), path.Dir(f.Name))
		if err != nil {
			return err
		}
		for _, name := range signatures(entries, f.Name) {
			if listed[strings.ToLower(name)] {
				continue
			}
			listed[strings.ToLower(name)] = true
			sig, err := fileOf(ctx, name, func() (*os.File, error) { return os.OpenInRoot(dir, name) })
			if err != nil {
				return err
			}
			c.Payload.Files = append(c.Payload.Files, sig)
		}
	}
	return nil
}

// alone is the error for a signature that is given as a component.
func alone(file string) error {
	e := &Error{File: file, Kind: ErrInvalid, Err: errors.New("the signature of a component, and none itself"),
		Hint: "the file that it is the signature of is not beside it"}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return e
	}
	for _, other := range entries {
		if signs(filepath.Base(file), other.Name()) && !other.IsDir() {
			e.Hint = fmt.Sprintf("it is loaded with %q: give that", other.Name())
			break
		}
	}
	return e
}

// Owns reports whether a file is one of those that the component was loaded with.
func (c *Component) Owns(file string) bool {
	file, err := filepath.Abs(file)
	if err != nil || c.Source == "" {
		return false
	}
	dir := c.Source
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		dir = filepath.Dir(dir)
	}
	return slices.ContainsFunc(c.Payload.Files, func(f transport.File) bool {
		return filepath.Join(dir, filepath.FromSlash(f.Name)) == file
	})
}
