package sum

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// update lets a device update itself. With the record of an earlier attempt it
// goes on where that stopped; id is then the one of the record.
func (n *Node) update(ctx context.Context, it PlanItem, c *component.Component, opts DeployOptions, id string, old *updateRecord) claim {
	if id == "" {
		id = newID()
	}
	record := updateRecord{Target: n.t, Item: it, Match: c.Match, Scheme: c.Scheme}
	var resume *transport.State
	if old != nil {
		record = *old
		record.Offers = maps.Clone(old.Offers)
		if old.State.Driver != "" {
			resume = &old.State
		}
	}
	keep := func(ctx context.Context) error { return n.s.books.opened(ctx, kindUpdate, n.t, id, record) }
	if err := keep(ctx); err != nil {
		return claim{err: err}
	}
	log := &tail{limit: maxText}
	var result transport.Result
	var events sync.Mutex // one event of the node at a time
	tell := func(phase string, edit func(*Event)) {
		events.Lock()
		defer events.Unlock()
		opts.event(n, it.Component, phase, edit)
	}
	// What waits for the device to fetch something ends with the update.
	watched, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	var posts inboxes
	defer func() {
		if err := posts.release(ctx); err != nil {
			n.s.log.ErrorContext(ctx, "closing the firewall; the end of the session tries again", "target", n.t.key(), "err", err)
		}
	}()
	err := n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		path := conn.Path()
		uo := transport.UpdateOptions{
			Rewrite: it.Rewrite, Downgrade: it.Downgrade, Resume: resume, Log: log,
			Checkpoint: func(ctx context.Context, s transport.State) error {
				record.State, record.Begun = s, record.Begun || s.Sent
				if err := keep(ctx); err != nil {
					return err
				}
				resume = &s
				return nil
			},
			Publish: func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
				pub, where, err := n.s.publish.offer(ctx, n.t, path, r, record.Offers[r.Key])
				if err != nil {
					return pub, err
				}
				if record.Offers[r.Key] != where {
					if record.Offers == nil {
						record.Offers = map[string]offerRecord{}
					}
					record.Offers[r.Key] = where
					if err := keep(ctx); err != nil {
						_, _ = pub.Release(ctx)
						return transport.Published{}, err
					}
				}
				watchers.Go(func() {
					if err := pub.Await(watched, n.s.cfg.FetchPatience); errors.Is(err, depot.ErrNotRequested) {
						n.s.log.WarnContext(watched, "the target has not asked for its payload", "target", n.t.key(), "component", it.Component, "err", err)
						tell("fetch", func(e *Event) { e.Text = err.Error() })
					}
				})
				return pub, nil
			},
			Receive: func(ctx context.Context, r transport.ReceiveRequest) (transport.Receiving, error) {
				return posts.receive(ctx, n.s.publish, n.t, path, r)
			},
			Progress: func(p transport.Progress) {
				tell(p.Phase, func(e *Event) { e.Done, e.Total, e.Text = p.Done, p.Total, p.Text })
			},
		}
		for _, s := range it.Subjects {
			if s.Fits {
				uo.Devices = append(uo.Devices, s.Name)
			}
		}
		var err error
		result, err = transport.Update(ctx, conn, c.Payload, uo)
		return err
	})
	cl := claim{result: result, begun: true, entry: entry{kindUpdate, id,
		func(ctx context.Context) { n.s.publish.withdraw(ctx, record.Offers) },
		func(ctx context.Context) error { return n.s.books.closed(ctx, kindUpdate, n.t, id) },
		func(ctx context.Context, f finding) error {
			record.Offers, record.Found = nil, &f
			return keep(ctx)
		}}}
	if cl.result.Text == "" {
		cl.result.Text = log.String()
	}
	switch {
	case err == nil:
	case !record.Begun:
		// Nothing that changes the device was sent; what the driver prepared is
		// taken back.
		cl.begun, cl.err = false, err
		if uerr := n.undo(ctx, record.State); uerr != nil {
			cl.open, cl.err = true, errors.Join(err, uerr)
		}
	case old != nil && (errors.Is(err, transport.ErrInvalid) || errors.Is(err, errors.ErrUnsupported)):
		// The driver does not know the state, as after a change of versions.
		cl.lost = fmt.Sprintf("what became of the update is not known: %v", err)
		if uerr := n.undo(ctx, record.State); uerr != nil {
			cl.lost = join(cl.lost, uerr.Error())
		}
	default:
		// The device may be at it still, whoever answers or does not.
		cl.open, cl.err = true, err
	}
	return cl
}

// undo takes back what a driver prepared on a device, before anything changed, or when the
// driver is not to end the update itself.
func (n *Node) undo(ctx context.Context, s transport.State) error {
	if s.Driver == "" {
		return nil
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	err := n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error { return transport.Undo(ctx, conn, s) })
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return fmt.Errorf("taking back what was prepared: %w", err)
}
