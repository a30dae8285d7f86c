package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/spf13/cobra"
)

// redfishFlags are for targets that speak Redfish.
type redfishFlags struct {
	pins        string
	acceptNew   bool
	authorities []string
	pin         []string
	legacyTLS   bool
	profile     string
	way         string
	tpmOverride bool
	ignoreQueue bool
	recoverySet bool
	resetType   string // reboot's alone

	own map[string]fleet.RedfishSettings // of the fleet file, by target
}

// addTrust adds those that say what such a target is, and how it proves itself.
func (f *redfishFlags) addTrust(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.pins, "pins", "", "`FILE` with the keys of iLOs and others that speak Redfish (in the user's state directory)")
	s.BoolVar(&f.acceptNew, "accept-new", false, "record the key of such a target in that file when it is seen for the first time, and trust it")
	s.StringArrayVar(&f.pin, "pin", nil, "SHA-256 `PIN` of the public key of the one such target of the run, as SHA256:... or in hexadecimal; that file and the system's authorities do not count then; can be repeated")
	s.StringArrayVar(&f.authorities, "ca-file", nil, "PEM `FILE` with authorities for their certificates, instead of those of the system; can be repeated")
	s.BoolVar(&f.legacyTLS, "legacy-tls", false, "speak TLS of old, too, with such a target that --pin names")
	s.StringVar(&f.profile, "profile", "", "`PROFILE` that such targets are taken for, whatever they say: generic, ilo4, ilo5, ilo6, ilo7 or rmc")
}

// addUpdates adds those that say how such a target is updated.
func (f *redfishFlags) addUpdates(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.way, "way", "", "the only `WAY` for updates by Redfish: multipart, http-push, hpe-push, simple-update, add-from-uri, install-from-uri, update-all, queue or install-set")
	s.BoolVar(&f.tpmOverride, "tpm-override", false, "change firmware by Redfish although a trusted module would then ask for its recovery key")
	s.BoolVar(&f.ignoreQueue, "ignore-queue", false, "update an iLO although its update queue holds tasks, or another program manages it")
	s.BoolVar(&f.recoverySet, "recovery-set", false, "have an iLO put what is pushed into its recovery set, too")
}

// options puts what the flags say into options of the driver.
func (f *redfishFlags) options(o redfish.Options) redfish.Options {
	o.Way, o.TPMOverride, o.IgnoreQueue, o.RecoverySet = redfish.Way(f.way), f.tpmOverride, f.ignoreQueue, f.recoverySet
	o.LegacyTLS, o.ResetType = f.legacyTLS, f.resetType
	if f.profile != "" {
		o.Profile = redfish.Profile(f.profile)
	}
	return o
}

// keys are those of --pin, which check has looked at.
func (f *redfishFlags) keys() [][sha256.Size]byte {
	var out [][sha256.Size]byte
	for _, p := range f.pin {
		if key, err := fleet.ParseKey(p); err == nil {
			out = append(out, key)
		}
	}
	return out
}

// check looks whether the flags make sense, and for the files that they and the fleet file
// name.
func (f *redfishFlags) check() error {
	for _, p := range f.pin {
		if _, err := fleet.ParseKey(p); err != nil {
			return usagef("--pin: %w", err)
		}
	}
	if _, err := fleet.ParseWay(f.way); err != nil {
		return usagef("--way: %w", err)
	}
	if _, err := fleet.ParseProfile(f.profile); err != nil {
		return usagef("--profile: %w", err)
	}
	if err := fleet.CheckResetType(f.resetType); err != nil {
		return usagef("--reset-type: %w", err)
	}
	switch {
	case f.legacyTLS && len(f.pin) == 0:
		return usagef("--legacy-tls takes --pin: nothing else of such a connection proves who answers; in a fleet file, legacy_tls beside the pin of the target")
	case f.acceptNew && len(f.pin) > 0:
		return usagef("--pin excludes --accept-new: the key is known")
	}
	for _, name := range f.authorities {
		if err := isFile(name); err != nil {
			return usageError{fmt.Errorf("--ca-file %s: %w", name, err)}
		}
	}
	for _, t := range slices.Sorted(maps.Keys(f.own)) {
		for _, name := range f.own[t].Authorities {
			if err := isFile(name); err != nil {
				return usageError{fmt.Errorf("%s: ca_file %s: %w", t, name, err)}
			}
		}
	}
	return nil
}

func isFile(name string) error {
	fi, err := os.Stat(name)
	if err == nil && fi.IsDir() {
		return errors.New("it is a directory")
	}
	return err
}

// checkTargets is check, and refuses flags that none of the targets heeds, and a pin for
// several.
func (f *redfishFlags) checkTargets(list []sum.Target) error {
	if err := f.check(); err != nil {
		return err
	}
	speaking := 0
	for _, t := range list {
		if fleet.SpeaksRedfish(t.Kind) && len(f.own[t.String()].Keys) == 0 {
			speaking++
		}
	}
	if speaking > 1 && len(f.pin) > 0 {
		return usagef("--pin is the key of one target: give each in the fleet file (pin), or its line in the file of --pins")
	}
	if len(list) == 0 || slices.ContainsFunc(list, func(t sum.Target) bool { return fleet.SpeaksRedfish(t.Kind) }) {
		return nil
	}
	for _, flag := range []struct {
		name string
		is   bool
	}{
		{"--accept-new", f.acceptNew}, {"--pin", len(f.pin) > 0}, {"--ca-file", len(f.authorities) > 0}, {"--legacy-tls", f.legacyTLS}, {"--profile", f.profile != ""},
		{"--way", f.way != ""}, {"--tpm-override", f.tpmOverride}, {"--ignore-queue", f.ignoreQueue}, {"--recovery-set", f.recoverySet},
		{"--reset-type", f.resetType != ""},
	} {
		if flag.is {
			return usagef("%s is for targets that speak Redfish (ilo://, superdome-flex:// and redfish://), and none of these does", flag.name)
		}
	}
	return nil
}

// redfishAdvice is what can be done by flags about a failure of a class at a target that
// speaks Redfish, or "".
func redfishAdvice(class error) string {
	switch class {
	case transport.ErrUnknownIdentity:
		return "--accept-new records the key that it shows now, if you are sure that nobody is in between; --pin PIN names the right one, as pin in the fleet file and a line in the file of --pins do, and --ca-file FILE its authority"
	case transport.ErrTrust:
		return "what is expected is in the file of --pins, in --pin or in pin of the fleet file, and in --ca-file: replace it only when you know why the target has another key"
	case sum.ErrNoPassword, transport.ErrAuth:
		return noPasswordAdvice
	case transport.ErrTimeout:
		return "--connect-timeout TIME gives a target longer"
	case portalloc.ErrExhausted, portalloc.ErrBusy, portalloc.ErrDisabled:
		return portAdvice
	case sum.ErrJournal:
		return "--journal DIR names another directory for the journal"
	}
	return ""
}
