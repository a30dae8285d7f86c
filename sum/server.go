package sum

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// callLimit bounds one short exchange with an agent. It is no limit on the work:
// jobs run on without anybody asking.
const callLimit = time.Minute

// stopGrace is how long a job is given to end when the run is stopped. It leaves
// as much again of transport.CloseGrace for cleaning up.
const stopGrace = transport.CloseGrace / 2

// call makes one exchange with the agent. One that hangs for longer than limit is
// taken for a lost line, so that the node dials again.
func (n *Node) call(ctx context.Context, limit time.Duration, f func(ctx context.Context, ops agent.Ops) error) error {
	return n.withAgent(ctx, func(ctx context.Context, ops agent.Ops) error {
		short, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := f(short, ops)
		if err != nil && short.Err() != nil && ctx.Err() == nil {
			return &transport.Error{Op: "call", Target: n.t.Address, Kind: transport.ErrConnLost, Err: err,
				Hint: fmt.Sprintf("no answer within %v", limit)}
		}
		return err
	})
}

// install lets the agent install a component and waits for the end of the job.
func (n *Node) install(ctx context.Context, it PlanItem, c *component.Component, opts DeployOptions) claim {
	job := c.Job(channel.NewJobID(), component.JobOptions{Rewrite: it.Rewrite, Downgrade: it.Downgrade})
	for _, f := range c.Payload.Files {
		report := func(done, kept int64) {
			opts.event(n, it.Component, "stage", func(e *Event) { e.Done, e.Total, e.Kept, e.Text = done, f.Size, kept, f.Name })
		}
		err := n.withAgent(ctx, func(ctx context.Context, ops agent.Ops) error {
			res, err := ops.Stage(ctx, f, func(done int64) { report(done, 0) })
			if err == nil {
				report(f.Size, res.Kept)
			}
			return err
		})
		if err != nil {
			return claim{err: fmt.Errorf("sending %s: %w", f.Name, err)}
		}
	}
	place := n.placeOf()
	if place == nil { // a component without files, before any inventory
		if err := n.withAgent(ctx, func(context.Context, agent.Ops) error { return nil }); err != nil {
			return claim{err: err}
		}
		place = n.placeOf()
	}
	record := jobRecord{Target: n.t, Place: *place, Item: it, Match: c.Match, Scheme: c.Scheme}
	if p, ok := c.Probe(); ok {
		record.Probe = &p
	}
	if err := n.s.books.opened(ctx, kindJob, n.t, job.ID, record); err != nil {
		return claim{err: err}
	}
	entry := n.jobEntry(job.ID, record)
	sent := false // the request may have arrived
	err := n.call(ctx, callLimit, func(ctx context.Context, ops agent.Ops) error {
		_, err := ops.Install(ctx, job)
		if err == nil || !refusal(err) {
			sent = true
		}
		return err
	})
	if err != nil && !sent {
		return claim{err: hostBusy(err), entry: entry}
	}
	opts.event(n, it.Component, "install", nil) // a silent installer gives no other
	// From here on only the agent's own word ends the job's record.
	cl := n.follow(ctx, it, job.ID, opts)
	if err != nil && cl.unknown {
		return claim{err: err, entry: entry} // it never arrived
	}
	cl.entry = entry
	return cl
}

// jobEntry is the record of a job in the journal.
func (n *Node) jobEntry(id string, r jobRecord) entry {
	return entry{kindJob, id, nil,
		func(ctx context.Context) error { return n.s.books.closed(ctx, kindJob, n.t, id) },
		func(ctx context.Context, f finding) error {
			r.Found = &f
			return n.s.books.opened(ctx, kindJob, n.t, id, r)
		}}
}

// refusal reports whether an error is the agent's answer that it did not take the
// job, as against a line that broke before the answer came.
func refusal(err error) bool {
	if errors.Is(err, transport.ErrConnLost) || errors.Is(err, transport.ErrTimeout) {
		return false
	}
	for _, kind := range []error{
		agent.ErrJobConflict, agent.ErrJobRunning, agent.ErrNoJob, transport.ErrBusy, transport.ErrInvalid,
		transport.ErrRejected, transport.ErrNoSpace, transport.ErrIntegrity, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// follow waits for the end of a job and passes its log on. When ctx ends it asks
// the job not to begin, and gives one that has begun a moment to end.
func (n *Node) follow(ctx context.Context, it PlanItem, id string, opts DeployOptions) claim {
	st, err := n.watch(ctx, it, id, opts)
	if ctx.Err() != nil && !st.State.Final() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		// Only a job that has not begun is cancelled: an installer that is killed
		// half-way leaves more harm than one that ends.
		if err := n.call(late, callLimit, func(ctx context.Context, ops agent.Ops) (err error) {
			if st, err = ops.Status(ctx, id, 0); err == nil && st.State == agent.Accepted {
				st, err = ops.Cancel(ctx, id)
			}
			return err
		}); errors.Is(err, agent.ErrNoJob) {
			return claim{err: ctx.Err()} // it never arrived
		}
		st, err = n.watch(late, it, id, opts)
	}
	switch {
	case errors.Is(err, agent.ErrNoJob):
		return claim{begun: true, unknown: true, lost: "the agent has no record of the job"}
	case err != nil:
		return claim{begun: true, open: true, err: err}
	}
	if err := st.HostBusy(); err != nil {
		return claim{err: hostBusy(err)}
	}
	cl := claim{begun: true, result: st.Result}
	switch st.State {
	case agent.Cancelled:
		// A job that was cancelled before its program ran changed nothing.
		if st.Exit == nil {
			cl.result.Verdict = transport.VerdictCancelled
		} else {
			cl.lost = "it was cancelled while it ran"
		}
	case agent.Interrupted:
		cl.result.Verdict = transport.VerdictUnknown
		cl.lost = "it was interrupted: the target or the job's parent process went down while it ran"
	}
	return cl
}

// maxLog is how much of a job's log is passed on, in bytes. The agent keeps less.
const maxLog = 64 << 20

// polling is how often a job is asked for.
type polling struct {
	shortest, longest time.Duration
	longestTold       time.Duration // where the agent tells of news
	growth            float64       // of the wait, at each time without any
}

// watch polls a job until it is final.
func (n *Node) watch(ctx context.Context, it PlanItem, id string, opts DeployOptions) (agent.Status, error) {
	poll := n.s.poll
	var offset int64
	wait := poll.shortest
	n.setWatched(id)
	defer n.setWatched("")
	for {
		var st agent.Status
		err := n.call(ctx, callLimit, func(ctx context.Context, ops agent.Ops) (err error) {
			st, err = ops.Status(ctx, id, offset)
			return err
		})
		if err != nil {
			return st, err
		}
		if len(st.Log) > 0 && st.NextLog <= offset {
			return st, &transport.Error{Op: "status", Target: n.t.Address, Kind: transport.ErrProtocol,
				Err: fmt.Errorf("the agent sends log text at offset %d and goes on at %d", offset, st.NextLog)}
		}
		if len(st.Log) > 0 && offset < maxLog {
			opts.event(n, it.Component, "install", func(e *Event) { e.Text = string(st.Log) })
			wait = poll.shortest
			offset = st.NextLog
		}
		if st.State.Final() {
			if len(st.Log) == 0 || offset >= maxLog {
				patience := min(n.s.cfg.FetchPatience, endPatience)
				n.wayBack().await(ctx, patience)
				n.sayBlocked(ctx, it.Component, patience, opts)
				return st, nil
			}
			continue // fetch the rest of the log
		}
		n.sayBlocked(ctx, it.Component, n.s.cfg.FetchPatience, opts)
		limit, news := poll.longest, n.news
		if n.wayBack().tells() {
			limit = poll.longestTold
		}
		if wait <= poll.shortest {
			news = nil // however often the agent calls
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-news:
			wait = 0
		case <-ctx.Done():
			timer.Stop()
			return st, ctx.Err()
		}
		timer.Stop()
		wait = min(max(wait+time.Duration(poll.growth*float64(wait)), poll.shortest), limit)
	}
}
