package firewall_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/firewall/firewalltest"
)

func TestRulesAreChecked(t *testing.T) {
	host := firewalltest.NewHost(t)
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	one := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	for want, r := range map[string]firewall.Rule{
		"neither tcp nor udp":      {Network: "tcp4", Port: 1, From: one},
		"no port":                  {Network: "tcp", From: one},
		"no source prefix":         {Network: "tcp", Port: 1},
		"both Anyone and From":     {Network: "tcp", Port: 1, From: one, Anyone: true},
		"is not valid":             {Network: "udp", Port: 1, From: []netip.Prefix{{}}},
		"in IPv6 form":             {Network: "udp", Port: 1, From: []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}},
		"write 192.0.2.0/24":       {Network: "udp", Port: 1, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}},
		"0.0.0.0/0 is every":       {Network: "udp", Port: 1, From: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		"::/0 is every address: s": {Network: "udp", Port: 1, From: []netip.Prefix{netip.MustParsePrefix("::/0")}},
	} {
		_, err := fw.Allow(t.Context(), r)
		require.ErrorIs(t, err, firewall.ErrInvalid, want)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, r.Validate(), want)
		require.Empty(t, firewall.Syntax(firewall.NFT, r))
	}
	_, err = fw.Allow(t.Context())
	require.ErrorIs(t, err, firewall.ErrInvalid)
	require.NoError(t, fw.Close(t.Context()))
	require.Equal(t, []string{"Sweep", "State", "Close"}, host.Calls())
	for _, o := range []firewall.Options{{Run: "a-b"}, {Mark: 0x100, Mask: 0xff}, {Mask: 0xff}, {Check: -1}, {TTL: time.Second}, {Rules: []firewall.Rule{{}}}} {
		o.Driver = host.Driver()
		_, err := firewall.Open(t.Context(), o)
		require.ErrorIs(t, err, firewall.ErrInvalid)
		o.Driver = host.Driver() // the other one is closed
		_, err = firewall.Sweep(t.Context(), o)
		require.ErrorIs(t, err, firewall.ErrInvalid)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = firewall.Open(ended, firewall.Options{Driver: host.Driver()})
	require.ErrorIs(t, err, context.Canceled)
}

// TestLeasesAreCounted: a port closes with the last lease that has it, also where
// prefixes lie within each other.
func TestLeasesAreCounted(t *testing.T) {
	host := firewalltest.NewHost(t)
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	in, out := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	allow := func(prefixes ...string) *firewall.Lease {
		r := firewall.Rule{Network: "tcp", Port: 80}
		for _, p := range prefixes {
			r.From = append(r.From, netip.MustParsePrefix(p))
		}
		l, err := fw.Allow(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, []firewall.Rule{r}, l.Rules())
		return l
	}
	reach := func(a netip.Addr) bool { return host.Reachable("tcp", 80, a) }
	first := allow("192.0.2.7/32", "192.0.2.7/32")
	second := allow("192.0.2.7/32")
	require.NoError(t, first.Close(t.Context()))
	require.NoError(t, first.Close(t.Context()))
	require.True(t, reach(in))
	require.False(t, reach(out))
	wide := allow("192.0.2.0/24", "2001:db8::/32")
	require.True(t, reach(out))
	require.NoError(t, second.Close(t.Context()))
	require.True(t, reach(in))
	narrow := allow("192.0.2.8/31")
	require.NoError(t, wide.Close(t.Context()))
	require.False(t, reach(in))
	require.True(t, reach(out))
	require.False(t, host.Reachable("udp", 80, out))
	require.False(t, host.Reachable("tcp", 81, out))
	require.NoError(t, fw.Close(t.Context()))
	require.False(t, reach(out))
	require.NoError(t, narrow.Close(t.Context()))
	require.NoError(t, fw.Close(t.Context()))
	require.Equal(t, []string{
		"Sweep", "State",
		"Apply +80/tcp from 192.0.2.7/32", "Apply", "Apply",
		"Apply -80/tcp from 192.0.2.7/32 +80/tcp from 192.0.2.0/24 +80/tcp from 2001:db8::/32", "Apply", "Apply",
		"Apply -80/tcp from 192.0.2.0/24 -80/tcp from 2001:db8::/32 +80/tcp from 192.0.2.8/31",
		"Close",
	}, host.Calls())
	for _, err := range []error{
		func() error { _, err := fw.Allow(t.Context(), rule443()); return err }(),
		func() error { _, err := fw.State(t.Context()); return err }(),
	} {
		require.ErrorIs(t, err, firewall.ErrClosed)
	}
}

// TestAnyOrder: whatever leases come and go, a peer gets in exactly if one of them
// names it.
func TestAnyOrder(t *testing.T) {
	host := firewalltest.NewHost(t)
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	rnd := rand.New(rand.NewPCG(1, 2))
	var leases []*firewall.Lease
	for range 400 {
		if n := len(leases); n > 0 && rnd.IntN(9) < min(n, 6) {
			i := rnd.IntN(n)
			require.NoError(t, leases[i].Close(t.Context()))
			leases = slices.Delete(leases, i, i+1)
		} else {
			r := firewall.Rule{Network: []string{"tcp", "udp"}[rnd.IntN(2)], Port: uint16(1 + rnd.IntN(2))}
			for range 1 + rnd.IntN(3) {
				a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rnd.IntN(8))})
				p, err := a.Prefix(28 + rnd.IntN(5))
				require.NoError(t, err)
				r.From = append(r.From, p)
			}
			l, err := fw.Allow(t.Context(), r)
			require.NoError(t, err)
			leases = append(leases, l)
		}
		for i := range 40 {
			network, port, peer := []string{"tcp", "udp"}[i%2], uint16(1+i/2%2), netip.AddrFrom4([4]byte{10, 0, 0, byte(i / 4)})
			named := slices.ContainsFunc(leases, func(l *firewall.Lease) bool {
				r := l.Rules()[0]
				return r.Network == network && r.Port == port &&
					slices.ContainsFunc(r.From, func(p netip.Prefix) bool { return p.Contains(peer) })
			})
			require.Equal(t, named, host.Reachable(network, port, peer))
		}
	}
	require.NoError(t, fw.Close(t.Context()))
}

func rule443() firewall.Rule { return firewall.Rule{Network: "tcp", Port: 443, Anyone: true} }

// TestFailures: what fails has changed nothing, and can be done again.
func TestFailures(t *testing.T) {
	host := firewalltest.NewHost(t)
	broken := errors.New("broken")
	host.Fail("Sweep", broken)
	_, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.ErrorIs(t, err, broken)
	host.Fail("State", broken)
	_, err = firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.ErrorIs(t, err, broken)

	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	peer := netip.MustParseAddr("2001:db8::1")
	host.Fail("Apply", &firewall.Error{FrontEnd: firewall.UFW, Kind: errors.ErrUnsupported})
	_, err = fw.Allow(t.Context(), rule443())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.EqualError(t, err, "firewall: allow 443/tcp from anyone in ufw: unsupported operation (by hand: ufw prepend allow 443/tcp)")
	require.False(t, host.Reachable("tcp", 443, peer))

	l, err := fw.Allow(t.Context(), rule443())
	require.NoError(t, err)
	require.True(t, host.Reachable("tcp", 443, peer))
	host.Fail("Apply", broken)
	require.ErrorIs(t, l.Close(t.Context()), broken)
	require.True(t, host.Reachable("tcp", 443, peer))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, l.Close(ended), "a context that has ended")
	require.False(t, host.Reachable("tcp", 443, peer))
	_, err = fw.Allow(ended, rule443())
	require.ErrorIs(t, err, context.Canceled)

	_, err = fw.Allow(t.Context(), rule443())
	require.NoError(t, err)
	host.Fail("Close", broken)
	require.ErrorIs(t, fw.Close(t.Context()), broken)
	require.NoError(t, fw.Close(ended))
	require.False(t, host.Reachable("tcp", 443, peer))
}

// TestOneAtATime: the driver never has two calls at once, whatever callers do; the
// fake fails the test otherwise.
func TestOneAtATime(t *testing.T) {
	host := firewalltest.NewHost(t)
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := fw.Allow(t.Context(), rule443())
				if err != nil {
					t.Error(err)
					return
				}
				host.Reload()
				if err := l.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, fw.Close(t.Context()))
}

// TestRepair: after a change by others, the driver is asked to look after its own,
// and again when it could not.
func TestRepair(t *testing.T) {
	host := firewalltest.NewHost(t)
	var log bytes.Buffer
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	repairs := func() int {
		n := 0
		for _, c := range host.Calls() {
			if c == "Repair" {
				n++
			}
		}
		return n
	}
	host.Fail("Repair", errors.New("broken"))
	for i := range 2 {
		host.Reload()
		for deadline := time.Now().Add(30 * time.Second); repairs() <= i; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(deadline))
		}
	}
	require.NoError(t, fw.Close(t.Context())) // joins what writes the log
	require.Contains(t, log.String(), "err=broken")
}

func TestSweepReports(t *testing.T) {
	host := firewalltest.NewHost(t)
	left := firewall.Leftover{FrontEnd: firewall.NFT, What: "gate in chain inet filter input", Owner: firewall.Owner{Run: "r", PID: 7, Start: "1.x"}}
	host.Leave(left)
	host.SetState(firewall.State{Blocks: []firewall.Block{{Where: "chain ip raw PREROUTING", Why: "too early"}}})
	var log bytes.Buffer
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.NoError(t, fw.Close(t.Context()))
	require.Contains(t, log.String(), "r-7-1.x")
	require.Contains(t, log.String(), "chain ip raw PREROUTING")

	host.Leave(left)
	got, err := firewall.Sweep(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	require.Equal(t, []firewall.Leftover{left}, got)
}

func TestKilled(t *testing.T) {
	host := firewalltest.NewHost(t)
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	_, err = fw.Allow(t.Context(), rule443())
	require.NoError(t, err)
	host.Kill()
	require.False(t, host.Reachable("tcp", 443, netip.MustParseAddr("192.0.2.1")))
	require.Error(t, fw.Close(t.Context()))
	left, err := firewall.Sweep(t.Context(), firewall.Options{Driver: host.Driver()})
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestNone(t *testing.T) {
	fw, err := firewall.Open(t.Context(), firewall.Options{Driver: firewall.None()})
	require.NoError(t, err)
	l, err := fw.Allow(t.Context(), rule443())
	require.NoError(t, err)
	require.NoError(t, l.Close(t.Context()))
	s, err := fw.State(t.Context())
	require.NoError(t, err)
	require.True(t, s.ByHand)
	require.NoError(t, fw.Close(t.Context()))
}

// TestByHand: where a driver opens nothing, the rules to add are named, in each
// front end.
func TestByHand(t *testing.T) {
	host := firewalltest.NewHost(t)
	frontEnds := []firewall.FrontEnd{firewall.Firewalld, firewall.UFW}
	commands := []string{
		`firewall-cmd --add-rich-rule='rule priority="-1" port port="443" protocol="tcp" accept'`,
		"ufw prepend allow 443/tcp",
	}
	for _, byHand := range []bool{false, true} {
		host.SetState(firewall.State{FrontEnds: frontEnds, ByHand: byHand})
		var log bytes.Buffer
		fw, err := firewall.Open(t.Context(), firewall.Options{Driver: host.Driver(), Logger: slog.New(slog.NewJSONHandler(&log, nil))})
		require.NoError(t, err)
		l, err := fw.Allow(t.Context(), rule443())
		require.NoError(t, err)
		if byHand {
			require.Equal(t, commands, l.ByHand())
			require.Contains(t, log.String(), commands[1])
		} else {
			require.Empty(t, l.ByHand())
			require.NotContains(t, log.String(), commands[1])
		}
		require.NoError(t, fw.Close(t.Context()))
	}
}

func TestPermissionIsOfFS(t *testing.T) {
	require.ErrorIs(t, firewall.ErrPermission, fs.ErrPermission)
	require.ErrorIs(t, firewall.ErrPermission, os.ErrPermission)
}

func TestSyntaxWords(t *testing.T) {
	r := firewall.Rule{Network: "udp", Port: 137, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")}}
	require.Equal(t, []string{`netsh advfirewall firewall add rule name="roundsman udp 137" dir=in action=allow protocol=UDP localport=137 remoteip=192.0.2.0/24,2001:db8::1/128`},
		firewall.Syntax(firewall.Windows, r))
	require.Equal(t, []string{
		`firewall-cmd --add-rich-rule='rule priority="-1" family="ipv4" source address="192.0.2.0/24" port port="137" protocol="udp" accept'`,
		`firewall-cmd --add-rich-rule='rule priority="-1" family="ipv6" source address="2001:db8::1/128" port port="137" protocol="udp" accept'`,
	}, firewall.Syntax(firewall.Firewalld, r))
	require.Equal(t, []string{`firewall-cmd --add-rich-rule='rule priority="-1" port port="443" protocol="tcp" accept'`}, firewall.Syntax(firewall.Firewalld, rule443()))
	require.Contains(t, firewall.Syntax(firewall.Windows, rule443())[0], "remoteip=any")
	require.Nil(t, firewall.Syntax("", r))
	require.Equal(t, "137/udp from 192.0.2.0/24, 2001:db8::1/128", r.String())
}

// The fake is strict: it fails the test that uses it wrongly, or forgets to close.
func TestFakeIsStrict(t *testing.T) {
	var rec recorder
	host := firewalltest.NewHost(&rec)
	d := host.Driver()
	o := firewall.Opening{Network: "tcp", Port: 1, From: netip.MustParsePrefix("10.0.0.0/8")}
	within := firewall.Opening{Network: "tcp", Port: 1, From: netip.MustParsePrefix("10.1.0.0/16")}
	require.NoError(t, d.Apply(t.Context(), nil, []firewall.Opening{o}))
	require.NoError(t, d.Apply(t.Context(), []firewall.Opening{o}, nil))
	require.NoError(t, d.Apply(t.Context(), []firewall.Opening{within}, nil))
	for _, f := range slices.Backward(rec.cleanups) {
		f()
	}
	require.NoError(t, d.Close(t.Context()))
	require.NoError(t, d.Close(t.Context()))
	require.Len(t, rec.errors, 4, "%q", rec.errors)
}

type recorder struct {
	errors   []string
	cleanups []func()
}

func (r *recorder) Helper()                        {}
func (r *recorder) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }
func (r *recorder) Cleanup(f func())               { r.cleanups = append(r.cleanups, f) }
