// Package agent is the small service that runs on a target while a manager
// works on it, and the manager's side of the conversation with it.
//
// The manager's side is [Ops]: what can be asked of an agent. A [Client] asks it
// over package channel:
//
//	c, err := agent.NewClient(ctx, agent.ClientOptions{Target: "web1", Credentials: cred, Dial: dial})
//	...
//	defer c.Close(ctx)
//	inv, err := c.Inventory(ctx, agent.InventoryRequest{})
//
// Package agent/install brings an agent to a target and package agent/agenttest
// fakes one.
//
// The target's side is [Main], the whole of a program. One agent serves one
// directory, which nobody else can enter:
//
//	roundsman-agent   the program, on Windows roundsman-agent.exe
//	bootstrap.json    identity, from the manager; read and deleted at the start
//	ready.json        written when it listens
//	lock, lease       who serves, and until when without hearing from the manager
//	blobs/            staged files, by SHA-256
//	jobs/<id>/        a job while it runs
//	jobs/<id>.json    its record, and jobs/<id>.log, its output
//	agent.log
//
// On the manager's own host the manager can itself be the agent: [NewInProcess].
// Then there is neither program nor socket; the rest is the same.
//
// # Nothing stays
//
// An agent that hears nothing from its manager for the length of its lease, and
// has no job, deletes everything but records and logs, and ends. If it never had a
// job, and logged no warning and no error, it deletes its log and its directory too.
// Logs stay for 30 days after they were written ([StartOptions].KeepLogs): the next
// agent that begins below the same base directory deletes older ones. The clock is
// the monotonic one: setting the host's date changes nothing. What an agent that
// was killed leaves behind is deleted by the shim of its job, if it had one; else
// by its manager, when that comes again; and where that does not, as its journal is lost,
// by the next agent of any manager that begins below the same base directory: everything
// but records and logs, and on Windows the service. That one says what it was in its log
// and in [Ready], and its manager in its own.
//
// It takes away what has the name of an ID that package sum gives (16 hexadecimal digits),
// belongs to this user, whom alone it lets in, and holds nothing that agents do not have,
// but something that only they have; where nobody has the
// lock, no job runs or may run, and nothing was written for twice the length of the lease and two
// minutes, or for an hour where no agent has begun yet. For that an agent touches the file
// of its lease whenever a quarter of it has passed and its manager was there; so does a
// manager that is the agent, when it asks something and when it closes. Here it is
// the host's date that counts. A job that had been accepted and did not begin is then
// [Cancelled], as at the end of the lease of an agent that lives. What cannot be taken away
// is logged, and the new agent serves all the same, no later than seconds. Nothing but an
// agent that begins does this: not an inventory over WMI, nor what only looks at a target
// ([Inspector]) or sweeps an agent of a known place. What package agentless has left is for
// that package, which never starts an agent, and so takes away nothing of them.
//
// # Where systemd runs
//
// Agent and jobs, also those of a manager that is the agent and starts itself anew
// to watch over them, are then services of their own, started with systemd-run(1), so
// that neither the end of the login that started them nor that of the agent's
// unit is the end of a job. Their names ([UnitName], [JobUnitName]) come from the
// ID of the agent, which is the name of its directory, and that of the job:
//
//	roundsman-agent-<agent>.service
//	roundsman-job-<agent>-<job>.service
//
// They are transient: nothing is installed, and when they are over, in whatever
// way, systemd forgets them. To stop the agent's ends the agent alone, whose files
// stay for the next. To stop a job's ends its program, and the job is
// [Interrupted]; but if the program must not be interrupted (Job.NoKill), stopping
// it, and so a shutdown of the host, waits for its end: half an hour, as systemd
// delays a shutdown no longer than that, or the two minutes that it gives the
// manager of a user. A daemon that a job's program left behind
// is not ended, and keeps the unit known, as inactive, until it ends itself.
//
// This is so for root. The service manager of another user ends with the last
// login, unless the user lingers (loginctl enable-linger); only then it is used.
// For others, and where there is no systemd, it is older than version 236, or it
// refuses, agent and shims become sessions of their own (setsid(2)); agent.log
// says what systemd answered. Such a session outlives the login, except where logind
// is told to kill (KillUserProcesses in logind.conf(5), from which root is by
// default exempt): there, users other than root have to linger.
//
// Properties of units can be read by everybody, so they hold no secrets.
//
// # A job runs at most once
//
// Each job has a shim: a process of its own unit or session that is the parent of
// the job's program. It outlives an agent that is killed or replaced and records the
// result, and it does the agent's cleaning if no other agent comes before the
// lease is over. A record is written and synced before each step that cannot be
// taken back.
//
// A shim that dies before the program began is replaced, at most twice; then the
// job has failed. A program whose shim died is [Running] until it ends, and no
// other job is accepted as long; nobody enforces its timeout. What it came to is
// not known: the job is then [Interrupted], and nothing ever starts it again.
//
// # One job on a host
//
// Managers that do not know of each other may work on one host at a time, each with
// an agent of its own. But below one base directory, and the default ones count as one
// (DefaultBaseDirs), one job's program runs at a time,
// whoever started it: an agent, a manager that is itself the agent, or the scripts of
// package agentless. Install refuses a second one with [ErrHostBusy], which names what
// runs and since when, before anything is changed; of two that come at the same moment
// one ends so before its program begins ([Status.HostBusy]).
//
// The host is held by a file in the base directory, .roundsman-job-*, from before the
// program begins until it has ended: by the shim, and by the program itself if its shim
// is killed. Whoever begins puts a file into its own base directory, and then looks
// into the other default ones too: so a manager that came to be in /opt, because /var
// is full or executes nothing, and one in /var/lib exclude each other, and none has to
// write where the other is. What the program leaves running in the background does not
// hold the host, and nothing holds it after a reboot. The files of the dead are deleted
// by whoever looks; a holder that cannot be looked at is not taken for dead.
// So whoever runs jobs must be able to write to the base directory, and managers that
// use different base directories of their own, or different users, do not exclude each
// other.
//
// A restart of the host that was asked for (Ops.Reboot) is refused while a job runs,
// also another manager's, and then holds the host itself: no job begins until the host
// has restarted, whatever becomes of the agent. It is void ten minutes after it was due,
// and where systemd runs as soon as shutdown -c has cancelled it, from a minute after it
// was asked for on; elsewhere delete its file.
//
// # Platforms
//
// The service is tested on Linux, under systemd 252 and without it. Where SELinux
// enforces its policy systemd may be denied to execute a program that a login may
// execute; then start gives its own program the type bin_t and tries again. This
// was tested with stand-ins for systemd and SELinux, never on a host that enforces.
//
// For macOS it is built from the same code, and
// has not been run there.
//
// On Windows the same service listens on TCP or on a named pipe, as a process or as a
// service of the service control manager (serve -service), and each job's program is in
// a job object that outlives its shim. It has never run on Windows. What tests show, they
// show under Wine 8: the program built for windows/amd64 installs a component over TCP,
// is killed (TerminateProcess) in the middle, and another agent has the result; exit codes
// above 1<<31 stay positive; a program is cancelled with its job object; a job runs over
// the named pipe, dialled on the same host, or over SMB through Samba (in the tests of
// examples/roundsman); the service control manager starts and stops
// it, hears why it failed, and finds no entry of it after its lease; remove, as another
// service, ends and clears what is left; the next agent takes away the service, program and
// directory of one that was killed with its manager; a manager is itself the agent ([NewInProcess],
// [Remove]); locks, exit codes, holding the host and the refusal of a restart have tests
// of their own. Calls with the form of those of Windows, but none of it, show the shutdown
// of the service and the job that delays it, the restart (InitiateSystemShutdownEx),
// manage-bde.exe, msiexec.exe and the mutex of Windows Installer. Not shown at all: who
// may leave a job object, which Wine lets everybody; the list of processes for those of
// other users; that a program may be renamed while it runs; rights to files, directories, pipes and events, which Wine reduces to modes of Unix,
// beyond that descriptors as Windows has them are understood; accounts of a domain;
// the deletion at the next boot, which is only asked for; the number of the boot
// where Windows counts them; programs that look for viruses or quarantine; the firewall,
// whose rules outlive a boot there, as the file does that says that there are some.
//
// # On Windows
//
// The directory lies below %SystemRoot%, where administrators alone can write. The agent
// believes nothing in a directory that somebody else owns or can write to, or whose parent
// he can, or that he could exchange.
//
// The program of a process that runs cannot be deleted. So an agent that is told to leave
// leaves its program, beside the logs, to the manager that told it so. At the end of its
// lease there is none: the program gets another name in the base directory
// (.tmp-old-*.exe) and goes with the next boot, or when the next agent begins below that
// directory; until the boot other installers may see that a restart is pending. The agent's
// directory goes at once if nothing else is in it. An agent that is a service deletes its
// entry when it leaves in one of these ways. When its service is stopped, or its process killed, the
// entry stays, with the directory, until its manager or the next agent takes both away; so
// does that of remove, of which the next agent also takes those away whose program is gone,
// when they have stopped and are an hour old. All entries begin with [ServicePrefix], and
// all directories are below the one of [DefaultBaseDirs] where no other was asked for.
//
// The program of a shim that a newer manager has replaced goes on under the name by which
// the driver has put it aside, and is deleted as one under the usual name is.
//
// A job that must not be interrupted (Job.NoKill) delays a shutdown of the host, for
// half an hour at most, where the agent is a service and runs: at its start it asks
// for that time (SERVICE_CONFIG_PRESHUTDOWN_INFO), and agent.log says where it is not
// given. Nothing delays it where the agent was killed, is a process or the manager
// itself, or where the host is not shut down but loses its power.
//
// When a job is cancelled or takes too long its program is ended with what that has
// started, but not what the service of Windows Installer does for it: so the host is
// held until that has come to an end, for half an hour at most. It is not held so where the
// shim was dead already.
//
// Programs are searched in the directories of Windows first. What msiexec.exe gets is quoted
// as it wants it. The end of a program's output (Result.Text), and what a probe prints, is
// taken to be in the OEM code page where it is no UTF-8; the log stays as it was.
//
// Agent and shims leave the job object that the process is in which starts them, as that
// of a CI runner or a remote shell. Where that lets nobody leave, which agent.log says,
// they may end with it.
//
// Names of a job's files that Windows would take for something else, as a device, a stream
// or another file, are refused ([Job.Check]). A job can have BitLocker suspended for one
// start of the host (Job.SuspendBitLocker): of the drive of Windows alone.
package agent
