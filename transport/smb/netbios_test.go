package smb

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestEncodeName(t *testing.T) {
	t.Parallel()
	// The example of RFC 1001, section 14.1, in its first label.
	require.Equal(t, "\x20EGFCEFEECACACACACACACACACACACACA\x00", string(encodeName("fred", ' ')))
	require.Equal(t, "\x20CKFDENECFDEFFCFGEFFCCACACACACACA\x00", string(encodeName(anyServer, suffixServer)))
}

// answer is a name query response.
func answer(id uint16, addrs ...string) []byte {
	be := binary.BigEndian
	b := be.AppendUint16(nil, id)
	b = append(b, 0x85, 0, 0, 0, 0, 1, 0, 0, 0, 0)
	b = append(b, encodeName("db1", suffixServer)...)
	b = append(b, 0, 0x20, 0, 1, 0, 0, 0, 60)
	b = be.AppendUint16(b, uint16(6*len(addrs)))
	for _, a := range addrs {
		ip := netip.MustParseAddr(a).As4()
		b = append(append(b, 0, 0), ip[:]...)
	}
	return b
}

func TestParseAnswer(t *testing.T) {
	t.Parallel()
	addrs, err := parseAnswer(answer(7, "192.0.2.7", "192.0.2.8"), 7)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")}, addrs)
	_, err = parseAnswer(answer(8, "192.0.2.7"), 7)
	require.ErrorIs(t, err, errOtherAnswer)
	none := answer(7, "192.0.2.7")
	none[3] = 3
	_, err = parseAnswer(none, 7)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	for n := range answer(7, "192.0.2.7") {
		_, err := parseAnswer(answer(7, "192.0.2.7")[:n], 7)
		require.Error(t, err, n)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(answer(7, "192.0.2.7"))
	f.Add(answer(7))
	f.Fuzz(func(t *testing.T, b []byte) {
		addrs, err := parseAnswer(b, 7)
		if (err == nil) != (len(addrs) > 0) || len(addrs) > maxNameAddrs {
			t.Fatalf("%v, %v", addrs, err)
		}
	})
}

func TestLookUp(t *testing.T) {
	t.Parallel()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	asked := make(chan string, 10)
	go func() {
		buf := make([]byte, 1500)
		for n := 0; ; n++ {
			size, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			asked <- string(buf[12:size])
			id := binary.BigEndian.Uint16(buf)
			if n == 0 { // somebody guesses, and the real one answers late
				_, _ = server.WriteToUDPAddrPort(answer(id+1, "198.51.100.1"), from)
				continue
			}
			_, _ = server.WriteToUDPAddrPort(answer(id, "192.0.2.7"), from)
		}
	}()
	at := server.LocalAddr().(*net.UDPAddr).AddrPort()
	addrs, err := lookUp(t.Context(), []netip.AddrPort{at}, false, "db1", 100*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.7")}, addrs)
	require.NotEmpty(t, asked)
	_, err = lookUp(t.Context(), []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())}, false, "db1", 10*time.Millisecond)
	require.ErrorIs(t, err, transport.ErrTimeout, "nobody else is asked, or heard")
	require.Equal(t, string(encodeName("DB1", suffixServer))+"\x00\x20\x00\x01", <-asked)

	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer silent.Close()
	_, err = lookUp(t.Context(), []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort()}, true, "db1", 10*time.Millisecond)
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.True(t, isNetBIOSName("db1"))
	for _, no := range []string{"192.0.2.7", "::1", "db1.lab.example", strings.Repeat("x", 16)} {
		require.False(t, isNetBIOSName(no))
	}
}

func TestRequestSession(t *testing.T) {
	t.Parallel()
	try := func(reply ...byte) error {
		near, far := net.Pipe()
		defer near.Close()
		go func() {
			defer far.Close()
			buf := make([]byte, 72)
			n, _ := far.Read(buf)
			if n == 72 && buf[0] == sessionRequest && buf[3] == 68 && string(buf[4:38]) == string(encodeName(anyServer, suffixServer)) {
				_, _ = far.Write(reply)
			}
		}()
		return requestSession(near)
	}
	require.NoError(t, try(sessionPositive, 0, 0, 0))
	err := try(sessionNegative, 0, 0, 1, 0x82)
	require.ErrorIs(t, err, transport.ErrRejected)
	require.Equal(t, transport.Code{Space: "netbios", Value: "0x82"}, transport.CodeOf(err))
	require.ErrorIs(t, try(sessionRetarget, 0, 0, 6, 1, 2, 3, 4, 5, 6), transport.ErrRejected)
	require.Error(t, try('H', 'T', 'T', 'P'))
	require.Error(t, try(sessionPositive, 0, 0, 9))
}
