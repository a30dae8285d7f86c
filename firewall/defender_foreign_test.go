package firewall

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDefenderCopies: what somebody copied bears the same name, and is his.
func TestDefenderCopies(t *testing.T) {
	w := newFakeWindows(t)
	copyOf := func(r *fakeRule, first bool) {
		w.foreign(r.props["Name"].(string), map[string]any{"RemoteAddresses": "198.51.100.1", "ApplicationName": `C:\roundsman.exe`})
		if last := len(w.rules) - 1; first {
			w.rules = slices.Insert(w.rules[:last:last], 0, w.rules[last])
		}
	}
	for _, first := range []bool{false, true} {
		d := w.driver(7)
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
		copyOf(w.rules[len(w.rules)-1], first)
		copies := w.dump()
		require.NoError(t, d.Repair(t.Context()))
		require.Equal(t, copies, w.dump())
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "203.0.113.0/24"), openings("tcp", 80, "192.0.2.7/32")))
		require.True(t, w.reachable("tcp", 80, netip.MustParseAddr("203.0.113.7")))
		require.False(t, w.reachable("tcp", 80, netip.MustParseAddr("192.0.2.7")))
		require.NoError(t, d.Close(t.Context()))
		require.Len(t, w.rules, 1)
		require.Equal(t, "198.51.100.1", w.rules[0].props["RemoteAddresses"])
		w.rules = nil

		w.foreign("roundsman:night:1:5:ab 80/tcp", map[string]any{"Grouping": defenderGroup})
		copyOf(w.rules[0], first)
		left, err := Sweep(t.Context(), Options{Driver: w.driver(7)})
		require.NoError(t, err)
		require.Equal(t, []Leftover{{Windows, `rule "roundsman:night:1:5:ab 80/tcp"`, Owner{"night", 1, "5"}}}, left)
		require.Len(t, w.rules, 1)
		require.Empty(t, w.rules[0].props["Grouping"])
		w.rules = nil
	}
	// What was renamed and then could not be removed is found by its owner's name.
	w.foreign("roundsman:night:1:5:ab 80/tcp", map[string]any{"Grouping": defenderGroup})
	w.before = func(call string) error {
		if strings.HasPrefix(call, "Remove") {
			return &comError{what: call, code: codeBroken}
		}
		return nil
	}
	_, err := Sweep(t.Context(), Options{Driver: w.driver(7)})
	require.ErrorContains(t, err, `which was "roundsman:night:1:5:ab 80/tcp"`)
	w.before = nil
	left, err := Sweep(t.Context(), Options{Driver: w.driver(7)})
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Empty(t, w.rules)
}

// TestDefenderCopyAlone: where only a copy is left of a rule, that is not ours to edit
// or to remove, and ours comes back beside it.
func TestDefenderCopyAlone(t *testing.T) {
	old, next := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("203.0.113.7")
	for _, edited := range []bool{false, true} {
		w := newFakeWindows(t)
		d := w.driver(7)
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
		leaveCopy := func() {
			props := maps.Clone(w.rules[len(w.rules)-1].props)
			props["Grouping"] = ""
			if edited {
				props["RemoteAddresses"] = "198.51.100.1/255.255.255.255"
			}
			w.rules = nil
			w.foreign(props["Name"].(string), props)
		}
		leaveCopy()
		only := w.dump()
		require.NoError(t, d.Repair(t.Context()))
		require.Len(t, w.rules, 2)
		require.Contains(t, w.dump(), only)
		require.Equal(t, defenderGroup, w.rules[1].props["Grouping"])
		require.True(t, w.reachable("tcp", 80, old))
		calls := len(w.calls)
		require.NoError(t, d.Repair(t.Context()))
		require.Len(t, w.calls, calls, "it is there")
		require.NoError(t, d.Close(t.Context()))
		require.Equal(t, only, w.dump())

		// A change finds the copy alone as Repair does, and so does Close.
		w.rules, d = nil, w.driver(7)
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
		leaveCopy()
		only = w.dump()
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "203.0.113.7/32"), openings("tcp", 80, "192.0.2.7/32")))
		require.Len(t, w.rules, 2)
		require.Contains(t, w.dump(), only)
		require.True(t, w.reachable("tcp", 80, next))
		leaveCopy()
		only = w.dump()
		require.NoError(t, d.Close(t.Context()))
		require.Equal(t, only, w.dump())
	}
}

// TestDefenderCannotReadItsOwn: what bears the name of a rule of ours and cannot be
// read is not taken for somebody else's: no second is made, and Close does not leave
// it behind in silence.
func TestDefenderCannotReadItsOwn(t *testing.T) {
	for _, copied := range []bool{false, true} {
		w := newFakeWindows(t)
		d := w.driver(7)
		require.NoError(t, d.Apply(t.Context(), openings("tcp", 80, "192.0.2.7/32"), nil))
		own := w.rules[0]
		if copied { // which is what Item then gives
			w.foreign(own.props["Name"].(string), nil)
			slices.Reverse(w.rules)
			own.props["Grouping"] = nil
		} else {
			own.torn = true
		}
		there := w.dump()
		require.ErrorContains(t, d.Repair(t.Context()), "get Grouping")
		require.ErrorContains(t, d.Close(t.Context()), "get Grouping")
		require.Equal(t, there, w.dump())
		own.torn, own.props["Grouping"] = false, defenderGroup
		require.NoError(t, d.Close(t.Context()))
		require.NotContains(t, w.rules, own)
	}
}

// TestDefenderUnreadable: a rule of somebody else that cannot be read keeps nobody
// from anything, and is spoken of.
func TestDefenderUnreadable(t *testing.T) {
	w := newFakeWindows(t)
	w.foreign("torn", nil)
	w.rules[0].torn = true
	w.foreign("odd", map[string]any{"Grouping": nil, "Direction": "in"})
	w.foreign("roundsman:night:1:5:ab 80/tcp", map[string]any{"Grouping": defenderGroup})
	var log strings.Builder
	d := w.driver(7)
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	fw, err := Open(t.Context(), Options{Driver: d})
	require.NoError(t, err)
	require.NoError(t, fw.Close(t.Context()))
	require.Len(t, w.rules, 2)
	require.Equal(t, 2, strings.Count(log.String(), "rules=2"), "in Sweep and in State")
	require.Contains(t, log.String(), "0x8000ffff")
}
