package transporttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// publish offers the files to a target that is still to fetch them.
func (u *updater) publish(ctx context.Context, j *job) ([]transport.Published, error) {
	if !u.t.cfg.Pull || (j != nil && isClosed(j.fetched)) {
		return nil, nil
	}
	var out []transport.Published
	for _, f := range u.payload.Files {
		pub, err := u.opts.Publish(ctx, transport.PublishRequest{File: f, Key: u.data.Tag + "/" + f.Name})
		if err != nil {
			_ = u.release(ctx, out, nil)
			return nil, u.fail("update", u.payload.Name, nil, fmt.Errorf("publishing %s: %w", f.Name, err))
		}
		out = append(out, pub)
	}
	return out, nil
}

// release takes the offers back, unless the target may still fetch them: then
// whoever resumes does.
func (u *updater) release(ctx context.Context, published []transport.Published, j *job) error {
	if j != nil && !isClosed(j.fetched) && !isClosed(j.done) {
		return nil
	}
	var errs []error
	var fetched int64
	for _, p := range published {
		n, err := p.Release(context.WithoutCancel(ctx))
		fetched += n
		if err != nil {
			errs = append(errs, u.fail("update", u.payload.Name, nil, fmt.Errorf("taking the offer back: %w", err)))
		}
	}
	if fetched > 0 {
		u.f.mu.Lock()
		u.k.entry.Bytes += fetched
		u.f.mu.Unlock()
		u.progress("fetch", fetched)
	}
	return errors.Join(errs...)
}

// fetchWatch waits until the target has fetched the payload, and gives up on one
// that never asks.
func (u *updater) fetchWatch(ctx context.Context, j *job) error {
	if !u.t.cfg.Pull {
		return nil
	}
	arrived, stop := make(chan struct{}), make(chan struct{})
	defer close(stop)
	go func() {
		defer close(arrived)
		var late <-chan time.Time
		if u.t.cfg.FetchTimeout > 0 {
			timer := time.NewTimer(u.t.cfg.FetchTimeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-j.fetched:
		case <-j.done:
		case <-late:
		case <-stop:
		}
	}()
	if err := u.wait(ctx, "update", u.payload.Name, arrived); err != nil {
		return err
	}
	if isClosed(j.fetched) || isClosed(j.done) {
		return nil
	}
	if err := u.step(ctx, "update.cancel", func(*call) error { return nil }); err != nil {
		return err
	}
	if !u.t.cancelJob(j) {
		return nil // it began in this very moment
	}
	if err := u.wait(ctx, "update", u.payload.Name, j.done); err != nil {
		return err
	}
	e := u.fail("update", u.payload.Name, transport.ErrTimeout, errors.New("the target has not fetched the payload"))
	e.Hint = "the target must be able to reach the manager's port; the job was cancelled"
	return e
}

// cancelJob cancels a job that does not write yet, and reports whether it did.
func (t *Target) cancelJob(j *job) bool {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if j.begun {
		return false
	}
	j.cancel()
	return true
}
