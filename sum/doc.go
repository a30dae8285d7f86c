// Package sum updates firmware, drivers and software on servers and devices. It
// is the core that HP and HPE Smart Update Manager (SUM) have: inventory, plan,
// deployment, proof.
//
// A [Session] is one run of a manager. A [Node] is one [Target] in it. Steps are
// functions that callers put together as they like; no step needs another to
// have run in the same process:
//
//	s, err := sum.Open(ctx, sum.Config{Resolve: resolve})
//	...
//	defer s.Close(ctx)
//	n, err := s.Node(sum.Target{Kind: sum.Linux, User: "root", Address: "db1"})
//	inv, err := sum.Inventory(ctx, n, comps...)
//	plan := sum.MakePlan(n.Target(), inv, comps, sum.PlanOptions{})
//	outcomes, err := sum.Deploy(ctx, n, plan, comps, sum.DeployOptions{})
//
// [Each] runs a step over a fleet, with limits.
//
//	Matrix     which ports a fleet needs; pure
//	Preflight  what would stop the work on a target, before anything is changed
//	Inventory  what is in the target
//	MakePlan   what a deployment would do; pure
//	Deploy     does it and proves it by a second inventory
//	Verify     says whether the target has what a plan wants
//	Logs       fetches the logs that agents left
//	Recover    finishes what a killed run left
//	Children   names the parts behind a target
//	Receive    takes in what a target posts
//
// # Servers and devices
//
// A server (see [Kind.IsServer]) gets a small agent, which is removed at the end
// and removes itself when the manager stays silent; package agent has the
// details. A device updates itself; its driver talks it through. sum knows no
// driver: Config.Resolve brings them.
//
// # What survives what
//
// Before anything is opened, copied or sent the journal says so (see [Config]).
// A line that breaks is dialled again and work goes on where it stopped; a
// manager that is killed is followed by one that reads the journal. In both
// cases an installer that may have begun is never started a second time: its
// result is fetched, and where there is none the inventory decides.
//
// # Ports
//
// [PortsFor] is SUM's port table as data: who dials whom, on which port, in
// which phase. In the current generation a Linux server needs port 22 alone.
//
// In the generation [Classic] (Config.Generation) the agent of a server listens on
// port 62286 or the next free one, the manager dials it from ports 60000 and up, and
// the agent dials the manager on 61000 or the next free one, to tell of news: as HP
// SUM 4 to 6 did, for sites whose firewalls know those ports. Unless
// [ClassicOptions] says otherwise one port receives the agents of all targets, and
// after the first contact each direction goes on at a port above 1024 that nobody can
// foresee; where a firewall lets through only the first, it stays there. A way back
// that is blocked costs nothing but time: the manager asks instead, and says so. A
// port of the agent's that is blocked is an error that names it.
//
// # Firewalls
//
// Firewalls are left alone, unless Config.OpenFirewall is set: then the manager's lets
// targets through to the ports that they need, each from its own addresses and while it
// needs them, and in the generation Classic the server's lets the manager through to
// the agent. Else [WriteRules] has the rules to add; ClassicOptions.OpenRule is for a
// firewall that is administered in another way.
package sum
