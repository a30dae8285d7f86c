package smb

import (
	"encoding/binary"
	"net"
	"time"
)

// Types of fragments that a server sends (C706, section 12.6.4), and what the smallest
// fragment may be at the most.
const (
	pduResponse  = 2
	pduFault     = 3
	pduBindAck   = 12
	pduBindNak   = 13
	pduAlterResp = 15
	pduShutdown  = 17

	lastFragment = 0x02
	mustReceive  = 1432 // MustRecvFragSize
)

const (
	// maxFragment is the largest fragment that is taken: the library offers 4096 bytes.
	maxFragment = 16 << 10
	// maxReply is the largest message, of however many fragments.
	maxReply = 8 << 20
)

// arriving looks at the fragments of MS-RPCE that a server sends, before the library
// sees them: it takes the lengths in them as they are, and what it would not survive is
// bad.
type arriving struct {
	// sealed is whether responses are sealed with NTLM, so that each has a verifier.
	// Else SMB protects them, and none has.
	sealed bool

	head  []byte
	left  int // bytes of the fragment at hand
	total int // bytes of the message
	bad   error
}

// verifier is the length of a signature of NTLM (MS-NLMP, section 2.2.2.9.1).
const verifier = 16

// ended says how many messages end in b, the next bytes.
func (a *arriving) ended(b []byte) (n int) {
	for len(b) > 0 && a.bad == nil {
		if a.left > 0 {
			m := min(a.left, len(b))
			a.left -= m
			b = b[m:]
			continue
		}
		m := min(a.wanted()-len(a.head), len(b))
		a.head = append(a.head, b[:m]...)
		b = b[m:]
		if len(a.head) < a.wanted() {
			continue
		}
		size := a.size()
		if !a.plausible(size) {
			a.bad = badFrame("a fragment of MS-RPCE of type %d and %d bytes, %d of them a verifier", a.head[2], size, a.auth())
			return n
		}
		if a.total += size; a.total > maxReply {
			a.bad = badFrame("a message of MS-RPCE of more than %d bytes", maxReply)
			return n
		}
		if a.head[3]&lastFragment != 0 {
			n++
			a.total = 0
		}
		a.left = size - len(a.head)
		a.head = a.head[:0]
	}
	return n
}

const rpcHeader = 16

// wanted is how much of a fragment has to be there before it is looked at.
func (a *arriving) wanted() int {
	if len(a.head) < rpcHeader {
		return rpcHeader
	}
	return max(rpcHeader, min(a.size(), rpcHeader+4))
}

func (a *arriving) size() int { return int(binary.LittleEndian.Uint16(a.head[8:])) }
func (a *arriving) auth() int { return int(binary.LittleEndian.Uint16(a.head[10:])) }

// plausible reports whether the library can read a fragment.
func (a *arriving) plausible(size int) bool {
	if size < rpcHeader || size > maxFragment || a.head[0] != 5 || a.head[4]&0xF0 != 0x10 {
		return false
	}
	trailer := 0
	if auth := a.auth(); auth > 0 {
		trailer = 8 + auth
	}
	switch a.head[2] {
	case pduResponse: // 8 bytes before its stub (C706, section 12.6.4.10)
		if a.sealed != (a.auth() == verifier) || !a.sealed && trailer > 0 {
			return false
		}
		return size >= rpcHeader+8+trailer
	case pduFault:
		return size >= rpcHeader+12+trailer
	case pduBindAck, pduAlterResp:
		le := binary.LittleEndian
		if size < rpcHeader+8+trailer || !a.sealed && trailer > 0 {
			return false
		}
		// Of a buffer of these sizes the library reads forever, or not at all.
		return a.head[2] == pduAlterResp || le.Uint16(a.head[16:]) >= mustReceive && le.Uint16(a.head[18:]) >= mustReceive
	case pduBindNak, pduShutdown:
		return trailer == 0
	}
	return false
}

// checked is a connection whose fragments are looked at.
type checked struct {
	net.Conn
	in      arriving
	greeted bool // the first message is there, until when a deadline holds
}

// Read implements net.Conn for the one goroutine of the library that reads.
func (c *checked) Read(b []byte) (int, error) {
	if c.in.bad != nil {
		return 0, c.in.bad
	}
	n, err := c.Conn.Read(b)
	if c.in.ended(b[:n]) > 0 && !c.greeted {
		c.greeted = true
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
	if c.in.bad != nil {
		_ = c.Conn.Close()
		return 0, c.in.bad
	}
	return n, err
}
