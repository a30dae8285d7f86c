// Package redfish is the driver for management processors and services that speak
// Redfish: iLO 4 to 7, the Rack Management Controller of Superdome Flex, and any service
// that conforms to the standard (DMTF DSP0266). It reads inventories and updates
// firmware, without access to the host.
//
//	conn, err := (&redfish.Transport{}).Dial(ctx, transport.Endpoint{
//		Address:     "ilo-db1.lab.example",
//		Credentials: transport.Credentials{User: "ops", Password: secret},
//		Trust:       transport.Trust{FirstUse: redfish.AcceptNew("/var/lib/ops/redfish_pins")},
//	})
//	...
//	defer conn.Close(ctx)
//	inv, err := transport.ReadInventory(ctx, conn)
//	res, err := transport.Update(ctx, conn, payload, transport.UpdateOptions{Devices: []string{"System ROM @ System Board"}})
//
// # The connection
//
// A Conn is one login session. It is made anew, once for each call, where the service has
// ended it, and ended at Close, over a new line where the last one broke; a session that
// was given up for another is ended, too, as a management processor has few. There is one
// connection and one request at a time unless Options.Connections says more. A line that is
// reset is lost; one that is idle for 10 seconds is ended by the driver itself.
//
// The target proves itself by a pin (Trust.SPKI), by an authority (Trust.Roots), or by what
// was recorded at the first use ([AcceptNew], [Recorded]), at every handshake: also after a
// reset in the middle of an update. Over TLS of old (Options.LegacyTLS) only a pin counts.
// Redirections are followed on the same host alone, and never with a push. No proxy is
// used unless Options.Proxy names one. Answers end at 16 MiB and 64 levels.
//
// # Inventory
//
// Systems, the firmware and software inventory, network adapters, storage controllers and
// drives; notes tell secure boot, trusted modules and the security state. A collection is
// one request where the service expands. What cannot be read is a Problem, and the rest
// is there all the same. A device that does not say whether it can be updated has a nil
// Updateable. On an iLO the ID is the name and the place, as "iLO 5 @ System Board", with
// "#2" for the second of two equal ones: the numbers of its entries change with the
// hardware. Elsewhere it is the @odata.id. HardwareIDs are "hpe-target:GUID",
// "hpe-class:GUID", "software-id:...", "model:..." and "product:...", and "name:..." for
// entries without an hpe-target. Identity.BootID is the time of the last restart of the host
// (LastResetTime of the ComputerSystem).
//
// Adapters, controllers and drives are decoded by the types of gofish. What the rest is
// decided by is not: its Updateable has no value for "not said", one odd member would
// lose a whole resource, and its collections have no bounds.
//
// # Updates
//
// A payload is one image, or one firmware package (.fwpkg), and the signatures that
// belong to it (NAME.compsig, or NAME_partN.compsig for sections of 32 MiB). Without
// UpdateOptions.Devices, a package is for the devices that have one of its targets and its
// class, and an image for those whose ID, name, class or model is the payload's name. The
// ways, in the order in which they are tried:
//
//	generic      multipart push, HttpPushUri, SimpleUpdate
//	ilo5 to 7    push in HPE's form, AddFromUri, SimpleUpdate with images alone, the update queue
//	ilo4         InstallFromURI
//	rmc          UpdateAll, under both names
//
// By the queue of an iLO (WayQueue, or WayInstallSet) the component goes into its
// repository, and a task applies it: the iLO itself, or the firmware of the host at its
// next start, which is all that some packages can be applied by. The task, the install set
// and a component that was not there before are removed when the update is over or given
// up, and by Undo; a task that waits for the host stays, and whoever comes next removes it.
//
// Before anything is sent the file is compared with its digest; a file that the way does
// not take, a signature that it does not carry, a package that is not for the device or of
// another version, that needs a version in between, or that only an agent on the host can
// apply, is refused; as is an update service that is at work, on an iLO a task in its
// update queue (but one of this driver's that waits for the host, and is for another component) and a queue that cannot be read, and a server that HPE OneView manages
// (Options.IgnoreQueue). Trusted modules, privileges and room are not looked at before: the
// target refuses, and says why. A device that the payload fits, and that is newer or was not
// named, is left alone where the request can name its targets; by a way that cannot,
// nothing is sent.
//
// The state is handed to Checkpoint before each request that cannot be taken back, which for
// a push is before its last byte, and after its answer. Whoever goes on from it reads what
// the target does. What was not sent to its end is sent anew. A request that may have
// arrived is made again only where it is known that it did not: the target was not seen
// at work, tells that it was not reset since (LastResetTime), and has no trace of it where
// it leaves one, which is a task in a list that is complete, the mark of an upload that an
// iLO shows (UploadCurrentEtag), or a task in the queue; otherwise the verdict is unknown.
// An answer of 408, 500, 502 or 504, and an empty 400 of an iLO, does not tell: it is left to
// the versions to judge, unless it came before the end of the request, which then is a
// failure without effect. One call makes no section a third time. An iLO that answers a push by
// an empty 400, and of which it is known, then or after Options.SettleTimeout, that nothing
// arrived, is told to fetch the image instead (AddFromUri), if no way is prescribed and the
// session offers a server.
//
// Whatever the target claims, what counts is the version, read three times alike, each
// Options.PollInterval or more after the one before, whatever events bring about. What the
// state of the update service says counts when it is new. The verdict is applied when the
// version is the new one, and the target has not said that it waits; staged, with what
// activates it, when the target or the package says that it waits, or when the part is
// system firmware (reboot) or programmable logic (power cycle); failed with the target's
// MessageId; and unknown when success was claimed and the version is the old one, and for
// a version that was there before when nothing was seen of the update. Resets, refused
// connections, 401, 503 with Retry-After and answers that are no JSON are waited out
// (Options.ResetTimeout). With Options.Connections of 2 and more, events of the service
// (ServerSentEventUri) have the driver look within 2 s. So have those that the service posts
// to the manager, where the session takes posts (UpdateOptions.Receive): the driver
// subscribes while the target fetches an image (Options.Events), but not where it does so
// only after a push in vain, tells their text as progress, and takes the subscription back
// when the update is over or given up; one that a dead manager has left is found by its
// Context, which the state has, and removed by whoever goes on or undoes. A service that
// refuses it is only asked as often as ever.
//
// Codes of errors and results are {"redfish", MessageId} or {"http", status}. Messages
// are told apart by the last segment of the MessageId.
//
// # What was shown against what
//
// HPE's own client, ilorest, drives the simulator (redfishtest) in tests, and so shows that
// the simulator is what that client expects; it shows nothing of this driver.
//
//	profile   what                                             shown against                       ilorest
//	generic   session, trust, inventory, multipart push,       simulator: conformance suite,       no
//	          SimpleUpdate, resets, tasks, events              faults
//	generic   HttpPushUri, with and without targets            simulator, a small service          no
//	ilo5      push, AddFromUri, SimpleUpdate, .fwpkg, OneView, simulator: conformance suite,       simulator only
//	          staged updates, the queue and install sets,      faults
//	          recovery set
//	ilo5      push in sections                                 a small service of the tests        no
//	ilo5      push before 2.30                                 simulator: the table of faults      no
//	ilo6      push; AddFromUri instead of a push in vain       simulator: conformance suite, the   no
//	                                                           table of faults
//	ilo7      push, AddFromUri, SimpleUpdate, a task that the  simulator: the table of faults      no
//	          host applies
//	ilo4      inventory, InstallFromURI, flags                 simulator: conformance suite, the   no
//	                                                           table of faults
//	rmc       inventory, UpdateAll under both names            simulator: conformance suite (one   no
//	                                                           name), the table of faults (both)
//	all       26 faults of lines, sessions, answers, images,   simulator: TestFaultsOfEveryProfile no
//	          resets and inventories, where there is such a    says what has none of a kind
//	          thing
//	all       Reboot, Capture                                  simulator, a small service          no
//	generic,  event subscriptions                              simulator: its faults for           no
//	ilo4 to 6,                                                 generic, one update each for the
//	rmc                                                        others; whether an iLO posts to a
//	                                                           URL of http, or to a certificate
//	                                                           that it does not know: nothing
//	all       hardware of any maker                            nothing: none was at hand
//
// The simulator was written from documents and public clients, as this driver was: where
// those err, both do. Not there: logins other than by session, packages with several
// images for an iLO that takes none of them whole. Smart Components (.exe,
// .rpm, .zip) are not sent to an iLO, which would only keep them. That iLO 6 and 7
// accept a whole package of version 2, that iLO 5 does so from 2.30 on, and that they answer
// some uploads by an empty 400, is from documents and reports.
//
// Connections are safe for concurrent use; updates on one run one after the other.
package redfish
