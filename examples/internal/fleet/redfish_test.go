package fleet_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

func processor(t *testing.T, cfg redfishtest.Config) *redfishtest.Server {
	cfg.Password = canary
	srv, err := redfishtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv
}

// TestRedfish: a management processor is unknown until its key is recorded, then it is held
// to it; its password is asked for once.
func TestRedfish(t *testing.T) {
	t.Parallel()
	for kind, cfg := range map[sum.Kind]redfishtest.Config{
		sum.ILO:           {Profile: redfishtest.ILO5},
		sum.SuperdomeFlex: {Profile: redfishtest.RMC},
		sum.Redfish:       {IPv6: true},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			srv := processor(t, cfg)
			w := newWorld(t)
			asked := 0
			w.cfg.Ask = func(context.Context, string) (transport.Secret, error) {
				asked++
				return transport.NewSecret(canary), nil
			}
			target, err := sum.ParseTarget(string(kind) + "://" + srv.User() + "@" + srv.Addr())
			require.NoError(t, err)
			r, err := fleet.New(w.cfg)
			require.NoError(t, err)
			_, err = connect(t, r, target)
			require.ErrorIs(t, err, transport.ErrUnknownIdentity)
			require.Zero(t, srv.Sessions(), "nobody who is unknown is told a password")

			w.cfg.AcceptNew = true
			for range 2 {
				r, err = fleet.New(w.cfg)
				require.NoError(t, err)
				_, err = connect(t, r, target)
				require.NoError(t, err)
				w.cfg.AcceptNew = false
			}
			pins := filepath.Join(w.cfg.Home, ".local", "state", "roundsman", "redfish_pins")
			require.FileExists(t, pins)
			require.Contains(t, w.log.String(), "msg=dial", "Debug logs the calls")

			// Somebody else at the same address.
			require.NoError(t, os.WriteFile(pins, []byte(srv.Addr()+" "+transport.Fingerprint([]byte("another"))+"\n"), 0o600))
			for _, w.cfg.AcceptNew = range []bool{false, true} {
				r, err = fleet.New(w.cfg)
				require.NoError(t, err)
				_, err = connect(t, r, target)
				require.ErrorIs(t, err, transport.ErrTrust)
				require.NotErrorIs(t, err, transport.ErrUnknownIdentity)
			}
		})
	}
}

// TestRedfishAuthority: an authority of one's own takes the place of recorded keys.
func TestRedfishAuthority(t *testing.T) {
	t.Parallel()
	srv := processor(t, redfishtest.Config{})
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	w.cfg.Redfish = redfish.Options{Profile: redfish.ProfileGeneric}
	ca := w.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	w.cfg.Authorities = []string{ca}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	target := sum.Target{Kind: sum.Redfish, User: srv.User(), Address: srv.Addr()}
	_, err = connect(t, r, target)
	require.NoError(t, err)

	w.cfg.Authorities = []string{w.write("none.pem", "nothing")}
	r, err = fleet.New(w.cfg)
	require.NoError(t, err)
	_, err = connect(t, r, target)
	require.ErrorIs(t, err, sum.ErrInvalid)
	require.ErrorContains(t, err, "none.pem")
}

func TestRedfishRefused(t *testing.T) {
	t.Parallel()
	r, err := fleet.New(newWorld(t).cfg)
	require.NoError(t, err)
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, Address: "ilo1"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.ErrorContains(t, err, "ilo://Administrator@ilo1")
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, User: "ops", Address: "ilo1", Object: "bay"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, User: "ops", Address: net.JoinHostPort("127.0.0.1", "1")})
	require.ErrorContains(t, err, "password of ops", "nobody is there to ask")
}

// connect dials a target as a session does, and reads who it is.
func connect(t *testing.T, r *fleet.Resolver, target sum.Target) (transport.Identity, error) {
	tr, ep, err := r.Resolve(t.Context(), target)
	if err != nil {
		return transport.Identity{}, err
	}
	conn, err := tr.Dial(t.Context(), ep)
	if err != nil {
		return transport.Identity{}, err
	}
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	return conn.Identify(t.Context())
}

// TestRedfishFile reads what a fleet file says of targets that speak Redfish.
func TestRedfishFile(t *testing.T) {
	t.Parallel()
	digest := sha256.Sum256([]byte("key"))
	pin, other := transport.Fingerprint([]byte("key")), hex.EncodeToString(make([]byte, 32))
	f, err := fleet.Parse("f.yaml", []byte(`
defaults: {user: ops, way: queue, ca_file: all.pem, accept_new: true, ignore_queue: true}
targets:
  - {url: ilo://a}
  - {url: ilo://b, pin: "`+pin+` `+other+`", way: add-from-uri, profile: ilo5, ignore_queue: false, tpm_override: true, recovery_set: true, legacy_tls: true, ca_file: /own.pem}
  - {url: "redfish://[fe80::1%25eth0]:8443", accept_new: false}
  - url: linux://d
`))
	require.NoError(t, err)
	yes, no := true, false
	require.Equal(t, map[string]fleet.RedfishSettings{
		"ilo://ops@a": {Way: redfish.WayQueue, Authorities: []string{"all.pem"}, AcceptNew: &yes, IgnoreQueue: &yes},
		"ilo://ops@b": {Keys: [][32]byte{digest, {}}, Way: redfish.WayAddFromURI, Profile: redfish.ProfileILO5, Authorities: []string{"/own.pem"},
			IgnoreQueue: &no, TPMOverride: &yes, RecoverySet: &yes, LegacyTLS: &yes},
		"redfish://ops@[fe80::1%25eth0]:8443": {Way: redfish.WayQueue, Authorities: []string{"all.pem"}, AcceptNew: &no, IgnoreQueue: &yes},
	}, f.Redfish)

	file := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("targets: [{url: ilo://a, ca_file: own.pem}, {url: ilo://b, ca_file: /abs.pem}]"), 0o600))
	f, err = fleet.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(filepath.Dir(file), "own.pem")}, f.Redfish["ilo://a"].Authorities)
	require.Equal(t, []string{"/abs.pem"}, f.Redfish["ilo://b"].Authorities)
}

// TestRedfishFileRefused: what makes no sense in a fleet file is told with its line.
func TestRedfishFileRefused(t *testing.T) {
	t.Parallel()
	pin := transport.Fingerprint([]byte("key"))
	for text, want := range map[string]string{
		"{url: linux://a, way: queue}":                                       "way is for targets that speak Redfish",
		"{url: windows://a, tpm_override: false}":                            "tpm_override is for targets that speak Redfish",
		"{url: 'local:', pin: '" + pin + "'}":                                "pin is for targets that speak Redfish",
		"{url: ilo://a, way: carrier-pigeon}":                                `way "carrier-pigeon": want one of multipart, `,
		"{url: ilo://a, profile: ilo8}":                                      `profile "ilo8": want one of generic, ilo4`,
		"{url: ilo://a, pin: SHA256:abc}":                                    `pin "SHA256:abc": want the SHA-256`,
		"{url: ilo://a, pin: '" + pin + "', accept_new: true}":               "pin excludes accept_new",
		"{url: ilo://a, legacy_tls: true}":                                   "legacy_tls takes a pin",
		"{url: ilo://a, tpm_override: sometimes}":                            "want a bool, found a string",
		"{url: ilo://a, password: x}":                                        "does not belong in a fleet file",
		"{url: ilo://a/bay}":                                                 "object",
		"{url: 'ilo://[fe80::1%25]'}":                                        "the zone of the address is empty",
		"{kind: ilo, address: 'fe80::1'}":                                    "give the interface, as in \"ilo://[fe80::1%25eth0]\"",
		"{url: 'ilo://fe80::1'}":                                             "brackets",
		"{kind: ilo, address: 'fe80::1%25eth0', way: queue, recovery: true}": `unknown field "recovery"`,
	} {
		_, err := fleet.Parse("f.yaml", []byte("targets:\n  - url: linux://other\n  - "+text+"\n"))
		require.ErrorIs(t, err, sum.ErrInvalid, text)
		require.ErrorContains(t, err, "f.yaml:3: ", text)
		require.ErrorContains(t, err, want, text)
	}
}

// TestRedfishNames: every way and profile of the driver has its name here.
func TestRedfishNames(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "transport", "redfish", "options.go"))
	require.NoError(t, err)
	found := 0
	for _, m := range regexp.MustCompile(`(?m)^\t(Way|Profile)\w+ +(?:Way|Profile) *= "([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
		if m[1] == "Way" {
			_, err = fleet.ParseWay(m[2])
		} else {
			_, err = fleet.ParseProfile(m[2])
		}
		require.NoError(t, err, m[0])
		found++
	}
	require.GreaterOrEqual(t, found, 15)
}

// TestParseKey reads digests of keys in the forms in which programs show them.
func TestParseKey(t *testing.T) {
	t.Parallel()
	want := sha256.Sum256([]byte("key"))
	hexed := hex.EncodeToString(want[:])
	var colons []string
	for i := range want {
		colons = append(colons, strings.ToUpper(hexed[2*i:2*i+2]))
	}
	for _, s := range []string{transport.Fingerprint([]byte("key")), transport.Fingerprint([]byte("key")) + "=", "sha256//" + base64.StdEncoding.EncodeToString(want[:]),
		hexed, strings.Join(colons, ":")} {
		got, err := fleet.ParseKey(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "SHA256:", hexed[2:], hexed + "00", "MD5:" + hexed[:32], "sha1//" + hexed, "SHA256:" + hexed, "x" + hexed[1:]} {
		_, err := fleet.ParseKey(s)
		require.ErrorIs(t, err, sum.ErrInvalid, s)
	}
}

// TestRedfishSettings: what is said of one target comes before what is said of all.
func TestRedfishSettings(t *testing.T) {
	t.Parallel()
	srv, old := processor(t, redfishtest.Config{}), processor(t, redfishtest.Config{LegacyTLS: true})
	yes, no := true, false
	another := sha256.Sum256([]byte("another"))
	for name, tt := range map[string]struct {
		all func(w *world, c *fleet.Config)
		own fleet.RedfishSettings
		srv *redfishtest.Server
		is  error
	}{
		"nothing":              {is: transport.ErrUnknownIdentity},
		"pin":                  {own: fleet.RedfishSettings{Keys: [][32]byte{srv.SPKI()}}},
		"one of two":           {own: fleet.RedfishSettings{Keys: [][32]byte{another, srv.SPKI()}}},
		"wrong pin":            {own: fleet.RedfishSettings{Keys: [][32]byte{another}}, is: transport.ErrTrust},
		"pin of all":           {all: func(_ *world, c *fleet.Config) { c.Keys = [][32]byte{srv.SPKI()} }},
		"own before that":      {all: func(_ *world, c *fleet.Config) { c.Keys = [][32]byte{srv.SPKI()} }, own: fleet.RedfishSettings{Keys: [][32]byte{another}}, is: transport.ErrTrust},
		"accepted":             {own: fleet.RedfishSettings{AcceptNew: &yes}},
		"not accepted":         {all: func(_ *world, c *fleet.Config) { c.AcceptNew = true }, own: fleet.RedfishSettings{AcceptNew: &no}, is: transport.ErrUnknownIdentity},
		"pin before first use": {all: func(_ *world, c *fleet.Config) { c.AcceptNew = true }, own: fleet.RedfishSettings{Keys: [][32]byte{another}}, is: transport.ErrTrust},
		"pin before authorities": {all: func(w *world, c *fleet.Config) {
			c.Authorities = []string{w.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))}
		}, own: fleet.RedfishSettings{Keys: [][32]byte{another}}, is: transport.ErrTrust},
		"old TLS":           {own: fleet.RedfishSettings{Keys: [][32]byte{old.SPKI()}, LegacyTLS: &yes}, srv: old},
		"old TLS, unwanted": {own: fleet.RedfishSettings{Keys: [][32]byte{old.SPKI()}}, srv: old, is: transport.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, srv := newWorld(t), cmp.Or(tt.srv, srv)
			w.cfg.Password = transport.NewSecret(canary)
			if tt.all != nil {
				tt.all(w, &w.cfg)
			}
			target := sum.Target{Kind: sum.Redfish, User: srv.User(), Address: srv.Addr()}
			w.cfg.RedfishTargets = map[string]fleet.RedfishSettings{target.String(): tt.own}
			r, err := fleet.New(w.cfg)
			require.NoError(t, err)
			_, err = connect(t, r, target)
			if tt.is == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, tt.is)
			if tt.is == transport.ErrTrust {
				require.NotErrorIs(t, err, transport.ErrUnknownIdentity)
			}
		})
	}

	// An authority of its own, and options for the driver.
	w := newWorld(t)
	w.cfg.Password, w.cfg.Authorities = transport.NewSecret(canary), []string{w.write("none.pem", "nothing")}
	w.cfg.Redfish = redfish.Options{Way: redfish.WayQueue, TPMOverride: true, IgnoreQueue: true}
	target := sum.Target{Kind: sum.Redfish, User: srv.User(), Address: srv.Addr()}
	w.cfg.RedfishTargets = map[string]fleet.RedfishSettings{target.String(): {
		Authorities: []string{w.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))},
		Way:         redfish.WayMultipart, Profile: redfish.ProfileGeneric, TPMOverride: &no, RecoverySet: &yes,
	}}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	_, err = connect(t, r, target)
	require.NoError(t, err)
	_, ep, err := r.Resolve(t.Context(), target)
	require.NoError(t, err)
	got := ep.Options.(redfish.Options)
	got.ConnectTimeout = 0
	require.Equal(t, redfish.Options{Way: redfish.WayMultipart, Profile: redfish.ProfileGeneric, IgnoreQueue: true, RecoverySet: true}, got)
}
