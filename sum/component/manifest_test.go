package component

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

const setupText = "#!/bin/sh\nexit 0\n"

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

var fullManifest = `{
  "name": "NIC firmware", "version": "10.54.7", "scheme": "hpe", "description": "d", "kinds": ["linux", "local"],
  "device": {"class": "nic", "hardware_ids": ["pci:8086:1572"], "part": "firmware"},
  "files": [
    {"name": "setup", "sha256": "` + sha(setupText) + `", "size": 17},
    {"name": "lib/image.bin", "sha256": "` + strings.ToUpper(sha("image")) + `"},
    {"name": "lib/tool", "executable": true}
  ],
  "install": ["./setup", "-s", "{force}", "--tmp={dir}", "{dir}"],
  "rewrite_args": ["-f"], "downgrade_args": ["-g", "-f2"],
  "profile": "hpe-linux", "timeout_seconds": 3600, "no_kill": true, "env": ["RM_QUIET=a=b"], "activation": "reboot",
  "suspend_bitlocker": true
}`

var fullFiles = map[string]string{ManifestName: fullManifest, "setup": setupText, "lib/image.bin": "image", "lib/tool": "t"}

func TestLoadManifest(t *testing.T) {
	dir := folder(t, fullFiles)
	c, err := Load(t.Context(), dir)
	require.NoError(t, err)
	files := c.Payload.Files
	require.Len(t, files, 3)
	for _, f := range files {
		require.NoError(t, f.Check())
		require.Equal(t, fullFiles[f.Name], string(content(t, f)))
		require.Equal(t, sha(fullFiles[f.Name]), f.Digest())
		require.Equal(t, int64(len(fullFiles[f.Name])), f.Size)
	}
	c.Payload.Files = nil
	require.Equal(t, &Component{
		Name: "NIC firmware", Version: "10.54.7", Scheme: version.HPE, Description: "d", Kinds: []string{"linux", "local"},
		Match:   Match{Device: &DeviceMatch{Class: "nic", HardwareIDs: []string{"pci:8086:1572"}, Part: Firmware}},
		Payload: transport.Payload{Name: "NIC firmware", Version: "10.54.7"}, Executable: []string{"lib/tool"}, Source: dir,
		Install: []string{"./setup", "-s", "{force}", "--tmp={dir}", "{dir}"}, RewriteArgs: []string{"-f"}, DowngradeArgs: []string{"-g", "-f2"},
		Profile: agent.ProfileHPELinux, Env: []string{"RM_QUIET=a=b"}, Timeout: time.Hour, NoKill: true, Activation: transport.ActivationReboot, SuspendBitLocker: true,
	}, c)
	c.Payload.Files = files

	byName, err := Load(t.Context(), filepath.Join(dir, ManifestName))
	require.NoError(t, err)
	require.Equal(t, c.Digest(), byName.Digest())

	t.Chdir(dir)
	relative, err := Load(t.Context(), ".")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	require.Equal(t, setupText, string(content(t, relative.Payload.Files[0])), "opens after the working directory changed")
}

func TestLoadProbe(t *testing.T) {
	c, err := Load(t.Context(), folder(t, map[string]string{ManifestName: `{"name":"tool","version":"1.2","scheme":"numeric",
		"probe":{"argv":["/opt/tool","--version"],"timeout_seconds":5},"files":[{"name":"i"}],"install":["./i"],"profile":"zero-ok"}`, "i": "x"}))
	require.NoError(t, err)
	require.Equal(t, Match{Probe: "tool"}, c.Match)
	p, ok := c.Probe()
	require.True(t, ok)
	require.Equal(t, agent.Probe{Name: "tool", Argv: []string{"/opt/tool", "--version"}, Timeout: 5 * time.Second}, p)
}

func TestLoadForDevice(t *testing.T) {
	c, err := Load(t.Context(), folder(t, map[string]string{ManifestName: `{"name":"ilo5","version":"2.78","scheme":"hpe","kinds":["ilo"],
		"device":{"class":"bmc","part":"firmware"},"files":[{"name":"ilo5_278.bin"}]}`, "ilo5_278.bin": "x"}))
	require.NoError(t, err)
	require.Empty(t, c.Install)
}

// edit replaces a part of the full manifest.
func edit(t *testing.T, old, new string) string {
	t.Helper()
	require.Contains(t, fullManifest, old)
	return strings.Replace(fullManifest, old, new, 1)
}

func TestBadManifests(t *testing.T) {
	e := func(old, new string) string { return edit(t, old, new) }
	for name, c := range map[string]struct {
		json  string
		field string
		kind  error
		text  string
	}{
		"empty":             {"", "", ErrInvalid, "unexpected EOF"},
		"null":              {"null", "", ErrInvalid, "null"},
		"list":              {"[]", "", ErrInvalid, "array"},
		"cut":               {fullManifest[:200], "", ErrInvalid, "EOF"},
		"syntax":            {"{\n\"name\": x}", "", ErrInvalid, "see line 2"},
		"second value":      {fullManifest + "{}", "", ErrInvalid, "follows"},
		"trailing":          {fullManifest + "x", "", ErrInvalid, "invalid character"},
		"too long":          {fullManifest + strings.Repeat(" ", maxManifest), "", ErrInvalid, "longer than"},
		"deep":              {`{"x":` + strings.Repeat("[", 2000), "", ErrInvalid, "deeper"},
		"unknown":           {e(`"no_kill"`, `"nokill"`), "", ErrInvalid, "nokill"},
		"bitlocker, linux":  {e(`["linux", "local"]`, `["linux"]`), "suspend_bitlocker", ErrInvalid, "Windows"},
		"unknown below":     {e(`"class"`, `"klass"`), "", ErrInvalid, "klass"},
		"twice":             {e(`"no_kill": true`, `"no_kill": true, "no_kill": false`), "", ErrInvalid, "no_kill"},
		"twice below":       {e(`"class": "nic"`, `"class": "nic", "class": "nic"`), "", ErrInvalid, "twice"},
		"other case":        {e(`"no_kill"`, `"NO_KILL"`), "", ErrInvalid, "NO_KILL"},
		"wrong type":        {e(`3600`, `"3600"`), "timeout_seconds", ErrInvalid, "string"},
		"fraction":          {e(`3600`, `3.5`), "timeout_seconds", ErrInvalid, "3.5"},
		"no name":           {e(`"NIC firmware"`, `""`), "name", ErrInvalid, ""},
		"name of two lines": {e(`"NIC firmware"`, `"a\nb"`), "name", ErrInvalid, ""},
		"no scheme":         {e(`"hpe"`, `""`), "scheme", ErrInvalid, "numeric"},
		"bad scheme":        {e(`"hpe"`, `"semver"`), "scheme", ErrInvalid, "semver"},
		"bad version":       {strings.Replace(e(`"hpe"`, `"numeric"`), "10.54.7", "10.x", 1), "version", ErrInvalid, "10.x"},
		"no version":        {e(`"10.54.7"`, `""`), "version", ErrInvalid, ""},
		"bad kind":          {e(`"local"`, `"Local"`), "kinds[1]", ErrInvalid, "want one of windows, linux, local, vmware,"},
		"unknown kind":      {e(`"local"`, `"locals"`), "kinds[1]", ErrInvalid, "superdome-flex"},
		"two matches":       {e(`"device"`, `"probe": {"argv": ["x"]}, "device"`), "", ErrInvalid, "more than one"},
		"empty probe":       {e(`"device": {"class": "nic", "hardware_ids": ["pci:8086:1572"], "part": "firmware"}`, `"probe": {}`), "probe.argv", ErrInvalid, ""},
		"source":            {e(`"device": {"class": "nic", "hardware_ids": ["pci:8086:1572"], "part": "firmware"}`, `"package": {"source": "deb", "name": "x"}`), "package.source", ErrInvalid, "dpkg"},
		"package name":      {e(`"device": {"class": "nic", "hardware_ids": ["pci:8086:1572"], "part": "firmware"}`, `"package": {"source": "rpm"}`), "package.name", ErrInvalid, ""},
		"part":              {e(`"part": "firmware"`, `"part": "bios"`), "device.part", ErrInvalid, "driver"},
		"every device":      {e(`"class": "nic", "hardware_ids": ["pci:8086:1572"], `, ``), "device", ErrInvalid, "every device"},
		"empty hardware id": {e(`"pci:8086:1572"`, `""`), "device.hardware_ids[0]", ErrInvalid, ""},
		"no install":        {e(`["./setup", "-s", "{force}", "--tmp={dir}", "{dir}"]`, `[]`), "install", ErrInvalid, "empty"},
		"no program":        {e(`["./setup", `, `["", `), "install[0]", ErrInvalid, ""},
		"force as program":  {e(`["./setup", "-s", "{force}",`, `["{force}",`), "install[0]", ErrInvalid, ""},
		"foreign program":   {e(`["./setup"`, `["./other"`), "install[0]", ErrInvalid, "not one of the files"},
		"zero byte":         {e(`"-s"`, `"\u0000"`), "install[1]", ErrInvalid, ""},
		"long argument":     {e(`"-s"`, `"`+strings.Repeat("x", maxArg+1)+`"`), "install[1]", ErrInvalid, ""},
		"many arguments":    {e(`"-s"`, strings.Repeat(`"x",`, maxArgs)+`"x"`), "install", ErrInvalid, ""},
		"force twice":       {e(`"-s"`, `"{force}"`), "install", ErrInvalid, "twice"},
		"no force":          {e(`"{force}", `, ``), "install", ErrInvalid, "no place"},
		"force for nothing": {e(`"rewrite_args": ["-f"], "downgrade_args": ["-g", "-f2"],`, ``), "install", ErrInvalid, "stands for nothing"},
		"profile":           {e(`"hpe-linux"`, `"exe"`), "profile", ErrInvalid, "exe"},
		"negative timeout":  {e(`3600`, `-1`), "timeout_seconds", ErrInvalid, ""},
		"long timeout":      {e(`3600`, `9223372036854775807`), "timeout_seconds", ErrInvalid, ""},
		"env":               {e(`"RM_QUIET=a=b"`, `"LD_PRELOAD=secret"`), "env[0]", ErrInvalid, "LD_PRELOAD"},
		"env without value": {e(`"RM_QUIET=a=b"`, `"RM_QUIET"`), "env[0]", ErrInvalid, ""},
		"activation":        {e(`"reboot"`, `"restart"`), "activation", ErrInvalid, "restart"},
		"file twice":        {e(`"lib/tool"`, `"SETUP"`), "files[2].name", ErrInvalid, "twice"},
		"no file name":      {e(`"lib/tool"`, `""`), "files[2].name", ErrInvalid, ""},
		"traversal":         {e(`"lib/tool"`, `"../x"`), "files[2].name", ErrInvalid, "../x"},
		"inner traversal":   {e(`"lib/tool"`, `"lib/../setup"`), "files[2].name", ErrInvalid, ""},
		"absolute":          {e(`"lib/tool"`, `"/etc/passwd"`), "files[2].name", ErrInvalid, ""},
		"back slash":        {e(`"lib/tool"`, `"lib\\tool"`), "files[2].name", ErrInvalid, ""},
		"drive":             {e(`"lib/tool"`, `"c:tool"`), "files[2].name", ErrInvalid, ""},
		"dot":               {e(`"lib/tool"`, `"."`), "files[2].name", ErrInvalid, ""},
		"digest's form":     {e(sha(setupText), "abc"), "files[0].sha256", ErrInvalid, "sha256sum"},
		"digest":            {e(sha(setupText), sha("other")), "files[0].sha256", ErrDigest, sha("other")},
		"size":              {e(`"size": 17`, `"size": 18`), "files[0].size", ErrDigest, "18"},
		"negative size":     {e(`"size": 17`, `"size": -1`), "files[0].size", ErrInvalid, ""},
		"missing files":     {strings.Replace(e(`"lib/tool"`, `"lib/a"`), `"lib/image.bin"`, `"lib/b"`, 1), "files", fs.ErrNotExist, `"lib/b", "lib/a"`},
		"folder as file":    {e(`"lib/tool"`, `"lib"`), "files[2].name", ErrInvalid, "not a regular file"},
		"link out":          {e(`"lib/tool"`, `"out"`), "files[2].name", ErrInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for k, v := range fullFiles {
				files[k] = v
			}
			files[ManifestName] = c.json
			dir := folder(t, files)
			secret := filepath.Join(t.TempDir(), "secret")
			require.NoError(t, os.WriteFile(secret, []byte("x"), 0o600))
			require.NoError(t, os.Symlink(secret, filepath.Join(dir, "out")))
			got, err := Load(t.Context(), dir)
			require.Nil(t, got)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.ErrorIs(t, err, c.kind)
			require.Equal(t, c.field, e.Field, "%v", err)
			require.Equal(t, filepath.Join(dir, ManifestName), e.File)
			require.ErrorContains(t, err, c.text)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestLoadOtherThings(t *testing.T) {
	dir := folder(t, map[string]string{"notes.txt": "hello", "empty": "", "sub/x": ""})
	for _, name := range []string{"none", "sub"} {
		_, err := Load(t.Context(), filepath.Join(dir, name))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "give a .deb")
	}
	for _, name := range []string{"notes.txt", "empty"} {
		_, err := Load(t.Context(), filepath.Join(dir, name))
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "neither a .deb")
	}
	_, err := Load(t.Context(), os.DevNull)
	require.ErrorIs(t, err, ErrInvalid)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Load(ctx, folder(t, fullFiles))
	require.ErrorIs(t, err, context.Canceled)
	var e *Error
	require.False(t, errors.As(err, &e))
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(fullManifest))
	f.Add([]byte(`{"name":"x","version":"1","scheme":"deb","probe":{"argv":["a"]},"install":["a"]}`))
	f.Add([]byte(`{"name":"x","version":"1","scheme":"rpm","package":{"source":"rpm","name":"x"},"files":[],"install":["rpm"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		c, err := m.component()
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.NotEmpty(t, c.Name)
		require.True(t, c.Scheme.Known())
		require.Len(t, c.Digest(), 64)
		for _, file := range m.Files {
			require.True(t, filepath.IsLocal(file.Name), "%q", file.Name)
		}
		for _, o := range []JobOptions{{}, {Rewrite: true}, {Rewrite: true, Downgrade: true}} {
			j := c.Job("id", o)
			if len(c.Install) > 0 {
				require.Equal(t, c.Install[0], j.Argv[0])
			}
			for _, arg := range j.Argv {
				require.NotContains(t, arg, "\x00")
			}
		}
		_ = c.Current(&transport.Inventory{Devices: []transport.Device{{ID: "x", HardwareIDs: []string{"y"}}}})
		_ = fmt.Sprint(c)
	})
}
