package component

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/fwpkg"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// fwpkgOf makes a firmware package with that description, and files by name and content.
func fwpkgOf(t testing.TB, description string, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if description != "" {
		files = append(files, "payload.json", description)
	}
	for i := 0; i < len(files); i += 2 {
		w, err := z.Create(files[i])
		require.NoError(t, err)
		_, err = w.Write([]byte(files[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.String()
}

const adapterJSON = `{"PackageFormat":"FWPKG-v2","DeviceClass":"C-1","UpdatableBy":["Bmc","Uefi"],"Package":{"Name":"Adapter firmware"},"Devices":{"Device":[
	{"DeviceName":"one","Target":"T-1","Version":"2.10","MinimumActiveVersion":"1.9","FirmwareImages":[{"FileName":"x.bin","DirectFlashOk":true,"ResetRequired":true}]},
	{"DeviceName":"two","Target":"T-2","Version":"2.10","MinimumActiveVersion":"1.10","FirmwareImages":[{"FileName":"x.bin"}]}]}}`

func TestLoadFwpkg(t *testing.T) {
	dir := folder(t, map[string]string{
		"cp1.fwpkg": fwpkgOf(t, adapterJSON, "x.bin", "image"), "cp1.compsig": "s", "CP1_part1.compsig": "1", "cp1_part2.CompSig": "2",
		"cp2.compsig": "another's", "cp1_x.compsig": "another's", "cp1.json": "{}",
	})
	path := filepath.Join(dir, "cp1.fwpkg")
	c, err := Load(t.Context(), path)
	require.NoError(t, err)
	files := c.Payload.Files
	c.Payload.Files = nil
	require.Equal(t, &Component{
		Name: "Adapter firmware", Version: "2.10", Scheme: version.HPE, Kinds: []string{"ilo", "redfish"},
		Match: Match{Device: &DeviceMatch{DeviceClass: "c-1", Part: Firmware,
			HardwareIDs: []string{"hpe-target:t-1", "software-id:t-1", "hpe-target:t-2", "software-id:t-2"}}},
		Payload: transport.Payload{Name: "Adapter firmware", Version: "2.10"}, Source: path,
		Activation: transport.ActivationReboot, Minimum: "1.10", UpdatableBy: []string{"Bmc", "Uefi"},
	}, c)
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
		require.NoError(t, f.Check())
		raw, err := os.ReadFile(filepath.Join(dir, f.Name))
		require.NoError(t, err)
		require.Equal(t, raw, content(t, f))
	}
	require.Equal(t, []string{"cp1.fwpkg", "CP1_part1.compsig", "cp1.compsig", "cp1_part2.CompSig"}, names)
	c.Payload.Files = files
	require.True(t, c.Owns(filepath.Join(dir, "cp1.compsig")))
	require.False(t, c.Owns(filepath.Join(dir, "cp2.compsig")))

	// By its content, whatever it is called, and through a link.
	link := filepath.Join(t.TempDir(), "update.zip")
	require.NoError(t, os.Symlink(path, link))
	other, err := Load(t.Context(), link)
	require.NoError(t, err)
	require.Equal(t, "update.zip", other.Payload.Files[0].Name)
	require.Len(t, other.Payload.Files, 1)
}

// What a package does not name is told by what it does.
func TestFwpkgName(t *testing.T) {
	device := func(name string) string {
		return `{"Devices":{"Device":[{"DeviceName":"` + name + `","Target":"t","Version":"1","FirmwareImages":[{"FileName":"x.bin"}]}]}}`
	}
	for description, want := range map[string]string{
		device(""):                         "cp1",
		device("adapter"):                  "adapter",
		device(`two\u0000 \n words\u202e`): "two words",
		device(strings.Repeat("é", 100)):   strings.Repeat("é", 64),
		`{"Package":{"Name":[{"lang":"en","x_late":"named"}]},` + device("x")[1:]: "named",
	} {
		dir := folder(t, map[string]string{"cp1.fwpkg": fwpkgOf(t, description, "x.bin", "image")})
		c, err := Load(t.Context(), filepath.Join(dir, "cp1.fwpkg"))
		require.NoError(t, err, description)
		require.Equal(t, want, c.Name)
		require.Empty(t, c.Minimum)
		require.Equal(t, transport.ActivationNone, c.Activation)
	}
}

func TestBadFwpkgs(t *testing.T) {
	device := func(target, version, least, image string) string {
		return `{"Target":"` + target + `","Version":"` + version + `","MinimumActiveVersion":"` + least + `","FirmwareImages":[{"FileName":"` + image + `"}]}`
	}
	of := func(devices ...string) string {
		return fwpkgOf(t, `{"Devices":{"Device":[`+strings.Join(devices, ",")+`]}}`, "x.bin", "image")
	}
	whole := of(device("t", "1", "", "x.bin"))
	for says, data := range map[string]string{
		"a zip without payload.json; it is no firmware package": fwpkgOf(t, "", "x.bin", "image"),
		"without payload.json": fwpkgOf(t, ""),
		"fetch it again":       whole[:len(whole)/2],
		"names the image \"y.bin\", which is not in the package": of(device("t", "1", "", "y.bin")),
		"names no image":                                         of(device("t", "1", "", "")),
		"has no version for the target \"t\"":                    of(device("t", "", "", "x.bin")),
		"names no target: nothing tells which devices it is for": of(device("", "1", "", "x.bin")),
		"has the versions \"1\" and \"2\" for its devices":       of(device("t", "1", "", "x.bin"), device("u", "2", "", "x.bin")),
		"of which nothing says which is newer":                   of(device("t", "U30 v2.0", "U30 v1.0", "x.bin"), device("u", "U30 v2.0", "A40 v1.0", "x.bin")),
		"device.hardware_ids[0]":                                 of(device(strings.Repeat("t", 200), "1", "", "x.bin")),
	} {
		dir := folder(t, map[string]string{"cp1.fwpkg": data})
		path := filepath.Join(dir, "cp1.fwpkg")
		_, err := Load(t.Context(), path)
		require.ErrorIs(t, err, ErrInvalid, says)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, path)
	}
}

// A signature is of the file beside it, and no component.
func TestSignatures(t *testing.T) {
	const description = `{"name":"n","version":"2","scheme":"hpe","kinds":["ilo"],"device":{"class":"nic","part":"firmware"},"files":[{"name":"sub/cp1.exe"}]}`
	files := map[string]string{
		ManifestName: description, "sub/cp1.exe": "MZ", "sub/cp1_part1.compsig": "1", "sub/cp1_part2.compsig": "2",
		"cp1.compsig": "of nothing", "sub/cp2.compsig": "of nothing",
	}
	names := func(files map[string]string) (out []string) {
		c, err := Load(t.Context(), folder(t, files))
		require.NoError(t, err)
		for _, f := range c.Payload.Files {
			require.Equal(t, files[f.Name], string(content(t, f)))
			out = append(out, f.Name)
		}
		return out
	}
	want := []string{"sub/cp1.exe", "sub/cp1_part1.compsig", "sub/cp1_part2.compsig"}
	require.Equal(t, want, names(files))
	files[ManifestName] = strings.Replace(description, `"files":[`, `"files":[{"name":"sub/cp1_part2.compsig"},`, 1)
	require.ElementsMatch(t, want, names(files), "each once")
	files[ManifestName] = strings.Replace(description, `"kinds":["ilo"]`, `"kinds":["windows"],"install":["./sub/cp1.exe"]`, 1)
	require.Equal(t, want[:1], names(files), "an agent has no use for it")

	dir := folder(t, files)
	_, err := Load(t.Context(), filepath.Join(dir, "sub", "cp1_part2.compsig"))
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, `it is loaded with "cp1.exe"`)
	_, err = Load(t.Context(), filepath.Join(dir, "sub", "cp2.compsig"))
	require.ErrorContains(t, err, "is not beside it")

	files[ManifestName], files["sub/cp1_part1.compsig"] = description, strings.Repeat("x", maxSignature+1)
	_, err = Load(t.Context(), folder(t, files))
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "no signature has")
}

// The class that HPE gives a kind of device decides where the target tells one.
func TestDeviceClass(t *testing.T) {
	m := Match{Device: &DeviceMatch{DeviceClass: "c-1", HardwareIDs: []string{"hpe-target:t-1"}, Part: Firmware}}
	inv := &transport.Inventory{Devices: []transport.Device{
		{ID: "its own", HardwareIDs: []string{"hpe-target:T-1", "hpe-class:C-1"}},
		{ID: "another", HardwareIDs: []string{"hpe-target:t-1", "hpe-class:c-2"}},
		{ID: "not told", HardwareIDs: []string{"hpe-target:t-1"}},
		{ID: "no target", HardwareIDs: []string{"hpe-class:c-1"}},
	}}
	require.Equal(t, []Found{{"its own", "", true}, {"not told", "", true}}, m.Find(inv))
	m.Device.DeviceClass = ""
	require.Len(t, m.Find(inv), 3)
}

func TestMinimumVersion(t *testing.T) {
	with := func(least string) (*Component, error) {
		return Load(t.Context(), folder(t, map[string]string{ManifestName: `{"name":"ilo5","version":"2.78","scheme":"numeric","kinds":["ilo"],
			"device":{"class":"bmc","device_class":"c","part":"firmware"},"minimum_version":"` + least + `","files":[{"name":"i.bin"}]}`, "i.bin": "x"}))
	}
	c, err := with("1.40")
	require.NoError(t, err)
	for installed, lacks := range map[string]bool{"1.39": true, "1.40": false, "1.4": true, "2": false, "": false, "unknown": false} {
		require.Equal(t, lacks, c.Lacks(installed), installed)
	}
	require.False(t, (&Component{Version: "2", Scheme: version.Numeric}).Lacks("1"))
	require.Equal(t, "c", c.Match.Device.DeviceClass)
	_, err = with("one")
	require.ErrorContains(t, err, "minimum_version")
}

func FuzzFwpkg(f *testing.F) {
	f.Add(adapterJSON)
	f.Add(`{"package":{"name":"\u202e"},"MinimumActiveVersion":"1","Devices":{"Device":[{"DeviceName":"x","Target":["A","a"],"Version":2.10,"FirmwareImages":[{"FileName":"x.bin"}]}]}}`)
	f.Fuzz(func(t *testing.T, description string) {
		data := fwpkgOf(t, description, "x.bin", "image")
		p, _, err := fwpkg.Read(strings.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		c, err := described(p, []string{"x.bin"}, "stem")
		if err != nil {
			return
		}
		require.NoError(t, c.check())
		require.NotEmpty(t, c.Match.Device.HardwareIDs)
		require.Len(t, c.Digest(), 64)
		c.Lacks("1.0")
		c.HostOnly()
	})
}
