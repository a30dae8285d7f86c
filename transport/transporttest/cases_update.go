package transporttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

func updateCases() []Case {
	update := func(name string, f func(ctx context.Context, u *updating) error) Case {
		return Case{Name: "update/" + name, Needs: transport.CapUpdate | transport.CapInventory, run: func(ctx context.Context, e *env) error {
			return e.withUpdates(ctx, f)
		}}
	}
	undo := func(name string, f func(ctx context.Context, u *updating) error) Case {
		c := update(name, f)
		c.Name = "undo/" + name
		c.Needs |= transport.CapUndo
		return c
	}
	return []Case{
		update("applied", updateApplied),
		update("not-needed", updateNotNeeded),
		update("downgrade", updateDowngrade),
		update("no-checkpoint", updateNoCheckpoint),
		update("checkpoints", updateCheckpoints),
		update("checkpoint-fails", updateCheckpointFails),
		update("manager-dies", updateManagerDies),
		update("cancelled", updateCancelled),
		update("cancel-in-flash", updateCancelInFlash),
		update("cut-in-flash", updateCutInFlash),
		update("unknown-state", updateUnknownState),
		update("unknown-device", updateUnknownDevice),
		update("integrity", updateIntegrity),
		update("publish", updatePublish),
		undo("leftovers", undoLeftovers),
		undo("unknown-state", undoUnknownState),
	}
}

// updating is an update case at work.
type updating struct {
	*env
	pub    *Publisher
	states []transport.State // what Checkpoint was given, as it comes back from a journal
}

func (e *env) withUpdates(ctx context.Context, f func(ctx context.Context, u *updating) error) error {
	switch {
	case e.Updates == nil:
		return e.missing("Updates")
	case e.Updates.Next == nil || e.Updates.Device == "" || e.Updates.Applied == nil:
		return e.missing("Updates.{Next,Device,Applied}")
	}
	u := &updating{env: e}
	if e.Updates.Pull {
		pub, err := NewPublisher(e.Updates.PublishOn)
		if err != nil {
			return err
		}
		u.pub = pub
		defer pub.Close()
	}
	return f(ctx, u)
}

// options returns options whose Checkpoint keeps every state.
func (u *updating) options(checkpoint func(i int, s transport.State) error) transport.UpdateOptions {
	u.states = nil
	opts := transport.UpdateOptions{
		Devices: []string{u.Updates.Device},
		Checkpoint: func(_ context.Context, s transport.State) error {
			i := len(u.states)
			kept, err := journalled(s)
			if err == nil && checkpoint != nil {
				err = checkpoint(i, kept)
			}
			if err != nil && !errors.Is(err, errDiedAfter) {
				return err
			}
			u.states = append(u.states, kept)
			return err
		},
	}
	if u.pub != nil {
		opts.Publish = u.pub.Publish
	}
	return opts
}

var (
	errDied      = errors.New("the manager died before it wrote the state")
	errDiedAfter = errors.New("the manager died after it wrote the state")
)

// journalled is a state as it comes back from a journal.
func journalled(s transport.State) (transport.State, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("the state is no JSON: %w", err)
	}
	var back transport.State
	return back, json.Unmarshal(data, &back)
}

// last returns the last state that was made durable, or nil.
func (u *updating) last() *transport.State {
	if len(u.states) == 0 {
		return nil
	}
	s := u.states[len(u.states)-1]
	return &s
}

// update runs one update over a connection of its own.
func (u *updating) update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (transport.Result, error) {
	conn, err := u.dial(ctx)
	if err != nil {
		return transport.Result{}, err
	}
	var res transport.Result
	err = u.within("update", func() (err error) {
		res, err = transport.Update(ctx, conn, p, opts)
		return err
	})
	if cerr := u.within("close", func() error { return conn.Close(context.Background()) }); errors.Is(cerr, errHung) {
		err = errors.Join(err, cerr)
	}
	return res, err
}

// firmware reads the version of the device over a connection of its own.
func (u *updating) firmware(ctx context.Context) (string, error) {
	version := ""
	err := u.with(ctx, func(conn transport.Conn) error {
		inv, err := transport.ReadInventory(ctx, conn)
		if err != nil {
			return err
		}
		for _, d := range inv.Devices {
			if d.ID == u.Updates.Device {
				version = d.Firmware
				return nil
			}
		}
		return fmt.Errorf("the inventory has no device %q", u.Updates.Device)
	})
	return version, err
}

// proven activates res where it must be and waits until the device has version.
func (u *updating) proven(ctx context.Context, res transport.Result, version string) error {
	switch res.Verdict {
	case transport.VerdictStaged:
		if res.Activation == transport.ActivationNone {
			return errors.New("the verdict is staged, without the activation that it waits for")
		}
		if u.Updates.Activate == nil {
			return u.missing("Updates.Activate")
		}
		if err := u.Updates.Activate(res.Activation); err != nil {
			return fmt.Errorf("Harness.Updates.Activate: %w", err)
		}
	case transport.VerdictApplied, transport.VerdictNotNeeded:
	default:
		return fmt.Errorf("the result is %+v, want applied or staged", res)
	}
	return u.poll(ctx, func() error {
		got, err := u.firmware(ctx)
		if err != nil {
			return err
		}
		if got != version {
			return fmt.Errorf("the device has version %q, want %q", got, version)
		}
		return nil
	})
}

// apply runs an update that must succeed and is counted once.
func (u *updating) apply(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) error {
	before := u.Updates.Applied()
	res, err := u.update(ctx, p, opts)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if res.Verdict == transport.VerdictNotNeeded {
		return fmt.Errorf("update: the result is %+v, want applied or staged", res)
	}
	return errors.Join(u.proven(ctx, res, p.Version), u.count("update", before, 1))
}

// count checks how often something was applied.
func (u *updating) count(what string, before, want int) error {
	if n := u.Updates.Applied() - before; n != want {
		return fmt.Errorf("%s: the target applied %d payloads, want %d", what, n, want)
	}
	return nil
}

func updateApplied(ctx context.Context, u *updating) error {
	var phases []string
	for range 2 {
		opts := u.options(nil)
		opts.Progress = func(p transport.Progress) {
			if p.Phase == "" || p.Done < 0 || (p.Total > 0 && p.Done > p.Total) {
				phases = append(phases, fmt.Sprintf("%+v", p))
			}
		}
		if err := u.apply(ctx, u.Updates.Next(), opts); err != nil {
			return err
		}
	}
	if len(phases) > 0 {
		return fmt.Errorf("progress reports without a phase or past their total: %s", strings.Join(phases, ", "))
	}
	return nil
}

func updateNotNeeded(ctx context.Context, u *updating) error {
	p := u.Updates.Next()
	if err := u.apply(ctx, p, u.options(nil)); err != nil {
		return err
	}
	before := u.Updates.Applied()
	res, err := u.update(ctx, p, u.options(nil))
	if err != nil || res.Verdict != transport.VerdictNotNeeded {
		return fmt.Errorf("the same update again: %+v, %w, want %s", res, err, transport.VerdictNotNeeded)
	}
	if err := u.count("the same update again", before, 0); err != nil {
		return err
	}
	opts := u.options(nil)
	opts.Rewrite = true
	return u.apply(ctx, p, opts)
}

func updateDowngrade(ctx context.Context, u *updating) error {
	older, newer := u.Updates.Next(), u.Updates.Next()
	if err := u.apply(ctx, newer, u.options(nil)); err != nil {
		return err
	}
	before := u.Updates.Applied()
	res, err := u.update(ctx, older, u.options(nil))
	if err != nil || (res.Verdict != transport.VerdictNotNeeded && res.Verdict != transport.VerdictFailed) {
		return fmt.Errorf("an older version: %+v, %w, want %s or %s", res, err, transport.VerdictNotNeeded, transport.VerdictFailed)
	}
	if err := u.count("an older version", before, 0); err != nil {
		return err
	}
	opts := u.options(nil)
	opts.Downgrade = true
	return u.apply(ctx, older, opts)
}

// updateNoCheckpoint: callers that do not want to resume give none.
func updateNoCheckpoint(ctx context.Context, u *updating) error {
	opts := u.options(nil)
	opts.Checkpoint = nil
	return u.apply(ctx, u.Updates.Next(), opts)
}

// updateCheckpoints: the state is durable before the request that cannot be
// taken back, and again after its answer.
func updateCheckpoints(ctx context.Context, u *updating) error {
	var f failures
	before := u.Updates.Applied()
	sent := -1
	opts := u.options(func(i int, s transport.State) error {
		if s.Driver == "" || s.Version <= 0 || s.Phase == "" {
			f.addf("state %d lacks a driver, a version or a phase: %+v", i, s)
		}
		if s.Sent && sent < 0 {
			sent = i
		}
		if sent < 0 || sent == i {
			if err := u.count("before the first checkpoint with Sent has returned", before, 0); err != nil {
				f.add(err)
			}
		}
		if pw := u.Endpoint.Credentials.Password; !pw.IsZero() && strings.Contains(string(s.Data), pw.Reveal()) {
			f.addf("state %d holds the password", i)
		}
		return nil
	})
	f.add(u.apply(ctx, u.Updates.Next(), opts))
	switch {
	case sent < 0:
		f.addf("no checkpoint of %d had Sent set, though a payload was applied", len(u.states))
	case sent == len(u.states)-1:
		f.addf("the checkpoint with Sent was the last: none followed the answer")
	}
	return f.err()
}

// updateCheckpointFails: a checkpoint that fails stops the update, and before
// the first request nothing has happened.
func updateCheckpointFails(ctx context.Context, u *updating) error {
	var f failures
	errFull := errors.New("the journal's disk is full")
	p := u.Updates.Next()
	before := u.Updates.Applied()
	calls := 0
	opts := u.options(func(_ int, s transport.State) error {
		calls++
		if s.Sent {
			return errFull
		}
		return nil
	})
	_, err := u.update(ctx, p, opts)
	f.add(u.wantErr("update whose checkpoint failed", err, errFull))
	f.add(u.count("update whose checkpoint failed", before, 0))
	n := len(u.states)
	if calls != n+1 {
		f.addf("after the checkpoint that failed %d more were tried", calls-n-1)
	}
	opts = u.options(nil)
	opts.Resume = nil
	f.add(u.apply(ctx, p, opts))
	return f.err()
}

// updateManagerDies kills the manager, as far as the driver can tell, before and
// after each checkpoint, and has another one go on from the journal.
func updateManagerDies(ctx context.Context, u *updating) error {
	var f failures
	const most = 50
	for k := range most {
		died := false
		for _, death := range []error{errDied, errDiedAfter} {
			p := u.Updates.Next()
			before := u.Updates.Applied()
			what := fmt.Sprintf("checkpoint %d, %v", k, death)
			opts := u.options(func(i int, _ transport.State) error {
				if i == k {
					return death
				}
				return nil
			})
			res, err := u.update(ctx, p, opts)
			if err == nil { // the update has fewer checkpoints than that
				f.add(u.proven(ctx, res, p.Version))
				continue
			}
			died = true
			f.add(u.wantErr(what, err, death))
			resume := u.last()
			opts = u.options(nil)
			opts.Resume = resume
			res, err = u.update(ctx, p, opts)
			if err != nil {
				f.addf("%s: resumed: %w", what, err)
				continue
			}
			n := u.Updates.Applied() - before
			if n > 1 {
				f.addf("%s: resumed: the target applied %d payloads", what, n)
			}
			// Only after a request that may have been lost the driver may not know.
			if res.Verdict == transport.VerdictUnknown && resume != nil && resume.Sent {
				continue
			}
			if err := u.proven(ctx, res, p.Version); err != nil {
				f.addf("%s: resumed: %w", what, err)
			}
			if n != 1 {
				f.addf("%s: resumed: the target applied %d payloads, want 1", what, n)
			}
		}
		if !died {
			if k == 0 {
				f.addf("the update never called Checkpoint")
			}
			return f.err()
		}
	}
	f.addf("the update called Checkpoint more than %d times", most)
	return f.err()
}

func updateCancelled(ctx context.Context, u *updating) error {
	var f failures
	dead, cancel := context.WithCancel(ctx)
	cancel()
	before := u.Updates.Applied()
	opts := u.options(nil)
	f.add(u.with(ctx, func(conn transport.Conn) error {
		_, err := transport.Update(dead, conn, u.Updates.Next(), opts)
		return u.wantErr("update with an ended context", err, context.Canceled)
	}))
	f.add(u.count("update with an ended context", before, 0))
	for _, s := range u.states {
		if s.Sent {
			f.addf("update with an ended context made a checkpoint with Sent")
		}
	}
	return f.err()
}

// interruptedFlash begins an update, calls interrupt once the request that
// cannot be taken back was answered, and then goes on from the last state.
func (u *updating) interruptedFlash(ctx, first context.Context, what string, kind error, interrupt func()) error {
	var f failures
	p := u.Updates.Next()
	before := u.Updates.Applied()
	sent := false
	opts := u.options(func(_ int, s transport.State) error {
		if sent && interrupt != nil {
			interrupt()
			interrupt = nil
		}
		sent = sent || s.Sent
		return nil
	})
	var res transport.Result
	conn, err := u.dial(ctx)
	if err != nil {
		return err
	}
	err = u.within("update", func() (err error) {
		res, err = transport.Update(first, conn, p, opts)
		return err
	})
	_ = u.within("close", func() error { return conn.Close(context.Background()) })
	if errors.Is(err, errHung) {
		return err
	}
	// The flash may have been over before the driver noticed.
	if err != nil {
		f.add(u.wantErr("update in which "+what, err, kind))
		resume := u.last()
		opts = u.options(nil)
		opts.Resume = resume
		if res, err = u.update(ctx, p, opts); err != nil {
			f.addf("update after %s: resumed: %w", what, err)
			return f.err()
		}
	}
	f.add(u.proven(ctx, res, p.Version))
	f.add(u.count("update in which "+what, before, 1))
	return f.err()
}

func updateCancelInFlash(ctx context.Context, u *updating) error {
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	return u.interruptedFlash(ctx, cancelled, "the context ended", context.Canceled, cancel)
}

func updateCutInFlash(ctx context.Context, u *updating) error {
	if u.Cut == nil {
		return u.missing("Cut")
	}
	return u.interruptedFlash(ctx, ctx, "the line was cut", transport.ErrConnLost, u.Cut)
}

func updateUnknownState(ctx context.Context, u *updating) error {
	var f failures
	p := u.Updates.Next()
	state, err := u.stateOf(ctx, p)
	if err != nil {
		return err
	}
	before := u.Updates.Applied()
	later, foreign, broken := state, state, state
	later.Version += 1000
	foreign.Driver = "another-driver"
	broken.Data = json.RawMessage(`"not what it should be"`)
	for what, s := range map[string]transport.State{"a later version": later, "another driver": foreign, "broken data": broken} {
		opts := u.options(nil)
		opts.Resume = &s
		_, err := u.update(ctx, p, opts)
		f.add(u.wantErr("update resumed from the state of "+what, err))
		f.add(u.count("update resumed from the state of "+what, before, 0))
	}
	opts := u.options(nil)
	opts.Resume = &state
	f.add(u.apply(ctx, p, opts))
	return f.err()
}

// stateOf begins an update of p and stops it before the request that cannot be
// taken back.
func (u *updating) stateOf(ctx context.Context, p transport.Payload) (transport.State, error) {
	opts := u.options(func(_ int, s transport.State) error {
		if s.Sent {
			return errDiedAfter
		}
		return nil
	})
	_, err := u.update(ctx, p, opts)
	if !errors.Is(err, errDiedAfter) {
		return transport.State{}, fmt.Errorf("update whose checkpoint failed: %w, want %w", err, errDiedAfter)
	}
	return *u.last(), nil
}

func updateUnknownDevice(ctx context.Context, u *updating) error {
	before := u.Updates.Applied()
	opts := u.options(nil)
	opts.Devices = []string{"no-such-device"}
	_, err := u.update(ctx, u.Updates.Next(), opts)
	return errors.Join(
		u.wantErr("update of a device that does not exist", err, transport.ErrInvalid),
		u.count("update of a device that does not exist", before, 0))
}

func updateIntegrity(ctx context.Context, u *updating) error {
	var f failures
	p := u.Updates.Next()
	good := p.Files
	p.Files = append([]transport.File{}, good...)
	for i := range p.Files {
		p.Files[i].SHA256[0] ^= 1
	}
	before := u.Updates.Applied()
	res, err := u.update(ctx, p, u.options(nil))
	if err != nil {
		f.add(u.wantErr("update with the wrong SHA-256", err, transport.ErrIntegrity))
	} else if res.Verdict != transport.VerdictFailed {
		f.addf("update with the wrong SHA-256: %+v, want %s or an error", res, transport.VerdictFailed)
	}
	f.add(u.count("update with the wrong SHA-256", before, 0))
	p.Files = good
	f.add(u.apply(ctx, p, u.options(nil)))
	return f.err()
}

// updatePublish: who needs a server says so before any change, takes what it
// offered back, and fetched all of it; who needs none asks for none.
func updatePublish(ctx context.Context, u *updating) error {
	var f failures
	p := u.Updates.Next()
	if u.pub == nil {
		opts := u.options(nil)
		opts.Publish = func(context.Context, transport.PublishRequest) (transport.Published, error) {
			f.addf("Publish was called; if this target fetches payloads, set Harness.Updates.Pull")
			return transport.Published{}, errors.ErrUnsupported
		}
		f.add(u.apply(ctx, p, opts))
		return f.err()
	}
	before := u.Updates.Applied()
	opts := u.options(nil)
	opts.Publish = nil
	_, err := u.update(ctx, p, opts)
	f.add(u.wantErr("update without Publish", err, errors.ErrUnsupported))
	f.add(u.count("update without Publish", before, 0))
	if len(u.states) != 0 {
		f.addf("update without Publish made %d checkpoints", len(u.states))
	}
	f.add(u.apply(ctx, p, u.options(nil)))
	if got := u.pub.Fetched(); got < p.Size() {
		f.addf("the target fetched %d of %d bytes", got, p.Size())
	}
	if n := u.pub.Open(); n != 0 {
		f.addf("%d files are still on offer after the update", n)
	}
	return f.err()
}

func undoLeftovers(ctx context.Context, u *updating) error {
	if u.Updates.Leftovers == nil {
		return u.missing("Updates.Leftovers")
	}
	var f failures
	p := u.Updates.Next()
	before := u.Updates.Applied()
	state, err := u.stateOf(ctx, p)
	if err != nil {
		return err
	}
	for range 2 { // that nothing is left is no error
		f.add(u.with(ctx, func(conn transport.Conn) error { return transport.Undo(ctx, conn, state) }))
		if left := u.Updates.Leftovers(); len(left) != 0 {
			f.addf("after undo there is left: %q", left)
		}
	}
	f.add(u.count("undo", before, 0))
	f.add(u.apply(ctx, p, u.options(nil)))
	if left := u.Updates.Leftovers(); len(left) != 0 {
		f.addf("after an update that succeeded there is left: %q", left)
	}
	return f.err()
}

func undoUnknownState(ctx context.Context, u *updating) error {
	var f failures
	state, err := u.stateOf(ctx, u.Updates.Next())
	if err != nil {
		return err
	}
	later, foreign := state, state
	later.Version += 1000
	foreign.Driver = "another-driver"
	f.add(u.with(ctx, func(conn transport.Conn) error {
		return errors.Join(
			u.wantErr("undo of a state of a later version", transport.Undo(ctx, conn, later)),
			u.wantErr("undo of a state of another driver", transport.Undo(ctx, conn, foreign)),
			transport.Undo(ctx, conn, state))
	}))
	return f.err()
}
