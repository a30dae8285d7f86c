package roundsman

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/roundsman-go/roundsman"

// layers says which packages of the module a package may import. The longest
// matching prefix counts. "*" stands for everything.
var layers = []struct {
	pkg   string
	allow []string
}{
	{"", nil},
	{"internal/realtest", []string{"internal/winlab"}},
	{"internal/winlab", nil},
	{"internal/fwpkg", []string{"transport"}},
	{"portalloc", []string{"portalloc"}},
	{"firewall", []string{"firewall"}},
	{"transport", nil},
	{"transport/transporttest", []string{"transport", "transport/transporttest"}},
	{"transport/local", []string{"transport"}},
	{"transport/internal", nil},
	{"transport/redfish", []string{"internal/fwpkg", "transport", "transport/internal", "transport/redfish"}},
	{"transport/smb", []string{"transport", "transport/smb"}},
	{"transport/ssh", []string{"transport", "transport/internal", "transport/ssh"}},
	{"transport/devicecli", []string{"transport", "transport/devicecli", "transport/ssh"}},
	{"sum", []string{"sum", "transport", "portalloc", "firewall"}},
	{"sum/version", nil},
	{"sum/channel", []string{"sum/channel"}},
	{"sum/depot", []string{"sum/depot", "transport"}},
	{"sum/component", []string{"internal/fwpkg", "sum/component", "sum/version", "sum/agent", "transport"}},
	{"sum/agent", []string{"sum/agent", "sum/channel", "transport", "portalloc", "firewall"}},
	{"examples", []string{"*"}},
}

// onlyExactly are allowed as they stand, not with the packages below them: sum
// may import transport, but no driver.
var onlyExactly = map[string]bool{"transport": true}

func allowed(pkg, imported string) bool {
	best := -1
	for i, l := range layers {
		if (pkg == l.pkg || strings.HasPrefix(pkg, l.pkg+"/") || l.pkg == "") && (best < 0 || len(l.pkg) > len(layers[best].pkg)) {
			best = i
		}
	}
	for _, a := range layers[best].allow {
		if a == "*" || imported == a || (!onlyExactly[a] && strings.HasPrefix(imported, a+"/")) {
			return true
		}
	}
	return false
}

// TestLayering holds the import graph: imports point down only. Tests of a
// package may use fakes and helpers of others.
func TestLayering(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	require.NoError(t, err)
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := map[string]bool{}
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		seen[pkg] = true
		for _, imp := range p.Imports {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			imported := strings.TrimPrefix(imp, module+"/")
			require.Truef(t, allowed(pkg, imported), "%s imports %s: that points up, or sideways", pkg, imported)
		}
	}
	require.True(t, seen["sum"] && seen["transport"], "go list did not see the module: %v", seen)
}

// TestLayeringCanFail proves the rules with imports that must be refused.
func TestLayeringCanFail(t *testing.T) {
	for _, bad := range [][2]string{
		{"transport", "sum"},
		{"transport/ssh", "transport/smb"},
		{"transport/local", "transport/ssh"},
		{"sum", "transport/ssh"},
		{"sum/agent", "transport/ssh"},
		{"sum/channel", "transport"},
		{"portalloc", "transport"},
		{"sum", "examples/roundsman"},
	} {
		require.Falsef(t, allowed(bad[0], bad[1]), "%s may import %s", bad[0], bad[1])
	}
	require.True(t, allowed("transport/devicecli", "transport/ssh"))
	require.True(t, allowed("sum/agent/install", "sum/agent"))
}

// TestTransportIsStandardLibraryOnly holds the promise of package transport.
func TestTransportIsStandardLibraryOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./transport").Output()
	require.NoError(t, err)
	require.Equal(t, []string{path.Join(module, "transport")}, strings.Fields(string(out)))
}

// TestEveryDriverRunsTheConformanceSuite finds drivers that skip it.
func TestEveryDriverRunsTheConformanceSuite(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Dir}}", "./transport/...").Output()
	require.NoError(t, err)
	drivers := 0
	for line := range strings.Lines(string(out)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		rel := strings.TrimPrefix(pkg, module+"/transport")
		if strings.Count(rel, "/") != 1 || rel == "/transporttest" {
			continue // transport itself, simulators, internals
		}
		drivers++
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		require.Truef(t, slices.ContainsFunc(files, func(f string) bool {
			b, err := os.ReadFile(f)
			return err == nil && strings.Contains(string(b), "func TestConformance(")
		}), "%s has no TestConformance", pkg)
	}
	require.NotZero(t, drivers)
}
