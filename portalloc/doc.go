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
// get different ports without a lock file. The Allocator keeps every lease from
// the garbage collector.
//
// # Ports
//
// [DefaultPolicies] has the documented numbers of both generations, and
// [Config.Policies] changes them. A role without a range has its port or fails
// with [ErrBusy]; one with a range goes on to the next port when one is taken,
// belongs to another role, is excluded or is refused. [Lease.Skipped] tells what
// was passed over. When nothing is left, the [Error] lists every port, why it
// could not be had, on Linux also which program has it, and what to do.
//
// # The source port role
//
// [ManagerToTarget] is the odd one out: its ports are where connections come
// from. [Allocator.Dialer] dials from them.
//
// # IPv4, IPv6
//
// By default a listener serves both families on one socket, or as many as the
// host has. [Options.Addrs] listens on several addresses on one port, all or
// none.
//
// # Systems
//
// Linux decides between two listeners in listen(2), so that an exclusive port
// needs no option. On Windows every socket has SO_EXCLUSIVEADDRUSE, and
// [Lease.File] is unsupported. macOS and the BSDs let one program listen on a
// wildcard address and another on a specific address of the same port; two
// programs with this package do not collide there as long as both listen on the
// wildcard address.
package portalloc
