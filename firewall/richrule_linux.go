package firewall

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"strconv"
)

// A rich rule of firewalld bears no comment. Ours are recognised by their priority
// (firewalld.richlanguage(5), since firewalld 0.7: negative ones come before
// everything else in a zone, the lowest first). The lowest priorities are divided
// into slots. Which one an owner's rules are in follows from the owner, so that
// others see from the living owners which rules are a dead one's. Two owners can
// have the same slot: then a dead one's rules end by their timeout alone.
//
// In a slot there are several generations. A rule that is put in again, because
// it would end soon or because it was taken away, is of another generation:
// firewalld refuses a rule that it has, without making it last longer, and after
// a reload it has forgotten rules but not when to remove them.
const (
	lowestPriority = -32768
	slots          = 468
	generations    = 32
)

// slotOf is where the rules of an owner are.
func slotOf(o Owner) int {
	h := fnv.New32a()
	h.Write([]byte(o.String()))
	return int(h.Sum32() % slots)
}

// richRule is an opening as firewalld writes it.
func richRule(slot, generation int, o Opening) string {
	family, source := "ipv4", ""
	if o.From.Addr().Is6() {
		family = "ipv6"
	}
	if o.From.Bits() > 0 {
		source = fmt.Sprintf(` source address="%s"`, o.From)
	}
	return fmt.Sprintf(`rule priority="%d" family="%s"%s port port="%d" protocol="%s" accept`,
		lowestPriority+slot*generations+generation, family, source, o.Port, o.Network)
}

var richRuleForm = regexp.MustCompile(`^rule priority="(-\d+)" family="ipv([46])"(?: source address="([^"]+)")? port port="(\d+)" protocol="(tcp|udp)" accept$`)

// slotOfRule is where a rule is, if it can be one of ours.
func slotOfRule(text string) (slot int, ok bool) {
	m := richRuleForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	priority, err := strconv.Atoi(m[1])
	if err != nil || priority < lowestPriority || priority >= lowestPriority+slots*generations {
		return 0, false
	}
	n := priority - lowestPriority
	from := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if m[2] == "6" {
		from = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if m[3] != "" {
		if from, err = netip.ParsePrefix(m[3]); err != nil {
			return 0, false
		}
	}
	port, err := strconv.ParseUint(m[4], 10, 16)
	if err != nil {
		return 0, false
	}
	// Ours are in exactly the form that we write.
	return n / generations, text == richRule(n/generations, n%generations, Opening{Network: m[5], Port: uint16(port), From: from})
}
