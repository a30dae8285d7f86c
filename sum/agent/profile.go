package agent

import (
	"strconv"

	"github.com/roundsman-go/roundsman/transport"
)

// Profile names how the exit status of an installer is to be understood. There
// is no table that fits all: 0 is success for dpkg and failure for a Windows
// Smart Component.
type Profile string

// The profiles. What no profile knows is failure.
const (
	ProfileNone          Profile = ""                // zero proves nothing
	ProfileZeroOK        Profile = "zero-ok"         // 0 done
	ProfileDeb           Profile = "deb"             // dpkg(1): 0 done
	ProfileRPM           Profile = "rpm"             // rpm(8): 0 done
	ProfileMSI           Profile = "msi"             // Windows Installer: 0 done, 3010 and 1641 reboot
	ProfileHPELinux      Profile = "hpe-linux"       // Smart Component: 0 done, 1 reboot, 2 not needed
	ProfileHPELinuxMulti Profile = "hpe-linux-multi" // for several nodes: 0 done, 1 reboot, 2 and 3 not needed
	ProfileHPEWindows    Profile = "hpe-windows"     // Smart Component: 1 done, 2 reboot, 3 not needed, 0 failed
	ProfileINF           Profile = "inf"             // pnputil /add-driver X.inf /install: 0 done, 259 not needed, 3010 and 1641 reboot
	ProfileDellDUP       Profile = "dell-dup"        // Dell Update Package: 0 done, 2 and 6 reboot
)

// meaning is what an exit status says.
type meaning struct {
	verdict    transport.Verdict
	activation transport.Activation
	text       string // why it is a failure; may be empty
}

var (
	done      = meaning{verdict: transport.VerdictApplied}
	reboot    = meaning{verdict: transport.VerdictStaged, activation: transport.ActivationReboot}
	notNeeded = meaning{verdict: transport.VerdictNotNeeded}
	unproven  = meaning{verdict: transport.VerdictUnknown}
	cancelled = meaning{verdict: transport.VerdictCancelled, text: "somebody cancelled it on the target before anything was installed"}
)

func failed(text string) meaning { return meaning{verdict: transport.VerdictFailed, text: text} }

// profiles holds the tables. Sources: dpkg(1); rpm(8); Windows Installer, "MsiExec.exe
// and InstMsi.exe error messages"; the guides of HP SUM 4 to 6, "Component return
// codes"; Microsoft, "PnPUtil Return Values"; Dell Update Packages user's guide, "Exit codes for the CLI".
var profiles = map[Profile]struct {
	space string // of the code
	codes map[int]meaning
}{
	ProfileNone:   {"exit", map[int]meaning{0: unproven}},
	ProfileZeroOK: {"exit", map[int]meaning{0: done}},
	ProfileDeb:    {"dpkg", map[int]meaning{0: done}},
	ProfileRPM:    {"rpm", map[int]meaning{0: done}},
	ProfileMSI: {"msi", map[int]meaning{
		0:    done,
		1641: reboot,
		3010: reboot,
		1602: failed("somebody cancelled the installation on the target"),
		1603: failed("a fatal error during the installation"),
		1618: failed("another installation is in progress on the target"),
		1625: failed("a policy of the target forbids this installation"),
		1633: failed("the package is for another kind of processor"),
		1638: failed("another version of this product is installed"),
	}},
	ProfileHPELinux: {"hpe-linux", map[int]meaning{
		0: done,
		1: reboot,
		2: notNeeded,
		3: failed("the component reports that the installation failed"),
	}},
	ProfileHPELinuxMulti: {"hpe-linux-multi", map[int]meaning{
		0: done,
		1: reboot,
		2: notNeeded, // the same version is there
		3: notNeeded, // a newer version, or no hardware for it
		4: failed("the component did not find the node"),
		5: cancelled,
		6: failed("something that the component depends on is missing, or its tool failed"),
		7: failed("the component reports that the installation failed"),
	}},
	ProfileHPEWindows: {"hpe-windows", map[int]meaning{
		0: failed("the component reports that the installation failed"),
		1: done,
		2: reboot,
		3: notNeeded,
	}},
	ProfileINF: {"pnputil", map[int]meaning{
		0:    done,
		259:  notNeeded, // ERROR_NO_MORE_ITEMS: no device needs it, or all have it or a better one
		1641: reboot,    // and it has begun
		3010: reboot,
	}},
	ProfileDellDUP: {"dell-dup", map[int]meaning{
		0: done,
		1: failed("the package reports that the installation failed"),
		2: reboot,
		3: failed("a soft dependency is not met: the same or a newer version is installed, or a prerequisite is missing"),
		4: failed("a hard dependency is not met: a prerequisite is missing"),
		5: failed("the package is not for this system"),
		6: reboot, // and it has begun
	}},
}

// Known reports whether p is a profile of this version.
func (p Profile) Known() bool {
	_, ok := profiles[p]
	return ok
}

// Judge says what exit means under the profile. The code is kept as it was. The
// text says why the installer failed, where its code tells that.
func (p Profile) Judge(exit transport.Exit) transport.Result {
	table, ok := profiles[p]
	if !ok {
		table.space = "exit"
	}
	r := transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: table.space, Value: strconv.Itoa(exit.Code)}}
	if exit.Signal != "" {
		r.Code = transport.Code{Space: "signal", Value: exit.Signal}
		return r
	}
	if m, ok := table.codes[exit.Code]; ok {
		r.Verdict, r.Activation, r.Text = m.verdict, m.activation, m.text
	}
	return r
}
