package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// reporter tells the manager, over a connection that the agent makes, that jobs
// changed: the way of the classic generation. What it cannot tell is no loss: the
// manager asks from time to time anyway.
type reporter struct {
	home  home
	creds *channel.AgentCredentials
	addrs []string // where the first contact is, in the order in which they are tried
	log   *slog.Logger
	// look is how often the jobs are looked at; shortest and longest are how long
	// it waits after the manager was not reached.
	look, shortest, longest time.Duration
}

func newReporter(h home, creds *channel.AgentCredentials, addrs []string, log *slog.Logger) *reporter {
	return &reporter{home: h, creds: creds, addrs: addrs, log: log,
		look: 250 * time.Millisecond, shortest: time.Second, longest: 30 * time.Second}
}

// run reports until ctx ends.
func (r *reporter) run(ctx context.Context) {
	told := make(map[string]news)
	for id, n := range r.news(nil) { // of an earlier agent, and known
		if n.state.Final() {
			told[id] = n
		}
	}
	wait, reached, warned := r.shortest, false, false
	for ctx.Err() == nil {
		client, addr, err := r.contact(ctx)
		if err == nil {
			r.log.Info("the manager is reached", "addr", addr)
			reached = true
			var some bool
			if some, err = r.report(ctx, client, told); some {
				wait, warned = r.shortest, false
			}
			closeClient(ctx, client)
		}
		// Not for every agent that leaves, but for one that was never heard.
		if !warned && (ctx.Err() == nil || !reached) {
			r.log.Warn("the manager is not reached and has to ask for news: firewalls must let this host reach it there over TCP", "addrs", r.addrs, "error", err)
			warned = true
		}
		// Not all agents of a site at the same moment.
		pause(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, r.longest)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// callbackLimit is how long a report may take.
const callbackLimit = 15 * time.Second

// contact calls the manager for the first time, and returns a client for the port
// that it names.
func (r *reporter) contact(ctx context.Context) (c *channel.CallbackClient, addr string, err error) {
	for _, addr = range r.addrs {
		c = r.client(addr)
		var where *channel.ContactResponse
		if where, err = contact(ctx, c); err == nil {
			if where.Port == 0 {
				return c, addr, nil
			}
			host, _, _ := net.SplitHostPort(addr)
			moved := net.JoinHostPort(host, strconv.Itoa(int(where.Port)))
			next := r.client(moved)
			if _, err = contact(ctx, next); err == nil {
				closeClient(ctx, c)
				return next, moved, nil
			}
			closeClient(ctx, next)
			r.log.Warn("the conversation stays at the port of the first contact", "addr", addr, "moved", moved, "error", err)
			return c, addr, nil
		}
		closeClient(ctx, c)
	}
	return nil, "", err
}

func contact(ctx context.Context, c *channel.CallbackClient) (*channel.ContactResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callbackLimit)
	defer cancel()
	return c.Contact(ctx, &channel.ContactRequest{})
}

func (r *reporter) client(addr string) *channel.CallbackClient {
	return &channel.CallbackClient{Credentials: r.creds, Logger: r.log,
		Dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }}
}

func closeClient(ctx context.Context, c *channel.CallbackClient) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), replyTime)
	defer cancel()
	_ = c.Close(ctx)
}

// news is what is told of a job.
type news struct {
	state  channel.JobState
	log    int64       // bytes
	record os.FileInfo // as it was read
}

// same reports whether a record is as it was: it is replaced when it is written.
func (n news) same(fi os.FileInfo) bool {
	return n.record != nil && os.SameFile(n.record, fi) && n.record.ModTime().Equal(fi.ModTime())
}

// report tells what changes, until that fails or ctx ends, and whether any of it
// arrived.
func (r *reporter) report(ctx context.Context, c *channel.CallbackClient, told map[string]news) (some bool, err error) {
	for ctx.Err() == nil {
		for id, n := range r.news(told) {
			if was := told[id]; was.state == n.state && was.log == n.log {
				told[id] = n
				continue
			}
			rctx, cancel := context.WithTimeout(ctx, callbackLimit)
			_, err := c.Report(rctx, &channel.ReportRequest{JobID: id, State: n.state, LogSize: n.log})
			cancel()
			if err != nil {
				return some, err
			}
			told[id], some = n, true
		}
		pause(ctx, r.look)
	}
	return some, ctx.Err()
}

// news looks at the jobs. A record is read only if it was written since.
func (r *reporter) news(told map[string]news) map[string]news {
	out := make(map[string]news)
	ids, _ := r.home.jobIDs()
	for _, id := range ids {
		var n news
		if fi, err := os.Stat(r.home.output(id)); err == nil {
			n.log = fi.Size()
		}
		fi, err := os.Stat(r.home.record(id))
		if err != nil {
			continue
		}
		n.record = fi
		if was := told[id]; was.same(fi) {
			n.state = was.state
		} else if rec, err := r.home.readRecord(id); err == nil {
			n.state = channel.JobState(rec.State)
		} else {
			continue
		}
		out[id] = n
	}
	return out
}
