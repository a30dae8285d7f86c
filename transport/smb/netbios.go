package smb

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Packet types of the session service, RFC 1002, section 4.3.1.
const (
	sessionRequest   = 0x81
	sessionPositive  = 0x82
	sessionNegative  = 0x83
	sessionRetarget  = 0x84
	sessionKeepAlive = 0x85
)

// Ports of NetBIOS over TCP/IP.
const (
	nameService    = 137
	sessionService = 139
)

// Suffixes of NetBIOS names: the 16th byte.
const (
	suffixWorkstation = 0x00
	suffixServer      = 0x20
)

// anyServer is the name by which every server answers on port 139.
const anyServer = "*SMBSERVER"

// encodeName is a NetBIOS name in the first-level encoding of RFC 1001, section 14.1, as
// a label and the end of an empty scope.
func encodeName(name string, suffix byte) []byte {
	var raw [16]byte
	for i := range raw[:15] {
		raw[i] = ' '
	}
	copy(raw[:15], strings.ToUpper(name))
	raw[15] = suffix
	out := []byte{32}
	for _, c := range raw {
		out = append(out, 'A'+c>>4, 'A'+c&15)
	}
	return append(out, 0)
}

// requestSession opens a session of the NetBIOS session service on a connection to
// port 139 (RFC 1002, section 4.3.2). Afterwards the connection carries SMB as on
// port 445.
func requestSession(conn net.Conn) error {
	p := append(encodeName(anyServer, suffixServer), encodeName("ROUNDSMAN", suffixWorkstation)...)
	msg := []byte{sessionRequest, 0, 0, 0}
	binary.BigEndian.PutUint16(msg[2:], uint16(len(p)))
	if _, err := conn.Write(append(msg, p...)); err != nil {
		return err
	}
	var h [4]byte
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		return err
	}
	switch size := binary.BigEndian.Uint16(h[2:]); h[0] {
	case sessionPositive:
		if size != 0 || h[1] != 0 {
			return badFrame("a positive session response of %d bytes", size)
		}
		return nil
	case sessionNegative:
		var code [1]byte
		if size == 1 {
			_, _ = io.ReadFull(conn, code[:])
		}
		return &transport.Error{Kind: transport.ErrRejected, Code: transport.Code{Space: "netbios", Value: fmt.Sprintf("0x%02X", code[0])},
			Err: errors.New("the NetBIOS session service refused the session")}
	case sessionRetarget:
		return &transport.Error{Kind: transport.ErrRejected, Err: errors.New("the NetBIOS session service names another address"),
			Hint: "such redirections are not followed; give that address"}
	}
	return badFrame("a session packet of type %#x", h[0])
}

// lookUp asks for the IPv4 addresses of a NetBIOS name (RFC 1002, section 4.2.12): name
// servers, or with anybody set whoever hears a broadcast. All are asked at once, and the
// first answer that names an address counts.
func lookUp(ctx context.Context, servers []netip.AddrPort, anybody bool, name string, wait time.Duration) ([]netip.Addr, error) {
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var id [2]byte
	_, _ = rand.Read(id[:])
	q := append(id[:], 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	q = append(q, encodeName(name, suffixServer)...)
	q = append(q, 0, 0x20, 0, 1) // NB, IN
	last := error(&transport.Error{Kind: transport.ErrTimeout, Err: errors.New("nobody has answered")})
	buf := make([]byte, 1500)
	for range queryTries {
		for _, server := range servers {
			if _, err := conn.WriteToUDPAddrPort(q, server); err != nil {
				last = err
			}
		}
		if ctx.Err() == nil {
			_ = conn.SetReadDeadline(time.Now().Add(wait))
		}
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				break
			}
			if !anybody && !slices.Contains(servers, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
				continue
			}
			addrs, err := parseAnswer(buf[:n], binary.BigEndian.Uint16(id[:]))
			if err == nil {
				return addrs, nil
			}
			if !errors.Is(err, errOtherAnswer) {
				last = err // another server may know it
			}
		}
	}
	return nil, last
}

// queryTries is how often a query is sent, as BCAST_REQ_RETRY_COUNT and
// UCAST_REQ_RETRY_COUNT of RFC 1002, section 6, say.
const queryTries = 3

// broadcasts are the addresses to which a name is asked where no name server is known.
func broadcasts() []netip.AddrPort {
	var out []netip.AddrPort
	nets, _ := net.InterfaceAddrs()
	for _, a := range nets {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() {
			continue
		}
		ip := n.IP.To4()
		if ip == nil || len(n.Mask) < 4 {
			continue
		}
		mask := n.Mask[len(n.Mask)-4:]
		var b [4]byte
		for i := range b {
			b[i] = ip[i] | ^mask[i]
		}
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4(b), nameService))
	}
	return out
}

var errOtherAnswer = errors.New("an answer to another question")

// maxNameAddrs bounds the addresses of one name.
const maxNameAddrs = 64

// parseAnswer reads a name query response (RFC 1002, section 4.2.13).
func parseAnswer(b []byte, id uint16) ([]netip.Addr, error) {
	be := binary.BigEndian
	if len(b) < 12 || be.Uint16(b) != id || b[2]&0x80 == 0 {
		return nil, errOtherAnswer
	}
	if code := b[3] & 15; code != 0 {
		return nil, &transport.Error{Kind: transport.ErrUnreachable, Code: transport.Code{Space: "nbns", Value: strconv.Itoa(int(code))},
			Err: errors.New("there is no such NetBIOS name")}
	}
	if be.Uint16(b[6:]) == 0 {
		return nil, badFrame("a name query response without an answer")
	}
	rest, ok := skipName(b[12:])
	for range min(be.Uint16(b[4:]), 4) { // questions, if they are repeated
		if !ok || len(rest) < 4 {
			return nil, badFrame("a name query response that is cut short")
		}
		rest, ok = skipName(rest[4:])
	}
	if !ok || len(rest) < 10 {
		return nil, badFrame("a name query response that is cut short")
	}
	if t := be.Uint16(rest); t != 0x20 {
		return nil, badFrame("a name query response of type %#x", t)
	}
	size := int(be.Uint16(rest[8:]))
	rest = rest[10:]
	if size > len(rest) {
		return nil, badFrame("a name query response that is cut short")
	}
	var out []netip.Addr
	for rest = rest[:size]; len(rest) >= 6 && len(out) < maxNameAddrs; rest = rest[6:] {
		out = append(out, netip.AddrFrom4([4]byte(rest[2:6])))
	}
	if len(out) == 0 {
		return nil, badFrame("a name query response without an address")
	}
	return out, nil
}

// skipName passes over a name: labels, or a pointer to them.
func skipName(b []byte) (rest []byte, ok bool) {
	for len(b) > 0 {
		switch n := int(b[0]); {
		case n == 0:
			return b[1:], true
		case n >= 0xC0:
			if len(b) < 2 {
				return nil, false
			}
			return b[2:], true
		case n > 63 || 1+n > len(b):
			return nil, false
		default:
			b = b[1+n:]
		}
	}
	return nil, false
}
