// Package agentless updates Linux servers without putting a program on them, for
// hosts that execute nothing but what their administrators have allowed (SELinux,
// fapolicyd, noexec, application control). It does by commands over the connection
// what an agent does: the shell that the target has anyway reads scripts from its
// arguments, and none of them is a file.
//
// [Installer] is an agent.Installer for sum.Config. What is promised of an agent
// holds: a job's program runs under a parent of its own, which outlives the line
// and the manager and records how the program ended; a job with the same ID never
// runs twice; one program runs at a time on the host, also where another manager has
// put an agent there, and none when a restart is due; after the lease everything but logs is removed. What is different:
//
//   - There is no channel of our own. The connection's security is all there is.
//   - A signal that ended a program shows as exit status 128 plus its number.
//   - Devices are read on a manager that runs Linux, and without what only a
//     program on the target can ask its kernel (firmware of some network adapters).
//   - Each question takes one command on the target: polling costs more.
//
// A component still executes its own installer. Where that is forbidden too, only
// packages whose package manager is allowed to run can be installed.
package agentless
