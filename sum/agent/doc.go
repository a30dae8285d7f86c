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
// On the manager's own host the manager can itself be the agent: [NewInProcess].
// Then there is neither program nor socket; the rest is the same.
//
// # Nothing stays
//
// An agent that hears nothing from its manager for the length of its lease, and
// has no job, deletes everything but records and logs, and ends. The clock is
// the monotonic one: setting the host's date changes nothing. What an agent that
// was killed leaves behind is deleted by the shim of its job, if it had one; else
// it stays until a manager starts an agent with the same ID and removes it, or
// calls remove.
//
// # A job runs at most once
//
// Each job has a shim: a process of its own session that is the parent of the
// job's program. It outlives an agent that is killed or replaced and records the
// result, and it does the agent's cleaning if no other agent comes before the
// lease is over. A record is written and synced before each step that cannot be
// taken back.
//
// A shim that dies before the program began is replaced, at most twice; then the
// job has failed. A program whose shim died is [Running] until it ends, and no
// other job is accepted as long; nobody enforces its timeout. What it came to is
// not known: the job is then [Interrupted], and nothing ever starts it again.
//
// # Platforms
//
// The service is tested on Linux. For macOS it is built from the same code, and
// has not been run there. On Windows the package compiles and the
// manager's side works; the service commands of Main fail with
// [errors.ErrUnsupported].
package agent
