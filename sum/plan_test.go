package sum_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// planned is a component of the given version for a package and one for the NICs
// of a target.
func planned(v string, match component.Match) *component.Component {
	return &component.Component{
		Name: "thing", Version: v, Scheme: version.Numeric, Match: match, Source: "/srv/thing.deb",
		Payload: transport.Payload{Files: []transport.File{transport.BytesFile("thing.bin", []byte(v))}},
	}
}

var (
	pkg  = component.Match{Package: &component.PackageMatch{Source: component.Dpkg, Name: "thing"}}
	nics = component.Match{Device: &component.DeviceMatch{Class: transport.ClassNIC, Part: component.Firmware}}
	drvs = component.Match{Device: &component.DeviceMatch{Class: transport.ClassNIC, Part: component.Driver}}
)

func withPackage(v string) *transport.Inventory {
	inv := &transport.Inventory{Identity: transport.Identity{Name: "db1", Serial: "S1"},
		Software: []transport.Software{{Name: "dpkg", Version: "1.22", Source: component.Dpkg}}}
	if v != "" {
		inv.Software = append(inv.Software, transport.Software{Name: "thing", Version: v, Source: component.Dpkg})
	}
	return inv
}

func withNICs(versions ...string) *transport.Inventory {
	inv := &transport.Inventory{Devices: []transport.Device{{ID: "bmc", Class: transport.ClassBMC, Firmware: "9"}}}
	for i, v := range versions {
		inv.Devices = append(inv.Devices, transport.Device{ID: "nic" + string(rune('1'+i)), Class: transport.ClassNIC, Firmware: v, DriverVersion: v})
	}
	return inv
}

func TestMakePlan(t *testing.T) {
	rewrite, downgrade := sum.PlanOptions{Rewrite: true}, sum.PlanOptions{Downgrade: true}
	both := sum.PlanOptions{Rewrite: true, Downgrade: true}
	for _, tt := range []struct {
		name   string
		c      *component.Component
		inv    *transport.Inventory
		opts   sum.PlanOptions
		action sum.Action
		reason string // is in it
		// "name from>to", with "*" before what is to be changed
		subjects           []string
		rewrite, downgrade bool
	}{
		{name: "not installed", c: planned("2.0", pkg), inv: withPackage(""), action: sum.Install, reason: "not installed", subjects: []string{"*thing >2.0"}},
		{name: "newer", c: planned("2.0", pkg), inv: withPackage("1.0"), action: sum.Install, reason: "2.0 is newer than 1.0", subjects: []string{"*thing 1.0>2.0"}},
		{name: "newer by number, not by text", c: planned("10.0", pkg), inv: withPackage("9.0"), action: sum.Install, reason: "newer", subjects: []string{"*thing 9.0>10.0"}},
		{name: "newer needs neither option", c: planned("2.0", pkg), inv: withPackage("1.0"), opts: both, action: sum.Install, reason: "newer", subjects: []string{"*thing 1.0>2.0"}},
		{name: "older", c: planned("2.0", pkg), inv: withPackage("3.0"), action: sum.Skip, reason: "3.0 is newer than 2.0", subjects: []string{"thing 3.0>3.0"}},
		{name: "older is not rewritten", c: planned("2.0", pkg), inv: withPackage("3.0"), opts: rewrite, action: sum.Skip, reason: "newer", subjects: []string{"thing 3.0>3.0"}},
		{name: "downgrade", c: planned("2.0", pkg), inv: withPackage("3.0"), opts: downgrade, action: sum.Install, reason: "downgraded from 3.0", subjects: []string{"*thing 3.0>2.0"}, downgrade: true},
		{name: "equal", c: planned("2.0", pkg), inv: withPackage("2.0"), action: sum.Skip, reason: "there already", subjects: []string{"thing 2.0>2.0"}},
		{name: "equal in other words", c: planned("2.0", pkg), inv: withPackage("2"), action: sum.Skip, reason: "there already", subjects: []string{"thing 2>2"}},
		{name: "equal is not downgraded", c: planned("2.0", pkg), inv: withPackage("2.0"), opts: downgrade, action: sum.Skip, reason: "there already", subjects: []string{"thing 2.0>2.0"}},
		{name: "rewrite", c: planned("2.0", pkg), inv: withPackage("2.0"), opts: rewrite, action: sum.Install, reason: "rewritten", subjects: []string{"*thing 2.0>2.0"}, rewrite: true},
		{name: "incomparable", c: planned("2.0", pkg), inv: withPackage("two"), action: sum.Skip, reason: "left alone", subjects: []string{"thing two>two"}},
		{name: "incomparable is not downgraded", c: planned("2.0", pkg), inv: withPackage("two"), opts: downgrade, action: sum.Skip, reason: "left alone", subjects: []string{"thing two>two"}},
		{name: "incomparable rewritten", c: planned("2.0", pkg), inv: withPackage("two"), opts: rewrite, action: sum.Install, reason: "cannot be compared", subjects: []string{"*thing two>2.0"}, rewrite: true},
		{name: "another package manager", c: planned("2.0", component.Match{Package: &component.PackageMatch{Source: component.RPM, Name: "thing"}}),
			inv: withPackage("1.0"), opts: both, action: sum.Skip, reason: "nothing on the target"},
		{name: "no such device", c: planned("2.0", nics), inv: withNICs(), opts: both, action: sum.Skip, reason: "nothing on the target"},
		{name: "no version told", c: planned("2.0", nics), inv: withNICs(""), action: sum.Skip, reason: "left alone", subjects: []string{"nic1 >"}},
		{name: "no driver of its own", c: planned("2.0", drvs), inv: withNICs(""), action: sum.Install, reason: "not installed", subjects: []string{"*nic1 >2.0"}},
		{name: "several devices", c: planned("2.0", nics), inv: withNICs("3.0", "2.0", "1.0", "1.5", "x"), action: sum.Install, reason: "2.0 is newer than 1.0",
			subjects: []string{"nic1 3.0>3.0", "nic2 2.0>2.0", "*nic3 1.0>2.0", "*nic4 1.5>2.0", "nic5 x>x"}},
		{name: "several devices rewritten", c: planned("2.0", nics), inv: withNICs("3.0", "2.0", "1.0"), opts: rewrite, action: sum.Install, reason: "rewritten",
			subjects: []string{"nic1 3.0>3.0", "*nic2 2.0>2.0", "*nic3 1.0>2.0"}, rewrite: true},
		{name: "several devices downgraded", c: planned("2.0", nics), inv: withNICs("3.0", "2.0", "1.0"), opts: downgrade, action: sum.Install, reason: "downgraded",
			subjects: []string{"*nic1 3.0>2.0", "nic2 2.0>2.0", "*nic3 1.0>2.0"}, downgrade: true},
		{name: "several devices, none to change", c: planned("2.0", nics), inv: withNICs("3.0", "2.0"), action: sum.Skip, reason: "3.0 is newer",
			subjects: []string{"nic1 3.0>3.0", "nic2 2.0>2.0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := sum.Target{Kind: sum.Linux, Address: "db1"}
			before, err := json.Marshal(tt.inv)
			require.NoError(t, err)
			p := sum.MakePlan(target, tt.inv, []*component.Component{tt.c}, tt.opts)
			after, err := json.Marshal(tt.inv)
			require.NoError(t, err)
			require.Equal(t, string(before), string(after), "it is pure")
			require.Equal(t, target, p.Target)
			require.Equal(t, tt.inv.Identity, p.Identity)
			require.Len(t, p.Items, 1)
			it := p.Items[0]
			require.Equal(t, tt.action, it.Action)
			require.Equal(t, map[sum.Action]int{sum.Install: 1, sum.Skip: 0}[tt.action], p.Installs())
			require.Contains(t, it.Reason, tt.reason)
			var subjects []string
			for _, s := range it.Subjects {
				text := s.Name + " " + s.From + ">" + s.To
				if s.Fits {
					text = "*" + text
				}
				subjects = append(subjects, text)
			}
			require.Equal(t, tt.subjects, subjects)
			require.Equal(t, tt.rewrite, it.Rewrite)
			require.Equal(t, tt.downgrade, it.Downgrade)
			require.False(t, it.Unproven)
			require.Equal(t, []string{"thing", tt.c.Version, tt.c.Digest(), "/srv/thing.deb"}, []string{it.Component, it.Version, it.Digest, it.Source})
		})
	}
}

func TestMakePlanUnprovable(t *testing.T) {
	c := planned("2.0", component.Match{})
	c.Activation = transport.ActivationReboot
	it := sum.MakePlan(sum.Target{Kind: sum.Linux}, withPackage("9"), []*component.Component{c}, sum.PlanOptions{}).Items[0]
	require.Equal(t, sum.Install, it.Action)
	require.True(t, it.Unproven)
	require.Empty(t, it.Subjects)
	require.Equal(t, transport.ActivationReboot, it.Activation)
}

func TestMakePlanKinds(t *testing.T) {
	c := planned("2.0", pkg)
	c.Kinds = []string{"linux", "local"}
	for _, kind := range sum.Kinds() {
		it := sum.MakePlan(sum.Target{Kind: kind}, withPackage("1.0"), []*component.Component{c}, sum.PlanOptions{Rewrite: true, Downgrade: true}).Items[0]
		if kind == sum.Linux || kind == sum.Local {
			require.Equal(t, sum.Install, it.Action, kind)
			continue
		}
		require.Equal(t, sum.Skip, it.Action, kind)
		require.Equal(t, "not for kind "+string(kind)+" (for: linux, local)", it.Reason)
		require.False(t, it.Rewrite || it.Downgrade)
	}
	unprovable := planned("2.0", component.Match{})
	unprovable.Kinds = []string{"windows"}
	it := sum.MakePlan(sum.Target{Kind: sum.Linux}, withPackage("1.0"), []*component.Component{unprovable}, sum.PlanOptions{}).Items[0]
	require.Equal(t, sum.Skip, it.Action, "the kind counts before all else")
}

// TestMakePlanOrder keeps the order of the components, which is the caller's.
func TestMakePlanOrder(t *testing.T) {
	a, b := planned("1.0", pkg), planned("2.0", nics)
	p := sum.MakePlan(sum.Target{Kind: sum.Linux}, withPackage("0.5"), []*component.Component{b, a, b}, sum.PlanOptions{})
	require.Equal(t, []string{b.Digest(), a.Digest(), b.Digest()}, []string{p.Items[0].Digest, p.Items[1].Digest, p.Items[2].Digest})
	require.Equal(t, 1, p.Installs())
	empty := sum.MakePlan(sum.Target{Kind: sum.Linux}, withPackage("0.5"), nil, sum.PlanOptions{})
	require.Zero(t, empty.Installs())
	b1, err := json.Marshal(empty)
	require.NoError(t, err)
	require.Contains(t, string(b1), `"items":[]`)
}

// wholePlan has something in every field.
func wholePlan() sum.Plan {
	c := planned("2.0", nics)
	c.Activation = transport.ActivationPowerCycle
	target := sum.Target{Name: "db1", Kind: sum.Linux, User: "root", Address: "[fe80::1%eth0]:22", Object: "bay 1", Parent: "oa1", Labels: map[string]string{"wave": "1", "site": "東京"}}
	inv := withNICs("1.0", "2.0", "3.0")
	inv.Identity = transport.Identity{Name: "db1", Serial: "S1", UUID: "u", OS: "linux", BootID: "b"}
	return sum.Plan{V: sum.PlanVersion, Created: time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC), Targets: []sum.TargetPlan{
		sum.MakePlan(target, inv, []*component.Component{c, planned("1.0", component.Match{}), planned("2.0", pkg)}, sum.PlanOptions{Rewrite: true, Downgrade: true}),
		sum.MakePlan(sum.Target{Kind: sum.Local}, inv, nil, sum.PlanOptions{}),
	}}
}

func TestReadPlan(t *testing.T) {
	p := wholePlan()
	for _, indent := range []string{"", "\t"} {
		b, err := json.MarshalIndent(p, "", indent)
		require.NoError(t, err)
		got, err := sum.ReadPlan(b)
		require.NoError(t, err)
		require.Equal(t, p, got)
		want, err := p.Digest()
		require.NoError(t, err)
		digest, err := got.Digest()
		require.NoError(t, err)
		require.Equal(t, want, digest)
		require.Regexp(t, "^[0-9a-f]{64}$", digest)
	}
	// What is approved is what is applied: every change shows in the digest.
	want, err := p.Digest()
	require.NoError(t, err)
	for what, change := range map[string]func(*sum.Plan){
		"target":   func(p *sum.Plan) { p.Targets[0].Target.Address = "db2" },
		"identity": func(p *sum.Plan) { p.Targets[0].Identity.Serial = "S2" },
		"action":   func(p *sum.Plan) { p.Targets[0].Items[0].Action = sum.Skip },
		"digest":   func(p *sum.Plan) { p.Targets[0].Items[0].Digest = "0" },
		"from":     func(p *sum.Plan) { p.Targets[0].Items[0].Subjects[0].From = "0" },
		"order":    func(p *sum.Plan) { i := p.Targets[0].Items; i[0], i[1] = i[1], i[0] },
	} {
		q := wholePlan()
		change(&q)
		digest, err := q.Digest()
		require.NoError(t, err)
		require.NotEqual(t, want, digest, what)
	}
}

func TestReadPlanRefuses(t *testing.T) {
	b, err := json.Marshal(wholePlan())
	require.NoError(t, err)
	good := string(b)
	for what, bad := range map[string]string{
		"nothing":         "",
		"no JSON":         "plan",
		"no object":       "[]",
		"cut short":       good[:len(good)-1],
		"something after": good + "{}",
		"no version":      strings.Replace(good, `"v":1,`, "", 1),
		"newer version":   strings.Replace(good, `"v":1,`, `"v":2,`, 1),
		"version 0":       strings.Replace(good, `"v":1,`, `"v":0,`, 1),
		"unknown kind":    strings.Replace(good, `"kind":"linux"`, `"kind":"toaster"`, 1),
		"no kind":         strings.Replace(good, `"kind":"linux"`, `"kind":""`, 1),
		"unknown action":  strings.Replace(good, `"action":"install"`, `"action":"erase"`, 1),
		"no action":       strings.Replace(good, `"action":"install"`, `"action":""`, 1),
		"wrong type":      strings.Replace(good, `"items":[`, `"items":["x",`, 1),
	} {
		require.NotEqual(t, good, bad, what)
		p, err := sum.ReadPlan([]byte(bad))
		require.ErrorIs(t, err, sum.ErrInvalid, what)
		var e *sum.Error
		require.ErrorAs(t, err, &e, what)
		require.Empty(t, p, what)
	}
}

// TestReadPlanKind: a kind that people wrote in capitals is that kind, or a
// server would be taken for a device.
func TestReadPlanKind(t *testing.T) {
	b, err := json.Marshal(wholePlan())
	require.NoError(t, err)
	p, err := sum.ReadPlan([]byte(strings.Replace(string(b), `"kind":"linux"`, `"kind":"LINUX"`, 1)))
	require.NoError(t, err)
	require.Equal(t, wholePlan(), p)
	l := newLab(t, server)
	s := l.open()
	n, err := s.Node(sum.Target{Kind: "LINUX", Address: "x"})
	require.NoError(t, err)
	require.True(t, n.Target().Kind.IsServer())
	l.clean(s)
}

// FuzzReadPlan: what is accepted can be written and is then the same plan.
func FuzzReadPlan(f *testing.F) {
	b, err := json.Marshal(wholePlan())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":1,"created":"2026-03-01T12:00:00+01:00","targets":[{"target":{"kind":"linux"},"items":null}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := sum.ReadPlan(b)
		if err != nil {
			require.ErrorIs(t, err, sum.ErrInvalid)
			return
		}
		require.Equal(t, sum.PlanVersion, p.V)
		d1, err := p.Digest()
		if err != nil {
			return // a year that JSON cannot write
		}
		again, err := json.Marshal(p)
		require.NoError(t, err)
		q, err := sum.ReadPlan(again)
		require.NoError(t, err)
		d2, err := q.Digest()
		require.NoError(t, err)
		require.Equal(t, d1, d2)
		for _, target := range q.Targets {
			require.LessOrEqual(t, target.Installs(), len(target.Items))
			for _, it := range target.Items {
				require.Contains(t, []sum.Action{sum.Install, sum.Skip}, it.Action)
			}
		}
	})
}
