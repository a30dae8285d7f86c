// Package fwpkg reads what HPE's firmware packages (.fwpkg) say of themselves: zip
// archives with the images and a description, payload.json.
//
// No document defines the description. What is here is what the clients that HPE
// publishes read of it, and what packages are known to hold: the device class and the
// targets, GUIDs that an iLO tells of each entry of its firmware inventory (DeviceClass
// and Targets of HpeiLOSoftwareInventory), the version, who can apply it, and of each
// image how it is written and what makes it take effect. Makers are not of one mind on
// how to write a truth value, a number or a list of one: all forms that are clear count,
// and a truth value that is not is an error.
package fwpkg

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of a package. Real ones hold a handful of files.
const (
	MaxEntries     = 256     // files of the archive
	MaxDescription = 4 << 20 // bytes of payload.json
	MaxDevices     = 512
	MaxImages      = 64
	maxDirectory   = 1 << 20 // bytes of the archive that tell of its files
	maxDepth       = 64      // of nested values
)

// Description is the name of the description in the archive.
const Description = "payload.json"

// Who can apply a package.
const (
	BMC  = "Bmc"          // the management processor
	UEFI = "Uefi"         // the firmware of the host, at its next start
	Host = "RuntimeAgent" // an agent in the operating system
)

// ErrNone is the error of Read for a zip that is no firmware package.
var ErrNone = errors.New("a zip without " + Description)

// Package is what a firmware package says of itself. Its methods are safe for concurrent
// use as long as nobody changes it.
type Package struct {
	Format      string // "FWPKG-v2", for one that an iLO takes as it is
	Name        string // in English, for people; or ""
	DeviceClass string // GUID; "" is any
	UpdatableBy []string
	Minimum     string // the version that must be there already, where a device does not name its own
	Devices     []Device
}

// Device is a kind of device that a package is for.
type Device struct {
	Name    string
	Target  string // GUID
	Version string
	Minimum string // the version that must be there already
	Images  []Image
}

// Image is a file to be written.
type Image struct {
	File     string
	Direct   bool // the management processor writes it itself
	UEFI     bool // the firmware of the host can write it
	Reset    bool // it takes effect when the host is started again
	PowerOff bool // it takes effect when the host has been without power
	Order    int
}

// Read reads the description in a package of that many bytes, and nothing else of it.
// The archive comes with it, for the images.
func Read(r io.ReaderAt, size int64) (*Package, *zip.Reader, error) {
	// A directory is read whole, whatever number of files the archive says it has.
	from := &directory{ReaderAt: r, left: maxDirectory}
	z, err := zip.NewReader(from, size)
	if err != nil {
		return nil, nil, err
	}
	from.opened = true
	if len(z.File) > MaxEntries {
		return nil, nil, fmt.Errorf("more than %d files", MaxEntries)
	}
	own := func(f *zip.File) bool { return f.Name == Description }
	i := slices.IndexFunc(z.File, own)
	if i < 0 {
		return nil, nil, ErrNone
	}
	if slices.ContainsFunc(z.File[i+1:], own) { // others might read the other one
		return nil, nil, fmt.Errorf("%s is there twice", Description)
	}
	f, err := z.File[i].Open()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", Description, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxDescription+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", Description, err)
	}
	p, err := parse(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %w", Description, err)
	}
	return p, z, nil
}

// directory is an archive of which little is read until it is open. That is before
// anybody else has it.
type directory struct {
	io.ReaderAt
	left   int
	opened bool
}

func (d *directory) ReadAt(p []byte, off int64) (int, error) {
	if !d.opened {
		if d.left -= len(p); d.left < 0 {
			return 0, fmt.Errorf("its directory has more than %d bytes, for the %d files that a package may have", maxDirectory, MaxEntries)
		}
	}
	return d.ReaderAt.ReadAt(p, off)
}

// By reports whether the package may be applied by an agent of that name.
func (p *Package) By(who string) bool {
	return slices.ContainsFunc(p.UpdatableBy, func(s string) bool { return strings.EqualFold(s, who) })
}

// Direct reports whether the management processor itself writes every image.
func (p *Package) Direct() bool {
	for i := range p.each {
		if !i.Direct {
			return false
		}
	}
	return len(p.UpdatableBy) == 0 || p.By(BMC)
}

// Activation is what makes the images take effect, as the package says. A management
// processor that is itself updated starts anew, whatever its package says of the host.
func (p *Package) Activation() transport.Activation {
	a := transport.ActivationNone
	for i := range p.each {
		switch {
		case i.PowerOff:
			return transport.ActivationPowerCycle
		case i.Reset:
			a = transport.ActivationReboot
		}
	}
	return a
}

// Images are the names of the files to write, each once, in order.
func (p *Package) Images() []string {
	var all []Image
	for i := range p.each {
		all = append(all, i)
	}
	slices.SortStableFunc(all, func(a, b Image) int { return a.Order - b.Order })
	var out []string
	for _, i := range all {
		if i.File != "" && !slices.Contains(out, i.File) {
			out = append(out, i.File)
		}
	}
	return out
}

// Least is the version that a device must have already, or "".
func (p *Package) Least(d Device) string {
	if d.Minimum != "" {
		return d.Minimum
	}
	return p.Minimum
}

// each goes through the images of all devices.
func (p *Package) each(yield func(Image) bool) {
	for _, d := range p.Devices {
		for _, i := range d.Images {
			if !yield(i) {
				return
			}
		}
	}
}
