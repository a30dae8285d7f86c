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
//	roundsman-agent   the program
//	bootstrap.json    identity, from the manager; read and deleted at the start
//	ready.json        written when it listens
//	lock, lease       who serves, and until when without hearing from the manager
//	blobs/            staged files, by SHA-256
//	jobs/<id>/        a job while it runs
//	jobs/<id>.json    its record, and jobs/<id>.log, its output
//	agent.log
//
// # Nothing stays
//
// An agent that hears nothing from its manager for the length of its lease, and
// has no job, deletes everything but records and logs, and ends. The clock is
// the monotonic one: setting the host's date changes nothing.
//
// # A job runs at most once
//
// Each job has a shim: a process of its own session that is the parent of the
// job's program. It outlives an agent that is killed or replaced, so the result
// is always recorded, and it does the agent's cleaning if no other agent comes
// before the lease is over. A record is written and synced before each step that
// cannot be taken back. A job whose shim died while its program may have run is
// [Interrupted], and nothing ever starts it again.
//
// # Platforms
//
// On Linux and macOS everything works. On Windows the package compiles and the
// manager's side works; the service commands of Main fail with
// [errors.ErrUnsupported].
package agent
