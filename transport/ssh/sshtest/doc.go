// Package sshtest is an SSH server for tests, named after net/http/httptest: it
// needs no root rights and nothing installed beyond a POSIX shell.
//
//	srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: "secret"})
//	...
//	defer srv.Close()
//	conn, err := (&ssh.Transport{}).Dial(ctx, transport.Endpoint{
//		Address:     srv.Addr(),
//		Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("secret")},
//		Trust:       transport.Trust{HostKeys: []string{srv.AuthorizedHostKey()}},
//	})
//
// It really does what it is asked: commands run under /bin/sh in a home
// directory of the server's own, the SFTP subsystem serves the file system with
// the rights of the test, and forwarding reaches real sockets. It behaves as
// OpenSSH does where that matters to a client: every command is a session leader
// of its own, a closed channel does not end its command, the "signal" request
// reaches the whole process group, and a server restricted to SFTP answers every
// command with the SFTP server.
//
// Faults are switched on while it runs: [Server.CutAfter] breaks the line in
// mid-transfer, [Server.Stall] lets it hang, [Server.Refuse] turns callers away,
// [Server.HangCommands] leaves commands without an answer, [Server.EndSFTP] and
// [Server.EndSessions] close sessions and leave the line.
//
// It does not change users or roots: what a test run by root tells a server to do
// is done by root on this machine. An agent in particular goes where its base
// directories say; "~/agents" keeps it in the server's home.
//
// [Server.DialContext] connects in memory, without a socket, for tests that run
// on the clock of testing/synctest.
package sshtest
