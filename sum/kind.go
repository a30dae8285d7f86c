package sum

import (
	"fmt"
	"slices"
	"strings"
)

// Kind says what a target is. Whether it is a server, which an agent updates, or
// a device, which its driver updates, follows from the Kind alone.
type Kind string

// The kinds of target.
const (
	Windows       Kind = "windows"
	Linux         Kind = "linux"
	VMware        Kind = "vmware"
	OA            Kind = "oa" // c-Class Onboard Administrator
	SuperdomeX    Kind = "superdome-x"
	SuperdomeFlex Kind = "superdome-flex"
	ILO           Kind = "ilo"
	VC            Kind = "vc" // Virtual Connect module
	FCSwitch      Kind = "fc-switch"
	SASSwitch     Kind = "sas-switch"
	Integrity     Kind = "integrity"
	Redfish       Kind = "redfish" // any other service that speaks Redfish
	Local         Kind = "local"   // the manager's own host
)

var kinds = []Kind{Windows, Linux, VMware, OA, SuperdomeX, SuperdomeFlex, ILO, VC, FCSwitch, SASSwitch, Integrity, Redfish, Local}

// Kinds returns every kind, in the order of the port table.
func Kinds() []Kind { return slices.Clone(kinds) }

// ParseKind returns the kind of that name.
func ParseKind(s string) (Kind, error) {
	if k := Kind(strings.ToLower(s)); slices.Contains(kinds, k) {
		return k, nil
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return "", &Error{Step: "parse", Err: fmt.Errorf("%w: kind %q; want one of %s", ErrInvalid, s, strings.Join(names, ", "))}
}

// IsServer reports whether an agent does the work on such a target.
func (k Kind) IsServer() bool { return k == Windows || k == Linux || k == Local }
