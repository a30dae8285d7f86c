package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// firmwareKinds are the kinds of target that take firmware packages. The management of a
// Superdome Flex speaks Redfish, too, and takes the bundle of the complex alone.
var firmwareKinds = []string{"ilo", "redfish"}

// ids are how a device of an inventory that is for a target names itself: by what an iLO
// adds, or where a service adds nothing by the identifier of its software.
func ids(target string) []string {
	target = strings.ToLower(target)
	return []string{"hpe-target:" + target, "software-id:" + target}
}

// loadFwpkg loads a firmware package. What it is for it says itself.
func loadFwpkg(ctx context.Context, f *os.File, path string) (*Component, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	if !validFileName(base) {
		return nil, &Error{File: path, Kind: ErrInvalid, Err: errors.New("a name that a target may not take"), Hint: "rename it"}
	}
	p, z, err := fwpkg.Read(f, fi.Size())
	switch {
	case errors.Is(err, fwpkg.ErrNone):
		return nil, &Error{File: path, Kind: ErrInvalid, Err: err,
			Hint: "it is no firmware package: if it is to be installed, describe it in a " + ManifestName + " beside it"}
	case err != nil:
		return nil, &Error{File: path, Kind: ErrInvalid, Err: err, Hint: "fetch it again: it is no whole firmware package"}
	}
	var in []string
	for _, zf := range z.File {
		in = append(in, zf.Name)
	}
	c, err := described(p, in, strings.TrimSuffix(base, filepath.Ext(base)))
	if err != nil {
		return nil, at(path, err)
	}
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range append([]string{base}, signatures(entries, base)...) {
		file, err := fileOf(ctx, name, func() (*os.File, error) { return os.Open(filepath.Join(dir, name)) })
		if err != nil {
			return nil, at(filepath.Join(dir, name), err)
		}
		c.Payload.Files = append(c.Payload.Files, file)
	}
	return c, nil
}

// described makes the component of a firmware package with these files. stem stands for
// its name where it has none.
func described(p *fwpkg.Package, in []string, stem string) (*Component, error) {
	wrong := func(format string, args ...any) error {
		return &Error{Kind: ErrInvalid, Err: fmt.Errorf(fwpkg.Description+" "+format, args...),
			Hint: "describe the package in a " + ManifestName + " beside it, which says what is missing"}
	}
	images := p.Images()
	if len(images) == 0 {
		return nil, wrong("names no image")
	}
	for _, image := range images {
		if !slices.Contains(in, image) {
			return nil, &Error{Kind: ErrInvalid, Err: fmt.Errorf("%s names the image %.100q, which is not in the package", fwpkg.Description, image), Hint: "fetch the package again"}
		}
	}
	c := &Component{
		Scheme: version.HPE, Kinds: slices.Clone(firmwareKinds), UpdatableBy: p.UpdatableBy, Activation: p.Activation(),
		Match: Match{Device: &DeviceMatch{DeviceClass: strings.ToLower(p.DeviceClass), Part: Firmware}},
	}
	for _, d := range p.Devices {
		if d.Target == "" {
			continue
		}
		switch {
		case d.Version == "":
			return nil, wrong("has no version for the target %.100q", d.Target)
		case c.Version != "" && d.Version != c.Version:
			return nil, wrong("has the versions %.100q and %.100q for its devices, and a component has one", c.Version, d.Version)
		}
		c.Version = d.Version
		for _, id := range ids(d.Target) {
			if !slices.Contains(c.Match.Device.HardwareIDs, id) {
				c.Match.Device.HardwareIDs = append(c.Match.Device.HardwareIDs, id)
			}
		}
		// What one of the devices needs, all of them are held to.
		switch least := p.Least(d); {
		case least == "" || c.Minimum == least:
		case c.Minimum == "":
			c.Minimum = least
		default:
			order, err := version.Compare(c.Scheme, least, c.Minimum)
			if err != nil {
				return nil, wrong("needs %.100q of one device and %.100q of another, of which nothing says which is newer", c.Minimum, least)
			}
			if order > 0 {
				c.Minimum = least
			}
		}
		if c.Name == "" {
			c.Name = label(d.Name)
		}
	}
	if c.Version == "" {
		return nil, wrong("names no target: nothing tells which devices it is for")
	}
	for _, name := range []string{label(p.Name), c.Name, label(stem), "firmware package"} {
		if name != "" {
			c.Name = name
			break
		}
	}
	c.Payload = transport.Payload{Name: c.Name, Version: c.Version}
	return c, c.check()
}

// label makes of a text a name of a component, or "".
func label(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	for len(s) > maxName {
		runes := []rune(s)
		s = strings.TrimSpace(string(runes[:len(runes)-1]))
	}
	return s
}
