package sum_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
)

// row writes required and optional ports as SUM's tables do: "to / back", with
// optional ones in brackets.
func row(kind sum.Kind, phase sum.Phase, gen sum.Generation) string {
	var to, back []string
	for _, p := range sum.PortsFor(kind, phase, gen) {
		s := p.Ports()
		if p.Protocol == "udp" {
			s += "u"
		}
		switch p.Need {
		case sum.Optional:
			s = "(" + s + ")"
		case sum.WhenUsed:
			s = "[" + s + "]"
		}
		if p.Direction == sum.ToTarget {
			to = append(to, s)
		} else {
			back = append(back, s)
		}
	}
	return strings.Join(to, " ") + " / " + strings.Join(back, " ")
}

func TestPortTable(t *testing.T) {
	for _, tt := range []struct {
		kind              sum.Kind
		inventory, deploy string
	}{
		{sum.Windows, "445 [135] [139] [137u] [138u] / ", "445 [135] [139] [137u] [138u] / "},
		{sum.Linux, "22 / ", "22 / "},
		{sum.VMware, "443 5989 / 63001", "443 5989 / 63001"},
		{sum.OA, "22 443 (80) / ", "22 443 (80) / [80]"},
		{sum.SuperdomeX, "22 443 (80) / ", "22 443 (80) / 63001 63002"},
		{sum.ILO, "22 443 (80) / ", "22 443 (80) / 63001"},
		{sum.VC, "22 443 (80) / ", "22 443 (80) / 63001"},
		{sum.FCSwitch, "22 443 (80) / ", "22 443 (80) / 63001"},
		{sum.SASSwitch, "22 443 (80) / ", "22 443 (80) / 63001"},
		{sum.SuperdomeFlex, "443 / ", "443 / 63002"},
		{sum.Integrity, "22 443 (80) / ", "22 443 (80) / 80 63001"},
		{sum.Redfish, "443 / ", "443 / (63001)"},
		{sum.Local, " / ", " / "},
	} {
		require.Equal(t, tt.inventory, row(tt.kind, sum.PhaseInventory, sum.Current), "%s inventory", tt.kind)
		require.Equal(t, tt.deploy, row(tt.kind, sum.PhaseDeploy, sum.Current), "%s deploy", tt.kind)
	}
}

func TestPortTableClassic(t *testing.T) {
	require.Equal(t, "22 62286+ (1025-65535) / 61000-61007+ (1025-65535) [63001] [63002] [80] [63000-63005]", row(sum.Linux, sum.PhaseInventory, sum.Classic))
	require.Equal(t, "445 [135] [139] [137u] [138u] 62286+ (1025-65535) [22] [443] / 61000-61007+ (1025-65535) [63001] [63002] [80] [63000-63005]",
		row(sum.Windows, sum.PhaseDeploy, sum.Classic))
	require.Equal(t, "22 443 (80) / 80 63000-63005", row(sum.Integrity, sum.PhaseDeploy, sum.Classic))
	require.Equal(t, row(sum.SuperdomeFlex, sum.PhaseDeploy, sum.Current), row(sum.SuperdomeFlex, sum.PhaseDeploy, sum.Classic))
	i := slices.IndexFunc(sum.PortsFor(sum.Linux, sum.PhaseDeploy, sum.Classic), func(p sum.Port) bool { return p.First == 62286 })
	require.EqualValues(t, 60000, sum.PortsFor(sum.Linux, sum.PhaseDeploy, sum.Classic)[i].SourceFirst)
}

// TestPortRowsAreSound checks what must hold for every row of the table.
func TestPortRowsAreSound(t *testing.T) {
	for _, kind := range sum.Kinds() {
		for _, phase := range []sum.Phase{sum.PhaseInventory, sum.PhaseDeploy} {
			for _, gen := range []sum.Generation{sum.Current, sum.Classic} {
				seen := map[string]bool{}
				for _, p := range sum.PortsFor(kind, phase, gen) {
					require.LessOrEqual(t, p.First, p.Last)
					require.NotEmpty(t, p.Purpose)
					key := fmt.Sprint(p.Direction, p.Protocol, p.First)
					require.Falsef(t, seen[key], "%s %s %s: %s twice", kind, phase, gen, key)
					seen[key] = true
				}
			}
		}
	}
}

func ExamplePortsFor() {
	for _, p := range sum.PortsFor(sum.ILO, sum.PhaseDeploy, sum.Current) {
		fmt.Println(p.Direction, p.Ports(), p.Need)
	}
	// Output:
	// to-target 22 required
	// to-target 443 required
	// to-target 80 optional
	// to-manager 63001 required
}
