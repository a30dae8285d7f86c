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
// ended it, and ended at Close. There is one connection and one request at a time unless
// Options.Connections says more. What breaks without a farewell of TLS is a line that is
// lost; one that is idle for 10 seconds is ended by the driver itself.
//
// The target proves itself by a pin (Trust.SPKI), by an authority (Trust.Roots), or by what
// was recorded at the first use ([AcceptNew]), at every handshake: also after a reset in
// the middle of an update. Redirections are followed on the same host alone. No proxy is
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
// "hpe-class:GUID", "software-id:...", "model:..." and "product:...".
//
// Adapters, controllers and drives are decoded by the types of gofish. What the rest is
// decided by is not: its Updateable has no value for "not said", one odd member would
// lose a whole resource, and its collections have no bounds.
//
// # Updates
//
// A payload is one image, or one firmware package (.fwpkg), and the signatures that
// belong to it (NAME.compsig, or NAME_partN.compsig for sections of 32 MiB). Without
// UpdateOptions.Devices, a package is for the devices that have one of its targets, and an
// image for those whose ID, name, class or model is the payload's name. The ways, in the
// order in which they are tried:
//
//	generic      multipart push, HttpPushUri, SimpleUpdate
//	ilo5 to 7    push in HPE's form, AddFromUri, SimpleUpdate with images alone
//	ilo4         InstallFromURI
//	rmc          UpdateAll, under both names
//
// Before anything is sent the file is compared with its digest; a file that the way does
// not take, a package that is not for the device, that needs a version in between, or that
// only an agent on the host can apply, is refused; as is an update service that is at
// work, on an iLO a task in its update queue, and a server that HPE OneView manages
// (Options.IgnoreQueue).
//
// The state is handed to Checkpoint before each request and after its answer. Whoever
// goes on from it reads what the target does. A request that may have arrived is made
// again only if the target does nothing, shows no trace of it, and tells that it was not
// reset since (LastResetTime); otherwise the verdict is unknown. A push whose end was not
// sent is none, and is made again.
//
// Whatever the target claims, what counts is the version, read three times alike. The
// verdict is applied when it is the new one; staged, with what activates it, when the
// target or the package says that it waits, or when the part is system firmware (reboot) or
// programmable logic (power cycle); failed with the target's MessageId; and unknown when
// success was claimed and the version is the old one. Resets, refused connections, 401, 503
// with Retry-After and answers that are no JSON are waited out (Options.ResetTimeout).
//
// Codes of errors and results are {"redfish", MessageId} or {"http", status}. Messages
// are told apart by the last segment of the MessageId.
//
// # What was shown against what
//
//	profile   what                                             shown against
//	generic   session, trust, inventory, multipart push,       simulator (redfishtest), conformance suite and
//	          SimpleUpdate, resets, tasks                      faults; small services of the tests
//	generic   HttpPushUri                                      a small service of the tests
//	ilo5      push, AddFromUri, SimpleUpdate, .fwpkg,          simulator, conformance suite and faults
//	          queue, OneView, staged updates
//	ilo5      push in sections                                 a small service of the tests
//	ilo6      push                                             simulator, conformance suite
//	ilo6, 7   push of the firmware of the iLO itself           simulator
//	ilo4      inventory, InstallFromURI                        simulator, conformance suite and faults
//	rmc       inventory, UpdateAll                             simulator, conformance suite and faults
//	all       hardware of any maker                            nothing: none was at hand
//
// The simulator was written from documents and public clients, as this driver was: where
// those err, both do. Not there: install sets, the update queue as a way (packages that
// the firmware of the host applies), the component repository and the recovery set of an
// iLO, SSE and event subscriptions, Reboot, logins other than by session. Smart Components
// (.exe, .rpm, .zip) are not sent to an iLO, which would only keep them. That iLO 6 and 7
// accept a whole package of version 2, and that they answer some uploads by an empty 400,
// is from documents and reports; such a push is left to the versions to judge, and not
// tried again by another way.
//
// Connections are safe for concurrent use; updates on one run one after the other.
package redfish
