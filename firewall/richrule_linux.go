package firewall

import (
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"strconv"
)

// A rich rule of firewalld bears no comment. Ours are recognised by their priority
// and by a sign.
//
// The priorities (firewalld.richlanguage(5), since firewalld 0.7: negative ones come
// before everything else in a zone, the lowest first) are from -31769 to -15131
// without the multiples of ten. So there is room before ours, and the numbers that
// people choose are not among them. They are divided into slots. Which one an owner's
// rules are in follows from the owner, so that others see from the living owners which
// rules are a dead one's. Two owners can have the same slot: then a dead one's rules
// end by their timeout alone.
//
// In a slot there are several generations. A rule that is put in again, because
// it would end soon or because it was taken away, is of another generation:
// firewalld refuses a rule that it has, without making it last longer, and after
// a reload it has forgotten rules but not when to remove them.
//
// The sign is a destination that a packet for this host never has, and that the rule
// excludes: an address in 0.0.0.0/8 (RFC 791, "this network") or in 100::/64 (RFC 6666,
// the discard prefix), whose other bits are a sum of the rest of the rule. Nobody
// writes that by chance, and a rule that somebody made of one of ours, with another
// port say, has the wrong sum.
const (
	lowestPriority = -31770 // a multiple of ten
	slots          = 468
	generations    = 32
)

// priorityOf leaves out the multiples of ten.
func priorityOf(slot, generation int) int {
	n := slot*generations + generation
	return lowestPriority + n/9*10 + n%9 + 1
}

// placeOf is the inverse of priorityOf.
func placeOf(priority int) (slot, generation int, ok bool) {
	n := priority - lowestPriority
	if n < 0 || n%10 == 0 {
		return 0, 0, false
	}
	n = n/10*9 + n%10 - 1
	return n / generations, n % generations, n < slots*generations
}

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
	head := fmt.Sprintf(`rule priority="%d" family="%s"%s `, priorityOf(slot, generation), family, source)
	rest := fmt.Sprintf(` port port="%d" protocol="%s" accept`, o.Port, o.Network)
	return head + `destination NOT address="` + sign(o.From.Addr().Is6(), head+rest) + `"` + rest
}

// sign is the address that tells a rule of ours.
func sign(v6 bool, rule string) string {
	sum := sha256.Sum256([]byte("roundsman " + rule))
	if !v6 {
		return netip.AddrFrom4([4]byte{0, sum[0], sum[1], sum[2]}).String()
	}
	a := [16]byte{0: 1}
	copy(a[8:], sum[:8])
	return netip.AddrFrom16(a).String()
}

var richRuleForm = regexp.MustCompile(`^rule priority="(-\d+)" family="ipv([46])"(?: source address="([^"]+)")? destination NOT address="[0-9a-f.:]+" port port="(\d+)" protocol="(tcp|udp)" accept$`)

// slotOfRule is where a rule is, if it can be one of ours.
func slotOfRule(text string) (slot int, ok bool) {
	m := richRuleForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	priority, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, false
	}
	slot, generation, ok := placeOf(priority)
	if !ok {
		return 0, false
	}
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
	return slot, text == richRule(slot, generation, Opening{Network: m[5], Port: uint16(port), From: from})
}
