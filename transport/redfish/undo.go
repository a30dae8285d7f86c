package redfish

import (
	"context"
	"net/http"

	"github.com/roundsman-go/roundsman/transport"
)

// Undo implements transport.Undoer. It takes back what an update has prepared: a task of
// the update queue that has not begun, its install set and its component, the targets of a
// push, and the subscription to events. What has been written stays.
func (c *conn) Undo(ctx context.Context, s transport.State) error {
	u := &update{conn: c, ctx: ctx}
	end, err := c.take(ctx, request{op: "undo"})
	if err != nil {
		return err
	}
	defer end()
	if u.data, err = readState(s); err != nil {
		return &transport.Error{Op: "undo", Target: c.s.target, Kind: transport.ErrInvalid, Err: err, Hint: "look what is left yourself"}
	}
	if u.data.Aimed {
		if err := c.setTargets(ctx, nil); err != nil {
			return err
		}
	}
	if u.data.Queue != nil {
		if err := u.dequeue(ctx); err != nil {
			return err
		}
	}
	if u.data.Events != "" {
		return c.unsubscribe(ctx, u.data.Events, "", "")
	}
	return nil
}

// aim tells a service for which devices the image is that is pushed next.
func (u *update) aim() error {
	if u.data.Way != WayHTTPPush || len(u.data.Targets) == 0 {
		return nil
	}
	u.data.Aimed = true
	if err := u.checkpoint(u.phase, false); err != nil {
		return err
	}
	return u.setTargets(u.ctx, u.data.Targets)
}

// setTargets sets HttpPushUriTargets, and that it is in use, or frees it (DMTF DSP2046,
// "UpdateService").
func (c *conn) setTargets(ctx context.Context, uris []string) error {
	at, err := pathOf(c.updatePath)
	if err != nil {
		return &transport.Error{Op: "update", Target: c.s.target, Kind: transport.ErrProtocol, Err: err}
	}
	r, err := jsonRequest("update", http.MethodPatch, at,
		map[string]any{"HttpPushUriTargets": append([]string{}, uris...), "HttpPushUriTargetsBusy": len(uris) > 0})
	if err != nil {
		return err
	}
	rep, err := c.s.do(ctx, r)
	if err != nil {
		return err
	}
	if !rep.ok() {
		return c.refused("update", at, rep)
	}
	return nil
}
