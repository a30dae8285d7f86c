// Package transporttest has what tests of and with package transport need: a
// strict fake and a conformance suite for drivers.
//
// # The fake
//
// A [Fake] is a [transport.Transport] whose targets live in memory. Six
// personalities are ready made: a server with a shell ([NewShellServer]), a
// server with services only, as Windows is ([NewServiceServer]), a device that
// takes its firmware ([NewPushDevice]), one that fetches it ([NewPullDevice]),
// many hosts behind one login, as a vCenter has them ([NewHostGroup]), and a
// parent with children, as an Onboard Administrator is ([NewEnclosure]).
//
//	fake, server := transporttest.NewShellServer()
//	defer fake.Close()
//	server.OnRun(transporttest.Argv("uname", "-m"), transporttest.Answer("x86_64\n", "", 0))
//
//	conn, err := fake.Dial(ctx, server.Endpoint())
//
// The fake is strict: a call that no target, capability or script foresees fails
// and is kept as a violation, which [Fake.Err] reports. It keeps real semantics:
// files are written to a partial file and renamed, a cut transfer is continued,
// a flash that has begun goes on when its caller dies, and a reboot ends
// programs and listeners. Faults are injected with [Target.Inject] and
// [Target.NextFlash]; what was called is in [Fake.Calls].
//
// # The conformance suite
//
// [Conformance] tries a driver against the contract of package transport and
// returns what it found as one error; it needs no *testing.T. [Cases] gives the
// single cases, for subtests. A [Harness] describes the driver and its target.
//
// The package depends on the standard library alone.
package transporttest
