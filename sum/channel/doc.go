// Package channel is the connection between a manager and the agent that it
// started on a server: SOAP 1.2 over HTTP/1.1 and TLS 1.3, with certificates
// pinned on both sides and every message authenticated for one connection.
//
// The manager mints an identity per node and session, and hands one half to the
// agent:
//
//	manager, agent, err := channel.NewIdentity("web-01")
//	bootstrap, err := agent.MarshalBootstrap() // delivered over SSH, in a 0600 file
//
// The agent serves a [Handler], and files through [Blobs] and [Logs]; the
// manager calls the same [Handler] through a [Client]:
//
//	server := &channel.Server{Credentials: agent, Handler: ops, Blobs: store, Logs: store}
//	err = server.Serve(ctx, listener) // a Unix socket, or TCP port 62286
//
//	client := &channel.Client{Credentials: manager, Dial: dial}
//	inv, err := client.Inventory(ctx, &channel.InventoryRequest{})
//
// Any [net.Conn] carries it: a forwarded Unix socket, TCP, a named pipe, or the
// standard input and output of a process. Where the bootstrap is not
// confidential, each side makes a [NewOwnKey] and fingerprints are exchanged.
//
// The operations are described by a WSDL 1.1 document ([WSDL], and GET
// /soap?wsdl on the wire): document/literal wrapped, SOAP 1.2 binding, dispatched
// on the name of the element in the body. Files go beside it as plain HTTP, so
// that they are streams and can be resumed:
//
//	HEAD /blobs/<sha256>  Upload-Length               -> Upload-Offset
//	PUT  /blobs/<sha256>  Content-Range: bytes a-b/n  -> Upload-Offset
//	GET  /logs/<name>     Range: bytes=a-             -> 206 Content-Range, at most 1 MiB
//
// # Callbacks
//
// In the classic generation the agent connects to its manager as well, to tell of
// news ([CallbackHandler]). A [Callbacks] receives the agents of any number of nodes
// on one listener; an agent finds its manager there by the name that the handshake
// asks for, which is made of the fingerprint of the manager's key. Both sides prove
// themselves with the same certificates as in the other direction, and messages are
// authenticated in the same way, with keys of their own. Foreign clients are not
// let in here, whatever [Server.AllowForeign] says of agents.
//
// # Threats
//
//	who                      what stops them
//	on the path              TLS 1.3 only; chain and SPKI pin on both sides; MAC keyed by the connection
//	replays a message        same connection: 64-wide window; another: its keys differ; restarted agent: epoch
//	changes a message        MAC over method, target, headers and body, checked before XML is looked at
//	changes a blob           its SHA-256 is in the authenticated target, and verified before use
//	another node's agent     an authority and a pin per node; the authority's key is gone after minting
//	hostile agent            answers are bounded, authenticated, parsed as strictly as requests
//	user of the target       the certificate is needed on loopback too; no secret in arguments or environment
//	port scan, idle sockets  2 s handshake; 4 unauthenticated per address; silent ones are displaced; own pool for the manager
//	hostile XML              1 MiB, depth 16, known names only; no DTD, comment, PI, attribute, second body child
//	path traversal           identifiers are fixed-length lower-case hexadecimal
//	reader of logs           no body or header is logged; credentials print redacted
//
// Certificates are valid from 2000 to 9999 and are checked at a fixed time:
// servers with empty batteries boot in 1970. A session ends by the agent's
// lease, on its monotonic clock.
//
// # The Agent-Auth header
//
//	Agent-Auth: v1 e=<epoch>,s=<seq>,n=<nonce>,b=exporter,m=<mac>
//
// mac is HMAC-SHA256 over version, direction, method and target (or status),
// epoch, seq, nonce, the headers that mean something, and the SHA-256 of the
// body, each preceded by its length. Its key is HKDF-SHA256 of the shared secret
// with the channel binding of RFC 9266 as salt and the direction as info. An
// answer carries the number and the nonce of its request. There is one version
// and no fallback. Requests without the header are refused; [Server.AllowForeign]
// lets clients made from the WSDL call Status, and Inventory without probes.
package channel
