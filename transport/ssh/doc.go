// Package ssh is the driver for targets that are reached over SSH: Linux and
// other Unix servers, and whatever else offers a shell or SFTP.
//
//	tr := &ssh.Transport{}
//	conn, err := tr.Dial(ctx, transport.Endpoint{
//		Address:     "db1:22",
//		Credentials: transport.Credentials{User: "ops"},
//		Trust:       transport.Trust{KnownHosts: []string{"/etc/ssh/ssh_known_hosts"}},
//		Options:     ssh.Options{AgentSocket: os.Getenv("SSH_AUTH_SOCK"), Elevate: ssh.Sudo},
//	})
//
// # What a connection can do
//
// Dial finds out by one command what the server offers:
//
//	a POSIX shell   files, run, tunnel-tcp, tunnel-unix
//	SFTP alone      files, tunnel-tcp, tunnel-unix
//	neither         tunnel-tcp, tunnel-unix (a jump host)
//
// Whether a server permits forwarding shows only when it is tried: it then fails
// with ErrRejected or ErrUnreachable and the code {"ssh-open", reason}. With
// [Sudo] the Unix sockets are left out, because the server would connect to them
// as the user who logged in.
//
// # How it works
//
// Programs and scripts are handed to a POSIX sh that is called explicitly, in a
// form that Bourne shells, csh and fish pass on unchanged, so the login shell
// does not matter. What its start files print is told apart by a random mark and
// dropped. Where there is a shell, files are streamed through it (one command for
// each transfer) and checked with the target's own SHA-256 tool; where there is
// SFTP alone, they are written by pipelined requests and read back.
//
// A Put that was cut off is continued: its partial file is named after name and
// content, so another content never continues it, and all its bytes are checked
// in the end.
//
// # Protocol
//
// RFC 4251 to 4254 and 4256, draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL
// file for Unix sockets, keepalive, posix-rename, statvfs and limits. Algorithms
// are those that golang.org/x/crypto/ssh holds to be secure.
package ssh
