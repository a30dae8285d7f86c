package sum_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// TestMakePlanForWindowsInstaller: a package of Windows Installer is known by its
// ProductCode, in upper or lower case; most makers give each version another one.
func TestMakePlanForWindowsInstaller(t *testing.T) {
	t.Parallel()
	const code = "{90160000-008C-0000-1000-0000000FF1CE}"
	have := func(software ...transport.Software) *transport.Inventory {
		return &transport.Inventory{Identity: transport.Identity{Name: "DB2", OS: "windows"}, Software: software}
	}
	msi := component.Match{Package: &component.PackageMatch{Source: component.MSI, Name: code}}
	target := sum.Target{Kind: sum.Windows, User: "LAB;ops", Address: "db2"}
	for name, x := range map[string]struct {
		inv     *transport.Inventory
		kinds   []string
		opts    sum.PlanOptions
		action  sum.Action
		reason  string
		from    string
		rewrite bool
	}{
		"not there": {inv: have(transport.Software{Name: "{0}", Version: "1.0", Source: component.MSI}), action: sum.Install, reason: "not installed"},
		"older": {inv: have(transport.Software{Name: "{90160000-008c-0000-1000-0000000ff1ce}", Version: "1.9.0", Source: component.MSI}),
			action: sum.Install, reason: "is newer than 1.9.0", from: "1.9.0"},
		"there":       {inv: have(transport.Software{Name: code, Version: "1.10", Source: component.MSI}), action: sum.Skip, reason: "there already", from: "1.10"},
		"there, anew": {inv: have(transport.Software{Name: code, Version: "1.10", Source: component.MSI}), opts: sum.PlanOptions{Rewrite: true}, action: sum.Install, reason: "rewritten", from: "1.10", rewrite: true},
		"newer":       {inv: have(transport.Software{Name: code, Version: "2.0", Source: component.MSI}), action: sum.Skip, reason: "2.0 is newer than 1.10", from: "2.0"},
		"another list of the same name": {inv: have(transport.Software{Name: code, Version: "2.0", Source: component.Uninstall}),
			action: sum.Install, reason: "not installed"},
		"on Linux":      {inv: have(transport.Software{Name: "dpkg", Version: "1.22", Source: component.Dpkg}), action: sum.Skip, reason: "nothing on the target"},
		"another kind":  {inv: have(), kinds: []string{"linux"}, action: sum.Skip},
		"for this kind": {inv: have(), kinds: []string{"windows"}, action: sum.Install, reason: "not installed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := planned("1.10", msi)
			c.Kinds = x.kinds
			p := sum.MakePlan(target, x.inv, one(c), x.opts)
			require.Len(t, p.Items, 1)
			it := p.Items[0]
			require.Equal(t, x.action, it.Action, it.Reason)
			require.Contains(t, it.Reason, x.reason)
			require.Equal(t, x.rewrite, it.Rewrite)
			if len(it.Subjects) > 0 {
				require.Equal(t, x.from, it.Subjects[0].From)
			}
		})
	}
}

// TestComponentKinds: a component.json may name every kind of target.
func TestComponentKinds(t *testing.T) {
	t.Parallel()
	for _, k := range append(sum.Kinds(), "vax") {
		dir := t.TempDir()
		text := `{"name": "x", "version": "1.0", "scheme": "numeric", "install": ["true"], "profile": "zero-ok", "kinds": ["` + string(k) + `"]}`
		require.NoError(t, os.WriteFile(filepath.Join(dir, component.ManifestName), []byte(text), 0o600))
		_, err := component.Load(t.Context(), dir)
		if k != "vax" {
			require.NoError(t, err, k)
			continue
		}
		for _, known := range sum.Kinds() {
			require.ErrorContains(t, err, string(known))
		}
	}
}
