package sum_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
)

// manager is how targets see it in these tests.
var manager = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

func parse(t testing.TB, urls ...string) []sum.Target {
	t.Helper()
	var out []sum.Target
	for _, u := range urls {
		target, err := sum.ParseTarget(u)
		require.NoError(t, err)
		out = append(out, target)
	}
	return out
}

// oneOf returns a target of a kind.
func oneOf(kind sum.Kind) sum.Target {
	if kind == sum.Local {
		return sum.Target{Kind: kind}
	}
	return sum.Target{Kind: kind, Address: "192.0.2.7"}
}

// ports writes the flows of one target as SUM's tables do: "to / back", optional
// ones in brackets, what is for an option in square ones, with the phase where it is
// not both.
func ports(flows []sum.Flow) string {
	var to, back []string
	for _, f := range flows {
		s := f.Ports()
		if f.Protocol == "udp" {
			s += "u"
		}
		if src := f.Sources(); src != "" {
			s += "<" + src
		}
		switch f.Need {
		case sum.Optional:
			s = "(" + s + ")"
		case sum.WhenUsed:
			s = "[" + s + " " + string(f.Option) + "]"
		}
		if len(f.Phases) == 1 {
			s += "@" + string(f.Phases[0][:1])
		}
		if f.Direction == sum.ToTarget {
			to = append(to, s)
		} else {
			back = append(back, s)
		}
	}
	return strings.TrimSpace(strings.Join(to, " ") + " / " + strings.Join(back, " "))
}

// TestMatrixOfEveryKind: the exact rows of each kind, generation and phase with the
// default settings.
func TestMatrixOfEveryKind(t *testing.T) {
	t.Parallel()
	const agent = "62286+<60000-65535 (1025-65535<60000-65535)"
	const news = "61000-61007+ (1025-65535)"
	for _, tt := range []struct {
		kind             sum.Kind
		current, classic string
		inventory        string // of the current generation
	}{
		{sum.Windows, "445 /", "445 " + agent + " / " + news, "445@i /"},
		{sum.Linux, "22 /", "22 " + agent + " / " + news, "22@i /"},
		{sum.VMware, "443 5989 / 63001", "443 5989 / 80 63000 63003-63005", "443@i 5989@i / 63001@i"},
		{sum.OA, "22 443 (80) /", "22 443 (80) /", "22@i 443@i (80)@i /"},
		{sum.SuperdomeX, "22 443 (80) / 63001@d 63002@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.SuperdomeFlex, "443 / 63002@d", "443 / 63002@d", "443@i /"},
		{sum.ILO, "22 443 (80) / 63001@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.VC, "22 443 (80) / 63001@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.FCSwitch, "22 443 (80) / 63001@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.SASSwitch, "22 443 (80) / 63001@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.Integrity, "22 443 (80) / 80@d 63001@d", "22 443 (80) / 80@d 63000@d 63003-63005@d", "22@i 443@i (80)@i /"},
		{sum.Redfish, "443 / (63001)@d", "443 / (80)@d (63000)@d (63003-63005)@d", "443@i /"},
		{sum.Local, "/", "/", "/"},
	} {
		targets := []sum.Target{oneOf(tt.kind)}
		for _, want := range []struct {
			rows string
			o    sum.MatrixOptions
		}{
			{tt.current, sum.MatrixOptions{}},
			{tt.classic, sum.MatrixOptions{Generation: sum.Classic}},
			{tt.inventory, sum.MatrixOptions{Phase: sum.PhaseInventory}},
		} {
			flows, err := sum.Matrix(targets, want.o)
			require.NoError(t, err)
			require.Equal(t, want.rows, ports(flows), "%s %+v", tt.kind, want.o)
		}
	}
}

// TestMatrixHasEveryRow: with All no row of the table is lost, and a row that is for
// an option names it.
func TestMatrixHasEveryRow(t *testing.T) {
	t.Parallel()
	for _, kind := range sum.Kinds() {
		for _, gen := range []sum.Generation{sum.Current, sum.Classic} {
			for _, ph := range []sum.Phase{sum.PhaseInventory, sum.PhaseDeploy} {
				flows, err := sum.Matrix([]sum.Target{oneOf(kind)}, sum.MatrixOptions{Generation: gen, Phase: ph, All: true})
				require.NoError(t, err)
				for _, f := range flows {
					require.Equal(t, f.Need == sum.WhenUsed, f.Option != "", "%+v", f)
					require.Equal(t, []sum.Phase{ph}, f.Phases)
					require.Equal(t, f.Direction == sum.ToManager, f.Role != 0, "%+v", f)
				}
				for _, p := range sum.PortsFor(kind, ph, gen) {
					if kind == sum.VMware && gen == sum.Classic && p.First == 63001 {
						continue // a session of that generation has its web server for it
					}
					covered := slices.ContainsFunc(flows, func(f sum.Flow) bool {
						return f.Direction == p.Direction && f.Protocol == p.Protocol && f.First == p.First
					})
					require.True(t, covered, "%s %s %s: %+v", kind, gen, ph, p)
				}
			}
		}
	}
}

func TestMatrixFollowsTheSettings(t *testing.T) {
	t.Parallel()
	type policies = map[portalloc.Role]portalloc.Policy
	classic := sum.MatrixOptions{Generation: sum.Classic}
	with := func(o sum.MatrixOptions, p policies) sum.MatrixOptions { o.Ports = p; return o }
	stay, perTarget := classic, classic
	stay.Classic.Stay = true
	perTarget.Classic.PortPerTarget = true
	for _, tt := range []struct {
		name   string
		target string
		o      sum.MatrixOptions
		want   string
	}{
		{"port", "ilo://192.0.2.7", with(sum.MatrixOptions{}, policies{portalloc.Port: portalloc.Fixed(80)}), "22 443 (80) / 80@d"},
		{"ssl_port", "superdome-flex://192.0.2.7", with(sum.MatrixOptions{}, policies{portalloc.SSLPort: portalloc.Fixed(443)}), "443 / 443@d"},
		{"web server", "ilo://192.0.2.7", sum.MatrixOptions{HTTPRole: portalloc.HTTP}, "22 443 (80) / 80@d 63000@d 63003-63005@d"},
		{"web server on other ports", "ilo://192.0.2.7", with(classic, policies{portalloc.HTTP: {First: 8080, Last: 8089}, portalloc.Port: portalloc.Fixed(8085)}),
			"22 443 (80) / 8080-8084@d 8086-8089@d"},
		{"classic by port", "ilo://192.0.2.7", sum.MatrixOptions{Generation: sum.Classic, HTTPRole: portalloc.Port}, "22 443 (80) / 63001@d"},
		{"integrity, whatever the port", "integrity://192.0.2.7", with(sum.MatrixOptions{}, policies{portalloc.Port: portalloc.Fixed(8080)}), "22 443 (80) / 80@d 8080@d"},
		{"source ports", "linux://192.0.2.7", with(stay, policies{portalloc.ManagerToTarget: {First: 50000, Last: 50010}}), "22 62286+<50000-50010 / 61000-61007+"},
		{"source ports that are preferred", "linux://192.0.2.7", with(stay, policies{portalloc.ManagerToTarget: portalloc.Fixed(50000)}), "22 62286+<50000 / 61000-61007+"},
		{"back", "linux://192.0.2.7", with(classic, policies{portalloc.TargetToManager: portalloc.Fixed(7000), portalloc.Dynamic: {First: 7001, Last: 7010, Random: true}}),
			"22 62286+<60000-65535 (1025-65535<60000-65535) / 7000 (7001-7010)"},
		{"back is off", "linux://192.0.2.7", with(stay, policies{portalloc.TargetToManager: {}}), "22 62286+<60000-65535 /"},
		{"stay", "windows://192.0.2.7", stay, "445 62286+<60000-65535 / 61000-61007+"},
		{"own port", "linux://192.0.2.7:2222", sum.MatrixOptions{}, "2222 /"},
		{"own port of a web interface", "ilo://192.0.2.7:8443", sum.MatrixOptions{}, "22 8443 (80) / 63001@d"},
		{"own port of a command line", "oa://192.0.2.7:2222", sum.MatrixOptions{}, "2222 443 (80) /"},
		{"own port that is another row's", "ilo://192.0.2.7:80", sum.MatrixOptions{}, "22 80 / 63001@d"},
		{"NetBIOS", "windows://192.0.2.7", sum.MatrixOptions{Use: []sum.PortOption{sum.UseNetBIOS}}, "445 [139 netbios] [137u netbios] /"},
		{"NetBIOS at a port of its own", "windows://192.0.2.7:4450", sum.MatrixOptions{Use: []sum.PortOption{sum.UseNetBIOS}}, "4450 [137u netbios] /"},
		{"NetBIOS at its port", "windows://192.0.2.7:139", sum.MatrixOptions{Use: []sum.PortOption{sum.UseNetBIOS}}, "139 [137u netbios] /"},
		{"NetBIOS at the usual port, named", "windows://192.0.2.7:445", sum.MatrixOptions{Use: []sum.PortOption{sum.UseNetBIOS}}, "445 [137u netbios] /"},
		{"WMI", "windows://192.0.2.7", sum.MatrixOptions{Use: []sum.PortOption{sum.UseWMI}}, "445 [135 wmi]@i [49152-65535 wmi]@i /"},
		{"an OA that fetches", "oa://192.0.2.7", sum.MatrixOptions{Use: []sum.PortOption{sum.UseOAFetch}}, "22 443 (80) / [80 oa-fetch]@d"},
		{"SUM 7.0", "linux://192.0.2.7", sum.MatrixOptions{Generation: sum.Classic, Classic: stay.Classic, Use: []sum.PortOption{sum.UseSUM70}},
			"22 62286+<60000-65535 / 61000-61007+ [63001 sum-7.0] [63002 sum-7.0]"},
		{"HP SUM", "windows://192.0.2.7", sum.MatrixOptions{Generation: sum.Classic, Classic: stay.Classic, Use: []sum.PortOption{sum.UseHPSUM}},
			"445 62286+<60000-65535 [22 hp-sum] [443 hp-sum] / 61000-61007+ [80 hp-sum] [63000 hp-sum] [63003-63005 hp-sum]"},
	} {
		flows, err := sum.Matrix(parse(t, tt.target), tt.o)
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.want, ports(flows), tt.name)
	}

	// A port for each target: as many as there are agents.
	var fleet []sum.Target
	for i := range 20 {
		fleet = append(fleet, sum.Target{Kind: sum.Linux, Address: fmt.Sprint("192.0.2.", i+10)})
	}
	fleet = append(fleet, parse(t, "local:", "ilo://192.0.2.9")...)
	last := func(o sum.MatrixOptions) uint16 {
		flows, err := sum.Matrix(fleet, o)
		require.NoError(t, err)
		i := slices.IndexFunc(flows, func(f sum.Flow) bool { return f.Role == portalloc.TargetToManager })
		return flows[i].Last
	}
	require.EqualValues(t, 61019, last(perTarget))
	require.EqualValues(t, 61007, last(classic))
	perTarget.Ports = policies{portalloc.TargetToManager: {First: 65530, Last: 65532, Overflow: true}}
	require.EqualValues(t, 65535, last(perTarget))
}

// ends writes who is at the ends of flows.
func ends(flows []sum.Flow) (out []string) {
	one := func(p sum.Peer) string { return strings.TrimSpace(fmt.Sprint(p.Host, p.Addresses)) }
	for _, f := range flows {
		out = append(out, fmt.Sprintf("%s > %s %s", one(f.From), one(f.To), f.Ports()))
	}
	return out
}

func TestMatrixEnds(t *testing.T) {
	t.Parallel()
	hosts := map[string][]netip.Addr{
		"both":         {netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.7")},
		"four":         {netip.MustParseAddr("192.0.2.4")},
		"mapped":       {netip.MustParseAddr("::ffff:192.0.2.5")},
		"host-17":      {netip.MustParseAddr("192.0.2.99")}, // somebody else
		"esx1.example": {netip.MustParseAddr("192.0.2.17")},
		"odd":          {netip.IPv6Unspecified(), netip.Addr{}},
	}
	o := sum.MatrixOptions{Manager: manager, Phase: sum.PhaseInventory, Lookup: func(h string) []netip.Addr { return hosts[h] }}
	o.Route = func(t sum.Target) sum.Route {
		switch t.Name {
		case "alias":
			return sum.Route{Address: "four:2200"}
		case "behind":
			return sum.Route{Via: []string{"both", "[2001:db8::8]:2022"}}
		}
		return sum.Route{}
	}
	for _, tt := range []struct {
		target sum.Target
		want   []string
	}{
		{sum.Target{Kind: sum.Linux, Address: "both"}, []string{"[192.0.2.1/32 2001:db8::1/128] > both[192.0.2.7/32 2001:db8::7/128] 22"}},
		{sum.Target{Kind: sum.Linux, Address: "four"}, []string{"[192.0.2.1/32] > four[192.0.2.4/32] 22"}},
		{sum.Target{Kind: sum.Linux, Address: "mapped"}, []string{"[192.0.2.1/32] > mapped[192.0.2.5/32] 22"}},
		{sum.Target{Kind: sum.Linux, Address: "unknown"}, []string{"[192.0.2.1/32 2001:db8::1/128] > unknown[] 22"}},
		{sum.Target{Kind: sum.Linux, Address: "odd"}, []string{"[192.0.2.1/32 2001:db8::1/128] > odd[] 22"}},
		{sum.Target{Kind: sum.Linux, Address: "[fe80::7%eth0]:2222"}, []string{"[2001:db8::1/128] > fe80::7%eth0[fe80::7/128] 2222"}},
		{sum.Target{Kind: "Linux", Address: "2001:db8::9"}, []string{"[2001:db8::1/128] > 2001:db8::9[2001:db8::9/128] 22"}},
		{sum.Target{Kind: sum.Linux, Name: "alias", Address: "somewhere"}, []string{"[192.0.2.1/32] > four[192.0.2.4/32] 2200"}},
		{sum.Target{Kind: sum.Linux, Name: "behind", Address: "2001:db8::9"}, []string{
			"[192.0.2.1/32 2001:db8::1/128] > both[192.0.2.7/32 2001:db8::7/128] 22",
			"both[2001:db8::7/128] > 2001:db8::8[2001:db8::8/128] 2022",
			"2001:db8::8[2001:db8::8/128] > 2001:db8::9[2001:db8::9/128] 22"}},
		{sum.Target{Kind: sum.VMware, Address: "four", Object: "host-17"}, []string{
			"[192.0.2.1/32] > four[192.0.2.4/32] 443",
			"[192.0.2.1/32 2001:db8::1/128] > host-17[] 5989",
			"host-17[] > [192.0.2.1/32 2001:db8::1/128] 63001"}},
		{sum.Target{Kind: sum.VMware, Address: "four:8443", Object: "esx1.example"}, []string{
			"[192.0.2.1/32] > four[192.0.2.4/32] 8443",
			"[192.0.2.1/32] > esx1.example[192.0.2.17/32] 5989",
			"esx1.example[192.0.2.17/32] > [192.0.2.1/32] 63001"}},
		{sum.Target{Kind: sum.SASSwitch, Address: "both"}, []string{
			"[192.0.2.1/32] > both[192.0.2.7/32] 22", "[192.0.2.1/32] > both[192.0.2.7/32] 443", "[192.0.2.1/32] > both[192.0.2.7/32] 80"}},
	} {
		flows, err := sum.Matrix([]sum.Target{tt.target}, o)
		require.NoError(t, err)
		require.Equal(t, tt.want, ends(flows), "%v", tt.target)
	}

	// How each target sees the manager, before what holds for all.
	o.SeenAs = func(a netip.Addr) []netip.Addr {
		if a == netip.MustParseAddr("fe80::7%eth0") {
			return []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}
		}
		return nil
	}
	flows, err := sum.Matrix(parse(t, "linux://[fe80::7%eth0]", "linux://192.0.2.4"), o)
	require.NoError(t, err)
	require.Equal(t, []string{"[fe80::1/128] > fe80::7%eth0[fe80::7/128] 22", "[192.0.2.1/32] > 192.0.2.4[192.0.2.4/32] 22"}, ends(flows))

	// Nothing known of the manager.
	flows, err = sum.Matrix(parse(t, "linux://192.0.2.4"), sum.MatrixOptions{Phase: sum.PhaseDeploy})
	require.NoError(t, err)
	require.Equal(t, []string{"[] > 192.0.2.4[192.0.2.4/32] 22"}, ends(flows))
	require.Equal(t, sum.PartyManager, flows[0].From.Party)
	require.Equal(t, "linux://192.0.2.4", flows[0].Target)

	// What is unknown is an empty list for programs.
	flows, err = sum.Matrix(parse(t, "vmware://vc/host-17"), sum.MatrixOptions{})
	require.NoError(t, err)
	for _, f := range flows {
		data, err := json.Marshal(f)
		require.NoError(t, err)
		require.Equal(t, 2, strings.Count(string(data), `"addresses":[]`), string(data))
	}
}

func TestMatrixRefuses(t *testing.T) {
	t.Parallel()
	only4 := sum.MatrixOptions{Manager: manager[:1]}
	type policies = map[portalloc.Role]portalloc.Policy
	good := sum.Target{Kind: sum.Linux, Address: "192.0.2.7"}
	for _, tt := range []struct {
		name   string
		target sum.Target
		o      sum.MatrixOptions
		want   string
	}{
		{"SAS over IPv6", sum.Target{Kind: sum.SASSwitch, Address: "2001:db8::7"}, sum.MatrixOptions{}, "sas-switch://[2001:db8::7]: matrix: invalid input: 2001:db8::7 has IPv6 addresses only, which switches of kind sas-switch do not speak: give it an IPv4 address"},
		{"FC over IPv6", sum.Target{Kind: sum.FCSwitch, Address: "[2001:db8::7]:22"}, sum.MatrixOptions{}, "switches of kind fc-switch do not speak"},
		{"families", sum.Target{Kind: sum.Linux, Address: "2001:db8::7"}, only4, "no address of the same family"},
		{"twice", good, sum.MatrixOptions{}, "linux://192.0.2.7: matrix: invalid input: the same place as linux://192.0.2.7"},
		{"twice by user", sum.Target{Kind: sum.Linux, User: "root", Name: "db1", Address: "192.0.2.7"}, sum.MatrixOptions{}, "db1: matrix: invalid input: the same place as linux://192.0.2.7"},
		{"named as another", sum.Target{Kind: sum.Linux, Name: "linux://192.0.2.7", Address: "192.0.2.8"}, sum.MatrixOptions{}, "another target has this name"},
		{"twice by kind", sum.Target{Kind: "LINUX", Address: "192.0.2.7"}, sum.MatrixOptions{}, "the same place as linux://192.0.2.7"},
		{"kind", sum.Target{Kind: "toaster", Address: "192.0.2.8"}, sum.MatrixOptions{}, `kind "toaster"`},
		{"no address", sum.Target{Kind: sum.ILO}, sum.MatrixOptions{}, "empty address"},
		{"port", sum.Target{Kind: sum.ILO, Address: "ilo1:0"}, sum.MatrixOptions{}, "bad host or port"},
		{"everybody", sum.Target{Kind: sum.ILO, Address: "0.0.0.0"}, sum.MatrixOptions{}, "0.0.0.0 is no address of a host"},
		{"multicast", sum.Target{Kind: sum.ILO, Address: "ff02::1"}, sum.MatrixOptions{}, "is no address of a host"},
		{"everybody, mapped", sum.Target{Kind: sum.ILO, Address: "::ffff:0.0.0.0"}, sum.MatrixOptions{}, "is no address of a host"},
		{"broadcast", sum.Target{Kind: sum.ILO, Address: "255.255.255.255"}, sum.MatrixOptions{}, "is no address of a host"},
		{"local", sum.Target{Kind: sum.Local, Address: "192.0.2.8"}, sum.MatrixOptions{}, `local:: matrix: invalid input: the manager's own host has no address, and this one has "192.0.2.8"`},
		{"jump host", sum.Target{Kind: sum.Linux, Address: "192.0.2.8"}, sum.MatrixOptions{Route: func(t sum.Target) sum.Route {
			if t.Address == good.Address {
				return sum.Route{}
			}
			return sum.Route{Via: []string{"j:0"}}
		}}, "jump host: "},
		{"jump host's name", sum.Target{Kind: sum.Linux, Address: "192.0.2.8"}, sum.MatrixOptions{Route: func(t sum.Target) sum.Route {
			if t.Address == good.Address {
				return sum.Route{}
			}
			return sum.Route{Via: []string{"j;reboot"}}
		}}, `jump host: invalid input: the address "j;reboot" has no host`},
		{"no port 80", sum.Target{Kind: sum.Integrity, Address: "192.0.2.8"}, sum.MatrixOptions{Ports: policies{portalloc.HTTP: portalloc.Fixed(8080)}},
			"it fetches from port 80 of the manager and no other, and the settings have that for nobody: port is 63001, http is 8080"},
		{"role off", sum.Target{Kind: sum.SuperdomeFlex, Address: "192.0.2.8"}, sum.MatrixOptions{Ports: policies{portalloc.SSLPort: {}}}, "it dials a port of the role ssl_port on the manager, which the settings have turned off"},
	} {
		flows, err := sum.Matrix([]sum.Target{good, tt.target}, tt.o)
		require.ErrorIs(t, err, sum.ErrInvalid, tt.name)
		require.ErrorContains(t, err, tt.want, tt.name)
		require.Len(t, flows, 1, "%s: the other target has its flows", tt.name)
	}
	for _, o := range []sum.MatrixOptions{
		{Generation: "7.2"}, {Phase: "reboot"}, {Classic: sum.ClassicOptions{Stay: true}}, {Use: []sum.PortOption{"x"}},
		{HTTPRole: portalloc.FTP}, {Manager: []netip.Addr{netip.IPv4Unspecified()}},
		{Ports: policies{portalloc.Port: portalloc.Fixed(63002)}}, // that is ssl_port
		{Generation: sum.Classic, Ports: policies{portalloc.ManagerToTarget: {}}},
	} {
		flows, err := sum.Matrix([]sum.Target{good}, o)
		require.ErrorIs(t, err, sum.ErrInvalid, "%+v", o)
		require.Empty(t, flows)
	}
}

// TestMatrixAddresses: for every kind an address that nobody can dial is an error that
// names target and address, and what can be a name is none.
func TestMatrixAddresses(t *testing.T) {
	t.Parallel()
	for _, kind := range sum.Kinds() {
		if kind == sum.Local {
			continue // TestMatrixRefuses has it
		}
		for _, bad := range []string{"a b", "a/b", "root@a", "1.2.3.256", "1.2.3.4.5", "127.1", "999.1.1.1:22", "::1:zz", "fe80::1%", "%eth0", "a%eth0",
			"[a b]:22", "a[b", "a..b", ".", "-oProxyCommand=x", "-a", "a.-b", "a,b", "*", "a\n", "名", "\xff", strings.Repeat("a", 64), strings.Repeat("a.", 128)} {
			flows, err := sum.Matrix([]sum.Target{{Name: "x1", Kind: kind, Address: bad}}, sum.MatrixOptions{})
			require.ErrorIs(t, err, sum.ErrInvalid, "%s %q", kind, bad)
			require.ErrorContains(t, err, "x1: matrix: ")
			require.ErrorContains(t, err, fmt.Sprintf("the address %q has no host", bad))
			require.Empty(t, flows)
		}
		for _, good := range []string{"a", "a.example.", "A_1.example:8022", "1a", "10-0-0-7.example", "xn--rksmrgs-5wao1o", "192.0.2.7", "[192.0.2.7]:22", strings.Repeat("a.", 126) + "a"} {
			_, err := sum.Matrix([]sum.Target{{Kind: kind, Address: good}}, sum.MatrixOptions{})
			require.NoError(t, err, "%s %q", kind, good)
		}
	}
	_, err := sum.Matrix([]sum.Target{{Kind: sum.Linux, Address: "fe80::1%eth0.5"}, {Kind: sum.Linux, Address: "[2001:db8::1]:2222"}}, sum.MatrixOptions{})
	require.NoError(t, err)
}

func ExampleMatrix() {
	targets := []sum.Target{
		{Name: "db1", Kind: sum.Linux, Address: "192.0.2.11"},
		{Name: "db1-ilo", Kind: sum.ILO, Address: "192.0.2.31"},
	}
	flows, err := sum.Matrix(targets, sum.MatrixOptions{
		Manager: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Ports:   map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(8080)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range flows {
		fmt.Println(f.Target, f.Phases, f.From.Addresses, f.To.Addresses, f.Ports(), f.Need)
	}
	// Output:
	// db1 [inventory deploy] [192.0.2.1/32] [192.0.2.11/32] 22 required
	// db1-ilo [inventory deploy] [192.0.2.1/32] [192.0.2.31/32] 22 required
	// db1-ilo [inventory deploy] [192.0.2.1/32] [192.0.2.31/32] 443 required
	// db1-ilo [inventory deploy] [192.0.2.1/32] [192.0.2.31/32] 80 optional
	// db1-ilo [deploy] [192.0.2.31/32] [192.0.2.1/32] 8080 required
}
