// Package local is the driver for the manager's own host: on locked-down
// networks the program runs on the server itself. Nothing is dialled and no port
// is opened; files, programs and sockets are those of this process's system.
//
//	conn, err := (&local.Transport{}).Dial(ctx, transport.Endpoint{})
//	...
//	defer conn.Close(ctx)
//	res, err := transport.Put(ctx, conn, "/var/tmp/fw.bin", file, transport.PutOptions{})
//
// It is also the simplest driver to read: what package transport asks of every
// driver is here without a protocol around it.
//
// # Whose rights
//
// Everything is done with the rights of this process, and there is no way to
// others: an endpoint has neither credentials nor trust nor options, and one that
// has is refused with ErrInvalid, because nobody would check them. What this user
// may not do fails with fs.ErrPermission, as the system says it.
//
// # What a connection can do
//
//	files, run, tunnel-tcp   everywhere
//	tunnel-unix              on Unix, and where Windows has such sockets
//
// Named pipes of Windows are left out: what package os opens has no deadlines.
//
// # File names
//
// Names are slash-separated and absolute, as over SSH. On Windows they are
// written as OpenSSH for Windows writes them, "/C:/dir/file", and names that
// Windows would take for something else (a device, a stream, a name without its
// last dot) are refused.
//
// A Put that was interrupted is continued, also by another process: its partial
// file is named after name and content. All bytes are checked in the end, those
// that were there before as well.
//
// # What hangs
//
// A call returns when its context ends. What the kernel does not let go of, such
// as a read from a file server that is gone, is left behind then; Close waits for
// it, though no longer than transport.CloseGrace.
package local
