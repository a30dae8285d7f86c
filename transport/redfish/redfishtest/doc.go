// Package redfishtest is a management processor for tests, named after
// net/http/httptest: an iLO, the Rack Management Controller of a Superdome Flex
// or a service of no vendor in particular, in the test process, with TLS on a
// port of the loopback interface.
//
//	srv, err := redfishtest.NewServer(redfishtest.Config{Profile: redfishtest.ILO5})
//	...
//	defer srv.Close()
//	conn, err := (&redfish.Transport{}).Dial(ctx, transport.Endpoint{
//		Address:     srv.Addr(),
//		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
//		Trust:       transport.Trust{SPKI: [][32]byte{srv.SPKI()}},
//	})
//
// [Config] chooses what it is, [Server.Inject] what goes wrong with it, and
// [Server.Requests], [Server.Firmware], [Server.Flashes] and
// [Server.SessionCounts] tell what became of it. [Server.Idle] waits until it has
// nothing to do, [Server.Await] for anything else. A test need not wait for time to
// pass: an update stops in any of its states with [Hold], and [Server.Advance] moves
// the clock.
//
// It is no less useful to programs that are no tests: any number of servers in one
// process, each at an address and with a certificate of its own choice, and
// payloads that [Save] writes to disk. A server that waits takes some 10 KiB.
//
// # What it really does
//
// Sessions are counted and end; a token of old is 401. Images are fetched from
// where the client says, and from nowhere else, received as a stream, and
// checked: [Image] makes those that are valid, [Package] the .fwpkg around them,
// [Component] and [Sign] what has its signature in a file of its own, [Corrupt]
// and [Truncate] what must be refused. An image that fits nothing changes
// nothing. Firmware is verified, written, and active at once, after the reset of
// the service, after a reboot or after a power cycle of the host, as [Firmware]
// says: [Server.Reboot] and the action ComputerSystem.Reset do that. During a
// reset nobody listens and every connection is broken; sessions, progress and an
// iLO's tasks are gone afterwards. Each step takes Config.Pace.
//
// An iLO has the component repository, the task queue with its strict order,
// install sets, the recovery set and maintenance windows, and takes pushes whose
// parts are in order, with a session and its cookie. It answers success to a
// SimpleUpdate with a file of the wrong form and does nothing. A Generic service
// has the multipart and the raw push of DSP0266, tasks with monitors, deferred
// updates, and an event stream. An RMC has UpdateAll, under either name. All of them
// post events to those who subscribe: of tasks, and of each change of the update
// service.
//
// # Where it comes from
//
// The Redfish specification (DSP0266) and schemas; HPE's documentation of the
// update services of iLO 4 and 5; HPE's own clients: ilorest 3.6 drives the iLO 5
// profile in the tests of this package, and sdflexutils has the answers of an RMC.
// No real hardware was at hand. Where nothing is known it is made up, and a driver
// should not rely on it: GUIDs of targets, the form of images and signature files,
// the identifiers of messages beyond those of these sources, that an iLO forgets
// its tasks at a reset, that it answers to a push without a session by an empty 400
// and not by 401, which of its flags an iLO 4 shows for which firmware, which of two
// parameters comes back as UploadCurrentEtag and for how long (see [Mark],
// [MarkHidden] and [MarkCleared]), that a section of a component that was cut can be
// sent again ([ForgetsSections]). The profiles ILO6 and ILO7 are ILO5 with other versions;
// ILO7 leaves an item that the host's firmware has done in the state Pending, as
// has been reported of it.
//
// # What it is not
//
// There is no schema validation, no If-Match, no OData-Version check, no legacy
// REST of iLO 4, no time-out of sessions, and no image is written anywhere.
//
// A service of your own is served from what it answers: see [Capture].
package redfishtest
