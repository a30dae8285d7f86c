// Package install is the manager's side of an agent's life: it brings the agent
// to a target over any connection that keeps files and runs programs, or on Windows
// services, starts it, connects to it, and removes it without a trace but logs.
//
//	in := &install.Installer{Source: &install.GoBuild{}}
//	a, err := in.Start(ctx, conn, agent.StartOptions{Target: "db1", ID: "m1-db1", Opened: journal})
//	if err != nil {
//		return err // and nothing was left on the target
//	}
//	inv, err := a.Inventory(ctx, agent.InventoryRequest{})
//	...
//	left, err := a.Remove(ctx) // logs only
//
// # Where it goes
//
// The agent's directory is made, for this manager and target alone and open to
// nobody else, below the first base directory that lets a program be written and
// executed: the binary itself is put there and asked for its version. A
// directory on a file system that is mounted noexec or read-only is told apart
// and the next one tried. A binary for another processor is refused before
// anything is sent.
//
// Where the binary is there and the system still refuses to execute it, the reason
// is found out from the state of the target, never from the words of an error: a
// mount with noexec; SELinux, which says by access(2) that the program is not for
// this login; fapolicyd, which runs, and decides at the execution alone. The error
// then matches [agent.ErrPolicy] and says which rule an administrator must add, with
// the path of the binary and its SHA-256. As root, where SELinux enforces and the
// binary has no type but that of its directory, it first gets the type bin_t
// (chcon(1)); nothing else on the target is relabelled. The part about fapolicyd is
// tested with a real one; that about SELinux with stand-ins for what the target
// says, never on a host that enforces. There components must be executable too: the
// rule for fapolicyd covers them, and for SELinux it is up to the host's policy.
//
// On Linux under systemd the agent and its jobs become units of their own; see
// package agent.
//
// # How it is reached
//
// The agent listens on a Unix socket that only its own user can open (on Windows: see
// there). The channel goes through the connection that is there already: by forwarding to
// that socket, or where the server forbids this through the agent's command
// "connect", whose standard input and output are piped. No further port of the
// target is used, unless StartOptions.Classic asks for the conversation of HP SUM 4
// to 6 (see [agent.Classic]), or [Installer.Network] for its port alone.
//
// # Windows
//
// A connection with files, services and named pipes, but without programs to run, leads
// to a Windows server. The agent's directory is below roundsman in the share, which is
// ADMIN$ and so the Windows directory, where administrators alone write; base directories
// of the caller's lie in the share, too, and must be such. There the program is put and
// read back, and then run as a service of its own, with the names of agent.ServiceName,
// agent.PipeName and agent.WindowsBinaryName, so that security software can be told of
// them beforehand. It is reached over its named pipe, through the connection, and who it
// is shows in a key that it has made itself: nothing secret is written to the share.
//
//	refused there                         is said to be
//	logins without administrator rights   fs.ErrPermission, and what UAC may have to do with it
//	a virus scanner's quarantine          agent.ErrQuarantined, with the path to except
//	rules for programs (AppLocker, WDAC)  agent.ErrPolicy, with path and SHA-256
//	a service that ends at once           agent.ErrStart, with its exit code and its log
//
// A service with our name that was there is a leftover of the same ID, and replaced. So is
// its program, but for one that a job still runs: Windows lets nobody replace that, and it
// is the agent once more, so that what came of the job is not lost.
//
// Removal goes the other way round: the agent's own service is stopped and deleted; where
// something may be in use the agent's command remove is run as a service, once, and
// refuses while a job runs; then the files go, and the program last, which Windows lets
// nobody delete while it runs. It is waited for some seconds; what is left is then named.
//
// Inspect puts nothing there and creates no service. So the room and the clock of such a
// target, and its way to the manager, are not known before an agent is. By that way
// an agent of the generation Classic tells of news, once it is there: who may call the
// manager is settled by a key that the agent makes only when it starts.
//
// None of this has run on Windows itself. With each fault above injected it is tested
// against Samba, a model of the service control manager and the agent of Linux; and the
// tests of examples/roundsman do it all with the agent of Windows, under Wine behind Samba.
//
// # The manager's own host
//
// Over package transport/local all of this holds for the manager's own host too.
// With [Installer.InProcess] the manager is itself the agent there: nothing is
// copied or listened to, and no agent binary is needed.
//
// # Where binaries come from
//
// A [Source]: a directory with a signed manifest ([FS]), the go command
// ([GoBuild]), or the running program itself ([Self]). [First] combines them.
//
// # After a crash
//
// StartOptions.Opened is told the [agent.Place] before the first change, so that
// a journal can name it. [Installer.Sweep] removes what is there, and a Start
// with the same ID takes it over: files that arrived are not sent again, and
// jobs are found by their IDs. [Find] lists directories of agents that nobody
// remembers, and [Logs] fetches logs without an agent.
package install
