package firewall_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
)

const firewalldRejects = `
for f in ipv4 ipv6; do
	firewall-offline-cmd --zone=public --add-rich-rule="rule family=$f port port=8080 protocol=tcp reject type=tcp-reset" >/dev/null
done
`

// TestSyntax: the real tools take the commands, and they open what the rule says,
// also where an earlier rule rejects that port.
func TestSyntax(t *testing.T) {
	for _, tt := range []struct {
		frontEnd firewall.FrontEnd
		needs    []string
		setup    string
	}{
		{firewall.NFT, []string{"nft"}, `nft -f - <<'END'
table inet filter { chain input { type filter hook input priority 0; policy drop;
	ct state established accept
	meta l4proto ipv6-icmp accept
	reject with tcp reset
}; }
END`},
		{firewall.IptablesNFT, []string{"iptables-nft", "ip6tables-nft"}, "V=-nft\n" + iptablesRules},
		{firewall.IptablesLegacy, []string{"iptables-legacy", "ip6tables-legacy"}, "V=-legacy\n" + iptablesRules},
		{firewall.UFW, []string{"ufw"}, ufwRules},
		{firewall.Firewalld, []string{"firewalld", "firewall-cmd", "dbus-daemon"}, firewalldRejects + firewalldRules},
	} {
		t.Run(string(tt.frontEnd), func(t *testing.T) {
			needs(t, tt.needs...)
			l := newLab(t, tt.setup)
			require.Empty(t, l.reach("tcp"))
			m, _ := l.manager("none")
			for _, step := range []struct {
				from string
				want string
			}{
				{friend4 + "/32 2001:db8:1::/48", friends},
				{"anyone", friends + " stranger4 stranger6"},
			} {
				commands := firewall.Syntax(tt.frontEnd, rule("tcp", tcpPort, strings.Fields(step.from)...))
				require.NotEmpty(t, commands)
				before := l.dump(string(tt.frontEnd))
				require.Equal(t, strings.Join(commands, "; "), m.do("allow tcp "+step.from), "what None says in the syntax of the front end found")
				require.Equal(t, before, l.dump(string(tt.frontEnd)), "None changes nothing")
				for _, c := range commands {
					l.Run("sh", "-ec", c)
				}
				require.Equal(t, step.want, l.reach("tcp"), "%q", commands)
			}
		})
	}
}
