package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func openings(network string, number uint16, from ...string) []Opening {
	var all []Opening
	for _, f := range from {
		all = append(all, Opening{network, number, netip.MustParsePrefix(f)})
	}
	return all
}

// TestDefenderCalls is a record of the calls that change something, in order.
func TestDefenderCalls(t *testing.T) {
	w := newFakeWindows(t)
	d := w.driver(7)
	fw, err := Open(t.Context(), Options{Driver: d})
	require.NoError(t, err)
	from := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8:1::9/128")}
	l, err := fw.Allow(t.Context(), Rule{Network: "tcp", Port: 63001, From: from})
	require.NoError(t, err)
	all, err := fw.Allow(t.Context(), Rule{Network: "udp", Port: 137, Anyone: true})
	require.NoError(t, err)
	s, err := fw.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, State{FrontEnds: []FrontEnd{Windows}, Owners: []Owner{{"night", 7, "133"}}}, s)
	more, err := fw.Allow(t.Context(), Rule{Network: "tcp", Port: 63001, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}})
	require.NoError(t, err)
	require.NoError(t, l.Close(t.Context()))
	require.NoError(t, all.Close(t.Context()))
	require.NoError(t, fw.Close(t.Context()))
	require.NoError(t, more.Close(t.Context()))
	require.Empty(t, w.rules)
	var calls []string
	for _, c := range w.calls {
		calls = append(calls, aside.ReplaceAllString(strings.ReplaceAll(c, d.prefix, "P "), " closing X"))
	}
	require.Regexp(t, `^roundsman:night:7:133:[0-9a-f]{8} $`, d.prefix)
	description := `Description = Opened by process 7 for its run "night", and removed when that ends. The next roundsman removes it if the process was killed.`
	require.Equal(t, []string{
		"Name = P 63001/tcp", description, `ApplicationName = C:\roundsman.exe`, "Protocol = 6", "LocalPorts = 63001",
		"RemoteAddresses = 192.0.2.7,198.51.100.0/24,2001:db8::/64,2001:db8:1::9",
		"Direction = 1", "Profiles = 2147483647", "EdgeTraversal = false", "Grouping = roundsman", "Action = 1", "Enabled = true",
		"Add P 63001/tcp",
		"Name = P 137/udp", description, `ApplicationName = C:\roundsman.exe`, "Protocol = 17", "LocalPorts = 137",
		"RemoteAddresses = *",
		"Direction = 1", "Profiles = 2147483647", "EdgeTraversal = false", "Grouping = roundsman", "Action = 1", "Enabled = true",
		"Add P 137/udp",
		"RemoteAddresses = 192.0.2.0/28,198.51.100.0/24,2001:db8::/64,2001:db8:1::9",
		"RemoteAddresses = 192.0.2.0/28",
		"Name = P 137/udp closing X", "Remove P 137/udp closing X",
		"Name = P 63001/tcp closing X", "Remove P 63001/tcp closing X",
	}, calls)
}

var aside = regexp.MustCompile(` closing [0-9a-f]{16}$`)

// TestDefenderAllOrNothing: whichever call fails, done or not, the rules are as
// before, and the same can be asked again.
func TestDefenderAllOrNothing(t *testing.T) {
	for _, done := range []bool{false, true} {
		for n := 0; ; n++ {
			w := newFakeWindows(t)
			w.foreign("other", nil)
			d := w.driver(7)
			require.NoError(t, d.Apply(t.Context(), append(openings("tcp", 80, "192.0.2.7/32"), openings("tcp", 81, "192.0.2.7/32")...), nil))
			before, count, fired := w.dump(), 0, false
			fail := func(string) error {
				count++
				if count == n+1 {
					fired = true
					return &comError{what: "broken", code: 0x8000ffff}
				}
				return nil
			}
			if done {
				w.after = fail
			} else {
				w.before = fail
			}
			add := append(openings("tcp", 80, "192.0.2.0/24"), openings("udp", 82, "2001:db8::/64")...)
			remove := append(openings("tcp", 80, "192.0.2.7/32"), openings("tcp", 81, "192.0.2.7/32")...)
			err := d.Apply(t.Context(), add, remove)
			w.before, w.after = nil, nil
			if fired {
				require.Error(t, err)
				require.Equal(t, before, w.dump(), "call %d, done %t", n, done)
				require.NoError(t, d.Apply(t.Context(), add, remove))
			}
			require.NoError(t, d.Close(t.Context()))
			require.Len(t, w.rules, 1, "only the other's")
			if !fired {
				require.NoError(t, err)
				require.Greater(t, n, 14)
				break
			}
		}
	}
}

// TestDefenderTwoFaults: if what failed cannot be put back either, that is made good
// later, and until then it is known.
func TestDefenderTwoFaults(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.7")
	add := slices.Concat(openings("tcp", 80, "192.0.2.0/24"), openings("udp", 82, "2001:db8::/64"), openings("tcp", 83, "192.0.2.7/32"))
	remove := append(openings("tcp", 80, "192.0.2.7/32"), openings("tcp", 81, "192.0.2.7/32")...)
	undoFailed := 0
	for _, done := range []bool{false, true} {
		for n := 0; n < 20; n++ {
			for m := n + 1; m < 30; m++ {
				w := newFakeWindows(t)
				w.foreign("other", nil)
				d := w.driver(7)
				require.NoError(t, d.Apply(t.Context(), append(openings("tcp", 80, "192.0.2.7/32"), openings("tcp", 81, "192.0.2.7/32")...), nil))
				before, count := w.dump(), 0
				fail := func(string) error {
					count++
					if count == n+1 || count == m+1 {
						return &comError{what: "broken", code: codeBroken}
					}
					return nil
				}
				if done {
					w.after = fail
				} else {
					w.before = fail
				}
				err := d.Apply(t.Context(), add, remove)
				w.before, w.after = nil, nil
				if err != nil {
					if w.dump() != before {
						undoFailed++
					}
					require.NoError(t, d.Repair(t.Context()))
					require.Equal(t, before, w.dump(), "calls %d and %d, done %t", n, m, done)
					require.NoError(t, d.Apply(t.Context(), add, remove))
				}
				require.True(t, w.reachable("tcp", 83, peer))
				for _, r := range d.rules {
					require.Equal(t, slices.Compact(slices.Clone(r.from)), r.from)
				}
				require.NoError(t, d.Close(t.Context()))
				require.Len(t, w.rules, 1, "only the other's")
			}
		}
	}
	require.Greater(t, undoFailed, 20)
}

// TestDefenderNeverStaysOpen: what could neither be opened as a whole nor closed
// again is closed as soon as that can be done, whatever else is asked meanwhile.
func TestDefenderNeverStaysOpen(t *testing.T) {
	w := newFakeWindows(t)
	d := w.driver(7)
	d.check = time.Hour
	fw, err := Open(t.Context(), Options{Driver: d})
	require.NoError(t, err)
	peer := netip.MustParseAddr("192.0.2.7")
	from := []netip.Prefix{netip.PrefixFrom(peer, 32)}
	w.before = func(call string) error {
		if strings.HasPrefix(call, "Add") && strings.Contains(call, "81/tcp") || strings.Contains(call, "80/tcp closing") {
			return &comError{what: call, code: codeBroken}
		}
		return nil
	}
	_, err = fw.Allow(t.Context(), Rule{Network: "tcp", Port: 80, From: from}, Rule{Network: "tcp", Port: 81, From: from})
	require.Error(t, err)
	require.True(t, w.reachable("tcp", 80, peer))
	w.before = nil
	l, err := fw.Allow(t.Context(), Rule{Network: "tcp", Port: 80, From: from})
	require.NoError(t, err)
	require.NoError(t, l.Close(t.Context()))
	require.Empty(t, w.rules)
	require.NoError(t, fw.Close(t.Context()))
}

// TestDefenderAnyOrder: through many rules for one port, a peer that is to stay in
// is never shut out, and nobody else gets in.
func TestDefenderAnyOrder(t *testing.T) {
	w := newFakeWindows(t)
	d := w.driver(7)
	rnd := rand.New(rand.NewPCG(3, 4))
	at := func(i int) Opening {
		return Opening{"tcp", 80, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}
	}
	open := map[int]bool{}
	most := 0
	for range 15 {
		var add, remove []Opening
		next := map[int]bool{}
		for range 100 + rnd.IntN(200) {
			if i := rnd.IntN(700); !open[i] && !next[i] {
				next[i] = true
				add = append(add, at(i))
			}
		}
		var stay []netip.Addr
		for i := range 700 {
			if !open[i] {
				continue
			}
			if rnd.IntN(6) == 0 {
				remove = append(remove, at(i))
			} else {
				next[i] = true
				stay = append(stay, at(i).From.Addr())
			}
		}
		w.before = func(string) error {
			for range 3 {
				if len(stay) > 0 && !w.reachable("tcp", 80, stay[rnd.IntN(len(stay))]) {
					t.Error("a peer that is to stay in is shut out") // not require: another goroutine
				}
			}
			return nil
		}
		require.NoError(t, d.Apply(t.Context(), add, remove))
		open = next
		for i := range 700 {
			require.Equal(t, open[i], w.reachable("tcp", 80, at(i).From.Addr()))
		}
		require.LessOrEqual(t, len(w.rules), (len(open)+perRule-1)/perRule+3)
		most = max(most, len(w.rules))
		for _, r := range w.rules {
			require.Less(t, strings.Count(r.props["RemoteAddresses"].(string), ","), perRule)
		}
	}
	require.Greater(t, most, 2)
	w.before = nil
	require.NoError(t, d.Close(t.Context()))
	require.Empty(t, w.rules)
}

// TestDefenderOpensFirst: what takes the place of something else is there before
// that goes, also when it is in another rule.
func TestDefenderOpensFirst(t *testing.T) {
	rules := map[string]*defenderRule{}
	var full []Opening
	for i := range perRule {
		full = append(full, Opening{"tcp", 80, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 32)})
	}
	changes := planRules("P ", rules, full, nil)
	require.Len(t, changes, 1)
	rules["P 80/tcp"] = &defenderRule{port: changes[0].port, from: changes[0].after}
	rules["P 80/tcp #2"] = &defenderRule{port: changes[0].port, from: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	// Two take the place of one in the first rule: one of them goes to the second.
	changes = planRules("P ", rules, openings("tcp", 80, "10.2.0.0/24", "10.2.1.0/24"), append(full[:1:1], openings("tcp", 80, "10.1.0.0/16")...))
	require.Len(t, changes, 2)
	require.Equal(t, []int{0, 0}, []int{changes[0].order(), changes[1].order()})
	changes = planRules("P ", rules, openings("udp", 99, "10.1.0.0/16"), openings("tcp", 80, "10.1.0.0/16"))
	require.Equal(t, []string{"P 99/udp", "P 80/tcp #2"}, []string{changes[0].name, changes[1].name})
	require.Equal(t, "0.0.0.0-255.255.255.255,2001:db8::/32", remoteAddresses([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/32")}))
	require.Equal(t, "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", remoteAddresses([]netip.Prefix{netip.MustParsePrefix("::/0")}))
}

// TestDefenderSweep: what dead owners left goes, and nothing else.
func TestDefenderSweep(t *testing.T) {
	w := newFakeWindows(t)
	ours := map[string]any{"Grouping": defenderGroup}
	w.foreign("roundsman:night:1:5:ab 80/tcp", ours)
	w.foreign("roundsman:night:1:5:ab 80/tcp #2", map[string]any{"Grouping": defenderGroup, "Enabled": false})
	w.foreign("roundsman:night:2:5:ab 80/tcp", ours)
	keep := []string{
		"roundsman:night:2:5:ab 80/tcp",
		"roundsman:night:x:5:ab 80/tcp", "roundsman:night:1:5 80/tcp", "roundsman:a b:1:5:ab 80", "roundsman:night:1::ab 80/tcp",
		"roundsman tcp 80", "roundsman:night:-1:5:ab 80/tcp", "roundsman:night:1:5:ab",
	}
	for _, name := range keep[1:] {
		w.foreign(name, ours)
	}
	w.foreign("roundsman:night:1:5:cd 80/tcp", nil) // somebody copied a name, but it is not of the group
	keep = append(keep, "roundsman:night:1:5:cd 80/tcp")
	left, err := Sweep(t.Context(), Options{Driver: w.driver(7)})
	require.NoError(t, err)
	dead := Owner{"night", 1, "5"}
	require.Equal(t, []Leftover{
		{Windows, `rule "roundsman:night:1:5:ab 80/tcp"`, dead},
		{Windows, `rule "roundsman:night:1:5:ab 80/tcp #2"`, dead},
	}, left)
	var names []string
	for _, r := range w.rules {
		names = append(names, r.props["Name"].(string))
	}
	require.ElementsMatch(t, keep, names)

	w.foreign("roundsman:night:1:5:ab 81/tcp", ours)
	w.stops = true
	_, err = Sweep(t.Context(), Options{Driver: w.driver(7)})
	require.ErrorContains(t, err, "_NewEnum: HRESULT 0x8000ffff", "there may be more that was not seen")
	w.stops = false
	w.before = func(string) error { return &comError{what: "Remove", code: codeAccessDenied} }
	_, err = Sweep(t.Context(), Options{Driver: w.driver(7)})
	require.ErrorIs(t, err, ErrPermission)
}

// TestDefenderPolicy: where rules of the host open nothing, that is an error; where
// they may open nothing, it is said.
func TestDefenderPolicy(t *testing.T) {
	for _, tt := range []struct {
		name                          string
		active, off, shielded, modify int32
		filters, opens                bool
		blocks                        []Block
	}{
		{"ordinary", fwPublic, 0, 0, 0, true, true, nil},
		{"off", fwPublic, fwPublic, fwPublic, fwInBlocked, false, true, nil},
		{"shields up", fwPublic, 0, fwPublic, fwInBlocked, true, false, []Block{{"profile public", whyShielded}}},
		{"shields up somewhere else", fwPublic, 0, fwDomain, 0, true, true, nil},
		{"one of two shielded", fwPublic | fwDomain, 0, fwPublic, fwInBlocked, true, true, []Block{{"profile public", whyShielded}}},
		{"one shielded, one off", fwPublic | fwDomain, fwDomain, fwPublic, 0, true, true, []Block{{"profile public", whyShielded}}},
		{"both shielded", fwPublic | fwDomain, 0, fwPublic | fwDomain, fwInBlocked, true, false, []Block{{"profile domain", whyShielded}, {"profile public", whyShielded}}},
		{"only the state says blocked", fwPublic, 0, 0, fwInBlocked, true, false, []Block{{"profile public", whyShielded}}},
		{"group policy", fwDomain, 0, 0, fwOverride, true, false, []Block{{"profile domain", whyOverride}}},
		{"group policy in one of two", fwDomain | fwPrivate, 0, 0, fwOverride, true, true, []Block{{"profiles domain, private", whyOverride}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newFakeWindows(t)
			w.active, w.off, w.shielded, w.modify = tt.active, tt.off, tt.shielded, tt.modify
			fw, err := Open(t.Context(), Options{Driver: w.driver(7)})
			require.NoError(t, err)
			s, err := fw.State(t.Context())
			require.NoError(t, err)
			require.Equal(t, tt.blocks, s.Blocks)
			require.Equal(t, tt.filters, slices.Contains(s.FrontEnds, Windows))
			l, err := fw.Allow(t.Context(), Rule{Network: "tcp", Port: 80, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}})
			if tt.opens {
				require.NoError(t, err)
				require.True(t, w.reachable("tcp", 80, netip.MustParseAddr("192.0.2.7")))
				w.modify = fwOverride // closing goes on, whatever the policy has become
				require.NoError(t, l.Close(t.Context()))
			} else {
				require.ErrorIs(t, err, errors.ErrUnsupported)
				require.ErrorContains(t, err, "80/tcp from 192.0.2.7/32")
				require.ErrorContains(t, err, tt.blocks[0].Why)
			}
			require.Empty(t, w.rules)
			require.NoError(t, fw.Close(t.Context()))
		})
	}
}

// TestDefenderNamesBlockingRules: in Windows what blocks wins.
func TestDefenderNamesBlockingRules(t *testing.T) {
	w := newFakeWindows(t)
	for name, props := range map[string]map[string]any{
		"ours":        {"ApplicationName": `c:\Roundsman.exe`},
		"everybody's": {"Protocol": fwAny},
		"other":       {"ApplicationName": `C:\other.exe`},
		"service":     {"ServiceName": "spooler"},
		"outbound":    {"Direction": int32(2)},
		"off":         {"Enabled": false},
		"elsewhere":   {"Profiles": fwPublic},
		"icmp":        {"Protocol": int32(1)},
		"allows":      {"Action": fwAllow},
	} {
		all := map[string]any{"Action": fwBlock}
		for k, v := range props {
			all[k] = v
		}
		w.foreign(name, all)
	}
	w.foreign("roundsman:night:2:5:ab 80/tcp", nil) // a name like ours, but not of the group
	d := w.driver(7)
	s, err := d.State(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.Owners)
	var where []string
	for _, b := range s.Blocks {
		where = append(where, b.Where)
	}
	require.ElementsMatch(t, []string{`rule "ours"`, `rule "everybody's"`}, where)
	require.NoError(t, d.Close(t.Context()))
}

// TestDefenderPermission: the command to type is in the error.
func TestDefenderPermission(t *testing.T) {
	w := newFakeWindows(t)
	fw, err := Open(t.Context(), Options{Driver: w.driver(7)})
	require.NoError(t, err)
	w.before = func(call string) error {
		if strings.HasPrefix(call, "Add") {
			return &comError{what: "Add", code: codeAccessDenied, text: "Access is denied."}
		}
		return nil
	}
	_, err = fw.Allow(t.Context(), Rule{Network: "tcp", Port: 80, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}})
	require.ErrorIs(t, err, ErrPermission)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "in windows: administrator rights are needed")
	require.ErrorContains(t, err, `by hand: netsh advfirewall firewall add rule name="roundsman tcp 80"`)
	require.NoError(t, fw.Close(t.Context()))
	require.ErrorContains(t, &comError{what: "Rules", code: codeNoEndpoint}, "mpssvc")
}

// TestDefenderNeverWider: a rule that came out wider than it was to be is taken
// away.
func TestDefenderNeverWider(t *testing.T) {
	w := newFakeWindows(t)
	w.wide = true
	d := w.driver(7)
	require.ErrorContains(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil), "for everybody")
	require.Empty(t, w.rules)
	require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "0.0.0.0/0", "::/0"), nil))
	require.NoError(t, d.Close(t.Context()))
}

// TestDefenderRepairs what others did to its rules, and only then.
func TestDefenderRepairs(t *testing.T) {
	w := newFakeWindows(t)
	d := w.driver(7)
	peer := netip.MustParseAddr("192.0.2.7")
	require.NoError(t, d.Repair(t.Context()))
	require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32", "2001:db8::/64"), nil))
	calls := len(w.calls)
	require.NoError(t, d.Repair(t.Context()))
	require.Len(t, w.calls, calls)
	for _, harm := range []func(){
		func() { w.rules = nil },
		func() { w.rules[0].props["Enabled"] = false },
		func() { w.rules[0].props["RemoteAddresses"] = "*" },
		func() { w.rules[0].props["RemoteAddresses"] = "198.51.100.1/255.255.255.255" },
	} {
		harm()
		require.NoError(t, d.Repair(t.Context()))
		require.Len(t, w.rules, 1)
		require.True(t, w.reachable("tcp", 80, peer))
		require.False(t, w.reachable("tcp", 80, peer.Next()))
	}
	// What could be neither opened nor taken back is taken back later.
	w.after = func(call string) error {
		if strings.HasPrefix(call, "Add") || strings.HasPrefix(call, "Remove") {
			return &comError{what: call, code: 0x8000ffff}
		}
		return nil
	}
	w.before = func(call string) error {
		if strings.HasPrefix(call, "Remove") {
			return &comError{what: call, code: 0x8000ffff}
		}
		return nil
	}
	require.Error(t, d.Apply(t.Context(), openings("tcp", 81, "192.0.2.7/32"), nil))
	require.True(t, w.reachable("tcp", 81, peer))
	w.before, w.after = nil, nil
	require.NoError(t, d.Repair(t.Context()))
	require.False(t, w.reachable("tcp", 81, peer))
	require.NoError(t, d.Close(t.Context()))
	require.Empty(t, w.rules)
}

// TestDefenderHonoursContext: while a call hangs, the caller goes on at the end of
// its context, and when the call comes back, it is undone.
func TestDefenderHonoursContext(t *testing.T) {
	w := newFakeWindows(t)
	d := w.driver(7)
	hangs, goOn := make(chan struct{}), make(chan struct{})
	w.after = func(call string) error {
		if strings.HasPrefix(call, "Add") {
			close(hangs)
			<-goOn
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- d.Apply(ctx, openings("tcp", 80, "192.0.2.7/32"), nil) }()
	<-hangs
	cancel()
	err := <-result
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, errNoAnswer)
	_, err = d.State(ctx)
	require.ErrorIs(t, err, context.Canceled)
	close(goOn)
	_, err = d.State(t.Context()) // comes after it
	require.NoError(t, err)
	require.Empty(t, w.rules)
	require.Regexp(t, fmt.Sprintf("^Remove %s80/tcp closing [0-9a-f]+$", d.prefix), w.calls[len(w.calls)-1])
	require.NoError(t, d.Close(t.Context()))
}

// TestWalk: an enumeration ends with S_FALSE. Any other end is an error.
func TestWalk(t *testing.T) {
	w := newFakeWindows(t)
	for code, want := range map[uint32]string{
		codeFalse: "", codeBroken: "_NewEnum: HRESULT 0x8000ffff", 0: "HRESULT 0x00000000: no element, and not the end",
	} {
		left, seen := 3, 0
		err := walk(func() (comObject, uint32) {
			if left--; left < 0 {
				return nil, code
			}
			return w.object("element"), 0
		}, func(comObject) error { seen++; return nil })
		require.Equal(t, 3, seen)
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
	stop := errors.New("stop")
	require.Equal(t, stop, walk(func() (comObject, uint32) { return w.object("element"), 0 }, func(comObject) error { return stop }))
}

func TestPlainPath(t *testing.T) {
	for path, want := range map[string]string{
		`C:\a b\x.exe`: `C:\a b\x.exe`, `\\?\C:\a b\x.exe`: `C:\a b\x.exe`, `\\srv\share\x.exe`: `\\srv\share\x.exe`,
		`\\?\UNC\srv\share\x.exe`: `\\srv\share\x.exe`, `\\?\UNCLE\x.exe`: `UNCLE\x.exe`,
	} {
		require.Equal(t, want, plainPath(path))
	}
}

// TestDefenderWithoutCOM: what fails at the beginning is told.
func TestDefenderWithoutCOM(t *testing.T) {
	broken := &comError{what: "CoInitializeEx", code: 0x80010106}
	_, err := newDefender(t.Context(), Options{}, Owner{}, "x", nil, func() (comServer, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "in windows: CoInitializeEx: HRESULT 0x80010106")
	ctx, cancel := context.WithCancel(t.Context())
	goOn := make(chan struct{})
	_, err = newDefender(ctx, Options{}, Owner{}, "x", nil, func() (comServer, error) { cancel(); <-goOn; return nil, broken })
	require.ErrorIs(t, err, context.Canceled)
	close(goOn)
}
