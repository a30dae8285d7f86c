package redfish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// offers is what the target is to fetch.
type offers struct {
	url   string
	pub   *transport.Published
	asked bool       // it has asked, or may have before
	late  chan error // what Await said, if the target has not asked
	stop  context.CancelFunc
	done  chan struct{}
}

// publish offers the image to a target that fetches it.
func (u *update) publish() (*offers, error) {
	o := &offers{}
	if !u.data.Way.pulls() {
		return o, nil
	}
	if u.opts.Publish == nil {
		return nil, u.fail(errors.ErrUnsupported, nil, "this target fetches images, and the session offers no server (UpdateOptions.Publish is nil)")
	}
	pub, err := u.opts.Publish(u.ctx, transport.PublishRequest{File: u.cargo.file, Key: u.data.Tag + "/" + u.cargo.file.Name, TLS: u.secure()})
	if err != nil {
		return nil, u.fail(nil, fmt.Errorf("publishing %s: %w", u.cargo.file.Name, err), "")
	}
	o.pub, o.url = &pub, pub.URL
	o.asked = u.phase == phaseWait
	return o, nil
}

// secure reports whether the target comes to the manager by https.
func (u *update) secure() bool {
	return u.s.opts.ImageScheme == "https" || u.s.opts.ImageScheme == "" && u.profile == ProfileRMC
}

// watch waits for the target to ask.
func (o *offers) watch(ctx context.Context, patience time.Duration) {
	if o.pub == nil || o.pub.Await == nil || o.asked || o.late != nil || patience <= 0 {
		return
	}
	ctx, o.stop = context.WithCancel(ctx)
	o.late, o.done = make(chan error, 1), make(chan struct{})
	go func() {
		defer close(o.done)
		if err := o.pub.Await(ctx, patience); err != nil && ctx.Err() == nil {
			o.late <- err
		}
	}()
}

// release takes the offer back when the update has ended; else whoever resumes it does.
func (o *offers) release(u *update, ended bool) error {
	if o.stop != nil {
		o.stop()
		<-o.done
	}
	if o.pub == nil || !ended && slices.Contains([]string{phaseSend, phaseWait}, u.phase) {
		return nil
	}
	n, err := o.pub.Release(context.WithoutCancel(u.ctx))
	if n > 0 {
		u.progress("fetch", n, 0, "")
	}
	if err != nil {
		return u.fail(nil, fmt.Errorf("taking the offer back: %w", err), "")
	}
	return nil
}
