package agent

import (
	"strconv"

	"github.com/roundsman-go/roundsman/transport"
)

// Profile names how the exit status of an installer is to be understood. There
// is no table that fits all: 0 is success for dpkg and failure for a Windows
// Smart Component.
type Profile string

// The profiles. Sources: dpkg(1) and rpm(8) for deb and rpm; the HP SUM guides
// for hpe-linux.
const (
	ProfileNone     Profile = ""          // nonzero is failure, zero proves nothing
	ProfileZeroOK   Profile = "zero-ok"   // 0 done, else failed
	ProfileDeb      Profile = "deb"       // dpkg: 0 done, else failed
	ProfileRPM      Profile = "rpm"       // rpm: 0 done, else failed
	ProfileHPELinux Profile = "hpe-linux" // 0 done, 1 reboot needed, 2 not needed, 3 failed
)

// Known reports whether p is a profile of this version.
func (p Profile) Known() bool {
	switch p {
	case ProfileNone, ProfileZeroOK, ProfileDeb, ProfileRPM, ProfileHPELinux:
		return true
	}
	return false
}

// Judge says what exit means under the profile. The code is kept as it was.
func (p Profile) Judge(exit transport.Exit) transport.Result {
	space := "exit"
	switch p {
	case ProfileDeb:
		space = "dpkg"
	case ProfileRPM:
		space = "rpm"
	case ProfileHPELinux:
		space = "hpe-linux"
	}
	r := transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: space, Value: strconv.Itoa(exit.Code)}}
	if exit.Signal != "" {
		r.Code = transport.Code{Space: "signal", Value: exit.Signal}
		return r
	}
	switch p {
	case ProfileHPELinux:
		switch exit.Code {
		case 0:
			r.Verdict = transport.VerdictApplied
		case 1:
			r.Verdict, r.Activation = transport.VerdictStaged, transport.ActivationReboot
		case 2:
			r.Verdict = transport.VerdictNotNeeded
		}
	case ProfileZeroOK, ProfileDeb, ProfileRPM:
		if exit.Code == 0 {
			r.Verdict = transport.VerdictApplied
		}
	default:
		if exit.Code == 0 {
			r.Verdict = transport.VerdictUnknown
		}
	}
	return r
}
