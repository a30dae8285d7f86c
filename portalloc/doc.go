// Package portalloc gives out TCP ports by role, as listeners that are already
// open.
//
// A manager of updates has ports with documented numbers: targets, firewalls and
// people know them. A [Role] names what a port is for, a [Policy] which numbers
// it may have, and an [Allocator] opens the first of them that is free:
//
//	ports, err := portalloc.New(portalloc.Config{})
//	...
//	defer ports.Close(ctx)
//	web, err := ports.Listen(ctx, portalloc.HTTP, portalloc.Options{})
//	...
//	http.Serve(web, handler) // on 80, or on a random one of 63000, 63003-63005
//
// A port is never tested and opened later: it is opened, kept in a [Lease], and
// given back by Close. So several goroutines, and several managers on one host,
// get different ports without a lock file, and when a manager is killed the
// system gives its ports back. The Allocator keeps every lease from the garbage
// collector.
//
// # Ports
//
// [DefaultPolicies] has the documented numbers of both generations, and
// [Config.Policies] changes them: other numbers, a random start of a range, a
// range in random order. A role without a range has its port or fails with
// [ErrBusy]; one with a range goes on to the next port when one is taken, refused,
// reserved, excluded or another role's. [Lease.Skipped] tells what was passed
// over and why. When nothing is left, the [Error] lists every port, why it could
// not be had, on Linux and Windows also which program has it, and what to do:
//
//	portalloc: listen for role port on 63001: port is taken: 63001 taken by
//	nginx (pid 812) (stop what has the port, or give the role another one in
//	Config.Policies)
//
// # The classic generation
//
// With [Config.Generation] set to [Classic], [Allocator.ListenPair] opens the two
// listeners of a classic manager, also by the rule for a host with IPv4 only and
// one network adapter, and [Allocator.Dialer] dials from the ports of
// [ManagerToTarget], the role whose ports are where connections come from.
//
// # IPv4, IPv6
//
// By default a listener serves both families on one socket, on every host whose
// kernel can, whatever addresses it has at the time; without IPv6 sockets it
// serves IPv4. [Options.Addrs] listens on several addresses on one port, all or
// none: both families at once are the addresses 0.0.0.0 and ::.
//
// # Child processes
//
// [Lease.File] and [Lease.Files] hand the sockets to a child process, which goes
// on with net.FileListener or [Allocator.Adopt]; the port is held throughout.
//
// # Systems
//
// Linux decides between two listeners in listen(2), so that an exclusive port
// needs no option.
//
// On Windows every socket has SO_EXCLUSIVEADDRUSE, and handing sockets to a child
// is unsupported. Windows keeps an exclusive port from its next owner while a
// connection that its listener accepted is open. A port of an excluded range, as
// Hyper-V makes them, is passed over like one that is taken.
//
// macOS and the BSDs let one program listen on a wildcard address and another on
// a specific address of the same port; two programs with this package do not
// collide there as long as both listen on the wildcard address.
package portalloc
