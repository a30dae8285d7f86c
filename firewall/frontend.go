package firewall

import (
	"fmt"
	"net/netip"
	"strings"
)

// A FrontEnd is a way in which a host's firewall is administered. Several can be
// active on one host.
type FrontEnd string

// The front ends that detection tells apart. Which of them [Firewall.Allow] can
// serve on which system is in the package documentation.
const (
	NFT            FrontEnd = "nft"             // nftables, tables of its own
	IptablesNFT    FrontEnd = "iptables-nft"    // iptables on nftables
	IptablesLegacy FrontEnd = "iptables-legacy" // iptables on xtables
	UFW            FrontEnd = "ufw"             // on either iptables
	Firewalld      FrontEnd = "firewalld"
	Windows        FrontEnd = "windows"
)

// Syntax returns the commands that an administrator would type to open the rule by
// hand, permanently or until the next reload, as the front end has it. A nft
// rule goes to the chain "input" of the table "inet filter"; where the host's
// are named otherwise, so must be the command's. Where rules come one after the
// other, the new one comes before those that reject the same port: ufw can do that
// since version 0.36, firewalld since 0.7. For an invalid rule or an unknown front end
// there are no commands.
//
// The commands for Linux have been tried with the real programs; the one for Windows
// has only been compared with what Microsoft documents.
func Syntax(f FrontEnd, r Rule) []string {
	openings, err := r.openings()
	if err != nil {
		return nil
	}
	if f == Windows {
		remote := make([]string, 0, len(r.From))
		for _, p := range r.From {
			remote = append(remote, p.String())
		}
		if r.Anyone {
			remote = []string{"any"}
		}
		return []string{fmt.Sprintf(`netsh advfirewall firewall add rule name="roundsman %s %d" dir=in action=allow protocol=%s localport=%d remoteip=%s`,
			r.Network, r.Port, strings.ToUpper(r.Network), r.Port, strings.Join(remote, ","))}
	}
	if r.Anyone {
		switch f { // one command for both families
		case NFT:
			return []string{fmt.Sprintf("nft insert rule inet filter input %s dport %d accept", r.Network, r.Port)}
		case UFW:
			return []string{fmt.Sprintf("ufw prepend allow %d/%s", r.Port, r.Network)}
		case Firewalld:
			return []string{fmt.Sprintf(`firewall-cmd --add-rich-rule='rule priority="-1" port port="%d" protocol="%s" accept'`, r.Port, r.Network)}
		}
	}
	var lines []string
	for _, o := range openings {
		if line := o.syntax(f); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func (o Opening) syntax(f FrontEnd) string {
	nft, program, family := "ip", "iptables", "ipv4"
	if o.From.Addr().Is6() {
		nft, program, family = "ip6", "ip6tables", "ipv6"
	}
	source := ""
	if o.From != netip.PrefixFrom(o.From.Addr(), 0) {
		source = "-s " + o.From.String() + " "
	}
	switch f {
	case NFT:
		return fmt.Sprintf("nft insert rule inet filter input %s saddr %s %s dport %d accept", nft, o.From, o.Network, o.Port)
	case IptablesNFT:
		return fmt.Sprintf("%s-nft -I INPUT -p %s %s--dport %d -j ACCEPT", program, o.Network, source, o.Port)
	case IptablesLegacy:
		return fmt.Sprintf("%s-legacy -I INPUT -p %s %s--dport %d -j ACCEPT", program, o.Network, source, o.Port)
	case UFW:
		return fmt.Sprintf("ufw prepend allow proto %s from %s to any port %d", o.Network, o.From, o.Port)
	case Firewalld:
		return fmt.Sprintf(`firewall-cmd --add-rich-rule='rule priority="-1" family="%s" source address="%s" port port="%d" protocol="%s" accept'`, family, o.From, o.Port, o.Network)
	}
	return ""
}

// commands open the rules by hand in each front end.
func commands(frontEnds []FrontEnd, rules []Rule) []string {
	var lines []string
	for _, f := range frontEnds {
		for _, r := range rules {
			lines = append(lines, Syntax(f, r)...)
		}
	}
	return lines
}

// byHand is a hint that names the rules to add in each front end.
func byHand(frontEnds []FrontEnd, rules []Rule) string {
	lines := commands(frontEnds, rules)
	if len(lines) == 0 {
		return ""
	}
	return "by hand: " + strings.Join(lines, "; ")
}
