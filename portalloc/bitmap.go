package portalloc

import "math/bits"

// bitmap has one bit for every port, so that a thousand ports of our own are
// passed over in sixteen steps instead of a thousand failing system calls.
type bitmap [(maxPort + 1) / 64]uint64

func (b *bitmap) has(port uint16) bool { return b[port/64]&(1<<(port%64)) != 0 }
func (b *bitmap) set(port uint16)      { b[port/64] |= 1 << (port % 64) }
func (b *bitmap) clear(port uint16)    { b[port/64] &^= 1 << (port % 64) }

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
