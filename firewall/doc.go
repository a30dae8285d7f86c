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
// brings it back. Listen first, then open, then tell peers; close in the opposite
// order.
//
// Only administrators can do this. For everybody else the [Error] has the
// commands to type by hand, and [Syntax] has them for any rule.
//
// # What works where
//
// On Linux: nftables, iptables on nftables, legacy iptables, ufw, firewalld, and
// several of them at once; IPv4 and IPv6. On other systems [Open] fails with
// [errors.ErrUnsupported]. [Firewall.State] tells what was found. It also names
// filters that no rule of ours overrides: a drop in prerouting, in ingress, in a
// table of another owner, or in a policy of firewalld that comes before the zones.
//
// With [None] the firewall is left alone, and [Lease.ByHand] says which rules to
// add, in the syntax of the front ends that were found.
//
// After SIGKILL ports close at once, but in two cases after [Options.TTL]: in
// firewalld, and on kernels before 5.12, whose nftables has no tables that end
// with a process.
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
// the host's interfaces. Their priorities are from the lowest 15,000, so that they
// come before other rules, and tell the owner, because rich rules bear no comment.
// They are renewed after a third of their time, put back after a reload and when
// firewalld starts again, and follow interfaces and sources to other zones. Each
// manager has rules of its own.
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
// Packet marks are shared by all software of a host. [Options.Mark] and
// [Options.Mask] move ours where something else uses the same value. Only packets
// that match an opening are changed, in their bits of the mask, on their way to a
// local socket.
//
// # Tests, other systems
//
// A [Driver] is what changes the rules of a host. Package firewalltest has one
// that exists in memory; [None] is for runs that are to leave the firewall alone.
// Other front ends and systems belong behind the same interface: counting,
// checking and merging of rules is done before it.
package firewall
