package redfish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	desc "github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/transport"
)

// form is what a file is, by what is in it.
type form string

const (
	formRaw       form = "an image"
	formPackage   form = "a firmware package (.fwpkg)"
	formComponent form = "a component for an operating system (.exe, .rpm, .zip, .scexe)"
)

// sectionSize is how an iLO takes components with signatures of their own, in bytes.
const sectionSize = 32 << 20

// maxSignature bounds a signature, in bytes.
const maxSignature = 1 << 20

// cargo is a payload as it is sent.
type cargo struct {
	file    transport.File
	form    form
	pkg     *fwpkg
	compsig []transport.File // of the file, or one for each section
	inner   bool             // the file is the image that was in pkg
}

// sections is how many requests the file takes.
func (c *cargo) sections() int {
	if len(c.compsig) > 1 {
		return len(c.compsig)
	}
	return 1
}

var partSuffix = regexp.MustCompile(`(?i)_part([0-9]{1,4})\.compsig$`)

// arrange tells the image from the signatures that belong to it.
func arrange(ctx context.Context, p transport.Payload) (*cargo, error) {
	var images, sigs []transport.File
	for _, f := range p.Files {
		if err := f.Check(); err != nil {
			return nil, err
		}
		if strings.EqualFold(path.Ext(f.Name), ".compsig") {
			sigs = append(sigs, f)
		} else {
			images = append(images, f)
		}
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("a payload has one image, and signatures of it; this one has %d images", len(images))
	}
	c := &cargo{file: images[0]}
	if strings.ContainsAny(path.Base(c.file.Name), "\r\n\"\\\x00") {
		return nil, fmt.Errorf("the name %q cannot be sent", c.file.Name)
	}
	if err := c.pair(sigs); err != nil {
		return nil, err
	}
	return c, c.look(ctx)
}

// pair puts the signatures in order.
func (c *cargo) pair(sigs []transport.File) error {
	base := strings.TrimSuffix(path.Base(c.file.Name), path.Ext(c.file.Name))
	parts := map[int]transport.File{}
	for _, f := range sigs {
		if f.Size > maxSignature {
			return fmt.Errorf("the signature %s has more than %d bytes", f.Name, maxSignature)
		}
		name := path.Base(f.Name)
		if m := partSuffix.FindStringSubmatchIndex(name); m != nil && strings.EqualFold(name[:m[0]], base) {
			n := 0
			_, _ = fmt.Sscan(name[m[2]:m[3]], &n)
			parts[n] = f
			continue
		}
		if strings.EqualFold(strings.TrimSuffix(name, path.Ext(name)), base) {
			parts[0] = f
			continue
		}
		return fmt.Errorf("the signature %s is of no file of the payload", f.Name)
	}
	n := max(1, int((c.file.Size+sectionSize-1)/sectionSize))
	switch {
	case len(parts) == 0:
	case n == 1:
		sig, ok := parts[0]
		if !ok {
			sig, ok = parts[1]
		}
		if !ok {
			return fmt.Errorf("the signature of %s is missing", c.file.Name)
		}
		c.compsig = []transport.File{sig}
	default:
		for i := range n {
			sig, ok := parts[i+1]
			if !ok {
				return fmt.Errorf("%s goes in %d sections of 32 MiB, and the signature of section %d is missing (%s_part%d.compsig)", c.file.Name, n, i+1, base, i+1)
			}
			c.compsig = append(c.compsig, sig)
		}
	}
	return nil
}

// look finds out what the file is. It reads all of it, and compares it with its digest:
// what is wrong here is found before anything is sent.
func (c *cargo) look(ctx context.Context) error {
	for _, f := range append(slices.Clone(c.compsig), c.file) {
		if err := verifyFile(ctx, f); err != nil {
			return err
		}
	}
	r, err := c.file.Open(ctx)
	if err != nil {
		return &sourceError{err}
	}
	defer r.Close()
	head := make([]byte, 8)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return &sourceError{err}
	}
	head = head[:n]
	c.form = formRaw
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		pkg, _, err := readFwpkg(&readerAt{r: r}, c.file.Size)
		switch {
		case errors.Is(err, desc.ErrNone):
			c.form = formComponent
		case err != nil:
			return fmt.Errorf("%s is no package that can be read: %w", c.file.Name, err)
		default:
			c.form, c.pkg = formPackage, pkg
		}
	case bytes.HasPrefix(head, []byte("MZ")), bytes.HasPrefix(head, []byte{0xED, 0xAB, 0xEE, 0xDB}), bytes.HasPrefix(head, []byte("#!")):
		c.form = formComponent
	}
	return nil
}

// verifyFile compares a file with its size and digest.
func verifyFile(ctx context.Context, f transport.File) error {
	r, err := f.Open(ctx)
	if err != nil {
		return &sourceError{err}
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, &untilDone{ctx, r}, make([]byte, 256<<10))
	if err != nil {
		return &sourceError{err}
	}
	if n != f.Size || [sha256.Size]byte(h.Sum(nil)) != f.SHA256 {
		return &transport.Error{Op: "update", Path: f.Name, Kind: transport.ErrIntegrity, Err: fmt.Errorf("%d bytes that do not have the SHA-256 %s", n, f.Digest()),
			Hint: "the file on the manager is not the one that was described; nothing was sent"}
	}
	return nil
}

// untilDone ends a long read on the manager with its context.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

// unfit says why a file cannot go by a way, or nil. Some services answer success to
// such a file, and write nothing.
func (c *cargo) unfit(w Way, profile Profile) error {
	wrong := func(want string) error {
		return fmt.Errorf("%s is %s, and %s takes %s", c.file.Name, c.form, w, want)
	}
	queue := w == WayQueue || w == WayInstallSet
	if c.pkg != nil && !queue && !c.pkg.Direct() && (profile.ilo() || profile == ProfileILO4) {
		return fmt.Errorf("%s is not written by the management processor, but by %s", c.file.Name, strings.Join(c.pkg.UpdatableBy, " or "))
	}
	if len(c.compsig) > 0 && c.pkg == nil && w != WayHPEPush && !queue {
		return fmt.Errorf("%s comes with a signature of its own (.compsig), which %s does not carry", c.file.Name, w)
	}
	switch w {
	case WaySimpleUpdate:
		if profile.ilo() && c.form != formRaw && !c.unpackable() {
			return wrong("images alone: it reports success for others and writes nothing")
		}
	case WayInstallFromURI:
		if c.form != formRaw && !c.unpackable() {
			return wrong("images alone")
		}
	case WayUpdateAll:
		if c.form != formRaw {
			return wrong("the bundle of a complex")
		}
	case WayHPEPush, WayAddFromURI, WayQueue, WayInstallSet:
		if c.form == formComponent && len(c.compsig) == 0 {
			return wrong("such a file with its signature (.compsig) alone")
		}
		if c.form == formComponent {
			return fmt.Errorf("%s is %s: an agent on the host installs it", c.file.Name, c.form)
		}
		if queue && len(c.appliers()) == 0 {
			return fmt.Errorf("%s is applied by %s alone", c.file.Name, strings.Join(c.pkg.UpdatableBy, " or "))
		}
	}
	return nil
}

// appliers are those of the agents of a server without its operating system that may apply
// the file from the update queue.
func (c *cargo) appliers() []string {
	if c.pkg == nil {
		return []string{byBMC}
	}
	var out []string
	if c.pkg.Direct() {
		out = append(out, byBMC)
	}
	if c.pkg.By(byHost) {
		out = append(out, byHost)
	}
	return out
}

// unpackable reports whether the image inside a package can go instead of it.
func (c *cargo) unpackable() bool {
	return c.pkg != nil && len(c.pkg.Images()) == 1
}

// forWay puts what a way takes in the place of the file: the image that is in a package,
// where the target does not take the package. It may be called again for another way that
// takes the same.
func (c *cargo) forWay(ctx context.Context, w Way, profile Profile, version string) error {
	raw := w == WaySimpleUpdate || w == WayInstallFromURI
	switch w {
	case WayHPEPush, WayAddFromURI, WayQueue, WayInstallSet:
		raw = !c.pkg.whole(profile, version)
	}
	// A package holds the signatures of what is in it: the one beside it is for the
	// whole, where that is kept.
	if raw || w != WayHPEPush && w != WayQueue && w != WayInstallSet {
		c.compsig = nil
	}
	if !raw || c.inner {
		return nil
	}
	names := c.pkg.Images()
	if len(names) != 1 {
		return fmt.Errorf("%s holds %d images, and the target takes one", c.file.Name, len(names))
	}
	f, err := image(ctx, c.file, names[0])
	if err != nil {
		return fmt.Errorf("%s: %w", c.file.Name, err)
	}
	c.file, c.inner = f, true
	return nil
}
