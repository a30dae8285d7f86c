package component

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

func sample() *Component {
	return &Component{
		Name: "n", Version: "2", Scheme: version.Numeric, Description: "d", Kinds: []string{"linux", "local"},
		Match:     Match{Device: &DeviceMatch{Class: "nic", HardwareIDs: []string{"pci:b", "pci:a"}, Part: Firmware}},
		ProbeArgv: []string{"p"}, ProbeTimeout: 1,
		Payload:    transport.Payload{Name: "n", Version: "2", Files: []transport.File{transport.BytesFile("a", []byte("1")), transport.BytesFile("b", []byte("2"))}},
		Executable: []string{"b"}, Source: "/x", Install: []string{"./a", Force, "{dir}"},
		RewriteArgs: []string{"-r"}, DowngradeArgs: []string{"-d"}, Profile: agent.ProfileZeroOK, Env: []string{"RM_A=1"},
		Timeout: time.Minute, NoKill: true, Activation: transport.ActivationReset,
	}
}

func TestDigest(t *testing.T) {
	want := sample().Digest()
	require.Equal(t, "07530ff4bf3b605c3bd6fca63824ffef0a48d86e46d343efd3ae77d291c58645", want,
		"the form is part of every written plan; change its first line if it must change")
	same := map[string]func(*Component){
		"description": func(c *Component) { c.Description = "x" },
		"source":      func(c *Component) { c.Source = "x" },
		"kinds":       func(c *Component) { c.Kinds = []string{"local", "linux"} },
		"files":       func(c *Component) { f := c.Payload.Files; f[0], f[1] = f[1], f[0] },
		"ids":         func(c *Component) { c.Match.Device.HardwareIDs = []string{"PCI:A", "pci:b"} },
		"program":     func(c *Component) { c.Executable = []string{"b", "a"} },
		"payload":     func(c *Component) { c.Payload.Name, c.Payload.Version = "", "" },
	}
	for name, change := range same {
		c := sample()
		change(c)
		require.Equal(t, want, c.Digest(), name)
	}
	other := map[string]func(*Component){
		"Name": func(c *Component) { c.Name = "x" }, "Version": func(c *Component) { c.Version = "3" },
		"Scheme": func(c *Component) { c.Scheme = version.RPM }, "Kinds": func(c *Component) { c.Kinds = nil },
		"Match":     func(c *Component) { c.Match.Device.Part = Driver },
		"ProbeArgv": func(c *Component) { c.ProbeArgv = nil }, "ProbeTimeout": func(c *Component) { c.ProbeTimeout = 2 },
		"Payload":    func(c *Component) { c.Payload.Files[0] = transport.BytesFile("a", []byte("3")) },
		"Executable": func(c *Component) { c.Executable = nil },
		"Install":    func(c *Component) { c.Install = c.Install[:2] }, "RewriteArgs": func(c *Component) { c.RewriteArgs = nil },
		"DowngradeArgs": func(c *Component) { c.DowngradeArgs = nil }, "Profile": func(c *Component) { c.Profile = agent.ProfileDeb },
		"Env": func(c *Component) { c.Env = nil }, "Timeout": func(c *Component) { c.Timeout = 0 },
		"NoKill": func(c *Component) { c.NoKill = false }, "Activation": func(c *Component) { c.Activation = "" },
		"SuspendBitLocker": func(c *Component) { c.SuspendBitLocker = true },
		"Minimum":          func(c *Component) { c.Minimum = "1" }, "UpdatableBy": func(c *Component) { c.UpdatableBy = []string{"Bmc"} },
	}
	seen := map[string]string{want: "unchanged"}
	for name, change := range other {
		c := sample()
		change(c)
		require.NotContains(t, seen, c.Digest(), name)
		seen[c.Digest()] = name
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Component]()) {
		if f.Name != "Description" && f.Name != "Source" {
			require.Contains(t, other, f.Name, "a new field is in the digest, or this test says why not")
		}
	}
	require.Len(t, (&Component{}).Digest(), 64)
}

func TestJob(t *testing.T) {
	c := sample()
	j := c.Job("0123", JobOptions{})
	require.Equal(t, agent.Job{
		ID: "0123", Component: "n", Version: "2", Argv: []string{"./a", "{dir}"}, Env: []string{"RM_A=1"},
		Profile: agent.ProfileZeroOK, Timeout: time.Minute, NoKill: true,
		Files: []agent.JobFile{
			{Name: "a", SHA256: sha("1"), Size: 1, Executable: true},
			{Name: "b", SHA256: sha("2"), Size: 1, Executable: true},
		},
	}, j)
	require.Equal(t, []string{"./a", "-r", "{dir}"}, c.Job("", JobOptions{Rewrite: true}).Argv)
	require.Equal(t, []string{"./a", "-d", "{dir}"}, c.Job("", JobOptions{Downgrade: true}).Argv)
	require.Equal(t, []string{"./a", "-r", "-d", "{dir}"}, c.Job("", JobOptions{Rewrite: true, Downgrade: true}).Argv)
	j.Env[0] = "changed"
	require.Equal(t, "RM_A=1", c.Env[0])
	c.Executable = nil
	require.False(t, c.Job("", JobOptions{}).Files[1].Executable)
	c.SuspendBitLocker = true
	require.True(t, c.Job("", JobOptions{}).SuspendBitLocker)
}

func TestCompareAndProbe(t *testing.T) {
	c := sample()
	for installed, want := range map[string]int{"1": 1, "2.0": 0, "2.1": -1} {
		n, err := c.Compare(installed)
		require.NoError(t, err)
		require.Equal(t, want, n, installed)
	}
	_, err := c.Compare("")
	require.ErrorIs(t, err, version.ErrIncomparable)

	_, ok := c.Probe()
	require.False(t, ok, "a device tells the version")
	c.Match = Match{Probe: "n"}
	p, ok := c.Probe()
	require.True(t, ok)
	require.Equal(t, agent.Probe{Name: "n", Argv: []string{"p"}, Timeout: 1}, p)
	require.True(t, c.Provable())
	require.False(t, (&Component{}).Provable())
	require.Nil(t, (&Component{}).Current(&transport.Inventory{}))
}

func TestMatch(t *testing.T) {
	sw := func(source string, f ...string) (out []transport.Software) {
		for i := 0; i < len(f); i += 3 {
			out = append(out, transport.Software{Source: source, Name: f[i], Version: f[i+1], Arch: f[i+2]})
		}
		return out
	}
	debian := sw(Dpkg, "dpkg", "1.21", "amd64", "tzdata", "2024", "all", "libc6", "2.36", "amd64", "libc6", "2.37", "i386", "kernel", "6.9", "amd64", "kernel", "6.10", "amd64", "kernel", "bad version", "amd64")
	fedora := sw(RPM, "rpm", "4.18-1", "x86_64", "kernel", "6.10-1", "x86_64", "kernel", "6.9-1", "x86_64")
	probed := sw(agent.ProbeSource, "tool", "7", "")
	const product = "{0A6D94E9-0000-4000-8000-00000000BEEF}"
	win := append(sw(MSI, product, "1.2.3", "amd64"), append(sw(Uninstall, "Tool_is1", "9", "386"),
		append(sw(Program, "HPE Tool", "1.9", "amd64", "HPE Tool", "1.10.0.0", "amd64", "HPE Tool", "2", "386"), sw(INF, "b57nd60a.inf", "214.0.0.6", "amd64")...)...)...)
	devices := []transport.Device{
		{ID: "1", Class: "nic", Firmware: "10", Driver: "i40e", DriverVersion: "2", HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572"}},
		{ID: "2", Class: "nic", HardwareIDs: []string{"pci:8086:1572:103c:0000", "pci:8086:1572"}, Driver: "i40e"},
		{ID: "3", Class: "disk", Firmware: "HPD5", HardwareIDs: []string{"model:MB4000"}},
	}
	pkg := func(source, name, arch string) Match {
		return Match{Package: &PackageMatch{Source: source, Name: name, Arch: arch}}
	}
	dev := func(part Part, class string, ids ...string) Match {
		return Match{Device: &DeviceMatch{Class: class, HardwareIDs: ids, Part: part}}
	}
	for name, c := range map[string]struct {
		match    Match
		software []transport.Software
		want     []Found
	}{
		"installed":                {pkg(Dpkg, "dpkg", "amd64"), debian, []Found{{"dpkg", "1.21", true}}},
		"not installed":            {pkg(Dpkg, "hello", "amd64"), debian, []Found{{"hello", "", false}}},
		"no arch":                  {pkg(Dpkg, "dpkg", ""), debian, []Found{{"dpkg", "1.21", true}}},
		"foreign architecture":     {pkg(Dpkg, "libc6", "i386"), debian, []Found{{"libc6", "2.37", true}}},
		"native architecture":      {pkg(Dpkg, "libc6", "amd64"), debian, []Found{{"libc6", "2.36", true}}},
		"unknown architecture":     {pkg(Dpkg, "hello", "arm64"), debian, nil},
		"all replaces one":         {pkg(Dpkg, "dpkg", "all"), debian, []Found{{"dpkg", "1.21", true}}},
		"one replaces all":         {pkg(Dpkg, "tzdata", "amd64"), debian, []Found{{"tzdata", "2024", true}}},
		"newest deb":               {pkg(Dpkg, "kernel", "amd64"), debian, []Found{{"kernel", "6.10", true}}},
		"newest rpm":               {pkg(RPM, "kernel", "x86_64"), fedora, []Found{{"kernel", "6.10-1", true}}},
		"rpm of 32 bits":           {pkg(RPM, "glibc", "i686"), fedora, []Found{{"glibc", "", false}}},
		"rpm of another machine":   {pkg(RPM, "glibc", "aarch64"), fedora, nil},
		"deb on rpm":               {pkg(Dpkg, "hello", "amd64"), fedora, nil},
		"rpm on deb":               {pkg(RPM, "hello", "noarch"), debian, nil},
		"msi":                      {pkg(MSI, product, ""), win, []Found{{product, "1.2.3", true}}},
		"msi in lower case":        {pkg(MSI, strings.ToLower(product), ""), win, []Found{{strings.ToLower(product), "1.2.3", true}}},
		"msi not installed":        {pkg(MSI, "{1}", "386"), win, []Found{{"{1}", "", false}}},
		"msi, none of it there":    {pkg(MSI, "{1}", "amd64"), sw(Program, "x", "1", "386"), []Found{{"{1}", "", false}}},
		"key":                      {pkg(Uninstall, "tool_IS1", "386"), win, []Found{{"tool_IS1", "9", true}}},
		"newest program":           {pkg(Program, "HPE Tool", "amd64"), win, []Found{{"HPE Tool", "1.10.0.0", true}}},
		"inf":                      {pkg(INF, "B57nd60a.inf", ""), win, []Found{{"B57nd60a.inf", "214.0.0.6", true}}},
		"deb on windows":           {pkg(Dpkg, "hello", "amd64"), win, nil},
		"msi on debian":            {pkg(MSI, product, ""), debian, nil},
		"name of dpkg in capitals": {pkg(Dpkg, "DPKG", "amd64"), debian, []Found{{"DPKG", "", false}}},
		"nothing known":            {pkg(Dpkg, "hello", "amd64"), nil, []Found{{"hello", "", false}}},
		"only probes known":        {pkg(RPM, "hello", "x86_64"), probed, []Found{{"hello", "", false}}},
		"probe":                    {Match{Probe: "tool"}, probed, []Found{{"tool", "7", true}}},
		"probe silent":             {Match{Probe: "tool"}, debian, []Found{{"tool", "", false}}},
		"firmware by exact id":     {dev(Firmware, "nic", "PCI:8086:1572:103C:22FD"), nil, []Found{{"1", "10", true}}},
		"firmware that is unknown": {dev(Firmware, "nic", "pci:8086:1572"), nil, []Found{{"1", "10", true}, {"2", "", true}}},
		"driver":                   {dev(Driver, "", "pci:8086:1572"), nil, []Found{{"1", "2", true}, {"2", "", false}}},
		"class":                    {dev(Firmware, "disk"), nil, []Found{{"3", "HPD5", true}}},
		"id of another class":      {dev(Firmware, "nic", "model:MB4000"), nil, nil},
		"absent":                   {dev(Firmware, "hba"), nil, nil},
		"nothing":                  {Match{}, debian, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inv := &transport.Inventory{Software: c.software, Devices: devices}
			require.Equal(t, c.want, c.match.Find(inv))
			require.Equal(t, c.want, (&Component{Match: c.match}).Current(inv))
		})
	}
}

// A component for Windows is needed, or not, by what the inventory lists of its installer.
func TestWindowsPackages(t *testing.T) {
	const product = "{0A6D94E9-0000-4000-8000-00000000BEEF}"
	for source, name := range map[string]string{MSI: product, Uninstall: "Tool_is1", Program: "HPE Tool", INF: "b57nd60a.inf"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "setup.msi"), []byte("x"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "component.json"), fmt.Appendf(nil, `{
			"name": "tool", "version": "1.10.0", "scheme": "numeric", "kinds": ["windows"],
			"package": {"source": %q, "name": %q}, "files": [{"name": "setup.msi"}],
			"install": ["msiexec.exe", "/i", "{dir}/setup.msi", "/qn", "/norestart"], "profile": "msi"}`, source, name), 0o600))
		c, err := Load(t.Context(), dir)
		require.NoError(t, err)
		for version, want := range map[string]int{"1.9": 1, "1.10": 0, "1.10.0.1": -1} {
			found := c.Current(&transport.Inventory{Software: []transport.Software{{Source: source, Name: name, Version: version, Arch: "amd64"}}})
			require.Equal(t, []Found{{name, version, true}}, found)
			n, err := c.Compare(found[0].Version)
			require.NoError(t, err)
			require.Equal(t, want, n, "%s %s", source, version)
		}
	}
}
