package redfish

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Undo implements transport.Undoer. It takes back what an update has prepared: a task of
// the update queue that has not begun, its install set and its component, the targets of a
// push, and the subscription to events. What has been written stays, and so do the targets
// that somebody else has set since. What cannot be taken back keeps nothing else from it.
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
	var errs []error
	if u.data.Aimed {
		errs = append(errs, u.unaim(ctx))
	}
	if u.data.Queue != nil {
		err := u.dequeue(ctx)
		if errors.Is(err, transport.ErrBusy) { // what is being carried out takes nothing of the set any more
			err = errors.Join(err, u.removeSet(ctx))
		}
		errs = append(errs, err)
	}
	if u.data.Events != "" {
		_, err := c.unsubscribe(ctx, u.data.Events, "", "")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// aim tells a service for which devices the image is that is pushed next.
func (u *update) aim() error {
	if u.data.Way != WayHTTPPush || len(u.data.Targets) == 0 {
		return nil
	}
	now, err := u.service(u.ctx)
	if err != nil {
		return err
	}
	if err := u.notAimed(now); err != nil {
		return err
	}
	u.data.Aimed = true
	if err := u.checkpoint(u.phase, false); err != nil {
		return err
	}
	return u.setTargets(u.ctx, u.data.Targets)
}

// notAimed refuses to come between somebody else's setting of HttpPushUriTargets and the
// push that is to follow: images go to where they stand.
func (u *update) notAimed(now *updateService) error {
	if !now.PushBusy.isTrue() || u.data.Aimed && now.aimedAt(u.data.Targets) {
		return nil
	}
	return u.fail(transport.ErrBusy, errors.New("somebody else is about to push an image (HttpPushUriTargetsBusy)"), hintBusy)
}

// unaim frees HttpPushUriTargets, unless they are not what this update has set them to.
func (u *update) unaim(ctx context.Context) error {
	now, err := u.service(ctx)
	if err != nil || !now.aimedAt(u.data.Targets) {
		return err
	}
	return u.setTargets(ctx, nil)
}

// aimedAt reports whether HttpPushUriTargets are these.
func (u *updateService) aimedAt(uris []string) bool {
	var are texts
	if len(u.PushTargets) == 0 || are.UnmarshalJSON(u.PushTargets) != nil {
		return false
	}
	of := func(list []string) []string {
		out := slices.Clone(list)
		for i, uri := range out {
			if p, err := pathOf(uri); err == nil {
				out[i] = strings.ToLower(strings.TrimSuffix(p, "/"))
			}
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(of(are), of(uris))
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
