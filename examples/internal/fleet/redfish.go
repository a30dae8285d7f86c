package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
)

// redfishRoute is the key of the route over Redfish; see smbRoute.
const redfishRoute = "redfish"

// SpeaksRedfish reports whether targets of a kind are reached by the driver for Redfish.
func SpeaksRedfish(k sum.Kind) bool {
	return k == sum.ILO || k == sum.SuperdomeFlex || k == sum.Redfish
}

// RedfishSettings are what is said of one target that speaks Redfish. What they leave out
// is as Config says for all.
type RedfishSettings struct {
	// Keys are those that the target may show; see Config.Keys. Of the authorities only
	// those of Authorities count beside them.
	Keys [][sha256.Size]byte
	// Authorities are as Config.Authorities.
	Authorities []string
	AcceptNew   *bool

	Profile     redfish.Profile
	Way         redfish.Way
	TPMOverride *bool
	IgnoreQueue *bool
	RecoverySet *bool
	LegacyTLS   *bool
}

// options puts the settings into options of the driver.
func (s RedfishSettings) options(o redfish.Options) redfish.Options {
	o.Profile, o.Way = cmp.Or(s.Profile, o.Profile), cmp.Or(s.Way, o.Way)
	for _, f := range []struct {
		own *bool
		to  *bool
	}{{s.TPMOverride, &o.TPMOverride}, {s.IgnoreQueue, &o.IgnoreQueue}, {s.RecoverySet, &o.RecoverySet}, {s.LegacyTLS, &o.LegacyTLS}} {
		if f.own != nil {
			*f.to = *f.own
		}
	}
	return o
}

// What the driver understands by name.
var (
	ways = []redfish.Way{redfish.WayMultipart, redfish.WayHTTPPush, redfish.WayHPEPush, redfish.WaySimpleUpdate,
		redfish.WayAddFromURI, redfish.WayInstallFromURI, redfish.WayUpdateAll, redfish.WayQueue, redfish.WayInstallSet}
	profiles = []redfish.Profile{redfish.ProfileGeneric, redfish.ProfileILO4, redfish.ProfileILO5, redfish.ProfileILO6,
		redfish.ProfileILO7, redfish.ProfileRMC}
	// DMTF DSP2046, Resource.ResetType: those after which a host runs.
	resetTypes = []string{"GracefulRestart", "ForceRestart", "PowerCycle", "FullPowerCycle", "On", "ForceOn", "PushPowerButton"}
)

// ParseWay reads the name of a way of updates; "" is none. The error matches sum.ErrInvalid.
func ParseWay(s string) (redfish.Way, error) { return oneOf("way", redfish.Way(s), ways) }

// ParseProfile reads the name of a profile; "" is none. The error matches sum.ErrInvalid.
func ParseProfile(s string) (redfish.Profile, error) {
	return oneOf("profile", redfish.Profile(s), profiles)
}

// CheckResetType looks whether there is such a way of restarting a host, in this spelling;
// "" is none. Which of them a service takes, it says itself. The error matches
// sum.ErrInvalid.
func CheckResetType(s string) error {
	for _, t := range resetTypes {
		if s != t && strings.EqualFold(s, t) {
			return invalid("%q: the spelling is %q", s, t)
		}
	}
	_, err := oneOf("reset type", s, resetTypes)
	return err
}

func oneOf[S ~string](what string, s S, known []S) (S, error) {
	if s == "" || slices.Contains(known, s) {
		return s, nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return "", invalid("%s %q: want one of %s", what, string(s), strings.Join(names, ", "))
}

// ParseKey reads the SHA-256 digest of a public key, in one of the forms in which programs
// show it: "SHA256:" and base64, as messages of this program have it, "sha256//" and
// base64, as curl has it, or 64 hexadecimal digits, with colons or without, as openssl has
// them. The error matches sum.ErrInvalid.
func ParseKey(s string) (key [sha256.Size]byte, _ error) {
	text, ok := strings.CutPrefix(s, "SHA256:")
	if !ok {
		text, ok = strings.CutPrefix(s, "sha256//")
	}
	var digest []byte
	var err error
	if ok {
		digest, err = base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	} else {
		digest, err = hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	}
	if err != nil || len(digest) != len(key) {
		return key, invalid("pin %.80q: want the SHA-256 of the public key, as SHA256: and 43 characters, which messages show, or as 64 hexadecimal digits", s)
	}
	return [sha256.Size]byte(digest), nil
}

// redfishKeys are the keys of a fleet file for targets that speak Redfish.
type redfishKeys struct {
	Pin         string `yaml:"pin"` // several are separated by blanks
	CAFile      string `yaml:"ca_file"`
	AcceptNew   *bool  `yaml:"accept_new"`
	Profile     string `yaml:"profile"`
	Way         string `yaml:"way"`
	TPMOverride *bool  `yaml:"tpm_override"`
	IgnoreQueue *bool  `yaml:"ignore_queue"`
	RecoverySet *bool  `yaml:"recovery_set"`
	LegacyTLS   *bool  `yaml:"legacy_tls"`
}

// given names the first key that is there, or is "".
func (k redfishKeys) given() string {
	for _, f := range []struct {
		name string
		is   bool
	}{
		{"pin", k.Pin != ""}, {"ca_file", k.CAFile != ""}, {"accept_new", k.AcceptNew != nil}, {"profile", k.Profile != ""}, {"way", k.Way != ""},
		{"tpm_override", k.TPMOverride != nil}, {"ignore_queue", k.IgnoreQueue != nil}, {"recovery_set", k.RecoverySet != nil}, {"legacy_tls", k.LegacyTLS != nil},
	} {
		if f.is {
			return f.name
		}
	}
	return ""
}

// settings are what the keys of a target say, and what defaults say where it says nothing.
func (k redfishKeys) settings(d redfishKeys) (RedfishSettings, error) {
	on := func(b *bool) bool { return b != nil && *b }
	if k.Pin == "" && !on(k.AcceptNew) { // else the target has said how it proves itself
		k.Pin = d.Pin
	}
	if k.AcceptNew == nil && k.Pin == "" {
		k.AcceptNew = d.AcceptNew
	}
	s := RedfishSettings{
		AcceptNew: k.AcceptNew, TPMOverride: cmp.Or(k.TPMOverride, d.TPMOverride), IgnoreQueue: cmp.Or(k.IgnoreQueue, d.IgnoreQueue),
		RecoverySet: cmp.Or(k.RecoverySet, d.RecoverySet), LegacyTLS: cmp.Or(k.LegacyTLS, d.LegacyTLS),
	}
	for _, text := range strings.Fields(k.Pin) {
		key, err := ParseKey(text)
		if err != nil {
			return s, err
		}
		s.Keys = append(s.Keys, key)
	}
	if ca := cmp.Or(k.CAFile, d.CAFile); ca != "" {
		s.Authorities = []string{ca}
	}
	var err error
	if s.Profile, err = ParseProfile(cmp.Or(k.Profile, d.Profile)); err != nil {
		return s, err
	}
	if s.Way, err = ParseWay(cmp.Or(k.Way, d.Way)); err != nil {
		return s, err
	}
	switch {
	case on(s.AcceptNew) && len(s.Keys) > 0:
		return s, invalid("pin excludes accept_new: the key is known")
	case on(s.LegacyTLS) && len(s.Keys) == 0:
		return s, invalid("legacy_tls takes a pin: nothing else of such a connection proves who answers")
	}
	return s, nil
}

// redfish reaches a management processor, or whatever else speaks Redfish, with a name and
// a password. Its certificate, which it has made itself as a rule, is one that is recorded
// in Config.Pins, or has an authority.
func (r *Resolver) redfish(t sum.Target) (transport.Transport, transport.Endpoint, error) {
	fail := func(err error) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, err
	}
	own := r.cfg.RedfishTargets[t.String()]
	trust, err := r.redfishTrust(own)
	if err != nil {
		return fail(err)
	}
	reach := r.reachTime(settings{})
	opts := own.options(r.cfg.Redfish)
	opts.ConnectTimeout = reach
	ep := transport.Endpoint{
		Address: t.Address, Options: opts, Trust: trust,
		Credentials: transport.Credentials{User: t.User, Password: r.password(t)},
	}
	if ep.Credentials.Password.IsZero() {
		if ep.Credentials.Password = r.asked.get(loginSecret(t.User)); ep.Credentials.Password.IsZero() && r.cfg.Ask == nil {
			return fail(noPassword("resolve", t.Address, t.User, nil))
		}
	}
	tr := r.decorated(redfishRoute, func() transport.Transport { return &redfish.Transport{DialContext: r.dialNetwork} })
	return &passwordLogin{&patient{tr, reach}, r, t.User}, ep, nil
}

// redfishTrust is what a target with these settings can prove itself by.
func (r *Resolver) redfishTrust(own RedfishSettings) (transport.Trust, error) {
	keys, files := r.cfg.Keys, r.cfg.Authorities
	if len(own.Keys) > 0 {
		keys, files = own.Keys, nil
	}
	if len(own.Authorities) > 0 {
		files = own.Authorities
	}
	trust := transport.Trust{SPKI: keys}
	var err error
	if len(keys) == 0 || len(files) > 0 {
		if trust.Roots, err = r.roots.of(files); err != nil || len(keys) > 0 {
			return trust, err
		}
	}
	accept := r.cfg.AcceptNew
	if own.AcceptNew != nil {
		accept = *own.AcceptNew
	}
	switch {
	case len(keys) > 0:
	case accept:
		if err := os.MkdirAll(filepath.Dir(r.cfg.Pins), 0o700); err != nil {
			return trust, fmt.Errorf("recording keys: %w", err)
		}
		trust.FirstUse = redfish.AcceptNew(r.cfg.Pins)
	default:
		trust.FirstUse = redfish.Recorded(r.cfg.Pins)
	}
	return trust, nil
}

// authorities are those of files, each list of which is read once.
type authorities struct {
	mu    sync.Mutex
	pools map[string]*x509.CertPool
}

// of returns those of the files, or of the system where there is no file.
func (a *authorities) of(files []string) (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := strings.Join(files, "\x00")
	if pool := a.pools[key]; pool != nil {
		return pool, nil
	}
	pool, err := readAuthorities(files)
	if err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	if a.pools == nil {
		a.pools = map[string]*x509.CertPool{}
	}
	a.pools[key] = pool
	return pool, nil
}

func readAuthorities(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return x509.SystemCertPool()
	}
	pool := x509.NewCertPool()
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, invalid("%s has no certificate in PEM form", file)
		}
	}
	return pool, nil
}

// Capture writes what a target that speaks Redfish answers; see [redfish.Transport.Capture].
func (r *Resolver) Capture(ctx context.Context, t sum.Target, w io.Writer, opts redfish.CaptureOptions) (redfish.Captured, error) {
	if !SpeaksRedfish(t.Kind) {
		return redfish.Captured{}, &transport.Error{Op: "capture", Target: t.Address, Kind: errors.ErrUnsupported,
			Hint: fmt.Sprintf("only what speaks Redfish can be captured, and not targets of kind %q", t.Kind)}
	}
	if err := r.Check(t); err != nil {
		return redfish.Captured{}, err
	}
	_, ep, err := r.redfish(t)
	if err == nil {
		err = r.needPassword(ctx, &ep)
	}
	if err != nil {
		return redfish.Captured{}, err
	}
	return (&redfish.Transport{DialContext: r.dialNetwork}).Capture(ctx, ep, w, opts)
}
