package redfishtest

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func content1(t testing.TB, f transport.File) []byte {
	t.Helper()
	r, err := f.Open(context.Background())
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

// TestFiles: what is made is as long as it says, has the digest that it says, and
// can be read from anywhere.
func TestFiles(t *testing.T) {
	image := Image(ImageSpec{Targets: []string{"x"}, Version: "1", Size: 20_001})
	cut, err := Truncate(image, 10_000)
	require.NoError(t, err)
	bad, err := Corrupt(image, 12_000)
	require.NoError(t, err)
	large := Component("c.exe", SectionSize+5000)
	sections, err := Sections(large)
	require.NoError(t, err)
	require.Len(t, sections, 2)
	files := append([]transport.File{image, cut, bad, Image(ImageSpec{}), Component("x.exe", 9000), Package(PackageSpec{Images: []transport.File{image}})}, sections[1])
	for _, f := range files {
		require.NoError(t, f.Check())
		b := content1(t, f)
		require.Len(t, b, int(f.Size))
		require.Equal(t, f.SHA256, sha256.Sum256(b))
		r, err := f.Open(context.Background())
		require.NoError(t, err)
		require.NoError(t, iotest.TestReader(r, b))
	}
	_, err = Truncate(image, 20_002)
	require.Error(t, err)
	a, b := content1(t, image), content1(t, bad)
	require.Equal(t, a[:12_000], b[:12_000])
	require.NotEqual(t, a[12_000], b[12_000])
	require.Equal(t, a[12_001:], b[12_001:])
	whole := content1(t, large)
	require.Equal(t, whole[SectionSize:], content1(t, sections[1]))
	require.NotEqual(t, whole[:100_000], whole[SectionSize-100_000:SectionSize], "no part is like another")
}

// TestChecker: a stream is received in pieces of any size.
func TestChecker(t *testing.T) {
	b := content1(t, Image(ImageSpec{Targets: []string{"x"}, Version: "7.1", Size: 9999}))
	for _, size := range []int{1, 7, 95, 96, 97, 1023, 1024, 1025, 5000, len(b)} {
		c := newChecker()
		for rest := b; len(rest) > 0; {
			n := min(size, len(rest))
			_, err := c.Write(rest[:n])
			require.NoError(t, err)
			rest = rest[n:]
		}
		got := c.finish("x")
		require.NoError(t, got.err, size)
		require.Equal(t, "7.1", got.images[0].Version)
		require.Equal(t, int64(len(b)), got.size)
	}
	for i := range b {
		if i > 200 && i < len(b)-200 && i%97 != 0 {
			continue
		}
		b[i] ^= 1
		c := newChecker()
		_, _ = c.Write(b)
		got := c.finish("x")
		require.False(t, got.err == nil && got.form == rawForm, "byte %d does not matter", i)
		b[i] ^= 1
	}
}

// TestMemory: a large image is neither made nor checked in memory.
func TestMemory(t *testing.T) {
	const size = 256 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f := Image(ImageSpec{Targets: []string{"x"}, Version: "1", Size: size})
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	c := newChecker()
	_, err = io.Copy(c, r)
	require.NoError(t, err)
	got := c.finish("x")
	require.NoError(t, got.err)
	require.EqualValues(t, size, got.size)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "bytes were allocated, over all")
}

func FuzzChecker(f *testing.F) {
	image := Image(ImageSpec{Targets: []string{"x"}, Version: "1", Size: 3000})
	f.Add(content1(f, image))
	f.Add(content1(f, Package(PackageSpec{Images: []transport.File{image}})))
	valid := content1(f, image)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newChecker()
		if _, err := io.Copy(c, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		got := c.finish("x")
		if got.form == rawForm && got.err == nil && !bytes.Equal(b, valid) {
			t.Fatal("another image has a valid signature")
		}
	})
}

func FuzzCompsig(f *testing.F) {
	sigs, err := Sign(Component("x.exe", 100))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content1(f, sigs[0]))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := readCompsig(b); err == nil && c.File != "x.exe" {
			t.Fatal("another signature is valid")
		}
	})
}

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"2.72 Sep 04 2022", "2.30", 1}, {"2.9", "2.10", -1}, {"1.12.00", "1.12.00 x", 0}, {"", "1", -1}} {
		require.Equal(t, c.want, compareVersions(c.a, c.b), "%q %q", c.a, c.b)
	}
}

// TestCheckerUndo: what was received since can be forgotten, of every form and at
// every length.
func TestCheckerUndo(t *testing.T) {
	image := Image(ImageSpec{Targets: []string{"x"}, Version: "7.1", Size: 9999})
	for _, f := range []transport.File{image, Package(PackageSpec{Images: []transport.File{image}})} {
		b := content1(t, f)
		for _, n := range []int{0, 1, 3, 4, 95, 97, 1023, 1025, 5000} {
			c := newChecker()
			_, err := c.Write(b[:n])
			require.NoError(t, err)
			before := c.received()
			_, err = c.Write(append([]byte("PK\x03\x04"), make([]byte, 7000)...))
			require.NoError(t, err)
			require.NoError(t, c.undo(before))
			_, err = c.Write(b[n:])
			require.NoError(t, err)
			got := c.finish("x")
			require.NoError(t, got.err, n)
			require.Len(t, got.images, 1, n)
			require.Equal(t, "7.1", got.images[0].Version)
			require.Equal(t, f.Digest(), got.digest)
			require.Equal(t, f.Size, got.size)
		}
	}
}

// TestSave: what is made can be had on disk.
func TestSave(t *testing.T) {
	f := Image(ImageSpec{Name: "sub/dir/x.bin", Targets: []string{"x"}, Version: "1", Size: 100_000})
	path, err := Save(f, t.TempDir())
	require.NoError(t, err)
	require.Equal(t, "x.bin", filepath.Base(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, f.SHA256, sha256.Sum256(b))
	_, err = Save(f, filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	broken := f
	broken.Open = func(context.Context) (io.ReadSeekCloser, error) { return nil, io.ErrUnexpectedEOF }
	_, err = Save(broken, t.TempDir())
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// TestUnpackedSize: a package that is larger unpacked than it may be is refused.
func TestUnpackedSize(t *testing.T) {
	b := packageOf(t, []byte("{}"), Image(ImageSpec{Targets: []string{"x"}, Version: "1", Size: 5000}))
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	for _, f := range z.File {
		if f.Name != "a.bin" {
			continue
		}
		left := int64(5000)
		part, err := readImage(f, &left)
		require.NoError(t, err)
		require.Equal(t, "1", part.Version)
		require.Zero(t, left)
		left = 4999
		_, err = readImage(f, &left)
		require.ErrorContains(t, err, "UpdateInvalidFile")
	}
}
