package component

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"pault.ag/go/debian/control"
	"pault.ag/go/debian/deb"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of a .deb, deb(5).
const (
	maxMembers    = 32
	maxControlTar = 64 << 20 // bytes, packed and unpacked
	maxControl    = 1 << 20
)

// packageTimeout is when an installation of a package counts as overdue. It is
// not enforced: package managers that are killed leave broken systems.
const packageTimeout = time.Hour

var packageKinds = []string{"linux", "local"}

// Names as dpkg and rpm accept them. Nothing in them can be taken for an option,
// a path or a second argument.
var (
	packageName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9+._~^-]*$`)
	archName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
)

// readDeb reads the control data of a Debian binary package. The data member,
// which is nearly all of the file, is passed over.
func readDeb(r io.ReaderAt, size int64) (*Component, error) {
	ar, err := deb.LoadAr(r)
	if err != nil {
		return nil, err
	}
	var fields map[string]string
	hasData := false
	left := size
	for i := 0; ; i++ {
		m, err := ar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		// The sizes are checked here because the library believes them.
		if left -= 60; m.Size < 0 || m.Size > left || i == maxMembers {
			return nil, fmt.Errorf("damaged package: member %q", m.Name)
		}
		left -= m.Size
		switch {
		case i == 0:
			format := make([]byte, 2)
			if _, err := m.Data.ReadAt(format, 0); m.Name != "debian-binary" || err != nil || string(format) != "2." {
				return nil, errors.New("an ar archive, but no Debian package of format 2")
			}
		case strings.HasPrefix(m.Name, "control.tar"):
			if fields, err = readControl(m); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
		case strings.HasPrefix(m.Name, "data.tar"):
			hasData = true
		}
	}
	if fields == nil || !hasData {
		return nil, errors.New("damaged package: control or data are missing")
	}
	name, ver, arch := fields["package"], fields["version"], fields["architecture"]
	if !packageName.MatchString(name) || !version.Valid(version.Deb, ver) || !archName.MatchString(arch) {
		return nil, fmt.Errorf("package %.80q, version %.80q, architecture %.80q: one of them is not valid", name, ver, arch)
	}
	_, upstream, hasEpoch := strings.Cut(ver, ":")
	if !hasEpoch {
		upstream = ver
	}
	file := name + "_" + fileSafe(upstream) + "_" + arch + ".deb"
	return &Component{
		Name: name, Version: ver, Scheme: version.Deb, Description: summary(fields["description"]), Kinds: packageKinds,
		Match:   Match{Package: &PackageMatch{Source: Dpkg, Name: name, Arch: arch}},
		Payload: transport.Payload{Name: name, Version: ver, Files: []transport.File{{Name: file}}},
		// Changed configuration files are kept: there is nobody to ask. A rewrite
		// or downgrade needs nothing more, dpkg does as it is told.
		Install: []string{"dpkg", "--force-confdef", "--force-confold", "-i", "./" + file},
		Profile: agent.ProfileDeb, Timeout: packageTimeout, NoKill: true,
	}, nil
}

// readControl returns the fields of the control file, by lower-case name.
func readControl(m *deb.ArEntry) (map[string]string, error) {
	if m.Size > maxControlTar {
		return nil, fmt.Errorf("longer than %d bytes", maxControlTar)
	}
	unpacked, done, err := unpack(m)
	if err != nil {
		return nil, err
	}
	defer done()
	tr := tar.NewReader(io.LimitReader(unpacked, maxControlTar))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, errors.New("no control file")
		}
		if err != nil {
			return nil, err
		}
		if path.Clean(h.Name) != "control" || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxControl {
			return nil, fmt.Errorf("control file longer than %d bytes", maxControl)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		pr, err := control.NewParagraphReader(bytes.NewReader(text), nil)
		if err != nil {
			return nil, err
		}
		p, err := pr.Next()
		if err != nil {
			return nil, err
		}
		fields := map[string]string{}
		for k, v := range p.Values {
			fields[strings.ToLower(k)] = v
		}
		return fields, nil
	}
}

// unpack decompresses what dpkg accepts for the control member.
func unpack(m *deb.ArEntry) (r io.Reader, done func(), err error) {
	done = func() {}
	switch ext := strings.TrimPrefix(m.Name, "control.tar"); ext {
	case "":
		return m.Data, done, nil
	case ".gz":
		r, err = gzip.NewReader(m.Data)
		return r, done, err
	case ".xz":
		r, err = deb.DecompressorFor(ext)(m.Data)
		return r, done, err
	case ".zst":
		z, err := zstd.NewReader(m.Data, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxControlTar))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, errors.New("unknown compression")
}

// summary is the first line of a description, as far as it is text.
func summary(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.ToValidUTF8(s[:min(len(s), maxName)], "")
}

// fileSafe replaces what a file name on any system should not have.
func fileSafe(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("+.-~_^", r)) {
			return r
		}
		return '_'
	}, s)
}
