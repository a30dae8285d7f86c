package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// firmwareRPM builds a package as HPE's of firmware are: its installation lays out
// a setup program, and only that program flashes. This one counts its runs.
func firmwareRPM(t *testing.T, version string) string {
	t.Helper()
	rpmbuild := realtest.Need(t, "rpmbuild")
	dir := t.TempDir()
	spec := `Name: firmware-thing
Version: ` + version + `
Release: 1.1
Summary: firmware of a thing
License: none
BuildArch: noarch
AutoReqProv: no
%description
d
%install
d=%{buildroot}/usr/lib/x86_64-linux-gnu
mkdir -p $d/firmware-thing-` + version + `-1.1 $d/scexe-compat
cat >$d/firmware-thing-` + version + `-1.1/setup <<'EOF'
#!/bin/sh
echo "$@" >>/opt/setup-runs
echo ` + version + ` >/opt/thing-firmware
EOF
cat >$d/scexe-compat/CP000001.scexe <<'EOF'
#!/bin/sh
exec /usr/lib/x86_64-linux-gnu/firmware-thing-` + version + `-1.1/setup "$@"
EOF
chmod 755 $d/*/*
%files
/usr/lib/x86_64-linux-gnu/*
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.spec"), []byte(spec), 0o600))
	out, err := exec.Command(rpmbuild, "--define", "_topdir "+dir, "-bb", filepath.Join(dir, "x.spec")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	found, err := filepath.Glob(filepath.Join(dir, "RPMS/*/*.rpm"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// TestRealFirmwareRPM: the setup program of a package is run, and the version of
// the package proves nothing; that of the device does.
func TestRealFirmwareRPM(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	path := firmwareRPM(t, "2.36")

	status, list := m.run("deploy", "--component", path, m.target())
	out := outcomes(list)
	require.Len(t, out, 1)
	require.Equal(t, "Unverified", out[0]["outcome"], "%v", out[0])
	require.Equal(t, 11, status)
	require.Equal(t, "-s\n", m.host.Run("cat", "/opt/setup-runs"))

	dir := t.TempDir()
	require.NoError(t, os.Rename(path, filepath.Join(dir, "fw.rpm")))
	description, err := json.Marshal(map[string]any{
		"name": "thing", "version": "2.36", "scheme": "hpe", "files": []any{map[string]any{"name": "fw.rpm"}},
		"probe": map[string]any{"argv": []string{"cat", "/opt/thing-firmware"}},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "component.json"), description, 0o600))
	for _, want := range []string{"Updated", "NotNeeded"} {
		if want == "Updated" {
			m.host.Run("sh", "-c", "echo 1.0 >/opt/thing-firmware")
		}
		status, list = m.run("deploy", "--component", dir, m.target())
		out = outcomes(list)
		require.Len(t, out, 1)
		require.Equal(t, want, out[0]["outcome"], "%v", out[0])
		require.Zero(t, status)
	}
	require.Equal(t, "-s\n-s\n", m.host.Run("cat", "/opt/setup-runs"))
}
