package component

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
)

func TestLoadDeb(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".zst"} {
		data := helloDeb(t, ext, helloControl)
		path := filepath.Join(folder(t, map[string]string{"any name:1.bin": string(data)}), "any name:1.bin")
		c, err := Load(t.Context(), path)
		require.NoError(t, err)
		require.Equal(t, data, content(t, c.Payload.Files[0]))
		require.NoError(t, c.Payload.Files[0].Check())
		require.NoError(t, c.check())
		c.Payload.Files[0].Open = nil
		require.Equal(t, "hello_2.10-3_amd64.deb", c.Payload.Files[0].Name)
		require.Equal(t, sha(string(data)), c.Payload.Files[0].Digest())
		require.Equal(t, int64(len(data)), c.Payload.Files[0].Size)
		require.Equal(t, []string{"hello", "1:2.10-3", "greets", path, "deb"}, []string{c.Name, c.Version, c.Description, c.Source, string(c.Scheme)})
		require.Equal(t, Match{Package: &PackageMatch{Source: Dpkg, Name: "hello", Arch: "amd64"}}, c.Match)
		require.Equal(t, []string{"dpkg", "--force-confdef", "--force-confold", "-i", "./hello_2.10-3_amd64.deb"}, c.Job("", JobOptions{Rewrite: true}).Argv)
		require.Equal(t, agent.ProfileDeb, c.Profile)
		require.True(t, c.NoKill)
	}
}

func TestBadDebs(t *testing.T) {
	good := helloDeb(t, ".gz", helloControl)
	sized := func(size string) []byte { // of the first member
		b := slices.Clone(good)
		copy(b[8+48:], fmt.Sprintf("%-10s", size))
		return b
	}
	control := func(old, new string) []byte { return helloDeb(t, "", strings.Replace(helloControl, old, new, 1)) }
	version2 := member{"debian-binary", "2.0\n"}
	data := member{"data.tar", "x"}
	for name, file := range map[string][]byte{
		"only magic":       good[:8],
		"cut in a header":  good[:40],
		"cut in control":   good[:150],
		"no data":          arFile(version2, member{"control.tar", tarOf(t, "./control", helloControl)}),
		"no control":       arFile(version2, data),
		"control missing":  arFile(version2, member{"control.tar", tarOf(t, "./postinst", "x")}, data),
		"not a package":    arFile(member{"a.o", "x"}),
		"other format":     arFile(member{"debian-binary", "3.0\n"}, data),
		"empty format":     arFile(member{"debian-binary", ""}, data),
		"negative size":    sized("-60"),
		"size beyond":      sized("999999999"),
		"many members":     arFile(slices.Repeat([]member{version2}, maxMembers+1)...),
		"not gzip":         arFile(version2, member{"control.tar.gz", "x"}, data),
		"not zstd":         arFile(version2, member{"control.tar.zst", "x"}, data),
		"not xz":           arFile(version2, member{"control.tar.xz", "x"}, data),
		"unknown packing":  arFile(version2, member{"control.tar.lzma", "x"}, data),
		"no name":          control("Package: hello\n", ""),
		"name is a path":   control("hello", "../hello"),
		"name is a switch": control("hello", "-rf"),
		"bad version":      control("1:2.10-3", "two"),
		"bad arch":         control("amd64", "amd 64"),
		"long name":        control("hello", strings.Repeat("h", maxName+1)),
		"empty control":    helloDeb(t, "", ""),
		"control no field": helloDeb(t, "", "hello\n"),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(folder(t, map[string]string{"x.deb": string(file)}), "x.deb")
			c, err := Load(t.Context(), path)
			require.Nil(t, c)
			require.ErrorIs(t, err, ErrInvalid)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, path, e.File)
		})
	}
}

// TestDataIsNotRead gives a package whose data member is a hole of 8 GiB.
func TestDataIsNotRead(t *testing.T) {
	small := helloDeb(t, ".gz", helloControl)
	at := bytes.Index(small, []byte("data.tar.xz"))
	head := slices.Clone(small[:at+60])
	const size = 8 << 30
	copy(head[at+48:], fmt.Sprintf("%-10d", int64(size)))
	r := &counting{Reader: bytes.NewReader(head)}
	c, err := readDeb(r, int64(len(head))+size)
	require.NoError(t, err)
	require.Equal(t, "hello", c.Name)
	require.LessOrEqual(t, r.end, int64(len(head)))
}

// counting answers reads behind the end with the end of file, and notes how far
// reads that gave something went.
type counting struct {
	*bytes.Reader
	end int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	if n > 0 {
		c.end = max(c.end, off+int64(n))
	}
	return n, err
}

func TestRealDeb(t *testing.T) {
	dpkgDeb := realtest.Need(t, "dpkg-deb")
	for _, z := range []string{"none", "gzip", "xz", "zstd"} {
		dir := folder(t, map[string]string{"p/DEBIAN/control": helloControl, "p/usr/share/hello/x": strings.Repeat("x", 1<<20)})
		deb := filepath.Join(dir, "p.deb")
		run(t, dpkgDeb, "--root-owner-group", "-Z"+z, "--uniform-compression", "-b", filepath.Join(dir, "p"), deb)
		c, err := Load(t.Context(), deb)
		require.NoError(t, err, z)
		require.Equal(t, strings.TrimSpace(run(t, dpkgDeb, "-f", deb, "Version")), c.Version)
		require.Equal(t, strings.TrimSpace(run(t, dpkgDeb, "-f", deb, "Package")), c.Name)
		require.Equal(t, &PackageMatch{Source: Dpkg, Name: "hello", Arch: "amd64"}, c.Match.Package)
		disk, err := os.ReadFile(deb)
		require.NoError(t, err)
		require.Equal(t, disk, content(t, c.Payload.Files[0]))
	}
}

// buildRPM builds a package with real rpmbuild and returns its path.
func buildRPM(t *testing.T, spec string, args ...string) string {
	t.Helper()
	rpmbuild := realtest.Need(t, "rpmbuild")
	dir := folder(t, map[string]string{"x.spec": spec})
	run(t, rpmbuild, append(append([]string{"--define", "_topdir " + dir}, args...), filepath.Join(dir, "x.spec"))...)
	for _, pattern := range []string{"RPMS/*/*.rpm", "SRPMS/*.rpm"} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(found) == 1 {
			return found[0]
		}
	}
	require.Fail(t, "rpmbuild made nothing")
	return ""
}

const helloSpec = "Name: hello\nVersion: 2.10\nRelease: 3.el9\n%EPOCH%Summary: greets\nLicense: none\nBuildArch: noarch\n%description\nd\n" +
	"%install\nmkdir -p %{buildroot}%DIR%\necho hi >%{buildroot}%DIR%/x\n%files\n%DIR%/x\n"

func spec(epoch, dir string) string {
	return strings.NewReplacer("%EPOCH%", epoch, "%DIR%", dir).Replace(helloSpec)
}

func TestRealRPM(t *testing.T) {
	rpm := realtest.Need(t, "rpm")
	for _, epoch := range []string{"", "Epoch: 0\n", "Epoch: 4\n"} {
		path := buildRPM(t, spec(epoch, "/usr/share/hello"), "-bb")
		c, err := Load(t.Context(), path)
		require.NoError(t, err)
		// The same format as the inventory asks with.
		want := run(t, rpm, "-qp", "--nosignature", "--qf", `%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}`, path)
		require.Equal(t, want, c.Version)
		require.Equal(t, version.RPM, c.Scheme)
		require.Equal(t, Match{Package: &PackageMatch{Source: RPM, Name: "hello", Arch: "noarch"}}, c.Match)
		require.NoError(t, c.check())
		require.Equal(t, "greets", c.Description)
		require.Equal(t, []string{"rpm", "-U", "./hello-2.10-3.el9.noarch.rpm"}, c.Job("", JobOptions{}).Argv)
		require.Equal(t, []string{"rpm", "-U", "--replacepkgs", "--oldpackage", "./hello-2.10-3.el9.noarch.rpm"},
			c.Job("", JobOptions{Rewrite: true, Downgrade: true}).Argv)
		disk, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, disk, content(t, c.Payload.Files[0]))
	}
}

func TestSourceRPM(t *testing.T) {
	_, err := Load(t.Context(), buildRPM(t, spec("", "/x"), "-bs"))
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "source package")
}

func TestDamagedRPMs(t *testing.T) {
	path := buildRPM(t, spec("", "/usr/share/hello"), "-bb")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, n := range []int{4, 95, 100, 120, 500, 1500} {
		_, err := readRPM(bytes.NewReader(good[:n]))
		require.Error(t, err, n)
	}
	edit := func(at int, v uint32) []byte {
		b := slices.Clone(good)
		binary.BigEndian.PutUint32(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"many entries":  edit(rpmLead+8, 1<<31),
		"large store":   edit(rpmLead+12, 1<<31),
		"type":          edit(rpmLead+16+16+4, 99),
		"offset":        edit(rpmLead+16+16+8, 1<<30),
		"count":         edit(rpmLead+16+16+12, 1<<31),
		"count of none": edit(rpmLead+16+16+12, 0),
	} {
		_, err := readRPM(bytes.NewReader(b))
		require.Error(t, err, name)
	}
}

// TestHostileRPM asks for gigabytes with a few bytes.
func TestHostileRPM(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, kind := range []uint32{2, 3, 4, 5, 6, 7, 8, 9} {
		for _, repeat := range []int{1, maxRPMTags - 1} {
			_, err := readRPM(bytes.NewReader(rpmOf(slices.Repeat([]rpmEntry{{1, kind, 0, 1 << 31}}, repeat), make([]byte, 64))))
			require.Error(t, err)
			_, err = readRPM(bytes.NewReader(rpmOf(slices.Repeat([]rpmEntry{{1, 7, 0, 40}}, repeat+1), make([]byte, 64))))
			require.ErrorContains(t, err, "overlap")
		}
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

type rpmEntry struct{ tag, kind, offset, count uint32 }

// rpmOf makes a package with an empty signature and one header.
func rpmOf(entries []rpmEntry, store []byte) []byte {
	b := make([]byte, rpmLead)
	copy(b, []byte{0xed, 0xab, 0xee, 0xdb, 3, 0})
	for _, h := range []struct {
		entries []rpmEntry
		store   []byte
	}{{nil, nil}, {entries, store}} {
		b = append(b, 0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(h.entries)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(h.store)))
		for _, e := range h.entries {
			for _, v := range []uint32{e.tag, e.kind, e.offset, e.count} {
				b = binary.BigEndian.AppendUint32(b, v)
			}
		}
		b = append(b, h.store...)
	}
	return b
}

func FuzzRPM(f *testing.F) {
	store := []byte("hello\x002.10\x003\x00noarch\x00src\x00\x00\x00\x00\x00\x00\x00\x04")
	f.Add(rpmOf([]rpmEntry{{1000, 6, 0, 1}, {1001, 6, 6, 1}, {1002, 6, 11, 1}, {1022, 6, 13, 1}, {1044, 6, 20, 1}, {1003, 4, 27, 1}}, store))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readRPM(bytes.NewReader(b))
		if err == nil && len(c.Name) <= maxName {
			require.NoError(t, c.check())
		}
	})
}

func FuzzDeb(f *testing.F) {
	for _, ext := range []string{"", ".gz", ".zst"} {
		f.Add(helloDeb(f, ext, helloControl))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readDeb(bytes.NewReader(b), int64(len(b)))
		if err == nil && len(c.Name) <= maxName {
			require.NoError(t, c.check())
		}
	})
}
