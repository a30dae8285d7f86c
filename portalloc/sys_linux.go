package portalloc

import (
	"os"
	"strconv"
	"strings"
)

const sysNet = "/proc/sys/net/ipv4/"

// privilegedBelow returns the first port that needs no right.
func privilegedBelow() int {
	b, err := os.ReadFile(sysNet + "ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 1024
	}
	return n
}

// reservedPorts returns what the administrator keeps from automatic assignment.
func reservedPorts() []Range {
	b, err := os.ReadFile(sysNet + "ip_local_reserved_ports")
	if err != nil {
		return nil
	}
	return parseRanges(string(b))
}

// parseRanges reads "8080,9148-9150", the format of ip_local_reserved_ports in
// the kernel's ip-sysctl documentation.
func parseRanges(s string) []Range {
	var ranges []Range
	for field := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		f, err1 := strconv.ParseUint(first, 10, 16)
		l, err2 := strconv.ParseUint(last, 10, 16)
		if err1 == nil && err2 == nil && f <= l {
			ranges = append(ranges, Range{uint16(f), uint16(l)})
		}
	}
	return ranges
}

// ephemeralPorts returns the range of source ports that the kernel picks from.
func ephemeralPorts() (Range, bool) {
	b, err := os.ReadFile(sysNet + "ip_local_port_range")
	if err != nil {
		return Range{}, false
	}
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return Range{}, false
	}
	first, err1 := strconv.ParseUint(f[0], 10, 16)
	last, err2 := strconv.ParseUint(f[1], 10, 16)
	return Range{uint16(first), uint16(last)}, err1 == nil && err2 == nil
}
