package sum_test

import (
	"context"
	"io/fs"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/firewall/firewalltest"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

var (
	home     = netip.MustParseAddr("127.0.0.1")
	outsider = netip.MustParseAddr("192.0.2.99")
)

// walled has the manager of a lab behind a firewall that is to be opened.
func walled(t *testing.T, l *lab) *firewalltest.Host {
	host := firewalltest.NewHost(t)
	l.config = func(c *sum.Config) {
		c.OpenFirewall, c.Firewall = true, firewall.Options{Driver: host.Driver()}
	}
	return host
}

func urlPort(t *testing.T, text string) uint16 {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	require.NoError(t, err)
	return uint16(n)
}

// changes are the openings and closings so far.
func changes(h *firewalltest.Host) []string {
	var out []string
	for _, c := range h.Calls() {
		if strings.HasPrefix(c, "Apply") {
			out = append(out, c)
		}
	}
	return out
}

// TestFirewallOffer: the manager's firewall lets the target fetch, nobody else, and
// no longer than the offer lasts, whoever takes it back.
func TestFirewallOffer(t *testing.T) {
	for name, forget := range map[string]bool{"by the driver": false, "by the session": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, pull)
			host := walled(t, l)
			offered := newOffers(l)
			offered.forget = forget
			c := l.component("7.0", 100_000)
			s := l.open()
			n := l.nodes(s)[0]
			p := plan(t, n, c, sum.PlanOptions{})
			require.Empty(t, changes(host), "nothing is needed yet")
			var port uint16
			told := make(chan struct{})
			offered.before = func(ctx context.Context, publish func(context.Context, transport.PublishRequest) (transport.Published, error)) error {
				pub, err := publish(ctx, transport.PublishRequest{Key: "mine", File: transport.BytesFile("x", []byte("x"))})
				if err == nil {
					port = urlPort(t, pub.URL)
				}
				close(told)
				return err
			}
			w := l.begin(n, p, c, transporttest.Flash{})
			<-told
			require.True(t, host.Reachable("tcp", port, home), "named before it is open")
			require.False(t, host.Reachable("tcp", port, outsider))
			_, err := w.end()
			require.NoError(t, err)
			require.False(t, host.Reachable("tcp", port, home), "%v", changes(host))
			l.clean(s)
		})
	}
}

// TestFirewallInbox: also for what a target posts.
func TestFirewallInbox(t *testing.T) {
	l := newLab(t, pull)
	host := walled(t, l)
	s := l.open()
	n := l.nodes(s)[0]
	more := netip.MustParseAddr("192.0.2.7")
	in, err := sum.Receive(t.Context(), n, depot.Inbox{
		Name: "status", Allow: []netip.Prefix{netip.PrefixFrom(more, 32)},
		Handle: func(context.Context, depot.Post) error { return nil },
	}, sum.ReceiveOptions{})
	require.NoError(t, err)
	port := urlPort(t, in.URL)
	require.True(t, host.Reachable("tcp", port, home))
	require.True(t, host.Reachable("tcp", port, more))
	require.False(t, host.Reachable("tcp", port, outsider))
	closed, cancel := context.WithCancel(t.Context())
	cancel()
	host.Fail("Apply", firewall.ErrPermission)
	require.ErrorIs(t, in.Release(closed), firewall.ErrPermission)
	require.True(t, host.Reachable("tcp", port, home))
	require.NoError(t, in.Release(closed), "again, and in spite of the context")
	require.False(t, host.Reachable("tcp", port, home))
	require.NoError(t, in.Release(t.Context()))

	_, err = sum.Receive(t.Context(), n, depot.Inbox{Name: "left", Handle: func(context.Context, depot.Post) error { return nil }}, sum.ReceiveOptions{})
	require.NoError(t, err)
	require.True(t, host.Reachable("tcp", port, home))
	l.clean(s) // closes what the caller left
	require.False(t, host.Reachable("tcp", port, home))
}

// TestFirewallClassic: the ports on which agents call, before they are told of them.
func TestFirewallClassic(t *testing.T) {
	l := newClassicLab(t)
	l.opts.OpenRule = nil
	host := walled(t, l.lab)
	s := l.open()
	_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
	require.NoError(t, err)
	a := l.last()
	first := port(t, a.addrs[0])
	require.True(t, host.Reachable("tcp", first, home))
	require.False(t, host.Reachable("tcp", first, outsider))
	where, err := a.client(t, 0).Contact(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, host.Reachable("tcp", uint16(where.Port), home), "named before it is open")
	require.NoError(t, s.Close(context.Background()))
	require.False(t, host.Reachable("tcp", first, home))
	require.False(t, host.Reachable("tcp", uint16(where.Port), home))
}

// TestFirewallRefused: a firewall that cannot be opened stops what needs it, with
// the rule to add by hand, and nothing else.
func TestFirewallRefused(t *testing.T) {
	l := newLab(t, pull)
	host := walled(t, l)
	s := l.open()
	n := l.nodes(s)[0]
	c := l.component("7.0", 1000)
	p := plan(t, n, c, sum.PlanOptions{})
	host.Fail("Apply", &firewall.Error{FrontEnd: firewall.UFW, Kind: firewall.ErrPermission})
	out, err := sum.Deploy(t.Context(), n, p, one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, sum.Failed, out[0].Kind, "%+v", out[0])
	require.Contains(t, out[0].Text, "ufw")
	require.Zero(t, l.applied(n.Target().Name))

	host.Fail("Apply", &firewall.Error{FrontEnd: firewall.UFW, Kind: firewall.ErrPermission})
	_, err = sum.Receive(t.Context(), n, depot.Inbox{Name: "x", Handle: func(context.Context, depot.Post) error { return nil }}, sum.ReceiveOptions{})
	require.ErrorIs(t, err, fs.ErrPermission)
	l.clean(s)
}

// TestFirewallNotOpened: a firewall that is not there, or may not be touched, matters
// only to who needs a port.
func TestFirewallNotOpened(t *testing.T) {
	l := newLab(t, pull)
	host := walled(t, l)
	host.Fail("Sweep", firewall.ErrPermission)
	s := l.open()
	n := l.nodes(s)[0]
	_, err := sum.Inventory(t.Context(), n)
	require.NoError(t, err)
	_, err = sum.Receive(t.Context(), n, depot.Inbox{Name: "x", Handle: func(context.Context, depot.Post) error { return nil }}, sum.ReceiveOptions{})
	require.ErrorIs(t, err, firewall.ErrPermission)
	l.clean(s)
}

// TestFirewallLeftAlone: without OpenFirewall nothing is asked of the firewall.
func TestFirewallLeftAlone(t *testing.T) {
	l := newLab(t, pull)
	host := firewalltest.NewHost(t)
	driver := host.Driver()
	l.config = func(c *sum.Config) { c.Firewall.Driver = driver }
	s := l.open()
	out := deploy(t, l.nodes(s)[0], l.component("7.0", 1000))
	require.Equal(t, sum.Updated, out.Kind)
	l.clean(s)
	require.Empty(t, host.Calls())
	require.NoError(t, driver.Close(t.Context()))
}

// TestFirewallSwept: what a killed run left in the firewall is removed by the next, also
// by one that opens none, as the journal says that there is something; and by no other.
func TestFirewallSwept(t *testing.T) {
	for name, again := range map[string]bool{"by one that opens it": true, "by one that does not": false} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, pull)
			host := walled(t, l)
			l.clean(l.open())
			s := l.open()
			n := l.nodes(s)[0]
			_, err := sum.Receive(t.Context(), n, depot.Inbox{Name: "x", Handle: func(context.Context, depot.Post) error { return nil }}, sum.ReceiveOptions{})
			require.NoError(t, err)
			s.Abandon()
			host.Kill()
			swept := func() int {
				k := 0
				for _, c := range host.Calls() {
					if strings.HasPrefix(c, "Sweep") {
						k++
					}
				}
				return k
			}
			before := swept()
			if !again {
				l.config = func(c *sum.Config) { c.Firewall.Driver = host.Driver() }
			}
			s = l.open()
			require.Empty(t, s.Pending(), "it is no target's")
			if !again {
				require.Equal(t, before, swept(), "it has looked only")
			}
			require.NoError(t, s.TakeOver(t.Context()))
			require.Equal(t, before+1, swept())
			require.NoError(t, s.Close(t.Context()))
			if !again {
				l.config = nil
				s = l.open()
				require.NoError(t, s.TakeOver(t.Context()))
				l.clean(s)
				require.Equal(t, before+1, swept())
			}
		})
	}
}
