package channel

import (
	"context"
	"encoding/xml"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

const (
	maxClientConns         = 4
	defaultClientHandshake = 15 * time.Second
)

// Client is the manager's side: a [Handler] over the wire, and file transfer.
// Set the fields before the first call; then all methods are safe for
// concurrent use.
//
// One connection is kept and used again. Calls that run at the same time open
// further ones, four in all; a fifth call waits, be it a heartbeat. Whoever keeps
// four uploads going must not count on heartbeats between their pieces.
// Nothing is sent twice: a broken connection is replaced only before a request
// went out. All errors are of type [*Error].
type Client struct {
	// Credentials are required.
	Credentials *ManagerCredentials
	// Dial opens a connection to the agent: a Unix socket, TCP, or a pipe
	// through another protocol. Deadlines need not be supported, but closing
	// the connection must end its pending calls. It is required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Epoch, if not empty, is what [Server.Epoch] gave at the start of the
	// agent that this client means: if another answers, the call fails with
	// ErrEpoch, and so does every later one. Without it the client adopts the
	// epoch it first meets, and another after a call that failed with ErrEpoch.
	Epoch string
	// Logger gets connections made and lost. Nil discards them.
	Logger *slog.Logger
	// HandshakeTimeout limits the TLS handshake. 0 means 15 s.
	HandshakeTimeout time.Duration
	// StallTimeout ends an upload that makes no progress. 0 means 1 min.
	StallTimeout time.Duration

	callback *AgentCredentials // of a CallbackClient, instead of Credentials

	once   sync.Once
	places chan struct{}   // one value per connection in use
	ended  context.Context // done when Close was called
	end    context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	epoch  string // empty: not known
	idle   []*clientConn
	calls  sync.WaitGroup // calls and the goroutines of connections
}

var _ Handler = (*Client)(nil)

func (c *Client) init() {
	c.once.Do(func() {
		c.places = make(chan struct{}, maxClientConns)
		c.ended, c.end = context.WithCancelCause(context.Background())
		c.mu.Lock()
		c.epoch = c.Epoch
		c.mu.Unlock()
	})
}

// Inventory implements [Handler].
func (c *Client) Inventory(ctx context.Context, r *InventoryRequest) (*InventoryResponse, error) {
	return invoke[InventoryRequest, InventoryResponse](ctx, c, "Inventory", r)
}

// Install implements [Handler].
func (c *Client) Install(ctx context.Context, r *InstallRequest) (*JobStatus, error) {
	return invoke[InstallRequest, JobStatus](ctx, c, "Install", r)
}

// Status implements [Handler].
func (c *Client) Status(ctx context.Context, r *StatusRequest) (*JobStatus, error) {
	return invoke[StatusRequest, JobStatus](ctx, c, "Status", r)
}

// ListJobs implements [Handler].
func (c *Client) ListJobs(ctx context.Context, r *ListJobsRequest) (*ListJobsResponse, error) {
	return invoke[ListJobsRequest, ListJobsResponse](ctx, c, "ListJobs", r)
}

// Cancel implements [Handler].
func (c *Client) Cancel(ctx context.Context, r *CancelRequest) (*JobStatus, error) {
	return invoke[CancelRequest, JobStatus](ctx, c, "Cancel", r)
}

// Heartbeat implements [Handler].
func (c *Client) Heartbeat(ctx context.Context, r *HeartbeatRequest) (*HeartbeatResponse, error) {
	return invoke[HeartbeatRequest, HeartbeatResponse](ctx, c, "Heartbeat", r)
}

// Reboot implements [Handler].
func (c *Client) Reboot(ctx context.Context, r *RebootRequest) (*RebootResponse, error) {
	return invoke[RebootRequest, RebootResponse](ctx, c, "Reboot", r)
}

// Move implements [Handler].
func (c *Client) Move(ctx context.Context, r *MoveRequest) (*MoveResponse, error) {
	return invoke[MoveRequest, MoveResponse](ctx, c, "Move", r)
}

// Stop implements [Handler].
func (c *Client) Stop(ctx context.Context, r *StopRequest) (*StopResponse, error) {
	return invoke[StopRequest, StopResponse](ctx, c, "Stop", r)
}

// CurrentEpoch is the epoch of the agent that this client speaks to, and empty
// before the first call.
func (c *Client) CurrentEpoch() string {
	c.init()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Close ends calls in progress with ErrClosed and closes the connections. It
// waits until all of that is over, at most until 10 s after ctx ended.
func (c *Client) Close(ctx context.Context) error {
	c.init()
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	c.end(ErrClosed)
	for _, k := range idle {
		k.close()
	}
	done := make(chan struct{})
	go func() {
		c.calls.Wait()
		close(done)
	}()
	if !joined(ctx, done) {
		return &Error{Op: "close", Err: errors.New("a connection did not end when it was closed")}
	}
	return nil
}

// side is whose credentials these are.
func (c *Client) side() *credentials {
	switch {
	case c.callback != nil:
		return c.callback.c
	case c.Credentials != nil:
		return c.Credentials.c
	}
	return nil
}

// operations is what can be asked for.
func (c *Client) operations() map[string]operation {
	if c.callback != nil {
		return callbackOperations()
	}
	return operations()
}

// invoke calls one operation.
func invoke[Q, P any](ctx context.Context, c *Client, name string, req *Q) (*P, error) {
	if req == nil {
		req = new(Q)
	}
	if err := checkText(reflect.ValueOf(req)); err != nil {
		return nil, &Error{Op: name, Err: err}
	}
	if v, ok := any(req).(validator); ok {
		if err := v.validate(); err != nil {
			return nil, &Error{Op: name, Kind: ErrMalformed, Err: err}
		}
	}
	body, err := encodeEnvelope(name, req)
	if err != nil {
		return nil, &Error{Op: name, Err: err}
	}
	if len(body) > maxRequest {
		return nil, &Error{Op: name, Kind: ErrTooLarge}
	}
	m := &message{
		op:     name,
		method: http.MethodPost,
		target: soapPath,
		header: http.Header{"Content-Type": {soapType}},
		body:   body,
		limit:  maxResponse,
	}
	r, err := c.do(ctx, m)
	if err != nil {
		return nil, err
	}
	resp := new(P)
	if err := decodeReply(c.operations()[name], r, resp); err != nil {
		return nil, &Error{Op: name, Err: err, Sent: !errors.Is(err, ErrFault)}
	}
	return resp, nil
}

// decodeReply reads the response or the fault. The sender was authenticated but
// may still be hostile: the same strict parser is used as on the agent.
func decodeReply(op operation, r *answer, resp any) error {
	if !isSOAPType(r.header.Get("Content-Type")) {
		return refuse("the answer is not application/soap+xml")
	}
	got, err := scanEnvelope(r.body, func(n xml.Name) *schema {
		switch {
		case n == xml.Name{Space: Namespace, Local: op.name + "Response"} && r.status == http.StatusOK:
			return op.response
		case n == xml.Name{Space: soapNS, Local: "Fault"} && r.status != http.StatusOK:
			return faultSchema()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if got.Space == Namespace {
		return decodeBody(r.body, resp)
	}
	var sf soapFault
	if err := decodeBody(r.body, &sf); err != nil {
		return err
	}
	if d := sf.Detail.AgentFault; d != nil {
		return &Fault{Code: d.Code, Retryable: d.Retryable, Message: d.Message}
	}
	return &Fault{Code: CodeInternal, Message: sf.Reason.Text}
}

// do sends one message and gives its authenticated answer. A refusal on account
// of the epoch is an error here; other faults are for the caller to read.
func (c *Client) do(ctx context.Context, m *message) (*answer, error) {
	c.init()
	if c.side() == nil || c.Dial == nil {
		return nil, &Error{Op: m.op, Err: errors.New("no Credentials or no Dial")}
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, &Error{Op: m.op, Kind: ErrClosed}
	}
	c.calls.Add(1)
	c.mu.Unlock()
	defer c.calls.Done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ended, func() { cancel(ErrClosed) })()

	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-ctx.Done():
		return nil, connError(m.op, false, context.Cause(ctx))
	}
	for {
		k, reused, err := c.take(ctx)
		if err != nil {
			return nil, connError(m.op, false, cause(ctx, err))
		}
		r, sent, err := c.exchange(ctx, k, m)
		if err == nil {
			return r, nil
		}
		// A kept connection that turns out to be dead is replaced. Nothing of
		// the request left this process, so this is not a second attempt.
		if reused && !sent && !m.started && ctx.Err() == nil && errors.Is(err, errUnsent) {
			continue
		}
		return nil, connError(m.op, sent, cause(ctx, err))
	}
}

// exchange sends m over k, and keeps k if it can be used again.
func (c *Client) exchange(ctx context.Context, k *clientConn, m *message) (*answer, bool, error) {
	epoch := c.CurrentEpoch()
	if epoch == "" {
		var err error
		if epoch, err = c.learnEpoch(ctx, k); err != nil {
			k.close()
			return nil, false, err
		}
	}
	r, sent, err := k.roundTrip(ctx, m, epoch)
	if err != nil {
		k.close()
		return nil, sent, err
	}
	c.keep(k, r.reusable)
	if r.epoch != epoch {
		// Only a refusal may name another epoch; the call was not executed.
		// Unless the caller means one agent, the next goes to the one that runs
		// now.
		if c.Epoch == "" {
			c.mu.Lock()
			c.epoch = r.epoch
			c.mu.Unlock()
		}
		return nil, false, &Error{Op: m.op, Kind: ErrEpoch}
	}
	return r, sent, nil
}

// learnEpoch asks with an epoch that no agent has, which makes the gate refuse
// before anything else, and name its own.
func (c *Client) learnEpoch(ctx context.Context, k *clientConn) (string, error) {
	m := &message{op: "epoch", method: http.MethodHead, target: soapPath, header: http.Header{}, limit: maxHeader}
	r, _, err := k.roundTrip(ctx, m, unknownEpoch)
	if err != nil {
		return "", err
	}
	if !r.reusable {
		return "", &Error{Op: "epoch", Kind: ErrLost}
	}
	k.watch()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == "" {
		c.epoch = r.epoch
	}
	return c.epoch, nil
}

// cause prefers why the context ended over how the connection then failed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if why := context.Cause(ctx); !errors.Is(err, why) {
		return why
	}
	return err
}

// take gives an idle connection that still lives, or a new one.
func (c *Client) take(ctx context.Context) (k *clientConn, reused bool, err error) {
	for {
		c.mu.Lock()
		n := len(c.idle)
		if n == 0 {
			c.mu.Unlock()
			break
		}
		k, c.idle = c.idle[n-1], c.idle[:n-1]
		c.mu.Unlock()
		if k.alive() {
			return k, true, nil
		}
		c.logger().Debug("connection to the agent was lost")
		k.close()
	}
	// A crowd of strangers at the agent's port can displace a connection whose
	// handshake is not over. Nothing was sent, so it is tried again.
	for pause := 50 * time.Millisecond; ; pause *= 4 {
		k, err = c.dial(ctx)
		if err == nil || !errors.Is(err, errHandshakeCut) || pause > time.Second {
			return k, false, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, false, err
		}
	}
}

// keep makes a connection available again, or closes it.
func (c *Client) keep(k *clientConn, reusable bool) {
	c.mu.Lock()
	if reusable && !c.closed {
		k.watch()
		c.idle = append(c.idle, k)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	k.close()
}

// faultOfAnswer reads a fault of the file routes.
func faultOfAnswer(r *answer) *Fault {
	code, flag, _ := strings.Cut(r.header.Get(headerFault), ";")
	if code == "" {
		return nil
	}
	return &Fault{Code: code, Retryable: flag == "retryable", Message: string(r.body)}
}

func (c *Client) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.New(slog.DiscardHandler)
}
