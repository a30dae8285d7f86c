package firewall

// For tests in other processes.
var System = system

// OldKernel has this kernel refuse tables that end with the process, as one before
// Linux 5.12 does: it does not know the flag.
func OldKernel(o *Options) { o.ownerFlag = 1 << 31 }

// SlotOf tells an owner's rules in firewalld; the owner is as String writes it.
func SlotOf(owner string) int {
	o, _ := parseOwner(owner)
	return slotOf(o)
}
