package redfish

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	desc "github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/transport"
)

// maxUnpacked bounds one image of a package, in bytes. Images are streamed.
const maxUnpacked = int64(8 << 30)

func (f flag) isTrue() bool { return f.value != nil && *f.value }

// fwpkg is one of HPE's firmware packages, as targets are told of it.
type fwpkg struct{ *desc.Package }

// whole reports whether an iLO of that version takes the package as it is: one of format 2,
// and of iLO 5 not before 2.30.
func (p *fwpkg) whole(profile Profile, version string) bool {
	if !strings.EqualFold(p.Format, "FWPKG-v2") {
		return false
	}
	order, ok := compare(version, "2.30")
	return profile != ProfileILO5 || !ok || order >= 0
}

// fits returns the device of the package that an entry of the inventory is: of its class,
// where the entry has one, and with one of its targets. A service without HPE's additions
// may have the target for a SoftwareId.
func (p *fwpkg) fits(e entry) *desc.Device {
	if e.class != "" && p.DeviceClass != "" && !strings.EqualFold(e.class, p.DeviceClass) {
		return nil
	}
	for i, d := range p.Devices {
		software := func(id string) bool { return strings.EqualFold(id, "software-id:"+d.Target) }
		if d.Target != "" && (slices.Contains(e.targets, strings.ToLower(d.Target)) || slices.ContainsFunc(e.device.HardwareIDs, software)) {
			return &p.Devices[i]
		}
	}
	return nil
}

// readFwpkg reads the description in a package of that many bytes.
func readFwpkg(r io.ReaderAt, size int64) (*fwpkg, *zip.Reader, error) {
	p, z, err := desc.Read(r, size)
	if err != nil {
		return nil, nil, err
	}
	return &fwpkg{p}, z, nil
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
