package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

// flagName finds flags in a text.
var flagName = regexp.MustCompile(`--([a-z][a-z-]*)`)

// TestRedfishUsage: flags and fleet files that make no sense are refused before anything is
// dialled.
func TestRedfishUsage(t *testing.T) {
	t.Parallel()
	pin := transport.Fingerprint([]byte("key"))
	dir := t.TempDir()
	write := func(text string) string {
		file := filepath.Join(dir, fmt.Sprintf("%x.yaml", len(text)))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	const ilo, server = "ilo://ops@192.0.2.1", "linux://root@192.0.2.2"
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"--pin: invalid input: pin \"SHA256:x\"", []string{"inventory", ilo, "--pin", "SHA256:x"}},
		{"--pin is the key of one target", []string{"inventory", ilo, "ilo://ops@192.0.2.3", "--pin", pin}},
		{"--pin excludes --accept-new", []string{"inventory", ilo, "--pin", pin, "--accept-new"}},
		{"--legacy-tls takes --pin", []string{"inventory", ilo, "--legacy-tls"}},
		{`profile "ilo9": want one of generic, ilo4`, []string{"inventory", ilo, "--profile", "ilo9"}},
		{`way "fax": want one of multipart`, []string{"deploy", ilo, "--component", dir, "--way", "fax"}},
		{"--ca-file " + dir + ": it is a directory", []string{"inventory", ilo, "--ca-file", dir}},
		{"no such file", []string{"preflight", ilo, "--ca-file", filepath.Join(dir, "none.pem")}},
		{"--accept-new is for targets that speak Redfish", []string{"inventory", server, "--accept-new"}},
		{"--pin is for targets that speak Redfish", []string{"preflight", server, "--pin", pin}},
		{"--tpm-override is for targets that speak Redfish", []string{"deploy", server, "--component", dir, "--tpm-override"}},
		{"--reset-type is for targets that speak Redfish", []string{"reboot", server, "--reset-type", "PowerCycle"}},
		{"such as ilo://Administrator@192.0.2.1", []string{"inventory", "ilo://192.0.2.1"}},
		{"has no object", []string{"inventory", ilo + "/bay"}},
		{"the zone of the address is empty", []string{"inventory", "ilo://ops@[fe80::1%25]"}},
		{"is an address of a link", []string{"preflight", "redfish://ops@[fe80::1]:8443"}},
		{"ca_file " + filepath.Join(dir, "none.pem"), []string{"inventory", "--fleet", write("targets: [{url: " + ilo + ", ca_file: none.pem}]")}},
		{"way is for targets that speak Redfish", []string{"inventory", "--fleet", write("targets: [{url: " + server + ", way: queue}]")}},
		{"legacy_tls takes a pin", []string{"inventory", "--fleet", write("targets: [{url: " + ilo + ", legacy_tls: true}]")}},
	} {
		l := &redfishLab{t: t, flags: []string{"--journal", filepath.Join(t.TempDir(), "journal"), "--connect-timeout", "1s"}}
		l.text = true
		require.Equal(t, exitUsage, l.run(tt.args...), "%v\n%s", tt.args, l.output)
		require.Contains(t, l.output, tt.want, tt.args)
		require.NotRegexp(t, goField, l.output)
	}
}

// TestRedfishHelp: the help of each command has what is to be known of such targets.
func TestRedfishHelp(t *testing.T) {
	t.Parallel()
	for command, words := range map[string][]string{
		"deploy":    {"ilo://ops@ilo-db1", "--pin PIN", "--accept-new", "--way WAY", "--tpm-override", "--ignore-queue", "--recovery-set", "--legacy-tls", "--profile PROFILE", "tpm_override", "superdome-flex://"},
		"recover":   {"--way WAY", "update queue"},
		"inventory": {"--pin PIN", "ilo://ops@ilo-db1"},
		"preflight": {"--pin PIN", "ilo://", "web page"},
		"capture":   {"--overwrite", "--resources N", "--megabytes N", "examples/redfishsim"},
		"reboot":    {"--reset-type TYPE", "PowerCycle"},
		"logs":      {"roundsman capture --logs"},
	} {
		l := &redfishLab{t: t, text: true}
		require.Equal(t, exitFine, l.run("help", command), l.output)
		for _, w := range words {
			require.Contains(t, l.output, w, command)
		}
	}
}

// TestRedfishAdvice: what helps with a target that speaks Redfish is advised, and nothing
// that helps with other servers alone. Every flag that is named is there.
func TestRedfishAdvice(t *testing.T) {
	t.Parallel()
	flags := (&app{}).deployCommand().Flags()
	for _, kind := range []sum.Kind{sum.ILO, sum.SuperdomeFlex, sum.Redfish} {
		for _, c := range classes {
			said := adviceOn(c.is, kind)
			for _, word := range append(linuxOnly, "administrator", "ADMIN$") {
				require.NotContains(t, said, word, c.is)
			}
			for _, m := range flagName.FindAllStringSubmatch(said, -1) {
				require.NotNil(t, flags.Lookup(m[1]), "%s in %q", m[1], said)
			}
		}
		for err, want := range map[error]string{
			transport.ErrUnknownIdentity: "--accept-new", transport.ErrTrust: "--pins", transport.ErrAuth: "--password-file FILE",
			sum.ErrNoPassword: "ROUNDSMAN_PASSWORD", transport.ErrTimeout: "--connect-timeout TIME", portalloc.ErrBusy: "--port ROLE=PORT",
			sum.ErrJournal: "--journal DIR",
		} {
			require.Contains(t, adviceOn(err, kind), want)
		}
		require.Empty(t, adviceOn(errors.New("x"), kind))
	}
}

// TestRedfishFleetFile: what the fleet file says of each target holds for it.
func TestRedfishFleetFile(t *testing.T) {
	t.Parallel()
	one := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	two := newRedfishLab(t, sum.Redfish, redfishtest.Config{LegacyTLS: true})
	pin := func(l *redfishLab) string { return transport.Fingerprint(l.srv.Certificate().RawSubjectPublicKeyInfo) }
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	text := "targets:\n  - {url: '%s', pin: '%s'}\n  - {url: '%s', pin: '%s', legacy_tls: %t}\n"
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, text, one.target, pin(one), two.target, pin(two), true), 0o600))
	l := &redfishLab{t: t, flags: []string{"--json", "--fleet", file, "--journal", filepath.Join(t.TempDir(), "journal"), "--pins", filepath.Join(t.TempDir(), "none")}}
	require.Equal(t, exitFine, l.run("inventory"), l.output)
	require.Len(t, l.of("inventory"), 2)

	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, text, one.target, pin(two), two.target, pin(two), false), 0o600))
	require.Equal(t, exitFailed, l.run("inventory"), l.output)
	codes := map[any]any{}
	for _, e := range l.of("error") {
		codes[e["target"]] = e["code"]
	}
	require.Equal(t, map[any]any{one.target: "wrong-identity", two.target: "wrong-service"}, codes, l.output)
	require.Contains(t, l.output, "--legacy-tls allows old ones, with a --pin")
	require.NotRegexp(t, goField, l.output)

	// The same by flags, for one.
	require.Equal(t, exitFine, two.run("inventory", two.target, "--legacy-tls", "--pin", pin(two)), two.output)
	require.Equal(t, exitFailed, one.run("inventory", one.target, "--pin", pin(two)), one.output)
	require.Contains(t, one.output, "(--pin, or pin in the fleet file)")
}

// TestRedfishTexts: what a device tells in percent is not shown as bytes, what is staged has
// its version, and what went well needs no code.
func TestRedfishTexts(t *testing.T) {
	t.Parallel()
	require.Equal(t, "verify  40%", progressLine(sum.Event{Phase: "verify", Done: 40, Total: 100}))
	require.Equal(t, "upload  50% of 1.0 KiB", progressLine(sum.Event{Phase: "upload", Done: 512, Total: 1024}))
	subjects := func(from, to string) []sum.Subject {
		return []sum.Subject{{Name: "rom", From: from, To: to, Fits: true}}
	}
	code := transport.Code{Space: "redfish", Value: "Base.1.4.Success"}
	for want, o := range map[string]sum.Outcome{
		"UpdatedNeedsReboot  2.1, needs reboot for 9.99":        {Kind: sum.UpdatedNeedsReboot, Version: "9.99", Subjects: subjects("2.1", "2.1"), Activation: transport.ActivationReboot},
		"UpdatedNeedsReboot  2.1 -> 9.99, needs reset\n":        {Kind: sum.UpdatedNeedsReboot, Version: "9.99", Subjects: subjects("2.1", "9.99"), Activation: transport.ActivationReset},
		"Updated  2.1 -> 9.99\n":                                {Kind: sum.Updated, Version: "9.99", Subjects: subjects("2.1", "9.99"), Code: code},
		"Unverified  2.1 -> (none), redfish Base.1.4.Success\n": {Kind: sum.Unverified, Version: "9.99", Subjects: subjects("2.1", ""), Code: code},
	} {
		var out bytes.Buffer
		newReporter(&out, false, false, nil).outcome(o)
		require.Contains(t, out.String(), want)
	}
	var out bytes.Buffer
	newReporter(&out, false, true, nil).outcome(sum.Outcome{Kind: sum.Updated, Subjects: subjects("1", "2"), Code: code})
	require.Contains(t, out.String(), code.String(), "-v shows it all")
}
