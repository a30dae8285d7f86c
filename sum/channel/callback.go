package channel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// CallbackHandler is the set of operations that an agent calls on its manager, over
// a connection that the agent makes: the way of HP SUM 4 to 6, whose manager
// receives them on port 61000 and up. What they say is a hint that there is news;
// the news itself the manager asks the agent for.
//
// Methods are called concurrently. Errors are as those of [Handler].
type CallbackHandler interface {
	// Contact is the agent's first call. The answer may name another port of the
	// same address, to which the agent then goes with everything else.
	Contact(context.Context, *ContactRequest) (*ContactResponse, error)
	// Report says that something about a job changed.
	Report(context.Context, *ReportRequest) (*ReportResponse, error)
}

// ContactRequest is an agent's first call.
type ContactRequest struct{}

// ContactResponse says where the conversation goes on.
type ContactResponse struct {
	Port uint32 `xml:"Port,omitempty"` // TCP; 0: here
}

// ReportRequest says that a job changed.
type ReportRequest struct {
	JobID   string   `xml:"JobId"`
	State   JobState `xml:"State"`
	LogSize int64    `xml:"LogSize,omitempty"` // bytes
}

// ReportResponse says that the report arrived.
type ReportResponse struct{}

func (r *ReportRequest) validate() error {
	if !ValidJobID(r.JobID) {
		return badJobID()
	}
	switch r.State {
	case StateAccepted, StateRunning, StateDone, StateCancelled, StateInterrupted:
	default:
		return &Fault{Code: CodeBadRequest, Message: fmt.Sprintf("State %.40q is not known", r.State)}
	}
	if r.LogSize < 0 {
		return &Fault{Code: CodeBadRequest, Message: "LogSize must not be negative"}
	}
	return nil
}

// What one agent may have: it needs one connection, and another while that is dying.
// Agents behind one address, as of a rack in one IPv6 /64 or of a site behind NAT, do
// not count against each other.
const (
	maxCallbackConns   = 2
	maxCallbackPending = 256

	// Longer than an agent's, because many agents may come at once. Those who are
	// silent are displaced before anyhow.
	callbackHandshake = 10 * time.Second
)

// Callbacks is the manager's side of connections that agents make. One listener
// serves the agents of any number of nodes: an agent names the key of the manager
// that it was given, and both sides prove theirs as they do in the other
// direction, with the same protection. The zero value is ready; set Logger before
// the first call. It is safe for concurrent use.
type Callbacks struct {
	// Logger gets one line per connection and operation, never a body or a
	// header. Nil discards them.
	Logger *slog.Logger

	once   sync.Once
	server *Server

	mu      sync.Mutex
	parties map[string]*party
}

func (c *Callbacks) init() *Server {
	c.once.Do(func() {
		c.parties = make(map[string]*party)
		c.server = &Server{
			Logger: c.Logger, MaxPending: maxCallbackPending, MaxPendingPerAddr: maxCallbackPending, MaxConns: maxCallbackConns,
			HandshakeTimeout: callbackHandshake, callbacks: c,
		}
	})
	return c.server
}

// find gives who has a server name.
func (c *Callbacks) find(name string) *party {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parties[name]
}

// Add lets the agent that m is about call h, until remove is called, which also
// ends its connections. node is its name in the log. It fails with ErrTrust for
// credentials that are added already, or another agent's with the same key of the
// manager: a key is for one agent.
func (c *Callbacks) Add(node string, m *ManagerCredentials, h CallbackHandler) (remove func(), err error) {
	s := c.init()
	if m == nil || m.c == nil || h == nil {
		return nil, &Error{Op: "add", Err: errors.New("no credentials or no handler")}
	}
	name, p := callbackName(m.Fingerprint()), &party{label: cmp.Or(node, "?"), creds: m.c, handler: h}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parties[name] != nil {
		return nil, &Error{Op: "add", Kind: ErrTrust, Err: errors.New("the manager's key is in use for an agent already")}
	}
	c.parties[name] = p
	return func() {
		c.mu.Lock()
		if c.parties[name] == p {
			delete(c.parties, name)
		}
		c.mu.Unlock()
		p.gone.Store(true)
		s.mu.Lock()
		table := s.shared
		s.mu.Unlock()
		if table != nil {
			table.closeWith(p.creds)
		}
	}, nil
}

// Serve is as [Server.Serve]. Each of several listeners serves all agents, or if
// managers are given those that these are about.
func (c *Callbacks) Serve(ctx context.Context, ln net.Listener, only ...*ManagerCredentials) error {
	var creds []*credentials
	for _, m := range only {
		creds = append(creds, m.c)
	}
	return c.init().serve(ctx, ln, creds)
}

// Close is as [Server.Close].
func (c *Callbacks) Close(ctx context.Context) error { return c.init().Close(ctx) }

// CallbackClient is the agent's side: a [CallbackHandler] over the wire. Set the
// fields before the first call; then all methods are safe for concurrent use. All
// errors are of type [*Error].
type CallbackClient struct {
	// Credentials are required.
	Credentials *AgentCredentials
	// Dial opens a connection to the manager. It is required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Logger gets connections made and lost. Nil discards them.
	Logger *slog.Logger
	// HandshakeTimeout limits the TLS handshake. 0 means 15 s.
	HandshakeTimeout time.Duration

	once   sync.Once
	client Client
}

var _ CallbackHandler = (*CallbackClient)(nil)

func (c *CallbackClient) init() *Client {
	c.once.Do(func() {
		c.client.Dial, c.client.Logger, c.client.HandshakeTimeout = c.Dial, c.Logger, c.HandshakeTimeout
		if c.client.callback = c.Credentials; c.Credentials == nil {
			c.client.callback = &AgentCredentials{} // and each call fails
		}
	})
	return &c.client
}

// Contact implements [CallbackHandler].
func (c *CallbackClient) Contact(ctx context.Context, r *ContactRequest) (*ContactResponse, error) {
	return invoke[ContactRequest, ContactResponse](ctx, c.init(), "Contact", r)
}

// Report implements [CallbackHandler].
func (c *CallbackClient) Report(ctx context.Context, r *ReportRequest) (*ReportResponse, error) {
	return invoke[ReportRequest, ReportResponse](ctx, c.init(), "Report", r)
}

// Close is as [Client.Close].
func (c *CallbackClient) Close(ctx context.Context) error { return c.init().Close(ctx) }
