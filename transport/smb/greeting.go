package smb

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/transport"
)

// greeting is what a server says of itself while the session is set up. What it says
// before the last reply is authenticated with SMB 3.1.1 as soon as one reply has been
// verified, because its keys are made of it (pre-authentication integrity, MS-SMB2,
// section 3.1.4.4.1), and its names by NTLM, too, whose response repeats them (MS-NLMP,
// section 3.1.5.1.2). The last reply itself, which says whether the session is
// encrypted, the library does not verify.
type greeting struct {
	offered      Dialect // 0: any
	dialect      Dialect
	cipher       bool // one was agreed on
	mustSign     bool
	guid         string    // ServerGuid, as hexadecimal
	booted       time.Time // ServerStartTime; newer versions of Windows do not tell
	began        time.Time // when NEGOTIATE was about to be sent
	clock        transport.Clock
	build        string // "10.0.20348", of NTLM
	computer     string // NetBIOS name
	dns          string // full DNS name
	domain       string // NetBIOS name of its domain, or its own
	encrypted    bool   // the whole session
	sessionSetUp bool
}

// hear takes a reply to NEGOTIATE (MS-SMB2, section 2.2.4) or SESSION_SETUP (2.2.6).
func (g *greeting) hear(f frame) error {
	le := binary.LittleEndian
	body := f[headerSize:]
	if f.status() != 0 && f.status() != statusMoreProcessing {
		return nil // an error, which the library reports
	}
	switch f.command() {
	case commandNegotiate:
		if len(body) < 64 {
			return badFrame("a reply to NEGOTIATE of %d bytes", len(f))
		}
		g.mustSign = le.Uint16(body[2:])&2 != 0
		g.dialect = Dialect(le.Uint16(body[4:]))
		if g.offered != 0 && g.dialect != g.offered {
			return badFrame("the dialect %v, which was not offered", g.dialect)
		}
		g.cipher = g.dialect == SMB300 || g.dialect == SMB302 || g.dialect == SMB311 && offersCipher(f)
		g.guid = hex.EncodeToString(body[8:24])
		g.booted = fileTime(le.Uint64(body[48:]))
		g.clock = clockAt(fileTime(le.Uint64(body[40:])), g.began, time.Now())
	case commandSessionSetup:
		if len(body) < 8 {
			return badFrame("a reply to SESSION_SETUP of %d bytes", len(f))
		}
		flags := le.Uint16(body[2:])
		if f.status() == 0 {
			if flags&3 != 0 {
				return errGuest
			}
			g.encrypted = flags&4 != 0
			g.sessionSetUp = true
			return nil
		}
		at, size := int(le.Uint16(body[4:])), int(le.Uint16(body[6:]))
		if at < headerSize || at+size > len(f) {
			return badFrame("a security buffer that is not within the message")
		}
		g.challenge(f[at : at+size])
	}
	return nil
}

// tick is how much the clock of Windows moves at once, unless a program has it move more
// often.
const tick = 16 * time.Millisecond

// clockAt compares clocks: the host's said now, which was between two times of the
// manager's. Within is 0 if it said nothing, or something that is no time.
func clockAt(now, after, before time.Time) transport.Clock {
	if now.IsZero() || after.IsZero() || before.Before(after) {
		return transport.Clock{}
	}
	half := before.Sub(after) / 2
	return transport.Clock{Skew: now.Sub(after.Add(half)), Within: half + tick}
}

// canEncrypt reports whether the library has keys to decrypt with, once the session is
// set up.
func (g *greeting) canEncrypt() bool { return g.cipher }

// offersCipher reports whether a reply to NEGOTIATE of SMB 3.1.1 names a cipher that the
// library has (MS-SMB2, sections 2.2.4 and 2.2.3.1.2).
func offersCipher(f frame) bool {
	le := binary.LittleEndian
	body := f[headerSize:]
	at := uint64(le.Uint32(body[60:]))
	for range le.Uint16(body[6:]) {
		if at+8 > uint64(len(f)) {
			return false
		}
		c := f[at:]
		typ, size := le.Uint16(c), uint64(le.Uint16(c[2:]))
		if at+8+size > uint64(len(f)) {
			return false
		}
		if typ == 2 && size >= 4 {
			id := le.Uint16(c[10:])
			return le.Uint16(c[8:]) == 1 && (id == 1 || id == 2) // AES-128-CCM, AES-128-GCM
		}
		at += (8 + size + 7) &^ 7
	}
	return false
}

// errGuest is a server that lets anybody in, without a key to sign with.
var errGuest = &transport.Error{Kind: transport.ErrAuth, Err: fmt.Errorf("the server offers a guest or anonymous session"),
	Hint: "the user name is probably unknown there, and the server maps unknown users to its guest account: such sessions are not signed, and are refused"}

// challenge reads the CHALLENGE_MESSAGE of NTLM (MS-NLMP, section 2.2.1.2) out of a
// token of SPNEGO. What it cannot read it leaves out.
func (g *greeting) challenge(token []byte) {
	le := binary.LittleEndian
	i := bytes.Index(token, []byte("NTLMSSP\x00\x02\x00\x00\x00"))
	if i < 0 {
		return
	}
	m := token[i:]
	if len(m) < 56 {
		return
	}
	if flags := le.Uint32(m[20:]); flags&0x02000000 != 0 { // NTLMSSP_NEGOTIATE_VERSION
		g.build = fmt.Sprintf("%d.%d.%d", m[48], m[49], le.Uint16(m[50:]))
	}
	size, at := int(le.Uint16(m[40:])), int(le.Uint32(m[44:]))
	if at < 0 || at+size > len(m) {
		return
	}
	for pairs := m[at : at+size]; len(pairs) >= 4; {
		id, n := le.Uint16(pairs), int(le.Uint16(pairs[2:]))
		if id == 0 || 4+n > len(pairs) {
			return
		}
		value := pairs[4 : 4+n]
		pairs = pairs[4+n:]
		switch id { // MS-NLMP, section 2.2.2.1
		case 1:
			g.computer = utf16String(value)
		case 2:
			g.domain = utf16String(value)
		case 3:
			g.dns = utf16String(value)
		}
	}
}

func utf16String(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// fileTime converts a FILETIME (MS-DTYP, section 2.3.3). 0 means not known.
func fileTime(t uint64) time.Time {
	const epoch = 116444736000000000 // 1970, in units of 100 ns since 1601
	if t < epoch || t > 1<<62 {
		return time.Time{}
	}
	t -= epoch
	return time.Unix(int64(t/1e7), int64(t%1e7)*100).UTC()
}
