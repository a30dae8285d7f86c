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
