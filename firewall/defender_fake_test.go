package firewall

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeWindows is a Windows Defender Firewall in memory. It is strict: about names
// and types as netfw.h has them, the order of properties, objects that are not
// released, and calls from two goroutines at once.
type fakeWindows struct {
	t        *testing.T
	active   int32
	modify   int32
	off      int32 // profiles whose firewall is off
	shielded int32
	rules    []*fakeRule
	wide     bool // forgets addresses, as no Windows is known to
	stops    bool // its enumeration fails after the last rule

	calls         []string                // what changed something, or tried
	before        func(call string) error // may fail a call
	after         func(call string) error // may say that a call failed which did not
	objects, busy atomic.Int32
}

type fakeRule struct {
	fakeObject
	props map[string]any
	kept  bool // in the collection
	torn  bool // its properties cannot be read
}

type fakeObject struct {
	w    *fakeWindows
	kind string
}

func newFakeWindows(t *testing.T) *fakeWindows {
	w := &fakeWindows{t: t, active: fwPrivate}
	t.Cleanup(func() { require.Zero(t, w.objects.Load(), "objects of COM that were not released") })
	return w
}

// driver is a process's, with a number that lives unless it is 1.
func (w *fakeWindows) driver(pid int) *defender {
	o := Options{Run: "night"}
	o.Driver = none{} // only to have the defaults
	_, log, err := o.driver(w.t.Context(), "open")
	require.NoError(w.t, err)
	o.Logger, o.Check = log, 1
	living := func(o Owner) (bool, error) { return o.PID != 1, nil }
	d, err := newDefender(w.t.Context(), o, Owner{Run: o.Run, PID: pid, Start: "133"}, `C:\roundsman.exe`, living,
		func() (comServer, error) { return w, nil })
	require.NoError(w.t, err)
	return d
}

func (w *fakeWindows) enter() func() {
	if w.busy.Add(1) != 1 {
		w.t.Error("two calls of COM at once")
	}
	return func() { w.busy.Add(-1) }
}

func (w *fakeWindows) end() {}

func (w *fakeWindows) create(progID string) (comObject, error) {
	defer w.enter()()
	switch progID {
	case "HNetCfg.FwPolicy2":
		return w.object(progID), nil
	case "HNetCfg.FWRule":
		w.objects.Add(1)
		return &fakeRule{fakeObject: fakeObject{w, progID}, props: map[string]any{"Enabled": false, "ServiceName": ""}}, nil
	}
	w.t.Errorf("unknown program %q", progID)
	return nil, &comError{what: progID, code: 0x800401f3}
}

func (w *fakeWindows) object(kind string) comObject {
	w.objects.Add(1)
	return &fakeObject{w, kind}
}

// change records a call and does it, unless it is to fail.
func (w *fakeWindows) change(call string, do func() error) error {
	w.calls = append(w.calls, call)
	if w.before != nil {
		if err := w.before(call); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if w.after != nil {
		return w.after(call)
	}
	return nil
}

func (w *fakeWindows) find(name string) []*fakeRule {
	var found []*fakeRule
	for _, r := range w.rules {
		if r.props["Name"] == name {
			found = append(found, r)
		}
	}
	return found
}

func (o *fakeObject) retain()  { o.w.objects.Add(1) }
func (o *fakeObject) release() { o.w.objects.Add(-1) }

func (o *fakeObject) get(name string, args ...any) (any, error) {
	defer o.w.enter()()
	if o.kind == "HNetCfg.FwPolicy2" {
		switch name {
		case "Rules":
			return o.w.object("Rules"), nil
		case "CurrentProfileTypes":
			return o.w.active, nil
		case "LocalPolicyModifyState":
			return o.w.modify, nil
		case "FirewallEnabled":
			return o.w.off&args[0].(int32) == 0, nil
		case "BlockAllInboundTraffic":
			return o.w.shielded&args[0].(int32) != 0, nil
		}
	}
	o.w.t.Errorf("%s has no property %s", o.kind, name)
	return nil, &comError{what: name, code: 0x80020006}
}

func (o *fakeObject) put(name string, _ any) error {
	o.w.t.Errorf("%s is not to be changed", name)
	return &comError{what: name, code: 0x80020006}
}

func (o *fakeObject) call(name string, args ...any) (any, error) {
	w := o.w
	defer w.enter()()
	if o.kind != "Rules" || len(args) != 1 {
		w.t.Errorf("%s has no method %s of %d arguments", o.kind, name, len(args))
		return nil, &comError{what: name, code: 0x80020003}
	}
	switch name {
	case "Item":
		found := w.find(args[0].(string))
		if len(found) == 0 {
			return nil, &comError{what: name, code: codeNotFound}
		}
		found[0].retain()
		return found[0], nil
	case "Remove":
		return nil, w.change("Remove "+args[0].(string), func() error {
			found := w.find(args[0].(string))
			if len(found) > 1 {
				w.t.Errorf("it is not documented which of %d rules %q goes", len(found), args[0])
			}
			w.rules = slices.DeleteFunc(w.rules, func(r *fakeRule) bool { return slices.Contains(found[:min(1, len(found))], r) })
			return nil
		})
	case "Add":
		r := args[0].(*fakeRule)
		return nil, w.change("Add "+r.props["Name"].(string), func() error {
			for _, other := range w.find(r.props["Name"].(string)) {
				if other.props["Grouping"] == r.props["Grouping"] {
					w.t.Errorf("a second rule %q in group %q", r.props["Name"], r.props["Grouping"])
				}
			}
			r.kept = true
			w.rules = append(w.rules, r)
			return nil
		})
	}
	w.t.Errorf("no method %s", name)
	return nil, &comError{what: name, code: 0x80020003}
}

func (o *fakeObject) each(f func(comObject) error) error {
	rest := slices.Clone(o.w.rules)
	return walk(func() (comObject, uint32) {
		switch {
		case len(rest) > 0:
			r := rest[0]
			rest = rest[1:]
			r.retain()
			return r, 0
		case o.w.stops:
			return nil, codeBroken
		}
		return nil, codeFalse
	}, f)
}

const codeBroken = 0x8000ffff // E_UNEXPECTED

func (r *fakeRule) get(name string, _ ...any) (any, error) {
	defer r.w.enter()()
	if r.torn {
		return nil, &comError{what: name, code: codeBroken}
	}
	v, ok := r.props[name]
	if !ok {
		r.w.t.Errorf("rule has no property %s", name)
	}
	return v, nil
}

func (r *fakeRule) put(name string, value any) error {
	w := r.w
	defer w.enter()()
	text, isText := value.(string)
	ok := false
	switch name {
	case "Name", "Description", "ApplicationName", "Grouping", "LocalPorts":
		ok = isText && text != "" && !strings.Contains(text, "|") && (name != "LocalPorts" || r.props["Protocol"] != nil)
	case "RemoteAddresses":
		normal := ""
		if normal, ok = windowsAddresses(text); ok {
			value = normal
		}
		if w.wide {
			value = "*"
		}
	case "Protocol", "Direction", "Profiles", "Action":
		_, ok = value.(int32)
	case "Enabled", "EdgeTraversal":
		_, ok = value.(bool)
	}
	if !ok {
		w.t.Errorf("%s = %#v", name, value)
		return &comError{what: name, code: 0x80070057}
	}
	do := func() error { r.props[name] = value; return nil }
	call := fmt.Sprintf("%s = %v", name, value)
	if isText && name == "RemoteAddresses" {
		call = fmt.Sprintf("%s = %v", name, text)
	}
	return w.change(call, do)
}

// windowsAddresses are addresses as Windows writes them.
func windowsAddresses(s string) (string, bool) {
	if s == "*" {
		return s, true
	}
	var out []string
	for _, token := range strings.Split(s, ",") {
		if first, last, ok := strings.Cut(token, "-"); ok {
			a, err1 := netip.ParseAddr(first)
			b, err2 := netip.ParseAddr(last)
			if err1 != nil || err2 != nil || b.Less(a) {
				return "", false
			}
			out = append(out, token)
			continue
		}
		p, err := netip.ParsePrefix(token)
		if err != nil {
			a, err := netip.ParseAddr(token)
			if err != nil {
				return "", false
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Bits() == 0 {
			return "", false
		}
		if p.Addr().Is4() {
			mask := new(big.Int).Lsh(big.NewInt(1<<p.Bits()-1), uint(32-p.Bits())).Uint64()
			out = append(out, fmt.Sprintf("%s/%d.%d.%d.%d", p.Addr(), mask>>24, mask>>16&255, mask>>8&255, mask&255))
		} else {
			out = append(out, p.String())
		}
	}
	return strings.Join(out, ","), true
}

// reachable reports whether a rule lets a peer in.
func (w *fakeWindows) reachable(network string, port uint16, peer netip.Addr) bool {
	return slices.ContainsFunc(w.rules, func(r *fakeRule) bool {
		p := r.props
		return p["Enabled"] == true && p["Action"] == fwAllow && p["Direction"] == fwIn && p["ApplicationName"] == `C:\roundsman.exe` &&
			p["EdgeTraversal"] == false && p["Profiles"] == fwAll &&
			p["Protocol"] == map[string]int32{"tcp": fwTCP, "udp": fwUDP}[network] && p["LocalPorts"] == strconv.Itoa(int(port)) &&
			slices.ContainsFunc(strings.Split(p["RemoteAddresses"].(string), ","), func(token string) bool {
				if first, last, ok := strings.Cut(token, "-"); ok {
					a, b := netip.MustParseAddr(first), netip.MustParseAddr(last)
					return a.BitLen() == peer.BitLen() && !peer.Less(a) && !b.Less(peer)
				}
				return token == "*" || windowsPrefix(token).Contains(peer)
			})
	})
}

func windowsPrefix(token string) netip.Prefix {
	address, mask, _ := strings.Cut(token, "/")
	if a, err := netip.ParseAddr(mask); err == nil {
		bits := 0
		for _, b := range a.AsSlice() {
			for ; b != 0; b <<= 1 {
				bits++
			}
		}
		return netip.PrefixFrom(netip.MustParseAddr(address), bits)
	}
	return netip.MustParsePrefix(token)
}

// dump is all rules, without what tells one process's instance from another.
func (w *fakeWindows) dump() string {
	lines := []string{}
	for _, r := range w.rules {
		lines = append(lines, fmt.Sprintf("%v", r.props))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// foreign adds a rule of somebody else.
func (w *fakeWindows) foreign(name string, props map[string]any) {
	r := &fakeRule{fakeObject: fakeObject{w, "rule"}, kept: true, props: map[string]any{
		"Name": name, "Grouping": "", "ApplicationName": "", "ServiceName": "", "Protocol": fwTCP, "LocalPorts": "1",
		"RemoteAddresses": "*", "Direction": fwIn, "Action": fwAllow, "Profiles": fwAll, "Enabled": true, "EdgeTraversal": false,
	}}
	for k, v := range props {
		r.props[k] = v
	}
	w.rules = append(w.rules, r)
}
