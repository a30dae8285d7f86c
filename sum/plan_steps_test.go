package sum_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// step is version v of something for NICs, which needs a version to be there.
func step(v, least string) *component.Component {
	c := planned(v, nics)
	c.Name, c.Minimum, c.Payload.Name, c.Payload.Version = "v"+v, least, "v"+v, v
	return c
}

// TestSteps: what needs a version in between comes after what brings it, or is refused.
func TestSteps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		comps []*component.Component
		have  []string // versions of the NICs
		// "+" what is installed, "-" what is skipped, "!" what is refused, with what it comes after
		want   []string
		reason string // of the last
	}{
		{"nothing needed", []*component.Component{step("2.0", "")}, []string{"1.0"}, []string{"+2.0"}, "2.0 is newer than 1.0"},
		{"new enough", []*component.Component{step("2.0", "1.0")}, []string{"1.0"}, []string{"+2.0"}, "2.0 is newer than 1.0"},
		{"there already", []*component.Component{step("2.0", "1.5")}, []string{"2.0"}, []string{"-2.0"}, "there already"},
		{"nothing given", []*component.Component{step("2.0", "1.5")}, []string{"1.0"}, []string{"!2.0"}, "needs 1.5 at least, and there is nic1 1.0: give a component with 1.5, or with a version between that and 2.0"},
		{"one step", []*component.Component{step("2.0", "1.5"), step("1.5", "")}, []string{"1.0"}, []string{"+1.5", "+2.0 after 1.5"}, "so after v1.5 1.5"},
		{"in order already", []*component.Component{step("1.5", ""), step("2.0", "1.5")}, []string{"1.0"}, []string{"+1.5", "+2.0 after 1.5"}, ""},
		{"two steps", []*component.Component{step("3.0", "2.0"), step("2.0", "1.5"), step("1.5", "")}, []string{"1.0"}, []string{"+1.5", "+2.0 after 1.5", "+3.0 after 2.0"}, ""},
		{"a step too few", []*component.Component{step("3.0", "2.0"), step("2.0", "1.5")}, []string{"1.0"}, []string{"!3.0", "!2.0"}, "needs 1.5"},
		{"the step is too old", []*component.Component{step("2.0", "1.5"), step("1.4", "")}, []string{"1.0"}, []string{"!2.0", "+1.4"}, ""},
		{"the step is newer", []*component.Component{step("2.0", "1.5"), step("2.5", "")}, []string{"1.0"}, []string{"!2.0", "+2.5"}, ""},
		{"the step is not needed", []*component.Component{step("2.0", "1.5"), step("1.5", "")}, []string{"1.6"}, []string{"+2.0", "-1.5"}, "1.6 is newer"},
		{"the shorter way", []*component.Component{step("2.0", "1.5"), step("1.7", "1.6"), step("1.6", ""), step("1.5", "")}, []string{"1.0"},
			[]string{"+1.6", "+2.0 after 1.6", "+1.7 after 1.6", "+1.5"}, ""},
		{"the shorter way over the newest", []*component.Component{step("2.0", "1.5"), step("1.5", ""), step("1.6", ""), step("1.7", "1.6")}, []string{"1.0"},
			[]string{"+1.6", "+2.0 after 1.6", "+1.5", "+1.7 after 1.6"}, ""},
		{"not all of them", []*component.Component{step("2.0", "1.5")}, []string{"1.6", "1.0"}, []string{"!2.0"}, "there is nic2 1.0:"},
		{"a step for those that need it", []*component.Component{step("2.0", "1.5"), step("1.5", "")}, []string{"1.6", "1.0"}, []string{"+1.5", "+2.0 after 1.5"}, ""},
		{"for another device", []*component.Component{step("2.0", "1.5"), func() *component.Component {
			c := step("1.5", "")
			c.Match = component.Match{Device: &component.DeviceMatch{Class: transport.ClassBMC, Part: component.Firmware}}
			return c
		}()}, []string{"1.0"}, []string{"!2.0", "-1.5"}, ""},
		{"nothing that it fits", []*component.Component{step("2.0", "1.5")}, nil, []string{"-2.0"}, "nothing on the target that it fits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := withNICs(tt.have...)
			p := sum.MakePlan(sum.Target{Kind: sum.ILO, Address: "a"}, inv, tt.comps, sum.PlanOptions{})
			var got []string
			for _, it := range p.Items {
				text := map[sum.Action]string{sum.Install: "+", sum.Skip: "-"}[it.Action]
				if it.Refused {
					require.Equal(t, sum.Skip, it.Action)
					for _, s := range it.Subjects {
						require.False(t, s.Fits)
						require.Equal(t, s.From, s.To)
					}
					text = "!"
				}
				text += it.Version
				if it.After != nil {
					text += " after " + it.After.Version
					require.Equal(t, "v"+it.After.Version, it.After.Component)
					require.NotEmpty(t, it.After.Digest)
				}
				got = append(got, text)
			}
			require.Equal(t, tt.want, got)
			require.Contains(t, p.Items[len(p.Items)-1].Reason, tt.reason)
		})
	}
}

// TestNotByTheProcessor: what only an agent applies, or what the target says is fixed, is
// told before anything is done.
func TestNotByTheProcessor(t *testing.T) {
	target := sum.Target{Kind: sum.ILO, Address: "a"}
	c := step("2.0", "")
	item := func(have string, change func(*transport.Inventory)) sum.PlanItem {
		inv := withNICs(have, have)
		if change != nil {
			change(inv)
		}
		return sum.MakePlan(target, inv, one(c), sum.PlanOptions{}).Items[0]
	}
	no := false
	for by, refused := range map[string]bool{"RuntimeAgent": true, "bmc": false, "Uefi": false} {
		c.UpdatableBy = []string{by}
		it := item("1.0", nil)
		require.Equal(t, refused, it.Refused, by)
		require.Equal(t, refused, it.Action == sum.Skip)
	}
	c.UpdatableBy = []string{"RuntimeAgent"}
	require.Contains(t, item("1.0", nil).Reason, "only an agent in the operating system applies it (RuntimeAgent)")
	require.False(t, item("2.0", nil).Refused, "nothing is to be done")
	c.UpdatableBy = nil

	it := item("1.0", func(inv *transport.Inventory) { inv.Devices[1].Updateable = &no })
	require.Equal(t, sum.Install, it.Action)
	require.Equal(t, []sum.Subject{{Name: "nic1", From: "1.0", To: "1.0"}, {Name: "nic2", From: "1.0", To: "2.0", Fits: true}}, it.Subjects)
	fixed := func(inv *transport.Inventory) { inv.Devices[1].Updateable, inv.Devices[2].Updateable = &no, &no }
	it = item("1.0", fixed)
	require.True(t, it.Refused)
	require.Contains(t, it.Reason, "cannot be updated")
	require.False(t, item("2.0", fixed).Refused, "nothing is to be done")

	// The redundant one of a system ROM keeps its version.
	it = item("1.0", func(inv *transport.Inventory) { inv.Devices[1].Updateable, inv.Devices[2].Firmware = &no, "2.0" })
	require.Equal(t, sum.Skip, it.Action)
	require.False(t, it.Refused)
	require.Equal(t, "2.0 is there already; the target says that nic1 cannot be updated", it.Reason)
}

// TestActivationOfProcessor: a reboot of the host does nothing for a management processor.
func TestActivationOfProcessor(t *testing.T) {
	c := planned("10", component.Match{Device: &component.DeviceMatch{Part: component.Firmware}})
	of := func(class string, a transport.Activation) transport.Activation {
		c.Match.Device.Class, c.Activation = class, a
		return sum.MakePlan(sum.Target{Kind: sum.ILO, Address: "a"}, withNICs("1.0"), one(c), sum.PlanOptions{}).Items[0].Activation
	}
	require.Equal(t, transport.ActivationNone, of(transport.ClassBMC, transport.ActivationReboot))
	require.Equal(t, transport.ActivationReset, of(transport.ClassBMC, transport.ActivationReset))
	require.Equal(t, transport.ActivationReboot, of(transport.ClassNIC, transport.ActivationReboot))
	require.Equal(t, transport.ActivationReboot, of("", transport.ActivationReboot), "not only of the processor")

	// What is in the operating system of a server takes the reboot that it asks for, also
	// where the server has a processor of that name.
	inv := withPackage("1.0")
	inv.Devices = []transport.Device{
		{ID: "thing", Class: transport.ClassBMC, Firmware: "1.0", DriverVersion: "1.0"}, {ID: "eth0", Class: transport.ClassNIC, Firmware: "1.0"}}
	for name, m := range map[string]component.Match{
		"package": pkg,
		"probe":   {Probe: "thing"},
		"driver":  {Device: &component.DeviceMatch{Class: transport.ClassBMC, Part: component.Driver}},
	} {
		c := planned("10", m)
		c.Activation = transport.ActivationReboot
		it := sum.MakePlan(sum.Target{Kind: sum.Linux, Address: "a"}, inv, one(c), sum.PlanOptions{}).Items[0]
		require.Equal(t, sum.Install, it.Action, name)
		require.Equal(t, transport.ActivationReboot, it.Activation, name)
	}
}

// nicSteps are what brings the NIC of a fake device, which has 10.54.7, to 30 over 20.
func nicSteps() (first, last *component.Component) { return step("20", ""), step("30", "20") }

func planSteps(t *testing.T, n *sum.Node, comps ...*component.Component) sum.TargetPlan {
	t.Helper()
	inv, err := sum.Inventory(t.Context(), n, comps...)
	require.NoError(t, err)
	p := sum.MakePlan(n.Target(), inv, comps, sum.PlanOptions{})
	// As one that was written to a file.
	b, err := json.Marshal(sum.Plan{V: sum.PlanVersion, Targets: []sum.TargetPlan{p}})
	require.NoError(t, err)
	read, err := sum.ReadPlan(b)
	require.NoError(t, err)
	require.Equal(t, p, read.Targets[0])
	return p
}

func kinds(out []sum.Outcome) (s []string) {
	for _, o := range out {
		s = append(s, fmt.Sprint(o.Component, " ", o.Kind))
	}
	return s
}

// TestDeploySteps goes from version to version, in order.
func TestDeploySteps(t *testing.T) {
	l := newLab(t, push)
	at := l.at[l.targets[0].Name]
	first, last := nicSteps()
	both := []*component.Component{last, first}
	s := l.open()
	n := l.nodes(s)[0]
	p := planSteps(t, n, both...)

	alone := planSteps(t, n, last)
	out, err := sum.Deploy(t.Context(), n, alone, one(last), sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v30 Failed"}, kinds(out))
	require.Contains(t, out[0].Text, "needs 20 at least")
	verified, err := sum.Verify(t.Context(), n, alone, one(last))
	require.NoError(t, err)
	require.Equal(t, sum.Unverified, verified[0].Kind)
	require.Contains(t, verified[0].Text, "needs 20 at least")

	// The first step fails: the second is not begun.
	at.NextFlash(transporttest.Flash{Fail: transport.Code{Space: "x", Value: "1"}, Text: "broken"})
	out, err = sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v20 Failed", "v30 Cancelled"}, kinds(out))
	require.Equal(t, "left alone: it comes after v20 20, which did not succeed", out[1].Text)
	require.Equal(t, []string{"20"}, at.Applied(), "it was tried")

	out, err = sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v20 Updated", "v30 Updated"}, kinds(out), "%+v", out)
	require.Equal(t, []string{"20", "20", "30"}, at.Applied())

	// The plan is of a target as it was.
	_, err = sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.Equal(t, []string{"v20 NotNeeded", "v30 NotNeeded"}, func() []string {
		out, err := sum.Deploy(t.Context(), n, planSteps(t, n, first, last), both, sum.DeployOptions{})
		require.NoError(t, err)
		return kinds(out)
	}())
	l.clean(s)
}

// TestStepThatWaits: what comes after a step that only takes effect by a reboot waits for it.
func TestStepThatWaits(t *testing.T) {
	l := newLab(t, push)
	first, last := nicSteps()
	first.Activation = transport.ActivationReboot
	both := []*component.Component{last, first}
	s := l.open()
	n := l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, planSteps(t, n, both...), both, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v20 UpdatedNeedsReboot", "v30 Cancelled"}, kinds(out))
	require.Contains(t, out[1].Text, "takes effect by a reboot first: see to that, then deploy again")
	out, err = sum.Deploy(t.Context(), n, planSteps(t, n, both...), both, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v30 Updated", "v20 NotNeeded"}, kinds(out))
	l.clean(s)
}

// TestStepOfDeadRun: where the manager died with the first step under way, the plan goes on
// with the second.
func TestStepOfDeadRun(t *testing.T) {
	l := newLab(t, push)
	at := l.at[l.targets[0].Name]
	first, last := nicSteps()
	both := []*component.Component{last, first}
	s := l.open()
	n := l.nodes(s)[0]
	p := planSteps(t, n, both...)
	l.begin(n, sum.TargetPlan{Target: p.Target, Identity: p.Identity, Items: p.Items[:1]}, first, transporttest.Flash{}).die(s)

	s = l.open()
	n = l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v20 Updated", "v30 Updated"}, kinds(out), "%+v", out)
	require.True(t, out[0].Recovered)
	require.Equal(t, []string{"20", "30"}, at.Applied())
	l.clean(s)
}

// TestStaleSteps: a plan with steps is for the versions that it was made for.
func TestStaleSteps(t *testing.T) {
	l := newLab(t, push)
	first, last := nicSteps()
	both := []*component.Component{last, first}
	s := l.open()
	n := l.nodes(s)[0]
	p := planSteps(t, n, both...)
	require.Equal(t, sum.Updated, deploy(t, n, step("11", "")).Kind)
	_, err := sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	// Also where the second alone tells.
	p = planSteps(t, n, both...)
	p.Items[1].Subjects[0].From = "12"
	_, err = sum.Deploy(t.Context(), n, p, both, sum.DeployOptions{})
	require.ErrorIs(t, err, sum.ErrPlanStale)
	require.ErrorContains(t, err, "nic1 11, planned for nic1 12")
	l.clean(s)
}
