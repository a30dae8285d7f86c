// Package transport says what the update steps of this module need from a
// target, and nothing about how a protocol gives it.
//
// A [Transport] dials targets of one protocol. A [Conn] is one authenticated
// connection to one target. Beyond identifying itself, what a connection can do
// is a capability: a small optional interface ([FileStore], [Runner],
// [Services], [Tunneler], [Lister], [Inventorier], [Updater], [Undoer],
// [Rebooter], [Spacer], [Clocker]) together with package functions that use it:
//
//	conn, err := tr.Dial(ctx, ep)
//	...
//	res, err := transport.Put(ctx, conn, "/var/tmp/fw.bin", file, transport.PutOptions{})
//	if errors.Is(err, errors.ErrUnsupported) {
//		// this connection has no files: choose another way
//	}
//
// Callers never type-assert. A capability belongs to a connection, not to a Go
// type (an SSH server that offers SFTP only has files but runs no commands), so
// the package functions ask [Conn.Caps] first. Decorators such as [Retry],
// [Limit] and [Log] embed [Forward], which passes every capability on, so that
// none is lost by wrapping.
//
// # Errors
//
// Every error that a driver returns is an [*Error]: what was tried, on which
// target, the class (a sentinel for errors.Is), the code that the target gave,
// and a hint for the operator. Missing files match [io/fs.ErrNotExist], refused
// access [io/fs.ErrPermission], missing capabilities [errors.ErrUnsupported],
// and a context that ended matches the context's own error.
//
// # Contexts
//
// Every call returns when its context ends. [Conn.Close] cleans up even when its
// context has ended, for at most [CloseGrace].
//
// The package depends on the standard library alone. Drivers live below it, one
// package a protocol; package transporttest has a strict fake and the
// conformance suite that every driver must pass.
package transport
