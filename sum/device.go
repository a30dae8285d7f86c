package sum

import (
	"bytes"
	"context"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// update lets a device update itself. With the record of a dead run it goes on
// where that stopped; id is then the one of the record.
func (n *Node) update(ctx context.Context, it PlanItem, c *component.Component, opts DeployOptions, id string, old *updateRecord) claim {
	if id == "" {
		id = newID()
	}
	key := n.t.key()
	record := updateRecord{Target: n.t, Item: it, Match: c.Match, Scheme: c.Scheme}
	var resume *transport.State
	if old != nil {
		record = *old
		resume = &old.State
	}
	if err := n.s.books.opened(ctx, kindUpdate, key, id, record); err != nil {
		return claim{err: err}
	}
	log := &tail{limit: 4096}
	var result transport.Result
	err := n.WithConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		seenAs := conn.Path()
		uo := transport.UpdateOptions{
			Rewrite: it.Rewrite, Downgrade: it.Downgrade, Resume: resume, Log: log,
			Checkpoint: func(ctx context.Context, s transport.State) error {
				record.State, record.Begun = s, record.Begun || s.Sent
				if err := n.s.books.opened(ctx, kindUpdate, key, id, record); err != nil {
					return err
				}
				resume = &s
				return nil
			},
			Publish: func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
				return n.s.publish.offer(ctx, seenAs, r)
			},
			Progress: func(p transport.Progress) {
				opts.event(n, it.Component, p.Phase, func(e *Event) { e.Done, e.Total, e.Text = p.Done, p.Total, p.Text })
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
	cl := claim{result: result, begun: true, settle: func(ctx context.Context) error {
		return n.s.books.closed(ctx, kindUpdate, key, id)
	}}
	if cl.result.Text == "" {
		cl.result.Text = log.String()
	}
	switch {
	case err == nil:
	case !record.Begun:
		// Nothing that changes the device was sent.
		cl.begun, cl.err = false, err
	case ctx.Err() != nil || transport.Temporary(err):
		cl.open, cl.err = true, err
	default:
		cl.lost = fmt.Sprintf("what became of the update is not known: %v", err)
	}
	return cl
}

// tail keeps the end of what is written to it.
type tail struct {
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.ToValidUTF8(t.buf, []byte("�"))) }
