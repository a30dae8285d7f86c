package portalloc

import "math/bits"

// bitmap has one bit for every port, so that a thousand ports of our own are
// passed over in sixteen steps instead of a thousand failing system calls.
type bitmap [(maxPort + 1) / 64]uint64

func (b *bitmap) has(port uint16) bool { return b[port/64]&(1<<(port%64)) != 0 }
func (b *bitmap) set(port uint16)      { b[port/64] |= 1 << (port % 64) }
func (b *bitmap) clear(port uint16)    { b[port/64] &^= 1 << (port % 64) }

// setRange sets the bits of a range.
func (b *bitmap) setRange(r Range) {
	for i := r.First / 64; i <= r.Last/64; i++ {
		b[i] |= mask(r, i)
	}
}

// mask has the bits of word i of a bitmap that lie in a range.
func mask(r Range, i uint16) uint64 {
	m := ^uint64(0)
	if i == r.First/64 {
		m <<= r.First % 64
	}
	if i == r.Last/64 {
		m &= ^uint64(0) >> (63 - r.Last%64)
	}
	return m
}

// nextClear returns the first port from port to last whose bit is clear.
func (b *bitmap) nextClear(port, last int) (int, bool) {
	for port <= last {
		free := ^b[port/64] >> (port % 64)
		if free == 0 {
			port = (port/64 + 1) * 64
			continue
		}
		port += bits.TrailingZeros64(free)
		return port, port <= last
	}
	return 0, false
}

// anyClear returns a port of the range whose bit is clear in b and in other,
// each with the same chance: intN draws a number below its argument.
func (b *bitmap) anyClear(other *bitmap, r Range, intN func(int) int) (uint16, bool) {
	clear := 0
	for i := r.First / 64; i <= r.Last/64; i++ {
		clear += bits.OnesCount64(mask(r, i) &^ (b[i] | other[i]))
	}
	if clear == 0 {
		return 0, false
	}
	n := intN(clear)
	for i := r.First / 64; ; i++ {
		word := mask(r, i) &^ (b[i] | other[i])
		if count := bits.OnesCount64(word); n >= count {
			n -= count
			continue
		}
		for range n {
			word &= word - 1 // without its lowest bit
		}
		return i*64 + uint16(bits.TrailingZeros64(word)), true
	}
}
