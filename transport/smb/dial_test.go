package smb

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// TestNoSuchName: a name that neither DNS nor NetBIOS has is one that nobody has, and no
// host that does not answer.
func TestNoSuchName(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer silent.Close()
	ctx := t.Context()
	d := &dial{t: &Transport{}, target: "no-such-host-1", host: "no-such-host-1", port: Port,
		opts: Options{NetBIOS: true, NameServers: []netip.AddrPort{silent.LocalAddr().(*net.UDPAddr).AddrPort()}}}
	_, err = d.connect(ctx)
	err = d.fail(ctx, ctx, err)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorContains(t, err, "UDP port 137")

	missing := &net.DNSError{Err: "no such host", Name: "nosuch", IsNotFound: true}
	err = d.fail(ctx, ctx, &unnamed{missing, &transport.Error{Kind: transport.ErrTimeout, Err: errors.New("nobody has answered")}})
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.NotErrorIs(t, err, transport.ErrTimeout)
	require.ErrorContains(t, err, "UDP port 137")
	require.ErrorContains(t, err, "no host has this name")
	var dns *net.DNSError
	require.True(t, errors.As(err, &dns) && dns.IsNotFound)

	// The driver looks such names up itself, and says so of those that it cannot ask for.
	dialed := 0
	d.host = strings.Repeat("x", 16)
	d.t = &Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		dialed++
		return nil, &net.OpError{Op: "dial", Err: missing}
	}}
	_, err = d.connect(ctx)
	require.Equal(t, 1, dialed, "the session service has no address either")
	require.Equal(t, 1, strings.Count(err.Error(), "no such host"), "%v", err)
	d.t = &Transport{}
	require.ErrorContains(t, d.fail(ctx, ctx, err), "15 characters")
}

// TestSessionServiceIsNamed: an error of what was done by port 139 says so, where the address
// named no port.
func TestSessionServiceIsNamed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for port, want := range map[uint16]string{Port: "db1", sessionService: "db1:139"} {
		d := &dial{t: &Transport{}, target: "db1", host: "db1", port: port}
		var te *transport.Error
		require.ErrorAs(t, d.fail(ctx, ctx, &transport.Error{Kind: transport.ErrAuth, Code: ntCode(statusLogonFailure)}), &te)
		require.Equal(t, want, te.Target)
		require.ErrorIs(t, te, transport.ErrAuth)
	}
}

func TestShareRoot(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", `C:\Windows`, `d:\`, "E:", `\\?\Volume{0}\w`} {
		_, err := options(transport.Endpoint{Options: Options{ShareRoot: good}})
		require.NoError(t, err, good)
	}
	for _, bad := range []string{"Windows", `\Windows`, "C:Windows", "/srv/x", "1:\\x", "C"} {
		_, err := options(transport.Endpoint{Options: Options{ShareRoot: bad}})
		require.ErrorContains(t, err, "no full path", bad)
	}
}
