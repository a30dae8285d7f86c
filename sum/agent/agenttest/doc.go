// Package agenttest has an [agent.Installer] without SSH, TLS, processes or
// files, so that a pipeline which updates servers can be tested as a whole.
//
// An [Installer] holds [Host]s, the machines behind the connections. A test
// says what is installed there and what the jobs do, runs its pipeline, and
// then looks at what happened:
//
//	target := sum.Target{Name: "db1", Kind: sum.Linux, User: "root", Address: "10.0.0.7"}
//	fake := &agenttest.Installer{}
//	h := fake.Host("db1") // a target's Name, or its URL if it has none: linux://root@10.0.0.7
//	h.SetSoftware(transport.Software{Name: "hello", Version: "2.9", Source: "dpkg"})
//	h.OnInstall("hello", agenttest.Job{Log: []string{"Unpacking...\n"}})
//	... run the pipeline with fake as its Installer ...
//	h.Runs("hello")  // 1
//	fake.Left()      // empty: nothing was left on any host
//	fake.Check()     // nil: every call kept to the rules of package agent
//
// # What a job does
//
// Jobs make progress when they are asked about, one step per Status, so that
// tests need no clock. A component without a script succeeds after one step and
// sets the version of the software of its name to the job's.
//
// # What lasts
//
// Hosts keep files and jobs between agents, as a disk does: a later Start with
// the same ID, by the same program or another one, finds them. A started job
// goes on when its agent dies. After a reboot, which the fake notices by the
// BootID of the connection's Identify or which [Host.Reboot] brings about, jobs
// that had not ended are Interrupted.
//
// # The classic generation
//
// StartOptions.Classic is obeyed as far as that goes without a socket on the target.
// Callback is asked, and released when the agent is removed, closed, or does not come
// up; the place of the agent is the first free port from agent.DefaultPort on of its
// host, and then, unless the conversation is to stay, another one, of which Opened hears
// too. With [Installer.Dial] the agents call the manager, go where it tells them, and
// report on jobs. Calls of the manager do not go through a port of the target: the
// Dial of agent.Classic is not used, and no firewall is opened.
//
// # Faults
//
// [Host.Fault] loses connections at the n-th call or after the n-th byte, before
// or after the call took effect, stalls, refuses, or runs a function of the
// test. An agent whose connection was lost answers nothing any more, as the
// connection below; the way on is a new Start. Each call first goes through the
// connection that Start was given, so that faults of a fake connection reach the
// agent's calls too.
package agenttest
