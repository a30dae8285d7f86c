package fleet_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := fleet.Parse("fleet.yaml", []byte(`
defaults:
  kind: linux
  user: root
  labels: {site: a, role: none}
targets:
  - name: db1
    address: db1.example.com:2222
    labels: {role: database}
  - url: linux://ops@web1        # as on the command line
  - address: "fe80::1%eth0"
    user: ops
  - {name: vc, kind: vmware, address: vcenter, user: admin}
  - {kind: vmware, address: vcenter, object: host-17, parent: vc}
  - kind: local
`))
	require.NoError(t, err)
	require.Empty(t, got.PasswordFiles)
	site := map[string]string{"site": "a", "role": "none"}
	require.Equal(t, []sum.Target{
		{Name: "db1", Kind: sum.Linux, User: "root", Address: "db1.example.com:2222", Labels: map[string]string{"site": "a", "role": "database"}},
		{Kind: sum.Linux, User: "ops", Address: "web1", Labels: site},
		{Kind: sum.Linux, User: "ops", Address: "fe80::1%eth0", Labels: site},
		{Name: "vc", Kind: sum.VMware, User: "admin", Address: "vcenter", Labels: site},
		{Kind: sum.VMware, User: "root", Address: "vcenter", Object: "host-17", Parent: "vc", Labels: site},
		{Kind: sum.Local, Labels: site},
	}, got.Targets)
}

// TestParsePasswordFiles: each target may have a password of its own, in a file that is
// named and not looked at.
func TestParsePasswordFiles(t *testing.T) {
	t.Parallel()
	text := `
defaults: {kind: windows, user: 'LAB;ops', password_file: lab.txt}
targets:
  - address: db1
  - {address: db2, password_file: /secrets/db2}
  - url: linux://root@web1
  - kind: local
`
	got, err := fleet.Parse("fleet.yaml", []byte(text))
	require.NoError(t, err)
	want := map[string]string{got.Targets[0].String(): "lab.txt", got.Targets[1].String(): "/secrets/db2", "linux://root@web1": "lab.txt"}
	require.Equal(t, want, got.PasswordFiles)

	name := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	got, err = fleet.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(filepath.Dir(name), "lab.txt"), got.PasswordFiles["linux://root@web1"], "beside the fleet file")
	require.Equal(t, "/secrets/db2", got.PasswordFiles[got.Targets[1].String()])
}

// TestParseOnWindows: a fleet file that Notepad or PowerShell wrote is one like any other.
func TestParseOnWindows(t *testing.T) {
	t.Parallel()
	const text = "targets:\r\n  - {name: größe, url: 'windows://LAB;ops@db1'}\r\n"
	want, err := fleet.Parse("fleet.yaml", []byte(text))
	require.NoError(t, err)
	require.Len(t, want.Targets, 1)
	little, big := []byte("\xff\xfe"), []byte("\xfe\xff")
	for _, u := range utf16.Encode([]rune(text)) {
		little, big = binary.LittleEndian.AppendUint16(little, u), binary.BigEndian.AppendUint16(big, u)
	}
	for _, data := range [][]byte{[]byte("\ufeff" + text), little, big} {
		got, err := fleet.Parse("fleet.yaml", data)
		require.NoError(t, err, "%q", data)
		require.Equal(t, want.Targets, got.Targets)
	}
	_, err = fleet.Parse("fleet.yaml", little[:len(little)-1])
	require.ErrorIs(t, err, sum.ErrInvalid)
}

// TestParseTellsAll: whoever mends a fleet file sees everything that is wrong with it.
func TestParseTellsAll(t *testing.T) {
	t.Parallel()
	_, err := fleet.Parse("fleet.yaml", []byte(`
default: {kind: linux}
defaults: {kind: linux, address: x}
targets:
  - {address: a, adress: b, password: hunter2}
  - {kind: vax, address: b}
  - {address: c, name: [c]}
  - {address: d, parent: a}
  - {address: e}
  - {address: e}
  - {address: f, name: f}
  - {address: g, name: f}
  - linux://h
`))
	var all fleet.FileErrors
	require.ErrorAs(t, err, &all)
	var lines []int
	for _, e := range all {
		lines = append(lines, e.Line)
		require.ErrorIs(t, e, sum.ErrInvalid)
	}
	require.Equal(t, []int{2, 3, 5, 5, 6, 7, 10, 12, 13}, lines, "%v", err)
	require.Equal(t, len(all), strings.Count(err.Error(), "fleet.yaml:"))
	require.NotContains(t, err.Error(), "hunter2")
	require.NotContains(t, err.Error(), `parent "a"`, "it may be one of those that could not be read")
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, text string
		line       int
		says       string
	}{
		{"empty", "", 0, "no targets"},
		{"no targets", "defaults: {kind: linux}\n", 1, "no targets"},
		{"not YAML", "targets: [\n", 1, ""},
		{"the URL alone", "targets:\n  - url: linux://a\n  - windows://LAB;ops@b\n", 3, `{url: "linux://root@db1"}`},
		{"UTF-16 without a mark", "t\x00a\x00r\x00", 0, "NUL bytes"},
		{"no text", "targets: \xe9\n", 0, "UTF-8"},
		{"a list", "- url: linux://a\n", 1, ""},
		{"a number", "targets: 3\n", 1, ""},
		{"unknown field at the top", "target:\n  - url: linux://a\n", 1, `unknown field "target"`},
		{"unknown field", "targets:\n  - url: linux://a\n    adress: b\n", 3, `unknown field "adress"`},
		{"unknown default", "defaults:\n  address: x\ntargets:\n  - url: linux://a\n", 2, `unknown field "address"`},
		{"password", "targets:\n  - url: linux://a\n    password: hunter2\n", 3, "does not belong in a fleet file"},
		{"sudo password", "defaults: {sudo_password: hunter2}\ntargets:\n  - url: linux://a\n", 1, "does not belong in a fleet file"},
		{"passphrase", "targets:\n  - {url: 'linux://a', Passphrase: hunter2}\n", 2, "does not belong in a fleet file"},
		{"password in a URL", "targets:\n  - url: linux://a\n  - url: linux://root:hunter2@b\n", 3, "password"},
		{"password in a user", "targets:\n  - {kind: linux, address: b, user: 'root:hunter2'}\n", 2, ""},
		{"field twice", "targets:\n  - url: linux://a\n    url: linux://b\n", 3, ""},
		{"name twice", "targets:\n  - {name: a, url: 'linux://a'}\n  - {name: a, url: 'linux://b'}\n", 3, "is there twice"},
		{"target twice", "targets:\n  - url: linux://a\n  - {name: other, kind: linux, address: a}\n", 3, "is there twice"},
		{"name is another's URL", "targets:\n  - url: linux://a\n  - {name: 'linux://a', url: 'linux://b'}\n", 3, "URL of another"},
		{"url and kind", "targets:\n  - {url: 'linux://a', kind: linux}\n", 2, "url excludes"},
		{"neither", "targets:\n  - name: a\n", 2, "neither url nor kind"},
		{"unknown kind", "targets:\n  - {kind: vax, address: a}\n", 2, `"vax"`},
		{"no address", "targets:\n  - kind: linux\n", 2, "no address"},
		{"local with address", "targets:\n  - {kind: local, address: a}\n", 2, "no address"},
		{"address with object", "targets:\n  - {kind: linux, address: a/b}\n", 2, "malformed"},
		{"address with user", "targets:\n  - {kind: linux, address: root@a}\n", 2, "malformed"},
		{"no such parent", "targets:\n  - {url: 'linux://a', parent: b}\n", 2, `parent "b"`},
		{"own parent", "targets:\n  - {name: a, url: 'linux://a', parent: b}\n  - {name: b, url: 'linux://b', parent: a}\n", 2, "its own parent"},
		{"alias", "targets:\n  - &a {url: 'linux://a'}\n  - *a\n", 3, "aliases"},
		{"two documents", "targets:\n  - url: linux://a\n---\ntargets:\n  - url: linux://b\n", 4, "more than one document"},
		{"deep flow", "targets: " + strings.Repeat("[", 100000), 1, "nested deeper"},
		{"deep block", "targets:\n  " + strings.Repeat("- ", 100000) + "a\n", 2, "nested deeper"},
		{"wrong type", "targets:\n  - url: [linux]\n", 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := fleet.Parse("fleet.yaml", []byte(tc.text))
			require.Error(t, err)
			require.Nil(t, got)
			require.ErrorIs(t, err, sum.ErrInvalid)
			var fe *fleet.FileError
			require.ErrorAs(t, err, &fe)
			require.Equal(t, tc.line, fe.Line, "%v", err)
			require.Contains(t, err.Error(), tc.says)
			require.NotContains(t, err.Error(), "hunter2", "a password that was written into the file by mistake")
		})
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "fleet.yaml")
	_, err := fleet.ReadFile(name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, 1, strings.Count(err.Error(), name))
	require.NoError(t, os.WriteFile(name, []byte("targets:\n  - url: linux://a\n"), 0o600))
	got, err := fleet.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, []sum.Target{{Kind: sum.Linux, Address: "a"}}, got.Targets)
}

// FuzzParse holds that whatever is accepted can be named on a command line, and
// that whatever is refused is refused as a fleet file.
func FuzzParse(f *testing.F) {
	f.Add([]byte("defaults: {kind: linux, user: root}\ntargets:\n  - {name: a, address: 'b:22', labels: {x: y}}\n"))
	f.Add([]byte("targets:\n  - url: linux://ops@[2001:db8::7]:2222\n"))
	f.Add([]byte("targets:\n  - &a {url: 'linux://a'}\n  - *a\n"))
	f.Add([]byte("targets: [{url: \"linux://a\\x1b\"}]"))
	f.Add([]byte("? ? ? !!map {a: |\n b\n}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := fleet.Parse("f", data)
		if err != nil {
			var fe *fleet.FileError
			if !errors.As(err, &fe) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, target := range file.Targets {
			s := target.String()
			if seen[s] {
				t.Fatalf("%s twice", s)
			}
			seen[s] = true
			if back, err := sum.ParseTarget(s); err != nil || back.String() != s {
				t.Fatalf("%q: %v, %v", s, back, err)
			}
		}
	})
}
