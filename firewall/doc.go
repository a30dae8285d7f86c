// Package firewall opens ports of this host for named peers for as long as the
// process lives: rules as leases on the host's firewall.
//
//	fw, err := firewall.Open(ctx, firewall.Options{Run: "nightly"})
//	...
//	defer fw.Close(ctx)
//	lease, err := fw.Allow(ctx, firewall.Rule{
//		Network: "tcp", Port: 63001,
//		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
//	})
//	...
//	defer lease.Close(ctx)
//
// When [Firewall.Allow] returns, the peer reaches the port, through every front
// end that is active on the host; when it fails, nothing has changed. The port
// closes with the [Lease], with the [Firewall], or with the process, whichever
// ends first: also by SIGKILL. Nothing is written to disk, so that no reboot
// brings it back. Windows is an exception to both: see below. Listen first, then
// open, then tell peers; close in the opposite order.
//
// Only administrators can do this. For everybody else the [Error] has the
// commands to type by hand, and [Syntax] has them for any rule.
//
// # What works where
//
// On Linux: nftables, iptables on nftables, legacy iptables, ufw, firewalld, and
// several of them at once; IPv4 and IPv6. On Windows: Windows Defender Firewall. On
// other systems [Open] fails with [errors.ErrUnsupported]. [Firewall.State] tells
// what was found. It also names filters that no rule of ours overrides: on Linux a
// drop in prerouting, in ingress, in a table of another owner, or in a policy of
// firewalld that comes before the zones; on Windows a policy of the domain, a
// profile that blocks everything, and rules that block.
//
// What is said of Linux has been seen to work, in tests with the real programs. What
// is said of Windows has not: nothing of this package has run on a Windows yet. The
// code for it is built, vetted and analysed; everything but the calls themselves is
// tested with a record of them, against a strict imitation of what Microsoft
// documents; and in Wine, which implements no rules, the objects are made, the names
// of the policy's properties are known, and living processes are told from dead
// ones. Not seen are that Windows takes the rules and lets the peers in, how it
// writes addresses, how long it needs, and what it says when Group Policy rules.
//
// With [None] the firewall is left alone, and [Lease.ByHand] says which rules to
// add, in the syntax of the front ends that were found.
//
// After SIGKILL ports close at once, but in two cases after [Options.TTL]: in
// firewalld, and on kernels before 5.12, whose nftables has no tables that end
// with a process.
//
// A rule has no interface. A link-local peer (fe80::/10, 169.254.0.0/16) is let in on
// every link of the host, and with it whoever has that address on another link.
//
// What is opened is the way in. Answers have to get out by the host's own rules,
// and a connection outlives its lease where they let established ones pass.
//
// # How it is done on Linux
//
// A verdict "accept" ends one base chain only, and "drop" is final. So every input
// chain of the host has to let a packet pass, and no table of our own can do that
// for the others. There are two parts:
//
//   - The table "inet roundsman.N-RUN-PID-START" belongs to a netlink socket of
//     this process (flag owner). In it, packets from the peers to their ports get a
//     mark. No other process can change it, "nft flush ruleset" passes it over, and
//     the kernel destroys it with the socket. An older kernel refuses such a table;
//     then the openings in it have a timeout, all of them are renewed in one
//     transaction, and a table without openings that last is a dead process's.
//   - The gate: one rule at the head of each input chain, "accept what bears the
//     mark". It is the same for all managers of a host, and lets nothing in when
//     no table sets the mark.
//
// So a killed process leaves gates that do nothing, and the next [Open] or [Sweep]
// removes them, unless another manager lives. Who lives is known from the tables,
// not from process numbers, so that managers in different containers on one
// network do not take each other for dead. What managers share changes under a
// lock.
//
// Gates in tables of iptables are made by iptables itself and are ordinary rules
// of it: what is saved and restored while a manager runs stays as narrow as it
// was. Without such a program, or in a table that it cannot read, they are made
// through netlink.
//
// # firewalld
//
// The chains of firewalld take no gate: it deletes what is not its own, and newer
// versions own their table. There the openings are rich rules with a timeout, over
// D-Bus, in the zones that packets of the peer can arrive in: those with a source
// that the peer is in, and unless such a source covers the whole prefix, those of
// the host's interfaces. They are renewed after a third of their time, put back after
// a reload and when firewalld starts again, and follow interfaces and sources to other
// zones. Each manager has rules of its own.
//
// Their priorities are from -31769 to -15131 without the multiples of ten, a range
// that is not for others: so they come before other rules, and tell the owner, because
// rich rules bear no comment. Each excludes a destination that does not exist, for
// example 'destination NOT address="0.27.50.3"', which is a sum of the rule. By that
// [Sweep] knows ours. It leaves alone every other rule, those that are permanent, and
// those of which firewalld does not say whether they are.
//
// A call takes firewalld some 20 milliseconds. Where there are more than about a
// hundred openings, their timeouts grow with the number of them, so that it can
// renew them in half of its time: a thousand last for four minutes.
//
// "firewall-cmd --runtime-to-permanent" during a run makes the rules permanent.
// Nothing undoes this for the administrator who said it; [Sweep] logs the command
// that does. If firewalld itself is killed, what it had opened, for whomever, stays
// open until it starts and is reloaded; the log says so.
//
// # Reloads
//
// "nft flush ruleset", "ufw reload" and "iptables-restore" take the gates away. They
// are put back at once after a change of nftables, and in legacy iptables, which
// tells nobody, after [Options.Check]. A gate that an administrator moved down
// stays where it is.
//
// A ruleset that was saved with nft during a run holds our table too. While its
// owner lives it cannot be loaded; afterwards it is swept.
//
// # The mark
//
// Packet marks are shared by all software of a host. The default, 0x52 in the lowest
// 12 bits, is apart from what others are known to set: Calico uses the upper 16 bits,
// Tailscale 0xff0000, kube-proxy 0x4000 and 0x8000. Cilium uses all 32, and its
// lowest eight can hold the ID of a cluster, but then one of 0xf00 is set as well,
// and none of them is in ours. [Options.Mark] and [Options.Mask] move ours where
// something else uses the same value.
//
// While a manager lives, the mark alone opens nothing: packets that come with it, or
// get it in the mangle chains, lose it before the filter chains see them. The gates
// of a killed one let such packets in until they are swept; so does, at any time,
// a rule of others that sets the same value between the mangle chains and the gate.
//
// Changed are packets that match an opening, and those that come with our value: in
// the bits of the mask, on their way to a local socket.
//
// # How it is done on Windows
//
// There is one rule for each port, and one more for every 200 peers, named
// "roundsman:RUN:PID:START:INSTANCE PORT/NETWORK", in the group "roundsman". It
// allows the named addresses, in every profile, to reach that port of this program,
// and no other program's: what listens must be the program that opened it. A change
// of peers edits the rule, in one step. A rule that comes back open to
// everybody, though it was not to be, is removed. The program is named by the path of
// its file, not of a link that leads to it.
//
// Names of rules need not be unique, and Windows removes rules by them. So a rule gets
// another name before it is removed, and the copy that an administrator made of it
// stays as it is, unless that is in the group, too. Where only the copy is left, the
// rule comes back beside it.
//
// These rules are on disk. They outlive a killed process, and a reboot, until the
// next [Open] or [Sweep] of whomever finds their owner dead, by number and time of
// creation. Until then they let the named peers reach the named port of the same
// program, when that runs again. [Options.Guardian] names a command that removes
// them at once: a child that outlives its parent. A library cannot start itself, so
// that without one, nothing does. If both are killed, it is again the next start.
//
// In Windows a rule that blocks comes before those that allow. Where Group Policy
// does not merge the host's rules, or the profile blocks whatever comes in,
// [Firewall.Allow] fails with [errors.ErrUnsupported]; where this is so in one of
// several profiles in use, it is only among the blocks of the [State], because the
// peer may come in through another. Rules of Group Policy itself are not in sight.
// Where the firewall is off, the rules are added all the same: somebody may switch
// it on.
//
// Calls of COM cannot be interrupted. They are made by one goroutine; a call of this
// package returns when its context ends, and what it had begun is undone once
// Windows answers.
//
// # Tests, other systems
//
// A [Driver] is what changes the rules of a host. Package firewalltest has one
// that exists in memory; [None] is for runs that are to leave the firewall alone.
// Other front ends and systems belong behind the same interface: counting,
// checking and merging of rules is done before it.
package firewall
