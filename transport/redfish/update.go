package redfish

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// The states of an update, as Checkpoint gets them.
const (
	stateDriver  = "redfish"
	stateVersion = 1

	phaseBegin = "begin" // nothing was sent, or not all of a request that then has no effect
	phaseSend  = "send"  // a request that cannot be taken back
	phaseNext  = "next"  // it was answered, and another one follows
	phaseWait  = "wait"  // all were answered
)

// stateData is what an update goes on from.
type stateData struct {
	Tag      string               `json:"tag"`    // of this update, for ETags and offers
	Digest   string               `json:"digest"` // of the payload
	Way      Way                  `json:"way"`
	Subjects []subject            `json:"subjects"`
	Version  string               `json:"version"`
	Staged   transport.Activation `json:"staged,omitempty"` // what the payload says activates it
	Part     int                  `json:"part,omitempty"`   // section that is sent, or comes next
	Task     string               `json:"task,omitempty"`
	Monitor  string               `json:"monitor,omitempty"`
	Tasks    []string             `json:"tasks,omitempty"` // those that there were before
	Rewrite  bool                 `json:"rewrite,omitempty"`
	Boot     string               `json:"boot,omitempty"`   // when the target was reset last, before
	Listed   bool                 `json:"listed,omitempty"` // Tasks is all there were
}

// subject is a device that is to have another version.
type subject struct {
	ID    string `json:"id"`
	URI   string `json:"uri"`
	Class string `json:"class"`
	Name  string `json:"name,omitempty"`
	From  string `json:"from"`
}

// update is one Update at work.
type update struct {
	*conn
	ctx     context.Context
	payload transport.Payload
	opts    transport.UpdateOptions
	cargo   *cargo
	data    stateData
	phase   string
	sent    bool // the phase's request may have reached the target
	unsure  bool // what the target does may be another's
	words   []string
}

// fail is an error of an update.
func (u *update) fail(kind error, err error, hint string) error {
	return &transport.Error{Op: "update", Target: u.s.target, Path: u.payload.Name, Kind: kind, Err: err, Hint: hint}
}

func (u *update) invalid(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		own := *te
		own.Op, own.Target = "update", u.s.target
		return &own
	}
	var source *sourceError
	if errors.As(err, &source) {
		if cerr := u.ctx.Err(); cerr != nil {
			return u.fail(cerr, nil, "")
		}
		return u.fail(nil, err, "")
	}
	return u.fail(transport.ErrInvalid, err, "")
}

// Update implements transport.Updater. One update runs at a time on a connection. A line
// that breaks, and a target that starts anew, do not end it.
func (c *conn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (res transport.Result, err error) {
	u := &update{conn: c, ctx: ctx, payload: p, opts: opts}
	what := request{op: "update", path: p.Name}
	if err := ctx.Err(); err != nil {
		return res, c.s.fail(ctx, what, err)
	}
	if c.s.ctx.Err() != nil {
		return res, c.s.fail(c.s.ctx, what, c.s.ctx.Err())
	}
	select {
	case c.updating <- struct{}{}:
		defer func() { <-c.updating }()
	case <-ctx.Done():
		return res, c.s.fail(ctx, what, ctx.Err())
	case <-c.s.ctx.Done():
		return res, c.s.fail(c.s.ctx, what, c.s.ctx.Err())
	}
	if err := u.resume(); err != nil {
		return res, err
	}
	fresh := u.phase == ""
	if fresh || u.phase == phaseBegin {
		done, err := u.prepare()
		if err != nil || done.Verdict != transport.VerdictUnknown {
			return done, err
		}
	} else if u.cargo, err = arrange(ctx, p); err != nil {
		return res, u.invalid(err)
	} else if err := u.load(); err != nil {
		return res, err
	}
	if fresh {
		if err := u.checkpoint(phaseBegin, false); err != nil {
			return res, err
		}
	}
	return u.run()
}

// resume takes over the state of an earlier call.
func (u *update) resume() error {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", u.payload.Name, u.payload.Version)
	for _, f := range u.payload.Files {
		fmt.Fprintf(h, " %q %d %s", f.Name, f.Size, f.Digest())
	}
	digest := hex.EncodeToString(h.Sum(nil))
	if len(u.payload.Files) == 0 || u.payload.Version == "" {
		return u.invalid(errors.New("a payload has files and a version"))
	}
	s := u.opts.Resume
	if s == nil {
		u.data = stateData{Tag: "r" + strings.ToLower(rand.Text()), Digest: digest, Version: u.payload.Version}
		return nil
	}
	bad := func(why string) error {
		return u.fail(transport.ErrInvalid, errors.New(why), "the state cannot be gone on from: read the versions")
	}
	if s.Driver != stateDriver || s.Version != stateVersion {
		return bad(fmt.Sprintf("it is of driver %q, version %d; this is %q, version %d", s.Driver, s.Version, stateDriver, stateVersion))
	}
	if err := decode(s.Data, &u.data); err != nil {
		return u.fail(transport.ErrInvalid, err, "the state cannot be gone on from: read the versions")
	}
	switch {
	case u.data.Tag == "" || len(u.data.Subjects) == 0 || u.data.Way == "" || u.data.Part < 0 ||
		!slices.Contains([]string{phaseBegin, phaseSend, phaseNext, phaseWait}, s.Phase):
		return bad("it is incomplete")
	case u.data.Digest != digest:
		return bad("it belongs to another payload")
	}
	u.phase, u.sent = s.Phase, s.Sent
	return nil
}

// prepare finds out what there is to do and whether it can be done, before anything
// changes. A result is the end.
func (u *update) prepare() (transport.Result, error) {
	var none transport.Result
	cargo, err := arrange(u.ctx, u.payload)
	if err != nil {
		return none, u.invalid(err)
	}
	u.cargo = cargo
	now := u.conn.update
	if err := u.read(u.ctx, "update", u.updatePath, &now); err != nil {
		return none, err
	}
	if err := u.chooseWay(&now); err != nil {
		return none, err
	}
	if u.phase == "" {
		if res, err := u.subjects(); err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
	}
	if u.cargo.pkg != nil {
		u.data.Staged = u.cargo.pkg.activation()
	}
	if err := u.load(); err != nil {
		return none, err
	}
	if size := int64(now.MaxImage); size > 0 && !u.data.Way.pulls() && u.cargo.file.Size > size {
		return none, u.fail(transport.ErrRejected, fmt.Errorf("%d bytes, and the target takes %d", u.cargo.file.Size, size), "")
	}
	return none, u.preflight(&now)
}

// load puts what goes by the way in the place of the file.
func (u *update) load() error {
	if u.cargo.pkg == nil {
		return nil
	}
	if err := u.cargo.forWay(u.ctx, u.data.Way); err != nil {
		return u.invalid(err)
	}
	return nil
}

// chooseWay chooses how the payload goes, the one of an earlier call if there was one.
func (u *update) chooseWay(now *updateService) error {
	ways := u.ways(now)
	if u.data.Way != "" {
		ways = slices.DeleteFunc(ways, func(w Way) bool { return w != u.data.Way })
	}
	if len(ways) == 0 {
		return u.fail(errors.ErrUnsupported, u.WhyNot(transport.CapUpdate), "the service does not offer this way of an update")
	}
	var why []error
	pull := false
	for _, w := range ways {
		if err := u.cargo.unfit(w, u.profile); err != nil {
			why = append(why, err)
			continue
		}
		if w.pulls() && u.opts.Publish == nil {
			pull = true
			continue
		}
		u.data.Way = w
		return nil
	}
	if pull {
		return u.fail(errors.ErrUnsupported, nil, "this target fetches images, and the session offers no server (UpdateOptions.Publish is nil)")
	}
	return u.fail(transport.ErrRejected, errors.Join(why...), "nothing was sent")
}

// subjects finds the devices that the payload is for.
func (u *update) subjects() (transport.Result, error) {
	r := &reader{conn: u.conn, ctx: u.ctx, op: "update", related: map[string]int{}}
	entries, err := u.entries(r)
	if err != nil {
		return transport.Result{}, err
	}
	var found []entry
	var unread error
	entries = slices.DeleteFunc(entries, func(e entry) bool {
		if e.err != nil {
			unread = e.err
		}
		return e.err != nil
	})
	for _, id := range u.opts.Devices {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.device.ID == id })
		if i < 0 && unread != nil { // it may be that one
			return transport.Result{}, unread
		}
		if i < 0 {
			return transport.Result{}, u.fail(transport.ErrInvalid, fmt.Errorf("there is no device %q whose version the firmware inventory tells", id), "")
		}
		found = append(found, entries[i])
	}
	if len(u.opts.Devices) == 0 {
		for _, e := range entries {
			d := e.device
			if u.cargo.pkg != nil && u.cargo.pkg.fits(e) != nil ||
				u.cargo.pkg == nil && (d.ID == u.payload.Name || d.Name == u.payload.Name || d.Class == u.payload.Name || d.Model != "" && d.Model == u.payload.Name) {
				found = append(found, e)
			}
		}
	}
	if len(found) == 0 {
		return transport.Result{Verdict: transport.VerdictFailed, Text: "the payload fits no device of the firmware inventory"}, nil
	}
	needed := false
	for _, e := range found {
		if no := e.device.Updateable; no != nil && !*no {
			return transport.Result{}, u.fail(transport.ErrRejected, fmt.Errorf("the target says that %s cannot be updated", e.device.ID), "nothing was sent")
		}
		if err := u.hop(e); err != nil {
			return transport.Result{}, err
		}
		order, ok := compare(u.payload.Version, e.device.Firmware)
		needed = needed || !ok || order > 0 || order == 0 && u.opts.Rewrite || order < 0 && u.opts.Downgrade
		u.data.Rewrite = u.data.Rewrite || ok && order == 0
		u.data.Subjects = append(u.data.Subjects, subject{ID: e.device.ID, URI: e.uri, Class: e.device.Class, Name: e.device.Name, From: e.device.Firmware})
	}
	if !needed {
		return transport.Result{Verdict: transport.VerdictNotNeeded}, nil
	}
	return transport.Result{}, nil
}

// entries reads the firmware inventory.
func (u *update) entries(r *reader) ([]entry, error) {
	var systems []system
	if u.profile == ProfileILO4 {
		var err error
		if _, systems, err = r.identity(); err != nil {
			return nil, err
		}
	}
	return u.firmware(u.ctx, "update", systems)
}

// hop refuses what needs a version in between, and says which.
func (u *update) hop(e entry) error {
	if u.cargo.pkg == nil {
		return nil
	}
	d := u.cargo.pkg.fits(e)
	if d == nil {
		return u.fail(transport.ErrRejected, fmt.Errorf("%s is not for %s: none of its targets is that of the device", u.payload.Name, e.device.ID), "nothing was sent")
	}
	least := d.Minimum
	if least == "" {
		least = u.cargo.pkg.Minimum
	}
	if order, ok := compare(e.device.Firmware, string(least)); ok && order < 0 {
		return u.fail(transport.ErrRejected, fmt.Errorf("%s has %s, and %s needs %s at least", e.device.ID, e.device.Firmware, u.payload.Version, least),
			fmt.Sprintf("install %s, or a version between it and this one, first; nothing was sent", least))
	}
	return nil
}

// checkpoint makes the state durable.
func (u *update) checkpoint(phase string, sent bool) error {
	u.phase, u.sent = phase, sent
	if u.opts.Checkpoint == nil {
		return nil
	}
	data, err := json.Marshal(u.data)
	if err == nil {
		ctx := u.ctx
		if !sent { // what was answered is recorded also when the caller has given up
			ctx = context.WithoutCancel(ctx)
		}
		err = u.opts.Checkpoint(ctx, transport.State{Driver: stateDriver, Version: stateVersion, Phase: phase, Sent: sent, Data: data})
	}
	if err != nil {
		return u.fail(nil, fmt.Errorf("the state could not be kept: %w", err), "")
	}
	return nil
}

func (u *update) progress(phase string, done, total int64, text string) {
	if u.opts.Progress != nil {
		if total > 0 {
			done = min(done, total)
		}
		u.opts.Progress(transport.Progress{Phase: phase, Done: done, Total: total, Text: text})
	}
}

// log hands the target's own words to the caller, each once.
func (u *update) log(line string) {
	if line == "" || slices.Contains(u.words, line) || len(u.words) > 1000 {
		return
	}
	u.words = append(u.words, line)
	if u.opts.Log != nil {
		_, _ = fmt.Fprintln(u.opts.Log, clip(line, maxText))
	}
}
