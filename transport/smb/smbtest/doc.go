// Package smbtest is a Windows server for tests, as far as one can be had on
// Linux, named after net/http/httptest: a real Samba file server with an
// in-memory service control manager behind it.
//
//	srv, err := smbtest.NewServer(smbtest.Config{})
//	...
//	defer srv.Close()
//	conn, err := (&smb.Transport{}).Dial(ctx, transport.Endpoint{
//		Address:     srv.Addr(),
//		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
//	})
//
// It runs on Linux, as root, and needs the program smbd
// (Debian package samba) beside what every Debian has.
// Elsewhere NewServer returns an error for which errors.Is(err,
// errors.ErrUnsupported) holds. Nothing of the machine's own Samba is started,
// read or written: configuration, accounts, locks, logs and shares lie in a
// private directory, and the account exists in it alone. smbd and all its
// processes live in namespaces of their own that end with
// [Server.Close], and by itself when the test process is killed; the directory
// goes with it.
//
// # What is real
//
// The SMB protocol is Samba's: NTLM, signing and encryption, mandatory where
// [Config] says so, dialects, share modes, read-only files, interim replies,
// named pipes on IPC$. Clients reach it through a proxy in the test process,
// where [Server.CloseConnections] breaks connections, [Server.Stall] lets them
// hang and [Server.Requests] counts. With [Config.NetBIOS] the proxy insists on
// the session request of RFC 1002, as a server does on port 139.
//
// # What is not
//
//   - The pipe svcctl leads to [Services], an in-memory model of the service
//     control manager (MS-SCMR) that runs nothing unless [Services.Run] is set, or
//     hands everything on to a [Services.Backend], such as Wine.
//     The NDR that it speaks is go-msrpc's, which is also what clients in Go use:
//     an error of that code shows on neither side.
//   - Of the other pipes there are only those of [Server.Listen] and
//     [Server.Forward]. Samba's own (srvsvc, winreg, samr, ...) are off, DCOM and
//     WMI do not exist.
//   - Nothing here is a Windows directory. Package sum/agent/install, which brings an
//     agent to a server, wants more than a driver does: System32/kernel32.dll below
//     [Server.Admin], of which the header of a PE file is enough, to tell the
//     processor; smb.Options.ShareRoot, such as C:\Windows, as there is no srvsvc; and
//     a [Services.Backend] that runs programs.
//   - A running executable can be unlinked here, not on Windows. [Server.Hold]
//     makes the removal of a file fail as a sharing violation, as where a program
//     has it open; [Server.Execute] makes it fail as where it is a program that runs,
//     and so does [Server.Pin], which keeps it from being renamed, too, and is done by
//     itself for programs of a Services.Backend.
//   - There is no user account control that filters the rights of administrators,
//     no Windows Defender, no firewall and no event log. Nor are there domains:
//     the account is a local one, whatever domain a client names with it.
//   - File names are kept by a POSIX file system. Paths such as C:\Windows exist
//     in [Server.Path] alone.
package smbtest
