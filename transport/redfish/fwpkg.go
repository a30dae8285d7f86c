package redfish

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of a package. Real ones hold a handful of files; images are streamed.
const (
	maxEntries  = 256
	maxManifest = 4 << 20
	maxImages   = 64
	maxUnpacked = int64(8 << 30) // bytes of one image
)

// manifestName is the description in a firmware package.
const manifestName = "payload.json"

// fwpkg is what is used of the description of one of HPE's firmware packages.
type fwpkg struct {
	Format      text `json:"PackageFormat"`
	DeviceClass text
	UpdatableBy texts
	Minimum     text `json:"MinimumActiveVersion"`
	Devices     struct{ Device []fwpkgDevice }
}

type fwpkgDevice struct {
	Name    text `json:"DeviceName"`
	Target  text
	Version text
	Minimum text         `json:"MinimumActiveVersion"`
	Images  []fwpkgImage `json:"FirmwareImages"`
}

type fwpkgImage struct {
	File     text `json:"FileName"`
	Direct   flag `json:"DirectFlashOk"`
	UEFI     flag `json:"UefiFlashable"`
	Reset    flag `json:"ResetRequired"`
	PowerOff flag `json:"ServerPowerOff"`
	Order    number
}

func (f flag) isTrue() bool { return f.value != nil && *f.value }

// by reports whether the package may be applied by an agent of that name.
func (p *fwpkg) by(who string) bool {
	return slices.ContainsFunc(p.UpdatableBy, func(s string) bool { return strings.EqualFold(s, who) })
}

// whole reports whether an iLO of that version takes the package as it is: one of format 2,
// and of iLO 5 not before 2.30.
func (p *fwpkg) whole(profile Profile, version string) bool {
	if !strings.EqualFold(string(p.Format), "FWPKG-v2") {
		return false
	}
	order, ok := compare(version, "2.30")
	return profile != ProfileILO5 || !ok || order >= 0
}

// direct reports whether the management processor itself writes every image.
func (p *fwpkg) direct() bool {
	for _, d := range p.Devices.Device {
		for _, i := range d.Images {
			if !i.Direct.isTrue() {
				return false
			}
		}
	}
	return len(p.UpdatableBy) == 0 || p.by("Bmc")
}

// activation is what makes the images take effect.
func (p *fwpkg) activation() transport.Activation {
	a := transport.ActivationNone
	for _, d := range p.Devices.Device {
		for _, i := range d.Images {
			if i.PowerOff.isTrue() {
				return transport.ActivationPowerCycle
			}
			if i.Reset.isTrue() {
				a = transport.ActivationReboot
			}
		}
	}
	return a
}

// images are the names of the files to write, each once, in order.
func (p *fwpkg) images() []string {
	var all []fwpkgImage
	for _, d := range p.Devices.Device {
		all = append(all, d.Images...)
	}
	slices.SortStableFunc(all, func(a, b fwpkgImage) int { return int(a.Order) - int(b.Order) })
	var out []string
	for _, i := range all {
		if i.File != "" && !slices.Contains(out, string(i.File)) {
			out = append(out, string(i.File))
		}
	}
	return out
}

// fits returns the device of the package that an entry of the inventory is: of its class,
// where the entry has one, and with one of its targets.
func (p *fwpkg) fits(e entry) *fwpkgDevice {
	if e.class != "" && p.DeviceClass != "" && !strings.EqualFold(e.class, string(p.DeviceClass)) {
		return nil
	}
	for i, d := range p.Devices.Device {
		if d.Target != "" && slices.Contains(e.targets, strings.ToLower(string(d.Target))) {
			return &p.Devices.Device[i]
		}
	}
	return nil
}

var errNoFwpkg = errors.New("a zip without payload.json")

// readFwpkg reads the description in a package of that many bytes.
func readFwpkg(r io.ReaderAt, size int64) (*fwpkg, *zip.Reader, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, nil, err
	}
	if len(z.File) > maxEntries {
		return nil, nil, fmt.Errorf("more than %d files", maxEntries)
	}
	i := slices.IndexFunc(z.File, func(f *zip.File) bool { return f.Name == manifestName })
	if i < 0 {
		return nil, nil, errNoFwpkg
	}
	f, err := z.File[i].Open()
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxManifest {
		return nil, nil, fmt.Errorf("%s has more than %d bytes", manifestName, maxManifest)
	}
	p := &fwpkg{}
	if err := checkDepth(data); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	if len(p.Devices.Device) == 0 || len(p.images()) > maxImages {
		return nil, nil, fmt.Errorf("%s names %d devices and %d images", manifestName, len(p.Devices.Device), len(p.images()))
	}
	for _, name := range p.images() {
		if strings.ContainsAny(name, "/\\\r\n\"\x00") {
			return nil, nil, fmt.Errorf("%s names the image %q", manifestName, clip(name, 100))
		}
	}
	return p, z, nil
}

// image is the file of a package that holds an image, as a payload of its own. It is
// unpacked as it is read, and never as a whole.
func image(ctx context.Context, pkg transport.File, name string) (transport.File, error) {
	open := func(ctx context.Context) (_ io.ReadCloser, size int64, err error) {
		src, err := pkg.Open(ctx)
		if err != nil {
			return nil, 0, err
		}
		_, z, err := readFwpkg(&readerAt{r: src}, pkg.Size)
		if err == nil {
			for _, f := range z.File {
				if f.Name == name {
					var r io.ReadCloser
					if r, err = f.Open(); err == nil {
						return &unpacking{r, src}, int64(f.UncompressedSize64), nil
					}
				}
			}
		}
		_ = src.Close()
		if err == nil {
			err = fmt.Errorf("the package has no file %q", clip(name, 100))
		}
		return nil, 0, err
	}
	r, size, err := open(ctx)
	if err != nil {
		return transport.File{}, err
	}
	defer r.Close()
	h := sha256.New()
	out := transport.File{Name: name, Size: size}
	if out.Size < 0 || out.Size > maxUnpacked {
		return out, fmt.Errorf("%s has a size of %d bytes unpacked, and at most %d can be", clip(name, 100), uint64(size), maxUnpacked)
	}
	// The package says how long the image is; that it is not longer is checked here.
	n, err := io.Copy(h, &untilDone{ctx, io.LimitReader(r, size+1)})
	if err != nil {
		return out, err
	}
	if n != size {
		return out, fmt.Errorf("%s has another length than the package says", clip(name, 100))
	}
	h.Sum(out.SHA256[:0])
	out.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		r, size, err := open(ctx)
		if err != nil {
			return nil, err
		}
		again := func() (io.ReadCloser, error) { r, _, err := open(ctx); return r, err }
		return &rewound{ReadCloser: r, size: size, again: again}, nil
	}
	return out, nil
}

// unpacking is a file of a package that is being read.
type unpacking struct {
	io.ReadCloser
	src io.Closer
}

func (u *unpacking) Close() error { return errors.Join(u.ReadCloser.Close(), u.src.Close()) }

// rewound makes a stream that can be opened again seekable, for whoever publishes it.
type rewound struct {
	io.ReadCloser
	size, at, want int64
	again          func() (io.ReadCloser, error)
}

func (r *rewound) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.want
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("a negative position")
	}
	r.want = offset
	return offset, nil
}

func (r *rewound) Read(p []byte) (int, error) {
	if r.want < r.at {
		again, err := r.again()
		if err != nil {
			return 0, err
		}
		_ = r.ReadCloser.Close()
		r.ReadCloser, r.at = again, 0
	}
	if r.want > r.at {
		n, err := io.CopyN(io.Discard, r.ReadCloser, r.want-r.at)
		if r.at += n; err != nil {
			return 0, err
		}
	}
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	r.want = r.at
	return n, err
}

// readerAt reads at positions of what can seek.
type readerAt struct {
	mu sync.Mutex
	r  io.ReadSeeker
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.r.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
