package fwpkg

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// zipped makes an archive of files by name and content.
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

func read(data []byte) (*Package, error) {
	p, _, err := Read(bytes.NewReader(data), int64(len(data)))
	return p, err
}

// Makers write the same in several ways.
func TestRead(t *testing.T) {
	want := &Package{
		Format: "FWPKG-v2", Name: "Adapter firmware", DeviceClass: "C-1", UpdatableBy: []string{"Bmc", "Uefi"}, Minimum: "1.50",
		Devices: []Device{{Name: "adapter", Target: "T-1", Version: "2.10", Minimum: "1.9",
			Images: []Image{{File: "b.bin", Direct: true, UEFI: true, Reset: true, PowerOff: true, Order: 2}, {File: "a.bin", Order: 1}}}},
	}
	for _, written := range []string{
		`{"PackageFormat":"FWPKG-v2","DeviceClass":"C-1","UpdatableBy":["Bmc","Uefi"],"MinimumActiveVersion":"1.50","Package":{"Name":"Adapter firmware"},
			"Devices":{"Device":[{"DeviceName":"adapter","Target":"T-1","Version":"2.10","MinimumActiveVersion":"1.9","FirmwareImages":[
			{"FileName":"b.bin","DirectFlashOk":true,"UefiFlashable":true,"ResetRequired":true,"ServerPowerOff":true,"Order":2,"PLDMImage":false},{"FileName":"a.bin","Order":1}]}]}}`,
		"\uFEFF" + `{"PackageFormat":" FWPKG-v2 ","DeviceClass":"C-1","UpdatableBy":["Bmc","","Uefi"],"MinimumActiveVersion":1.50,
			"package":{"name":[{"lang":"de","x_late":"x"},{"lang":"en","x_late":"Adapter firmware"}],"id":{"product":"p"}},
			"Devices":{"Device":[{"DeviceName":"adapter","Target":["T-1"],"Version":2.10,"MinimumActiveVersion":1.9,"FirmwareImages":[
			{"FileName":"b.bin","DirectFlashOK":"True","UEFIFlashable":"yes","ResetRequired":1,"ServerPowerOff":" 1 ","Order":"2"},{"FileName":"a.bin","DirectFlashOk":"no","UefiFlashable":"0","ResetRequired":null,"ServerPowerOff":"None","Order":1}]}]}}`,
	} {
		p, err := read(zipped(t, "b.bin", "image", "payload.json", written))
		require.NoError(t, err)
		require.Equal(t, want, p)
		require.Equal(t, []string{"a.bin", "b.bin"}, p.Images())
		require.True(t, p.By("bmc"))
		require.False(t, p.By(Host))
		require.False(t, p.Direct(), "not every image")
		require.Equal(t, transport.ActivationPowerCycle, p.Activation())
		require.Equal(t, "1.9", p.Least(p.Devices[0]))
		require.Equal(t, "1.50", p.Least(Device{}))
	}
	several, err := read(zipped(t, "payload.json", `{"UpdatableBy":"Bmc","MinimumActiveVersion":"null","Devices":{"Device":[{"Target":["a","b"],"MinimumActiveVersion":null,"FirmwareImages":[{"FileName":"x","DirectFlashOk":true,"ResetRequired":true}]}]}}`))
	require.NoError(t, err)
	require.Len(t, several.Devices, 2)
	require.Equal(t, "b", several.Devices[1].Target)
	require.Empty(t, several.Least(several.Devices[0]))
	require.True(t, several.Direct())
	require.Equal(t, []string{"x"}, several.Images(), "once, whoever it is for")
	require.Equal(t, transport.ActivationReboot, several.Activation())
}

func TestRefused(t *testing.T) {
	devices := func(n int) string {
		return `{"Devices":{"Device":[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `]}}`
	}
	images := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `{"FileName":"%d"},`, i)
		}
		return `{"Devices":{"Device":[{"FirmwareImages":[` + strings.TrimSuffix(b.String(), ",") + `]}]}}`
	}
	var many []string
	for i := range MaxEntries + 1 {
		many = append(many, fmt.Sprint(i), "")
	}
	deep := func(n int) string {
		return `{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"Devices":{"Device":[{}]}}`
	}
	truth := func(name, v string) []byte {
		return zipped(t, "payload.json", `{"Devices":{"Device":[{"FirmwareImages":[{"FileName":"x.bin","`+name+`":`+v+`}]}]}}`)
	}
	long := strings.Repeat("x", 5000) // the directory alone is too much, and there are not too many files
	var wide []string
	for i := range MaxEntries {
		wide = append(wide, fmt.Sprint(i, long), "")
	}
	for says, data := range map[string][]byte{
		`"x.bin" that its DirectFlashOk is "maybe", which is neither`: truth("DirectFlashOk", `"maybe"`),
		`its UefiFlashable is "2", which is neither`:                  truth("UEFIFlashable", `2`),
		`its ResetRequired is a list or an object`:                    truth("ResetRequired", `[true]`),
		`its ServerPowerOff is a list or an object`:                   truth("ServerPowerOff", `{}`),
		"directory has more than 1048576 bytes":                       zipped(t, wide...),
		"zip:":                                                        []byte("PK\x03\x04 and so on"),
		"without payload.json":                                        zipped(t, "other.json", "{}"),
		"names no device":                                             zipped(t, "payload.json", `{"Devices":{"Device":[]}}`),
		"cannot be read":                                              zipped(t, "payload.json", `[]`),
		"cannot be read: unexpected EOF":                              zipped(t, "payload.json", `{"Devices":`),
		"something follows":                                           zipped(t, "payload.json", `{"Devices":{"Device":[{}]}} {}`),
		`"a/b", which is no name`:                                     zipped(t, "payload.json", `{"Devices":{"Device":[{"FirmwareImages":[{"FileName":"a/b"}]}]}}`),
		"is there twice":                                              zipped(t, "payload.json", devices(1), "payload.json", devices(1)),
		"more than 256 files":                                         zipped(t, many...),
		"more than 4194304 bytes":                                     zipped(t, "payload.json", strings.Repeat(" ", MaxDescription+1)),
		"more than 512 devices":                                       zipped(t, "payload.json", devices(MaxDevices+1)),
		"more than 64 images":                                         zipped(t, "payload.json", images(MaxImages+1)),
		"nests deeper than 64":                                        zipped(t, "payload.json", deep(maxDepth)),
	} {
		p, err := read(data)
		require.ErrorContains(t, err, says)
		require.Nil(t, p)
	}
	for _, fine := range []string{devices(MaxDevices), images(MaxImages), deep(maxDepth - 1)} {
		_, err := read(zipped(t, "payload.json", fine))
		require.NoError(t, err)
	}
	_, err := read(zipped(t, "x", ""))
	require.ErrorIs(t, err, ErrNone)
}

func FuzzRead(f *testing.F) {
	f.Add(zipped(f, "payload.json", `{"PackageFormat":"FWPKG-v2","UpdatableBy":["Bmc"],"Devices":{"Device":[{"Target":"a","Version":"1","FirmwareImages":[{"FileName":"x.bin","DirectFlashOk":true,"ResetRequired":"True","Order":1}]}]}}`, "x.bin", "image"))
	f.Add(zipped(f, "payload.json", `{"UpdatableBy":"Uefi","Devices":{"Device":[{"FirmwareImages":[{"FileName":"../x"}]}]}}`))
	f.Add(zipped(f, "other", ""))
	f.Add([]byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, z, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			require.Nil(t, p)
			require.Nil(t, z)
			return
		}
		require.LessOrEqual(t, len(z.File), MaxEntries)
		check(t, p)
	})
}

// FuzzDescription is of the description alone, which no fuzzer finds in an archive.
func FuzzDescription(f *testing.F) {
	f.Add([]byte(`{"PackageFormat":1,"package":{"name":[{"lang":"en","x_late":"x"},1]},"UpdatableBy":["Bmc",1],"Devices":{"Device":[{"Target":["a",{}],"Version":2.10,"FirmwareImages":[{"FileName":"x.bin","DirectFlashOk":"True","Order":"1"}]}]}}`))
	f.Add([]byte(`{"Devices":{"Device":[{"Target":"\ud800","FirmwareImages":[{"FileName":"a\u0000"}]}]}}`))
	f.Add([]byte(strings.Repeat(`[`, 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := parse(data); err == nil {
			check(t, p)
		}
	})
}

func check(t *testing.T, p *Package) {
	require.NotEmpty(t, p.Devices)
	require.LessOrEqual(t, len(p.Devices), MaxDevices)
	require.LessOrEqual(t, len(p.Images()), MaxImages)
	for _, name := range p.Images() {
		require.NotContains(t, name, "/")
		require.NotEmpty(t, name)
	}
	p.Direct()
	p.Activation()
	for _, d := range p.Devices {
		p.Least(d)
	}
}
