// Package smb is the driver for Windows servers: files on an administrative share, the
// service control manager and named pipes, all over one TCP connection to port 445.
//
//	conn, err := (&smb.Transport{}).Dial(ctx, transport.Endpoint{
//		Address:     "db1.lab.example",
//		Credentials: transport.Credentials{User: "ops", Domain: "LAB", Password: secret},
//	})
//	...
//	defer conn.Close(ctx)
//	dir := "roundsman-" + rand.Text() // below the Windows directory: administrators alone write there
//	err = transport.Mkdir(ctx, conn, dir, 0o700)
//	res, err := transport.Put(ctx, conn, dir+"/setup.exe", file, transport.PutOptions{})
//	err = transport.CreateService(ctx, conn, transport.ServiceConfig{Name: "setup", Argv: []string{res.Info.Native, "serve"}})
//	err = transport.StartService(ctx, conn, "setup")
//
// # What it speaks
//
//	SMB 3.1.1 (MS-SMB2)           port 445, or 139 within a session of NetBIOS (RFC 1002);
//	                              older dialects by Options.Dialect alone
//	NTLMv2 (MS-NLMP)              accounts of the host, of a domain, or user@realm; a password
//	                              or its NT hash. No Kerberos: what asks for it fails
//	service control (MS-SCMR)     over the pipe svcctl of the same login; over TCP, sealed, where the
//	                              host refuses it there (RPC_S_CANNOT_SUPPORT), and only there
//	reboot (MS-RSP)               over the pipe InitShutdown
//	inventory (MS-WMI, MS-RRP)    if Options.WMI asks for it: see below
//	named pipes                   networks "pipe" of transport.Dial
//	room and clock                what preflight asks, without a program there
//	names of shares (MS-SRVS)     over the pipe srvsvc: what ADMIN$ is on the host itself
//	NetBIOS names (RFC 1002)      UDP port 137, by Options.NetBIOS, for what DNS does not know
//
// File names are slash-separated and start in Options.Share, which is ADMIN$, the Windows
// directory, unless another one is named. Windows takes some characters and names for
// something else; they are refused before anything is sent. Permission bits mean nothing:
// a file gets the access rights of its directory. So what is to be executed never goes
// into a directory in which others may create files, as in Temp.
//
// An agent reads an inventory with port 445 alone. With Options.WMI the driver reads
// one without an agent: software from the registry, over the pipe winreg; the rest from WMI,
// which takes DCOM: TCP port 135, and one that the host names, of the host that was
// dialled. What the host tells of its address is not believed.
//
// On a Windows manager an Endpoint without any credentials uses those of whoever runs the
// program, through the operating system's own client, Kerberos included, and without WMI.
// There a pipe has the level Identification, but for winreg and InitShutdown, which
// need more. That way is experimental: it is built and vetted, and has never run on
// Windows.
//
// # Who proves what
//
// A server shows no key over SMB, so an Endpoint with a Trust is refused. Each side proves
// to the other that it knows the key which the login made, of the account's password:
// every message is signed, or encrypted where the server requires that, and a session
// that nobody signs (guest, anonymous) is refused. So whoever does not know the password,
// or is not trusted to check it by the domain, cannot answer; whoever does can, such as
// another host with the same local administrator and password. Give each host its own
// (LAPS), and a server that one does not trust no login at all: it gets a response from
// which a weak password can be guessed.
//
// Over TCP the same key seals every message (NTLM, packet privacy), each of which
// is checked here, since go-msrpc v1.5.2 does not. A fault has no seal: its code is told, and
// nothing else is concluded from it. Nor has the choice of an interface, which whoever is
// on the way could exchange for another one of the same port. The endpoint mapper is asked
// in the clear, and only for a port; what answers there is a program on the host that the
// host lets check logins, which anybody's program there can.
//
// Nothing secret goes over the share or a service's command line: what is written there
// can be read by other administrators.
//
// # What was shown against what
//
//	shown against Samba 4.17 (smbtest)     logins, dialects 2.1 to 3.1.1, signing, encryption, port 139,
//	                                       IPv6, files, pipes, cut and silent lines, every code in the tests;
//	                                       user@realm of its own account, referrals of DFS (refused), two managers at once;
//	                                       programs in a registry, endpoint mapper, seal (of the registry), room, clock
//	against our own service manager        services, and their faults (smbtest; its pipe is Samba's)
//	against that of Wine 8, behind it      services that run; named pipes of theirs (examples/roundsman)
//	against servers made of go-msrpc       reboot, sealed service control, DCOM and WMI: an error in the
//	                                       NDR of that library shows on neither side
//	against a share in memory              links: Samba shows none, and follows those within a share
//	under Wine 8, on a directory           how files are replaced through the operating system's own client
//	not shown: no Windows was at hand      DCOM and WMI of Windows, its registry and what it makes of a
//	                                       reboot; UAC filtering, Defender and other virus scanners, running
//	                                       programs, which can be renamed and not removed (injected), NetBIOS
//	                                       names of a real network, limits of a Windows server, domains
//
// The library below, github.com/hirochachacha/go-smb2 v1.1.0, cannot ask for encryption,
// follows no DFS, and does not cancel requests on the server: a call whose context ends
// returns, and what it asked for may still happen. Its rename replaces nothing, so a Put
// over a file takes two: what that leaves if it is ended in between the next Put mends. Of
// two codes for a missing file, and of two for a refusal, it tells only what they share;
// openings.go has them where the session is not encrypted. What else of its faults could be
// met from outside is in line.go. One could not: a server that encrypts, and that has the
// account's key, can make the library read beyond a message, which ends the program.
// Replies that are signed and not encrypted are checked before. It opens every pipe with
// the level Impersonation (MS-SMB2, section 2.2.13), which no option changes: a program
// that has taken the name of a pipe before its service did, and that has
// SeImpersonatePrivilege, can do on that host what the account can. What services answer
// over MS-RPCE is decoded by go-msrpc, within bounds that are set here.
//
// Connections are safe for concurrent use.
package smb
