package sum_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
)

// rulesOf returns the text of the rules for a matrix.
func rulesOf(t testing.TB, targets []sum.Target, m sum.MatrixOptions, o sum.RuleOptions) string {
	t.Helper()
	flows, err := sum.Matrix(targets, m)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, sum.WriteRules(&b, flows, o))
	return b.String()
}

// active returns the lines that are no comments.
func active(rules string) (out []string) {
	for l := range strings.Lines(rules) {
		l = strings.TrimRight(l, "\r\n")
		if l != "" && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "rem ") {
			out = append(out, l)
		}
	}
	return out
}

// TestRules: the rules of each format and side for a fleet that has a bit of
// everything.
func TestRules(t *testing.T) {
	t.Parallel()
	fleet := parse(t, "linux://192.0.2.11", "linux://192.0.2.12", "linux://[2001:db8::13]:2222", "windows://192.0.2.14", "ilo://192.0.2.15", "local:")
	m := sum.MatrixOptions{Manager: manager, Phase: sum.PhaseDeploy}
	classic := m
	classic.Generation, classic.Classic.Stay = sum.Classic, true
	for _, tt := range []struct {
		format sum.RuleFormat
		side   sum.Side
		m      sum.MatrixOptions
		want   []string
	}{
		{sum.RulesNFT, "", m, []string{"insert rule inet filter input ip saddr 192.0.2.15 tcp dport 63001 accept"}},
		{sum.RulesNFT, sum.SideTarget, m, []string{
			"insert rule inet filter input ip saddr 192.0.2.1 tcp dport 22 accept",
			"insert rule inet filter input ip6 saddr 2001:db8::1 tcp dport 2222 accept"}},
		{sum.RulesNFT, sum.SideBetween, m, []string{
			"insert rule inet filter forward ip saddr 192.0.2.1 ip daddr { 192.0.2.11, 192.0.2.12 } tcp dport 22 accept",
			"insert rule inet filter forward ip6 saddr 2001:db8::1 ip6 daddr 2001:db8::13 tcp dport 2222 accept",
			"insert rule inet filter forward ip saddr 192.0.2.1 ip daddr 192.0.2.14 tcp dport 445 accept",
			"insert rule inet filter forward ip saddr 192.0.2.1 ip daddr 192.0.2.15 tcp dport 22 accept",
			"insert rule inet filter forward ip saddr 192.0.2.1 ip daddr 192.0.2.15 tcp dport 443 accept",
			"insert rule inet filter forward ip saddr 192.0.2.15 ip daddr 192.0.2.1 tcp dport 63001 accept"}},
		{sum.RulesIptables, sum.SideManager, classic, []string{
			"iptables -I INPUT -p tcp -s 192.0.2.11 --dport 61000:61007 -j ACCEPT",
			"iptables -I INPUT -p tcp -s 192.0.2.12 --dport 61000:61007 -j ACCEPT",
			"iptables -I INPUT -p tcp -s 192.0.2.14 --dport 61000:61007 -j ACCEPT",
			"ip6tables -I INPUT -p tcp -s 2001:db8::13 --dport 61000:61007 -j ACCEPT",
			"iptables -I INPUT -p tcp -s 192.0.2.15 --dport 80 -j ACCEPT",
			"iptables -I INPUT -p tcp -s 192.0.2.15 --dport 63000 -j ACCEPT",
			"iptables -I INPUT -p tcp -s 192.0.2.15 --dport 63003:63005 -j ACCEPT"}},
		{sum.RulesUFW, sum.SideTarget, classic, []string{
			"ufw prepend allow proto tcp from 192.0.2.1 to any port 22",
			"ufw prepend allow proto tcp from 192.0.2.1 port 60000:65535 to any port 62286:62293",
			"ufw prepend allow proto tcp from 2001:db8::1 to any port 2222",
			"ufw prepend allow proto tcp from 2001:db8::1 port 60000:65535 to any port 62286:62293"}},
		{sum.RulesFirewalld, sum.SideManager, m, []string{
			`firewall-cmd --add-rich-rule='rule priority="-1" family="ipv4" source address="192.0.2.15" port port="63001" protocol="tcp" accept'`,
			`firewall-cmd --permanent --add-rich-rule='rule priority="-1" family="ipv4" source address="192.0.2.15" port port="63001" protocol="tcp" accept'`}},
		{sum.RulesNetsh, sum.SideManager, m, []string{
			`netsh advfirewall firewall add rule name=roundsman-tcp-63001 dir=in action=allow protocol=TCP localport=63001 remoteip=192.0.2.15`}},
		{sum.RulesNetsh, sum.SideTarget, classic, []string{
			`netsh advfirewall firewall add rule name=roundsman-tcp-445 dir=in action=allow protocol=TCP localport=445 remoteip=192.0.2.1`,
			`netsh advfirewall firewall add rule name=roundsman-tcp-62286-62293 dir=in action=allow protocol=TCP localport=62286-62293 remoteport=60000-65535 remoteip=192.0.2.1`}},
		{sum.RulesESXCLI, sum.SideTarget, m, nil},
	} {
		rules := rulesOf(t, fleet, tt.m, sum.RuleOptions{Format: tt.format, Side: tt.side})
		require.Equal(t, tt.want, active(rules), "%s %s", tt.format, tt.side)
	}

	// Optional ports are there as comments, and as rules for whoever asks.
	o := sum.RuleOptions{Format: sum.RulesIptables, Side: sum.SideBetween}
	web := "iptables -I FORWARD -p tcp -s 192.0.2.1 -d 192.0.2.15 --dport 80 -j ACCEPT\n"
	require.Contains(t, rulesOf(t, fleet, m, o), "\n# "+web)
	o.Optional = true
	require.Contains(t, rulesOf(t, fleet, m, o), "\n"+web)

	// WMI is there where it is used, and then as narrow as the rules that Windows has for
	// it, and for the manager alone.
	o = sum.RuleOptions{Format: sum.RulesNetsh, Side: sum.SideTarget}
	require.NotContains(t, rulesOf(t, fleet, m, o), "localport=135")
	require.Contains(t, rulesOf(t, fleet, m, o), "DCOM-In, WMI-In and Async-In")
	wmi := m
	wmi.Use = []sum.PortOption{sum.UseWMI}
	require.NotContains(t, rulesOf(t, fleet, wmi, o), "localport=135", "no deployment takes it")
	wmi.Phase = sum.PhaseInventory
	require.Equal(t, []string{
		`netsh advfirewall firewall add rule name=roundsman-tcp-445 dir=in action=allow protocol=TCP localport=445 remoteip=192.0.2.1`,
		`netsh advfirewall firewall add rule name=roundsman-tcp-135 dir=in action=allow protocol=TCP localport=135 remoteip=192.0.2.1`,
		`netsh advfirewall firewall add rule name=roundsman-tcp-49152-65535 dir=in action=allow service=winmgmt protocol=TCP localport=49152-65535 remoteip=192.0.2.1`,
	}, active(rulesOf(t, fleet, wmi, o)))

	// What the manager dials, sections, and the end of a range are told.
	text := rulesOf(t, fleet, classic, sum.RuleOptions{Format: sum.RulesNFT})
	require.Contains(t, text, "# out to linux://192.0.2.11, linux://192.0.2.12: 22/tcp, SSH")
	require.Contains(t, text, "; ends at 61007 here")
	text = rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesNFT, Side: sum.SideTarget})
	require.Contains(t, text, "# On these targets and no others:\n#   linux://192.0.2.11, linux://192.0.2.12\n# 22/tcp")
	require.Contains(t, text, "# nothing for targets of kind ilo here, which have no such firewall: ilo://192.0.2.15\n")
	text = rulesOf(t, fleet[:2], m, sum.RuleOptions{Format: sum.RulesNFT})
	require.Contains(t, text, "# nothing is to be opened")
	require.Empty(t, active(text))
}

// TestRulesRemoval: netsh is told to delete exactly the names that were added, which do not
// depend on what else a fleet needs.
func TestRulesRemoval(t *testing.T) {
	t.Parallel()
	m := sum.MatrixOptions{Manager: manager, Use: []sum.PortOption{sum.UseWMI, sum.UseNetBIOS}}
	names := func(text, verb string) (out []string) {
		for _, found := range regexp.MustCompile(verb+` rule name=(\S+)`).FindAllStringSubmatch(text, -1) {
			out = append(out, found[1])
		}
		return out
	}
	o := sum.RuleOptions{Format: sum.RulesNetsh, Side: sum.SideTarget}
	text := rulesOf(t, parse(t, "windows://192.0.2.14"), m, o)
	require.Len(t, names(text, "add"), 5) // 445, 139 and 137, and two of WMI
	require.Equal(t, names(text, "add"), names(text, "delete"))
	require.Contains(t, names(text, "add"), "roundsman-tcp-139")
	m.Use = []sum.PortOption{sum.UseNetBIOS}
	require.Contains(t, names(rulesOf(t, parse(t, "windows://192.0.2.14"), m, o), "add"), "roundsman-tcp-139")
}

// TestRulesPolicy: firewalld gets a policy between networks, and the comment that it
// cannot match source ports.
func TestRulesPolicy(t *testing.T) {
	t.Parallel()
	m := sum.MatrixOptions{Manager: manager, Generation: sum.Classic, Classic: sum.ClassicOptions{Stay: true}}
	text := rulesOf(t, parse(t, "linux://192.0.2.11"), m, sum.RuleOptions{Format: sum.RulesFirewalld, Side: sum.SideBetween})
	lines := active(text)
	require.Equal(t, "firewall-cmd --permanent --info-policy=roundsman >/dev/null 2>&1 || firewall-cmd --permanent --new-policy=roundsman", lines[0])
	require.Equal(t, `firewall-cmd --permanent --policy=roundsman --add-rich-rule='rule family="ipv4" source address="192.0.2.11" destination address="192.0.2.1" port port="61000-61007" protocol="tcp" accept'`, lines[5])
	require.Equal(t, "firewall-cmd --reload", lines[6])
	require.Contains(t, text, "\n# firewalld cannot match the source ports")
}

// TestRulesOfJumpHosts: the target hears the jump host, and the jump host the manager.
func TestRulesOfJumpHosts(t *testing.T) {
	t.Parallel()
	m := sum.MatrixOptions{Manager: manager, Route: func(sum.Target) sum.Route { return sum.Route{Via: []string{"192.0.2.99:2022"}} }}
	fleet := parse(t, "linux://192.0.2.11", "linux://192.0.2.12")
	text := rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesUFW, Side: sum.SideTarget})
	require.Equal(t, []string{"ufw prepend allow proto tcp from 192.0.2.99 to any port 22"}, active(text))
	require.Equal(t, 1, strings.Count(text, "# The jump host 192.0.2.99 has to let in the manager: 2022/tcp\n"))
	require.Equal(t, []string{
		"ufw route prepend allow proto tcp from 192.0.2.1 to 192.0.2.99 port 2022",
		"ufw route prepend allow proto tcp from 192.0.2.99 to 192.0.2.11 port 22",
		"ufw route prepend allow proto tcp from 192.0.2.99 to 192.0.2.12 port 22",
	}, active(rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesUFW, Side: sum.SideBetween})))
}

// TestRulesESXCLI: rule sets are turned on for the manager alone, the one of the
// vSphere API never, and what ESXi cannot do is said.
func TestRulesESXCLI(t *testing.T) {
	t.Parallel()
	o := sum.RuleOptions{Format: sum.RulesESXCLI, Side: sum.SideTarget}
	m := sum.MatrixOptions{Manager: manager}
	const set = "esxcli network firewall ruleset "
	turnOn := func(name string) []string {
		on := set + "list --ruleset-id=" + name + " | grep -qE '^ *" + name + " +true' || "
		return []string{
			on + set + "set --ruleset-id=" + name + " --allowed-all=false",
			set + "allowedip list --ruleset-id=" + name + " | grep -qw All || " + set + "allowedip add --ruleset-id=" + name + " --ip-address=192.0.2.1",
			on + set + "set --ruleset-id=" + name + " --enabled=true",
		}
	}
	api := set + "allowedip list --ruleset-id=vSphereClient | grep -qw All || " + set + "allowedip add --ruleset-id=vSphereClient --ip-address=192.0.2.1"

	text := rulesOf(t, parse(t, "vmware://192.0.2.20"), m, o)
	require.Equal(t, append([]string{api}, turnOn("CIMHttpsServer")...), active(text))
	require.Contains(t, text, "esxcli system wbem set --enable=true\n")
	require.Contains(t, text, "# out 63001/tcp, payloads to the host, status from it (HTTP)\n# esxcli cannot open this port")

	m.Ports = map[portalloc.Role]portalloc.Policy{portalloc.Port: portalloc.Fixed(80)}
	text = rulesOf(t, parse(t, "vmware://192.0.2.30/192.0.2.20"), m, o)
	require.Equal(t, append(turnOn("CIMHttpsServer"), turnOn("httpClient")...), active(text))
	require.Contains(t, text, "# That is 192.0.2.30, which is not the host")
}

// TestRulesNeverWider: without an address there is no rule, and nothing is written.
func TestRulesNeverWider(t *testing.T) {
	t.Parallel()
	fleet := parse(t, "linux://db1", "linux://192.0.2.12", "ilo://ilo1")
	for _, tt := range []struct {
		side sum.Side
		m    sum.MatrixOptions
		want string
	}{
		{sum.SideManager, sum.MatrixOptions{Manager: manager}, "ilo://ilo1: rules: invalid input: the address of ilo1 is not known, and a rule without it would be for everybody"},
		{sum.SideTarget, sum.MatrixOptions{}, "linux://db1: rules: invalid input: the address of the manager is not known, and a rule without it would be for everybody\n" +
			"linux://192.0.2.12: rules: invalid input: the address of the manager is not known, and a rule without it would be for everybody"},
		{sum.SideBetween, sum.MatrixOptions{Manager: manager}, "linux://db1: rules: invalid input: the address of db1 is not known, and a rule without it would be for everybody\n" +
			"ilo://ilo1: rules: invalid input: the address of ilo1 is not known, and a rule without it would be for everybody"},
	} {
		flows, err := sum.Matrix(fleet, tt.m)
		require.NoError(t, err)
		var b bytes.Buffer
		err = sum.WriteRules(&b, flows, sum.RuleOptions{Format: sum.RulesNFT, Side: tt.side})
		require.EqualError(t, err, tt.want)
		require.ErrorIs(t, err, sum.ErrInvalid)
		require.Zero(t, b.Len())
	}
	// A target's own address is not needed on the target.
	require.NotEmpty(t, active(rulesOf(t, fleet, sum.MatrixOptions{Manager: manager}, sum.RuleOptions{Format: sum.RulesNFT, Side: sum.SideTarget})))

	for _, o := range []sum.RuleOptions{{Format: sum.RulesNetsh, Side: sum.SideBetween}, {Format: sum.RulesESXCLI}, {Format: sum.RulesESXCLI, Side: sum.SideBetween}} {
		require.ErrorIs(t, sum.WriteRules(&bytes.Buffer{}, nil, o), errors.ErrUnsupported)
	}
	for _, o := range []sum.RuleOptions{{}, {Format: "pf"}, {Format: sum.RulesNFT, Side: "above"}} {
		require.ErrorIs(t, sum.WriteRules(&bytes.Buffer{}, nil, o), sum.ErrInvalid)
	}
	require.ErrorIs(t, sum.WriteRules(broken{}, nil, sum.RuleOptions{Format: sum.RulesNFT}), errBroken)
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

// hostileNames end a comment, a quotation or a line in some language.
var hostileNames = []string{
	"x\niptables -F", "x\r\nnetsh advfirewall reset", "x'; reboot #", "$(reboot)", "`reboot`", "%COMSPEC%", "x & del *", "x ^", "x \\", "a\u2028b", "\x1b[2J", "!x", "\xff", "日本語", "naïve\u202e",
}

// TestRulesQuoteNames: no name becomes more than a comment.
func TestRulesQuoteNames(t *testing.T) {
	t.Parallel()
	var fleet []sum.Target
	for i, n := range hostileNames {
		for j, k := range []sum.Kind{sum.Linux, sum.Windows, sum.VMware, sum.ILO} {
			fleet = append(fleet, sum.Target{Kind: k, Name: fmt.Sprint(n, i, j), Address: fmt.Sprintf("192.0.2.%d", 10+4*i+j)})
		}
	}
	rule := regexp.MustCompile(`^(insert rule inet|(ip6?tables|ufw|firewall-cmd|esxcli network firewall ruleset|netsh advfirewall firewall add rule) )[-a-zA-Z0-9 .,:/="'{}_|^*+>&]*$`)
	for _, format := range sum.RuleFormats() {
		for _, side := range []sum.Side{sum.SideManager, sum.SideTarget, sum.SideBetween} {
			flows, err := sum.Matrix(fleet, sum.MatrixOptions{Manager: manager})
			require.NoError(t, err)
			var b bytes.Buffer
			if err := sum.WriteRules(&b, flows, sum.RuleOptions{Format: format, Side: side, Optional: true}); errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			text := b.String()
			for _, l := range active(text) {
				require.Regexp(t, rule, l)
			}
			for l := range strings.Lines(text) {
				l = strings.TrimRight(l, "\r\n")
				if strings.HasPrefix(l, "#") || strings.HasPrefix(l, "rem ") {
					require.NotRegexp(t, "[\x00-\x1f'`$%&^\\\\!<>|\"\u2028\u202e\ufffd]", l)
				}
			}
		}
	}
	require.Contains(t, rulesOf(t, []sum.Target{{Kind: sum.Linux, Name: "日本語", Address: "192.0.2.9"}}, sum.MatrixOptions{Manager: manager}, sum.RuleOptions{Format: sum.RulesNFT, Side: sum.SideTarget}), "#   日本語\n")
}

// TestRulesNamesAreNoCommands: a shell that takes "#" for a command, as an interactive
// zsh does, finds none in a name.
func TestRulesNamesAreNoCommands(t *testing.T) {
	t.Parallel()
	var fleet []sum.Target
	for i, k := range []sum.Kind{sum.Linux, sum.Windows, sum.VMware, sum.ILO} {
		fleet = append(fleet, sum.Target{Kind: k, Name: fmt.Sprint("db1; echo IN(JEC)TED ;=ls", i), Address: fmt.Sprintf("192.0.2.%d", 10+i)})
	}
	flows, err := sum.Matrix(fleet, sum.MatrixOptions{Manager: manager})
	require.NoError(t, err)
	jump := flows[0]
	jump.From, jump.To = sum.Peer{Party: sum.PartyJumpHost, Host: "j1; echo INJECTED", Addresses: jump.To.Addresses}, sum.Peer{Party: sum.PartyJumpHost, Host: "j2; echo INJECTED", Addresses: jump.To.Addresses}
	jump.Kind = sum.Linux
	flows = append(flows, jump)
	for _, format := range sum.RuleFormats() {
		for _, side := range []sum.Side{sum.SideManager, sum.SideTarget, sum.SideBetween} {
			var b bytes.Buffer
			if err := sum.WriteRules(&b, flows, sum.RuleOptions{Format: format, Side: side, Optional: true}); errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			require.NoError(t, err)
			require.Contains(t, b.String(), "db1_ echo IN_JEC_TED __ls", "%s %s", format, side)
			require.NotContains(t, b.String(), "; echo", "%s %s", format, side)
			if format == sum.RulesNFT && side == sum.SideTarget {
				require.Contains(t, b.String(), "The jump host j2_ echo INJECTED has to let in j1_ echo INJECTED: ")
			}
		}
	}
	// An ESXi host that a vCenter has, which a comment names.
	flows, err = sum.Matrix([]sum.Target{{Kind: sum.VMware, Address: "vc", Object: "esx1; echo INJECTED"}}, sum.MatrixOptions{Manager: manager})
	require.NoError(t, err)
	flows[0].To.Host = "vc; echo INJECTED"
	var b bytes.Buffer
	require.NoError(t, sum.WriteRules(&b, flows, sum.RuleOptions{Format: sum.RulesESXCLI, Side: sum.SideTarget}))
	text := b.String()
	require.Contains(t, text, "# That is vc_ echo INJECTED, which is not the host")
	require.NotContains(t, text, "; echo")
}

// TestRulesOfManyTargets: what many need alike is one rule where the format can say
// it, in lines that the system takes, and exactly for them.
func TestRulesOfManyTargets(t *testing.T) {
	t.Parallel()
	const n = 5000
	var fleet []sum.Target
	for i := range n {
		a := [4]byte{10}
		binary.BigEndian.PutUint16(a[2:], uint16(i))
		fleet = append(fleet, sum.Target{Kind: sum.ILO, Address: netip.AddrFrom4(a).String()})
	}
	m := sum.MatrixOptions{Manager: manager}
	lines := active(rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesNFT}))
	require.Len(t, lines, 1)
	require.Equal(t, n-1, strings.Count(lines[0], ","))
	require.Len(t, active(rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesIptables})), n)
	netsh := active(rulesOf(t, fleet, m, sum.RuleOptions{Format: sum.RulesNetsh}))
	require.Len(t, netsh, (n+149)/150)
	names := map[string]bool{}
	for _, l := range netsh {
		require.Less(t, len(l), 8191)
		_, name, _ := strings.Cut(l, " name=")
		names[strings.Fields(name)[0]] = true
	}
	require.Len(t, names, len(netsh), "each rule has a name of its own")
}
