package redfish

import (
	"archive/zip"
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	desc "github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// zipped makes an archive.
func zipped(t testing.TB, files ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		w, err := z.Create(files[i])
		require.NoError(t, err)
		_, err = w.Write([]byte(files[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// Format 2 goes whole, to those that know it.
func TestWholePackages(t *testing.T) {
	v2, v1 := &fwpkg{&desc.Package{Format: "FWPKG-v2"}}, &fwpkg{&desc.Package{Format: "FWPKG-v1"}}
	require.False(t, v2.whole(ProfileILO5, "iLO 5 v2.18"))
	require.True(t, v2.whole(ProfileILO5, "iLO 5 v2.30"))
	require.True(t, v2.whole(ProfileILO5, ""))
	require.True(t, v2.whole(ProfileILO6, "iLO 6 v1.10"))
	require.False(t, v1.whole(ProfileILO6, "iLO 6 v1.10"))
}

// An image in a package can be opened by several at a time, and ends with its context.
func TestImageInPackage(t *testing.T) {
	content := strings.Repeat("image ", 1000)
	f := transport.BytesFile("a.fwpkg", zipped(t, "payload.json", `{"Devices":{"Device":[{"FirmwareImages":[{"FileName":"x.bin"}]}]}}`, "x.bin", content))
	img, err := image(t.Context(), f, "x.bin")
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			r, err := img.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			var b bytes.Buffer
			if _, err := io.Copy(&b, r); err != nil || b.String() != content {
				t.Error("not the image", err)
			}
		})
	}
	all.Wait()
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = image(dead, f, "x.bin")
	require.ErrorIs(t, err, context.Canceled)
}

// A device is told by its targets and class, or where a service has neither by the
// identifier of its software.
func TestFits(t *testing.T) {
	p := &fwpkg{&desc.Package{DeviceClass: "AB", Devices: []desc.Device{{Target: ""}, {Target: "T-1", Version: "1"}, {Target: "T-2", Version: "2"}}}}
	fits := func(e entry) string {
		if d := p.fits(e); d != nil {
			return d.Version
		}
		return ""
	}
	named := func(ids ...string) entry { return entry{device: transport.Device{HardwareIDs: ids}} }
	require.Equal(t, "2", fits(entry{class: "ab", targets: []string{"t-0", "t-2"}}))
	require.Equal(t, "1", fits(entry{targets: []string{"t-1"}}), "not all tell their class")
	require.Empty(t, fits(entry{class: "cd", targets: []string{"t-1"}}))
	require.Empty(t, fits(entry{class: "ab", targets: []string{"t-3", ""}}))
	require.Equal(t, "1", fits(named("name:x", "software-id:t-1")))
	require.Empty(t, fits(named("software-id:", "model:T-1")))
}

// A package has its signatures in it. That of the whole, beside it, goes only where the
// whole is kept.
func TestSignatureOfPackage(t *testing.T) {
	pkg := func(format string) *cargo {
		data := zipped(t, "payload.json", `{"PackageFormat":"`+format+`","Devices":{"Device":[{"FirmwareImages":[{"FileName":"x.bin","DirectFlashOk":true}]}]}}`, "x.bin", "image")
		c, err := arrange(t.Context(), transport.Payload{Files: []transport.File{transport.BytesFile("a.fwpkg", data), transport.BytesFile("a.compsig", []byte("s"))}})
		require.NoError(t, err)
		return c
	}
	for _, tt := range []struct {
		way     Way
		format  string
		profile Profile
		file    string
		sigs    int
	}{
		{WayHPEPush, "FWPKG-v2", ProfileILO6, "a.fwpkg", 1},
		{WayHPEPush, "FWPKG-v1", ProfileILO6, "x.bin", 0},
		{WayAddFromURI, "FWPKG-v2", ProfileILO6, "a.fwpkg", 0},
		{WaySimpleUpdate, "FWPKG-v2", ProfileILO6, "x.bin", 0},
		{WayMultipart, "FWPKG-v2", ProfileGeneric, "a.fwpkg", 0},
	} {
		c := pkg(tt.format)
		require.NoError(t, c.unfit(tt.way, tt.profile), "%v", tt)
		require.NoError(t, c.forWay(t.Context(), tt.way, tt.profile, ""))
		require.Equal(t, tt.file, c.file.Name, "%v", tt)
		require.Len(t, c.compsig, tt.sigs, "%v", tt)
		if tt.way == WayHPEPush { // which may be turned into the other
			require.NoError(t, c.forWay(t.Context(), WayAddFromURI, tt.profile, ""))
			require.Equal(t, tt.file, c.file.Name, "%v", tt)
			require.Empty(t, c.compsig, "%v", tt)
		}
	}
}
