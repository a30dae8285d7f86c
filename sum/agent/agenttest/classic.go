package agenttest

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// classic is the conversation of one agent in the classic generation.
type classic struct {
	dial    transport.DialFunc // nil: nobody is called
	creds   *channel.AgentCredentials
	addrs   []string // of the manager
	release func()

	turn   sync.Mutex // one call of the manager at a time
	client *channel.CallbackClient
	told   map[string]news // by job
	closed bool
}

// news is what is told of a job.
type news struct {
	state agent.State
	log   int
}

// meet is the beginning of the conversation: the manager gets ready for the agent
// before that starts.
func (in *Installer) meet(ctx context.Context, h *Host, opts agent.StartOptions) (*classic, error) {
	if opts.Classic == nil {
		return nil, nil
	}
	c := &classic{dial: in.Dial, release: func() {}, told: map[string]news{}}
	if opts.Classic.Callback == nil {
		return c, nil
	}
	manager, creds, err := channel.NewIdentity(opts.Target)
	if err != nil {
		return nil, err
	}
	addrs, release, err := opts.Classic.Callback(ctx, manager)
	if err != nil {
		return nil, err
	}
	c.creds, c.addrs = creds, slices.Clone(addrs)
	if release != nil {
		c.release = sync.OnceFunc(release)
	}
	in.mu.Lock()
	h.callback = c.addrs
	in.mu.Unlock()
	return c, nil
}

// contact calls the manager for the first time, and goes on at the port that it names.
// Who cannot be reached is not called again.
func (c *classic) contact(ctx context.Context) {
	if c == nil || c.dial == nil {
		return
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	for _, addr := range c.addrs {
		first := c.at(addr)
		where, err := first.Contact(ctx, &channel.ContactRequest{})
		if err != nil {
			_ = first.Close(ctx)
			continue
		}
		c.client = first
		if where.Port == 0 {
			return
		}
		host, _, _ := net.SplitHostPort(addr)
		next := c.at(net.JoinHostPort(host, strconv.Itoa(int(where.Port))))
		if _, err := next.Contact(ctx, &channel.ContactRequest{}); err != nil {
			_ = next.Close(ctx)
			return // it stays
		}
		_ = first.Close(ctx)
		c.client = next
		return
	}
}

func (c *classic) at(addr string) *channel.CallbackClient {
	return &channel.CallbackClient{Credentials: c.creds, Dial: func(ctx context.Context) (net.Conn, error) { return c.dial(ctx, "tcp", addr) }}
}

// report tells the manager of a job, if that has news. The caller does not hold in.mu.
func (c *classic) report(ctx context.Context, id string, now news) {
	if c == nil || c.dial == nil {
		return
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.client == nil || c.closed || c.told[id] == now {
		return
	}
	q := &channel.ReportRequest{JobID: id, State: channel.JobState(now.state), LogSize: int64(now.log)}
	if _, err := c.client.Report(ctx, q); err == nil {
		c.told[id] = now
	}
}

// close ends the conversation.
func (c *classic) close(ctx context.Context) {
	if c == nil {
		return
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.client != nil && !c.closed {
		_ = c.client.Close(ctx)
	}
	c.closed = true
	c.release()
}

// freePort is where an agent listens: the first port from agent.DefaultPort on that no
// other agent of the host has. The caller holds in.mu.
func (h *Host) freePort() uint16 {
	taken := map[uint16]bool{}
	for _, p := range h.places {
		if p.running {
			taken[p.port] = true
		}
	}
	port := uint16(agent.DefaultPort)
	for taken[port] {
		port++
	}
	return port
}

// movedPort is where the conversation goes on: nobody can foresee it in earnest, and
// tests can. The caller holds in.mu.
func (h *Host) movedPort() uint16 {
	h.moves++
	return uint16(30000 + h.moves%10000)
}

// Callback returns where the agent that was started last finds the manager in the
// classic generation, as it was told; nil if it calls nobody.
func (h *Host) Callback() []string {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	return slices.Clone(h.callback)
}
