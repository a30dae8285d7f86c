package channel

import (
	"bufio"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeManager implements CallbackHandler for one node.
type fakeManager struct {
	mu      sync.Mutex
	port    uint32
	reports []ReportRequest
}

func (f *fakeManager) Contact(context.Context, *ContactRequest) (*ContactResponse, error) {
	return &ContactResponse{Port: f.port}, nil
}

func (f *fakeManager) Report(_ context.Context, r *ReportRequest) (*ReportResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, *r)
	return &ReportResponse{}, nil
}

func (f *fakeManager) got() []ReportRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]ReportRequest(nil), f.reports...)
}

// callbackRig is a manager that listens for the agents of several nodes.
type callbackRig struct {
	t         *testing.T
	callbacks *Callbacks
	addr      string
	logs      *lockedBuffer
}

func newCallbackRig(t *testing.T) *callbackRig {
	t.Helper()
	r := &callbackRig{t: t, logs: &lockedBuffer{}}
	r.callbacks = &Callbacks{Logger: slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.callbacks.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		require.NoError(t, r.callbacks.Close(testContext(t)))
		require.ErrorIs(t, <-served, ErrClosed)
	})
	return r
}

func (r *callbackRig) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", r.addr)
}

func (r *callbackRig) client(a *AgentCredentials) *CallbackClient {
	c := &CallbackClient{Credentials: a, Dial: r.dial}
	r.t.Cleanup(func() { require.NoError(r.t, c.Close(testContext(r.t))) })
	return c
}

// node is one node: its manager's handler, and the agent's credentials.
func (r *callbackRig) node(name string, port uint32) (*fakeManager, *AgentCredentials, func()) {
	r.t.Helper()
	m, a, err := NewIdentity(name)
	require.NoError(r.t, err)
	h := &fakeManager{port: port}
	remove, err := r.callbacks.Add(name, m, h)
	require.NoError(r.t, err)
	_, err = r.callbacks.Add(name, m, h)
	require.ErrorIs(r.t, err, ErrTrust, "one key of a manager for two agents")
	return h, a, remove
}

// TestCallbacks: the agents of several nodes share a listener, and each reaches its
// own handler alone.
func TestCallbacks(t *testing.T) {
	r, ctx := newCallbackRig(t), testContext(t)
	h1, a1, remove := r.node("web-01", 40001)
	h2, a2, _ := r.node("web-02", 0)
	c1, c2 := r.client(a1), r.client(a2)
	id1, id2 := NewJobID(), NewJobID()
	for range 3 {
		where, err := c1.Contact(ctx, nil)
		require.NoError(t, err)
		require.EqualValues(t, 40001, where.Port)
		where, err = c2.Contact(ctx, nil)
		require.NoError(t, err)
		require.Zero(t, where.Port)
	}
	_, err := c1.Report(ctx, &ReportRequest{JobID: id1, State: StateRunning, LogSize: 7})
	require.NoError(t, err)
	_, err = c2.Report(ctx, &ReportRequest{JobID: id2, State: StateDone})
	require.NoError(t, err)
	require.Equal(t, []ReportRequest{{id1, StateRunning, 7}}, h1.got())
	require.Equal(t, []ReportRequest{{id2, StateDone, 0}}, h2.got())
	for _, bad := range []*ReportRequest{{JobID: "../x", State: StateDone}, {JobID: id1, State: "else"}, {JobID: id1, State: StateDone, LogSize: -1}} {
		_, err = c1.Report(ctx, bad)
		require.ErrorIs(t, err, ErrMalformed)
	}

	// After remove its connection is gone, and no other is made.
	remove()
	_, err = c1.Report(ctx, &ReportRequest{JobID: id1, State: StateDone})
	require.Error(t, err)
	_, err = c1.Report(ctx, &ReportRequest{JobID: id1, State: StateDone})
	require.Error(t, err)
	require.Len(t, h1.got(), 1)
	_, err = c2.Report(ctx, &ReportRequest{JobID: id2, State: StateDone})
	require.NoError(t, err)
}

// TestCallbacksByFingerprints: as after a bootstrap that others can read.
func TestCallbacksByFingerprints(t *testing.T) {
	r := newCallbackRig(t)
	mine, theirs := must(NewOwnKey())(t), must(NewOwnKey())(t)
	h := &fakeManager{}
	_, err := r.callbacks.Add("web-01", must(mine.Manager(theirs.Fingerprint()))(t), h)
	require.NoError(t, err)
	c := r.client(must(theirs.Agent(mine.Fingerprint()))(t))
	_, err = c.Report(testContext(t), &ReportRequest{JobID: NewJobID(), State: StateDone})
	require.NoError(t, err)
	require.Len(t, h.got(), 1)

	stranger := must(NewOwnKey())(t)
	_, err = r.client(must(stranger.Agent(mine.Fingerprint()))(t)).Report(testContext(t), &ReportRequest{JobID: NewJobID(), State: StateDone})
	require.ErrorIs(t, err, ErrAuth)
	require.Len(t, h.got(), 1)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		require.NoError(t, err)
		return v
	}
}

// TestCallbackStrangers: whoever is not the agent of the node that it names gets
// nowhere, and an agent talks to nobody but its manager.
func TestCallbackStrangers(t *testing.T) {
	r := newCallbackRig(t)
	h1, a1, _ := r.node("web-01", 0)
	h2, a2, _ := r.node("web-02", 0)
	report := &ReportRequest{JobID: NewJobID(), State: StateDone}
	handshake := func(creds *credentials, name string, adjust func(*tls.Config)) error {
		raw, err := r.dial(testContext(t))
		require.NoError(t, err)
		defer raw.Close()
		cfg := creds.clientTLS(name)
		cfg.InsecureSkipVerify, cfg.VerifyConnection = true, nil // the attacker's own business
		if adjust != nil {
			adjust(cfg)
		}
		c := tls.Client(raw, cfg)
		if err := c.HandshakeContext(testContext(t)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1)) // the verdict on a certificate comes after the client's handshake
		return err
	}
	name1, name2 := callbackName(a1.Peer()), callbackName(a2.Peer())
	require.NotEqual(t, name1, name2)
	for what, err := range map[string]error{
		"an agent for another node":    handshake(a1.c, name2, nil),
		"no name":                      handshake(a1.c, "", nil),
		"a name that nobody has":       handshake(a1.c, "x"+name1[1:], nil),
		"the name of the certificates": handshake(a1.c, managerName, nil),
		"TLS 1.2": handshake(a1.c, name1, func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}),
		"no certificate": handshake(a1.c, name1, func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
		}),
	} {
		require.Error(t, err, what)
		var alert *net.OpError
		require.ErrorAs(t, err, &alert, what)
		require.Equal(t, "remote error", alert.Op, what)
	}

	// The manager of one node, in the place of another's: the agent sees it.
	m3, a3, err := NewIdentity("web-03")
	require.NoError(t, err)
	c := &credentials{role: roleAgent, cert: a3.c.cert, ca: a3.c.ca, peer: a1.c.peer, peerName: managerName, secret: a3.c.secret}
	_, err = r.client(&AgentCredentials{c}).Report(testContext(t), report)
	require.ErrorIs(t, err, ErrTrust)
	_ = m3
	require.Empty(t, h1.got())
	require.Empty(t, h2.got())

	// A client of agents is none of a manager's.
	_, err = (&CallbackClient{Dial: r.dial}).Report(testContext(t), report)
	require.Error(t, err)
}

// TestCallbackMessages: on a callback each message is authenticated as well, with
// keys of its own, and there is nothing but callbacks.
func TestCallbackMessages(t *testing.T) {
	r := newCallbackRig(t)
	h, a, _ := r.node("web-01", 0)
	raw, err := r.dial(testContext(t))
	require.NoError(t, err)
	defer raw.Close()
	conn := tls.Client(raw, a.c.clientTLS(callbackName(a.Peer())))
	require.NoError(t, conn.HandshakeContext(testContext(t)))
	c := &rawConn{t: t, conn: conn, br: bufio.NewReader(conn)}
	c.keys, err = a.c.deriveKeys(conn.ConnectionState(), true)
	require.NoError(t, err)
	epoch := r.callbacks.server.Epoch()
	body, err := encodeEnvelope("Report", &ReportRequest{JobID: NewJobID(), State: StateDone})
	require.NoError(t, err)

	good := c.signed(epoch, 1, http.MethodPost, soapPath, soapHeader(), body)
	_, status, _ := c.send(good)
	require.Equal(t, http.StatusOK, status)
	require.Len(t, h.got(), 1)
	code, status, _ := c.send(good)
	require.Equal(t, CodeReplay, code)
	require.Equal(t, http.StatusBadRequest, status)

	code, _, _ = c.send(plain(http.MethodPost, soapPath, soapHeader(), body))
	require.Equal(t, CodeUnauthorized, code)
	code, _, _ = c.send(c.signed(unknownEpoch, 2, http.MethodPost, soapPath, soapHeader(), body))
	require.Equal(t, CodeEpoch, code)
	code, _, _ = c.send(plain(http.MethodGet, wsdlPath, http.Header{}, nil))
	require.Equal(t, CodeUnauthorized, code)

	// What a manager asks an agent for, an agent cannot ask a manager for.
	inventory, err := encodeEnvelope("Inventory", &InventoryRequest{})
	require.NoError(t, err)
	code, _, _ = c.send(c.signed(epoch, 3, http.MethodPost, soapPath, soapHeader(), inventory))
	require.Equal(t, CodeBadRequest, code)
	code, _, _ = c.send(c.signed(epoch, 4, http.MethodPut, blobPath+bodyDigest(nil), http.Header{headerContentRange: {"bytes 0-0/1"}}, []byte("x")))
	require.NotEmpty(t, code)

	// A message of the other direction's keys.
	other := *c
	other.keys, err = a.c.deriveKeys(conn.ConnectionState(), false)
	require.NoError(t, err)
	code, _, _ = other.send(other.signed(epoch, 5, http.MethodPost, soapPath, soapHeader(), body))
	require.Equal(t, CodeBadMAC, code)
	require.Len(t, h.got(), 1)
}

// TestCallbackCrowd: neither silent strangers nor one agent with many connections
// keep others out, though all come from one address, and at once.
func TestCallbackCrowd(t *testing.T) {
	r, ctx := newCallbackRig(t), testContext(t)
	_, greedy, _ := r.node("web-01", 0)
	for range 200 {
		conn, err := r.dial(ctx)
		require.NoError(t, err)
		defer conn.Close()
	}
	for range 50 {
		_, err := r.client(greedy).Contact(ctx, nil)
		require.NoError(t, err)
	}
	const agents = 100
	var clients []*CallbackClient
	var handlers []*fakeManager
	for range agents {
		h, a, _ := r.node("rack", 0)
		clients, handlers = append(clients, r.client(a)), append(handlers, h)
	}
	errs := make(chan error, agents)
	for _, c := range clients {
		go func() {
			_, err := c.Report(ctx, &ReportRequest{JobID: NewJobID(), State: StateDone})
			errs <- err
		}()
	}
	for range agents {
		require.NoError(t, <-errs)
	}
	for _, h := range handlers {
		require.Len(t, h.got(), 1)
	}
	table := r.callbacks.server.shared
	table.mu.Lock()
	defer table.mu.Unlock()
	require.LessOrEqual(t, len(table.trusted), agents+maxCallbackConns)
}

// TestCallbackDedicated: a listener for one agent is for no other, and whoever is
// removed in the moment of its handshake is not let in.
func TestCallbackDedicated(t *testing.T) {
	r, ctx := newCallbackRig(t), testContext(t)
	m, a, err := NewIdentity("web-01")
	require.NoError(t, err)
	h := &fakeManager{}
	remove, err := r.callbacks.Add("web-01", m, h)
	require.NoError(t, err)
	_, other, _ := r.node("web-02", 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.callbacks.Serve(context.Background(), ln, m) }()

	_, err = r.client(a).Contact(ctx, nil)
	require.NoError(t, err)
	_, err = r.client(other).Contact(ctx, nil)
	require.Error(t, err)

	raw, err := r.dial(ctx)
	require.NoError(t, err)
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	cfg := a.c.clientTLS(callbackName(a.Peer()))
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		remove() // when the manager has found whom it is with
		return &a.c.cert, nil
	}
	conn := tls.Client(raw, cfg)
	require.NoError(t, conn.HandshakeContext(ctx))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, isTimeout(err), "it was let in")
	require.NoError(t, r.callbacks.Close(ctx))
	<-served
}
