package firewall_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/roundsman-go/roundsman/firewall"
)

// A manager lets one server fetch payloads for as long as it lives.
func Example() {
	ctx := context.Background()
	fw, err := firewall.Open(ctx, firewall.Options{
		Driver: firewall.None(), // leave it out: then it is this host's own firewall
	})
	if err != nil {
		log.Fatal(err) // without rights it names the rules to add by hand
	}
	defer fw.Close(ctx)

	lease, err := fw.Allow(ctx, firewall.Rule{
		Network: "tcp", Port: 63001,
		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Close(ctx)
	fmt.Println(lease.Rules()[0])
	// Output:
	// 63001/tcp from 192.0.2.7/32
}

// The commands for an administrator who opens the port by hand.
func ExampleSyntax() {
	r := firewall.Rule{
		Network: "tcp", Port: 63001,
		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")},
	}
	for _, f := range []firewall.FrontEnd{firewall.NFT, firewall.IptablesLegacy, firewall.UFW} {
		for _, line := range firewall.Syntax(f, r) {
			fmt.Println(line)
		}
	}
	// Output:
	// nft insert rule inet filter input ip saddr 192.0.2.0/24 tcp dport 63001 accept
	// nft insert rule inet filter input ip6 saddr 2001:db8::/64 tcp dport 63001 accept
	// iptables-legacy -I INPUT -p tcp -s 192.0.2.0/24 --dport 63001 -j ACCEPT
	// ip6tables-legacy -I INPUT -p tcp -s 2001:db8::/64 --dport 63001 -j ACCEPT
	// ufw prepend allow proto tcp from 192.0.2.0/24 to any port 63001
	// ufw prepend allow proto tcp from 2001:db8::/64 to any port 63001
}
