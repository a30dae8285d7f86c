package smb

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// Types of fragments (C706, section 12.6.4; MS-RPCE, section 2.2.2.10), and what the
// smallest fragment may be at the most.
const (
	pduRequest   = 0
	pduResponse  = 2
	pduFault     = 3
	pduBind      = 11
	pduBindAck   = 12
	pduBindNak   = 13
	pduAlter     = 14
	pduAlterResp = 15
	pduAuth3     = 16
	pduCancel    = 18
	pduOrphaned  = 19

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
// bad. So is a message that does not answer what was asked: only the verifiers of
// responses are checked, and version 1.5.2 of the library takes each of a bind_ack, an
// alter_context_resp and a fault with the status 0 for a response, too, and a bind_nak
// for one without any contents.
type arriving struct {
	// sealed is whether responses are sealed with NTLM, so that each has a verifier.
	// Else SMB protects them, and none has.
	sealed bool

	owed  int  // messages that were asked for
	asked byte // type of the message that they answer

	head  []byte
	left  int // bytes of the fragment at hand
	total int // bytes of the message
	bad   error
}

// verifier is the length of a signature of NTLM (MS-NLMP, section 2.2.2.9.1).
const verifier = 16

// expect tells of what the library has sent: n messages that are answered, of a type.
func (a *arriving) expect(n int, typ byte) {
	if n > 0 {
		a.owed, a.asked = a.owed+n, typ
	}
}

// ended says how many messages end in b, the next bytes, which are owed no more.
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
			a.owed--
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
	return max(rpcHeader, min(a.size(), rpcHeader+12))
}

func (a *arriving) size() int { return int(binary.LittleEndian.Uint16(a.head[8:])) }
func (a *arriving) auth() int { return int(binary.LittleEndian.Uint16(a.head[10:])) }

// plausible reports whether the library can read a fragment.
func (a *arriving) plausible(size int) bool {
	if size < rpcHeader || size > maxFragment || a.head[0] != 5 || a.head[4]&0xF0 != 0x10 || a.owed <= 0 || !a.answers() {
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
		return size >= rpcHeader+12+trailer && binary.LittleEndian.Uint32(a.head[24:]) != 0
	case pduBindAck, pduAlterResp:
		le := binary.LittleEndian
		if size < rpcHeader+8+trailer || !a.sealed && trailer > 0 {
			return false
		}
		// Of a buffer of these sizes the library reads forever, or not at all.
		return a.head[2] == pduAlterResp || le.Uint16(a.head[16:]) >= mustReceive && le.Uint16(a.head[18:]) >= mustReceive
	case pduBindNak:
		return trailer == 0
	}
	return false
}

// answers reports whether the fragment at hand belongs to an answer to what was asked.
func (a *arriving) answers() bool {
	switch typ := a.head[2]; a.asked {
	case pduBind:
		return typ == pduBindAck || typ == pduBindNak
	case pduAlter:
		return typ == pduAlterResp || typ == pduFault
	case pduRequest:
		return typ == pduResponse || typ == pduFault
	}
	return false
}

// checked is a connection whose fragments are looked at.
type checked struct {
	net.Conn
	mu      sync.Mutex
	out     pdus
	in      arriving
	greeted bool // the first message is there, until when a deadline holds
}

// Write implements net.Conn.
func (c *checked) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.in.expect(c.out.ended(b), c.out.typ)
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// Read implements net.Conn for the one goroutine of the library that reads.
func (c *checked) Read(b []byte) (int, error) {
	if bad := c.bad(); bad != nil {
		return 0, bad
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
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

// bad is what was wrong with what the server sent, if anything was.
func (c *checked) bad() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.bad
}
