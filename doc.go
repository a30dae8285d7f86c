// Package roundsman is the map of a Go SDK that updates firmware, drivers and
// software on a mixed data centre: servers, management processors, enclosures,
// switches. It has no code of its own.
//
//	sum                 targets, sessions, ports and preflight, inventory, plans, deployment, proof, recovery
//	sum/component       what can be installed: component.json, .deb, .rpm, .fwpkg
//	sum/version         versions ordered by a named scheme
//	sum/agent           the small service that runs on a server during an update
//	sum/agent/install   brings it there and takes it away
//	sum/agent/agentless does the same by commands, where no program of ours may run
//	sum/agent/agenttest a fake of it, for tests of whole pipelines
//	sum/channel         SOAP 1.2 over mutual TLS with replay protection, between manager and agent
//	sum/depot           the manager's server for targets that fetch their payload
//	transport           what an update needs from a target: connections and capabilities
//	transport/ssh       Linux servers over SSH
//	transport/smb       Windows servers over SMB: files, services, named pipes; WMI
//	transport/redfish   iLO, Superdome Flex and other services by Redfish
//	transport/local     the manager's own host
//	transport/ssh/sshtest       an SSH server in the test's own process
//	transport/smb/smbtest       Samba with a service manager of its own, for tests
//	transport/redfish/redfishtest   a simulator of these, with faults
//	transport/transporttest     a strict fake with fault injection; the conformance suite for drivers
//	portalloc           ports by role, as listeners that are held
//	firewall            rules as leases on the host's firewall; firewall/firewalltest is a fake of it
//
// Programs under examples show the packages in use: quickstart runs the whole
// life of an update on an embedded lab, roundsman is the command line, agent is
// the program that runs on servers, redfishsim an iLO that is not there.
//
// Imports point down only: examples use everything; sum uses channel, agent,
// depot, transport, portalloc and firewall, and no driver; drivers use transport;
// transport, portalloc and firewall use nothing of the module. A test holds this.
package roundsman
