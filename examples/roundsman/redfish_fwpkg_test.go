package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// fwpkgLab is a lab with a directory for packages.
func fwpkgLab(t *testing.T, kind sum.Kind, profile redfishtest.Profile) (l *redfishLab, dir string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the lab are Unix's")
	}
	return newRedfishLab(t, kind, redfishtest.Config{Profile: profile, Pace: 20 * time.Millisecond}), t.TempDir()
}

// save writes files to a directory and returns the path of the first.
func save(t *testing.T, dir string, files ...transport.File) string {
	t.Helper()
	for _, f := range files {
		r, err := f.Open(t.Context())
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, os.WriteFile(filepath.Join(dir, f.Name), b, 0o600))
	}
	return filepath.Join(dir, files[0].Name)
}

// packed is a package for an entry, that needs a version to be there.
func packed(fw redfishtest.Firmware, name, version, least string) transport.File {
	image := redfishtest.Image(redfishtest.ImageSpec{Name: name + ".bin", DeviceClass: fw.DeviceClass, Targets: fw.Targets, Version: version, Minimum: least, Size: 50_000})
	return redfishtest.Package(redfishtest.PackageSpec{Name: name + ".fwpkg", DeviceClass: fw.DeviceClass, Images: []transport.File{image}, UpdatableBy: fw.UpdatableBy})
}

// outcomes are those of the last run, in their order.
func (l *redfishLab) outcomes() (out []string) {
	for _, e := range l.of("outcome") {
		out = append(out, fmt.Sprint(e["component"], " ", e["outcome"]))
	}
	return out
}

// unchanged: nothing was asked of the target but who it is and what it has.
func (l *redfishLab) unchanged() {
	l.t.Helper()
	for _, r := range l.srv.Requests() {
		if r.Method != "GET" && r.Method != "DELETE" {
			require.Contains(l.t, r.Path, "/Sessions", "%s", l.output)
		}
	}
	require.Empty(l.t, l.srv.Flashes())
}

// TestFwpkgDeploy: a package says itself what it is for.
func TestFwpkgDeploy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		kind    sum.Kind
		profile redfishtest.Profile
		id      string
		format  string
		way     string
		file    string // that the target gets
		signed  bool
		outcome string
	}{
		{"iLO 5, whole by push", sum.ILO, redfishtest.ILO5, "1", "FWPKG-v2", "", "fw.fwpkg", false, "Updated"},
		{"iLO 5, its image by push", sum.ILO, redfishtest.ILO5, "1", "FWPKG-v1", "", "fw.bin", false, "Updated"},
		{"iLO 5, with a signature beside it", sum.ILO, redfishtest.ILO5, "4", "FWPKG-v2", "", "fw.fwpkg", true, "Updated"},
		{"iLO 5, its image, with a signature beside it", sum.ILO, redfishtest.ILO5, "4", "FWPKG-v1", "", "fw.bin", true, "Updated"},
		{"iLO 5, by pull", sum.ILO, redfishtest.ILO5, "6", "FWPKG-v2", "add-from-uri", "fw.fwpkg", true, "UpdatedNeedsReboot"},
		{"iLO 6, its image by pull", sum.ILO, redfishtest.ILO6, "4", "FWPKG-v2", "simple-update", "fw.bin", true, "Updated"},
		{"any, by push", sum.Redfish, redfishtest.Generic, "NIC", "FWPKG-v2", "", "fw.fwpkg", true, "Updated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, dir := fwpkgLab(t, tt.kind, tt.profile)
			fw := l.srv.Firmware(tt.id)
			image := fw.Image("fw.bin", "100.1", 50_000)
			files := []transport.File{redfishtest.Package(redfishtest.PackageSpec{Name: "fw.fwpkg", DeviceClass: fw.DeviceClass, Images: []transport.File{image},
				Format: tt.format, ResetRequired: fw.Activation != transport.ActivationNone})}
			args := []string{"--component", save(t, dir, files...)}
			if tt.signed {
				sigs, err := redfishtest.Sign(files[0])
				require.NoError(t, err)
				args = append(args, save(t, dir, sigs...)) // as a shell's fw.* does
			}
			require.Equal(t, exitFine, l.run(append([]string{"plan", l.target}, args...)...), l.output)
			require.Equal(t, "install", l.of("plan")[0]["action"], l.output)
			require.Equal(t, fw.Version, l.of("plan")[0]["from"])
			require.Equal(t, "100.1", l.of("plan")[0]["to"])
			l.unchanged()

			args = append(append([]string{"deploy", l.target}, args...), redfishPorts...)
			if tt.way != "" {
				args = append(args, "--way", tt.way)
			}
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Equal(t, []string{"fw.bin " + tt.outcome}, l.outcomes(), l.output)
			require.Len(t, l.srv.Flashes(), 1)
			got := l.srv.Flashes()[0]
			require.Equal(t, []string{tt.id, "100.1", tt.file}, []string{got.ID, got.To, got.File})
			if tt.outcome == "Updated" {
				require.Equal(t, exitFine, l.run(args...), l.output)
				require.Equal(t, []string{"fw.bin NotNeeded"}, l.outcomes(), l.output)
				require.Len(t, l.srv.Flashes(), 1)
			}
			require.Zero(t, l.srv.Sessions(), "every session was ended")
		})
	}
}

// TestFwpkgSteps: what needs a version in between is refused with that version, or comes
// after it.
func TestFwpkgSteps(t *testing.T) {
	t.Parallel()
	l, dir := fwpkgLab(t, sum.ILO, redfishtest.ILO5)
	fw := l.srv.Firmware("4") // has 1.0.7
	last := save(t, dir, packed(fw, "c", "3.0", "2.0"))
	middle := save(t, dir, packed(fw, "b", "2.0", "1.0.9"))
	first := save(t, dir, packed(fw, "a", "1.0.9", ""))

	for _, command := range []string{"plan", "deploy"} {
		status := l.run(command, "--component", last, "--component", middle, l.target)
		require.Equal(t, map[string]int{"plan": exitFine, "deploy": exitFailed}[command], status, l.output)
		for _, e := range l.of("plan") {
			require.Equal(t, []any{"skip", true}, []any{e["action"], e["refused"]}, l.output)
		}
		require.Contains(t, l.of("plan")[1]["reason"], "needs 1.0.9 at least")
		require.Contains(t, l.of("plan")[1]["reason"], " 1.0.7: give a component with 1.0.9, or with a version between that and 2.0, as well")
		l.unchanged()
	}
	require.Equal(t, []string{"c.bin Failed", "b.bin Failed"}, l.outcomes())
	require.Contains(t, l.of("outcome")[0]["text"], "needs 2.0 at least")

	file := filepath.Join(dir, "plan.json")
	require.Equal(t, exitFine, l.run("plan", "--component", last, "--component", middle, "--component", first, l.target, "-o", file), l.output)
	var plan []string
	for _, e := range l.of("plan") {
		plan = append(plan, fmt.Sprint(e["action"], " ", e["to"]))
	}
	require.Equal(t, []string{"install 1.0.9", "install 2.0", "install 3.0"}, plan)
	require.Equal(t, "2.0", l.of("plan")[2]["after"].(map[string]any)["version"])
	require.Contains(t, l.of("plan")[2]["reason"], "so after b.bin 2.0")
	require.Equal(t, exitFine, l.run("deploy", "--plan", file), l.output)
	require.Equal(t, []string{"a.bin Updated", "b.bin Updated", "c.bin Updated"}, l.outcomes(), l.output)
	var written []string
	for _, f := range l.srv.Flashes() {
		written = append(written, f.From+" "+f.To)
	}
	require.Equal(t, []string{"1.0.7 1.0.9", "1.0.9 2.0", "2.0 3.0"}, written)
}

// TestFwpkgForNothing: what a package is not for is left alone, and told.
func TestFwpkgForNothing(t *testing.T) {
	t.Parallel()
	foreign := redfishtest.Firmware{DeviceClass: "d-0", Targets: []string{"t-0"}}
	for _, tt := range []struct {
		kind    sum.Kind
		profile redfishtest.Profile
		foreign bool
		says    string
	}{
		{sum.ILO, redfishtest.ILO5, true, "nothing on the target that it fits"},
		{sum.ILO, redfishtest.ILO4, false, "nothing on the target that it fits"}, // it names no targets
		{sum.SuperdomeFlex, redfishtest.RMC, false, "not for kind superdome-flex (for: ilo, redfish)"},
		{sum.Redfish, redfishtest.Generic, true, "nothing on the target that it fits"},
	} {
		l, dir := fwpkgLab(t, tt.kind, tt.profile)
		fw := l.srv.Inventory()[0]
		if tt.foreign {
			fw = foreign
		}
		require.Equal(t, exitFine, l.run("deploy", "--component", save(t, dir, packed(fw, "a", "9.9", "")), l.target), l.output)
		require.Equal(t, []string{"a.bin NotNeeded"}, l.outcomes())
		require.Equal(t, tt.says, l.of("outcome")[0]["text"])
		l.unchanged()
	}

	// The driver would have refused it as well.
	l, dir := fwpkgLab(t, sum.SuperdomeFlex, redfishtest.RMC)
	require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
	comp := l.component(packed(l.srv.Inventory()[0], "a", "9.9", ""), l.hardware("bmc"), "9.9")
	require.Equal(t, exitFailed, l.run("deploy", "--component", comp, l.target), l.output)
	require.Contains(t, l.of("outcome")[0]["text"], "none of its targets is that of the device")
	l.unchanged()

	// Nor is it for a server.
	b := newBench(t)
	b.fake.Host("db1").SetIdentity(transport.Identity{Name: "db1", Serial: "S-db1", OS: "linux"})
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--component", save(t, dir, packed(foreign, "a", "9.9", "")), "linux://root@db1"), b.errs.String())
	require.Equal(t, "NotNeeded", b.of("outcome")[0]["outcome"])
	require.Equal(t, "not for kind linux (for: ilo, redfish)", b.of("outcome")[0]["text"])
	b.clean()
}

// TestFwpkgForAgents: what only an agent in the operating system applies is not sent.
func TestFwpkgForAgents(t *testing.T) {
	t.Parallel()
	l, dir := fwpkgLab(t, sum.ILO, redfishtest.ILO5)
	fw := l.srv.Firmware("5")
	fw.UpdatableBy = []string{"RuntimeAgent"}
	require.Equal(t, exitFailed, l.run("deploy", "--component", save(t, dir, packed(fw, "a", "9.9", "")), l.target), l.output)
	require.Contains(t, l.of("outcome")[0]["text"], "only an agent in the operating system applies it")
	l.unchanged()
}

// TestSignatureAlone: a signature is no component.
func TestSignatureAlone(t *testing.T) {
	t.Parallel()
	l, dir := fwpkgLab(t, sum.ILO, redfishtest.ILO5)
	pkg := save(t, dir, packed(l.srv.Firmware("4"), "a", "9.9", ""))
	signature := strings.TrimSuffix(pkg, ".fwpkg") + ".compsig"
	require.NoError(t, os.WriteFile(signature, []byte("s"), 0o600))
	require.Equal(t, exitUsage, l.run("deploy", "--component", signature, l.target), l.output)
	require.Contains(t, l.output, `it is loaded with "a.fwpkg": give that`)
	require.Equal(t, exitFine, l.run("plan", "--component", signature, "--component", pkg, l.target), l.output)
	require.Len(t, l.of("plan"), 1)
	require.NoError(t, os.Remove(pkg))
	require.Equal(t, exitUsage, l.run("plan", "--component", signature, l.target), l.output)
	require.Contains(t, l.output, "is not beside it")
	require.Equal(t, exitUsage, l.run("plan", "--component", pkg, l.target), l.output)
}
