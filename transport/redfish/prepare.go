package redfish

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

const nothingSent = "nothing was sent"

// prepare finds out what there is to do and whether it can be done, before anything
// changes. A result is the end.
func (u *update) prepare() (transport.Result, error) {
	var none transport.Result
	cargo, err := arrange(u.ctx, u.payload)
	if err != nil {
		return none, u.invalid(err)
	}
	u.cargo = cargo
	now, err := u.service(u.ctx)
	if err != nil {
		return none, err
	}
	ways := u.ways(now)
	if u.phase != "" {
		ways = slices.DeleteFunc(ways, func(w Way) bool { return w != u.data.Way })
	}
	if len(ways) == 0 {
		return none, u.fail(errors.ErrUnsupported, u.lacks(now, cmp.Or(u.data.Way, u.s.opts.Way)), nothingSent)
	}
	var left []bystander
	if u.phase == "" {
		var res transport.Result
		if left, res, err = u.subjects(); err != nil || res.Verdict != transport.VerdictUnknown {
			return res, err
		}
	}
	if err := u.chooseWay(now, ways, left); err != nil {
		return none, err
	}
	if u.cargo.pkg != nil {
		u.data.Staged = u.cargo.pkg.Activation()
	}
	if err := u.load(); err != nil {
		return none, err
	}
	u.enqueue()
	if size := int64(now.MaxImage); size > 0 && !u.data.Way.pulls() && u.cargo.file.Size > size {
		return none, u.fail(transport.ErrRejected, fmt.Errorf("%d bytes, and the target takes %d (MaxImageSizeBytes)", u.cargo.file.Size, size),
			"have the target fetch it (Options.Way), if it offers that; "+nothingSent)
	}
	return none, u.preflight(now)
}

// load puts what goes by the way in the place of the file.
func (u *update) load() error {
	if u.cargo.pkg == nil {
		return nil
	}
	if err := u.cargo.forWay(u.ctx, u.data.Way, u.profile, u.version()); err != nil {
		return u.invalid(err)
	}
	return nil
}

// version is that of the management processor.
func (u *update) version() string {
	if len(u.managers) == 0 {
		return ""
	}
	return string(u.managers[0].Firmware)
}

// bystander is a device that the payload fits, and that is not to be changed.
type bystander struct {
	entry
	order int // of the payload's version to its own; 0: they are equal
}

// chooseWay chooses how the payload goes, the one of an earlier call if there was one.
func (u *update) chooseWay(now *updateService, ways []Way, left []bystander) error {
	var why []error
	pull := false
	for _, w := range ways {
		err := u.cargo.unfit(w, u.profile)
		if err == nil && u.s.opts.TPMOverride && w == WaySimpleUpdate && u.profile.ilo() {
			err = fmt.Errorf("%s has no override for a trusted module (Options.TPMOverride)", w)
		}
		if err == nil && u.phase == "" {
			err = u.spares(w, now, left)
		}
		if err != nil {
			why = append(why, err)
			continue
		}
		if w.pulls() && u.opts.Publish == nil {
			pull = true
			continue
		}
		u.data.Way = w
		if u.phase == "" && u.aims(w, now) && (len(left) > 0 || u.profile == ProfileGeneric && len(u.opts.Devices) > 0) {
			u.data.Targets = u.uris()
		}
		return nil
	}
	if pull {
		return u.fail(errors.ErrUnsupported, errors.Join(why...), "this target fetches images, and the session offers no server (UpdateOptions.Publish is nil)")
	}
	return u.fail(transport.ErrRejected, errors.Join(why...), nothingSent)
}

// aims reports whether requests of a way can name the devices that are meant.
func (u *update) aims(w Way, now *updateService) bool {
	const most = 10 // that an iLO takes
	switch w {
	case WayMultipart:
	case WayHTTPPush:
		return now.PushTargets != nil
	case WaySimpleUpdate, WayAddFromURI, WayQueue:
		if u.profile != ProfileGeneric && len(u.data.Subjects) > most {
			return false
		}
	default:
		return false
	}
	return len(u.uris()) == len(u.data.Subjects)
}

// uris are the resources that are to be updated. Some are only parts of one.
func (u *update) uris() []string {
	out := []string{}
	for _, s := range u.data.Subjects {
		if !strings.Contains(s.URI, "#") {
			out = append(out, s.URI)
		}
	}
	return out
}

// spares says why devices that are not meant would be changed by a way, or nil. One that
// has the version already loses nothing.
func (u *update) spares(w Way, now *updateService, left []bystander) error {
	if u.aims(w, now) {
		return nil
	}
	if w == WayHTTPPush && len(u.opts.Devices) > 0 && u.s.opts.Way != w {
		return fmt.Errorf("%s cannot be told which devices are meant (UpdateOptions.Devices): have the image itself decide, by Options.Way", w)
	}
	for _, e := range left {
		d := e.device
		switch {
		case e.order < 0:
			return fmt.Errorf("%s would change %s, too, which has the newer version %s (UpdateOptions.Downgrade)", w, d.ID, d.Firmware)
		case e.order > 0:
			return fmt.Errorf("%s would change %s, too, which has %s: name it as well (UpdateOptions.Devices)", w, d.ID, d.Firmware)
		}
	}
	return nil
}

// suits reports whether the payload says that it is for an entry.
func (u *update) suits(e entry) bool {
	if u.cargo.pkg != nil {
		return u.cargo.pkg.fits(e) != nil
	}
	d := e.device
	return d.ID == u.payload.Name || d.Name == u.payload.Name || d.Class == u.payload.Name || d.Model != "" && d.Model == u.payload.Name
}

// subjects finds the devices that the payload is for, and those that it suits as well.
func (u *update) subjects() ([]bystander, transport.Result, error) {
	var none transport.Result
	r := &reader{conn: u.conn, ctx: u.ctx, op: "update", related: map[string]int{}}
	entries, err := u.entries(r, false)
	if err != nil {
		return nil, none, err
	}
	found, rest, err := u.meant(entries)
	if err != nil {
		return nil, none, err
	}
	var left []bystander
	same := 0
	for _, e := range found {
		if err := u.hop(e); err != nil {
			return nil, none, err
		}
		order, ok := compare(u.payload.Version, e.device.Firmware)
		if ok && (order < 0 && !u.opts.Downgrade || order == 0 && !u.opts.Rewrite) {
			left = append(left, bystander{e, order})
			continue
		}
		if ok && order == 0 {
			same++
		}
		u.data.Subjects = append(u.data.Subjects, subject{ID: e.device.ID, URI: e.uri, Class: e.device.Class, Name: e.device.Name, From: e.device.Firmware, Part: e.part})
	}
	if len(u.data.Subjects) == 0 {
		return nil, transport.Result{Verdict: transport.VerdictNotNeeded}, nil
	}
	u.data.Rewrite = same == len(u.data.Subjects)
	for _, e := range rest {
		order, ok := compare(u.payload.Version, e.device.Firmware)
		if !ok {
			order = 1
		}
		left = append(left, bystander{e, order})
	}
	return left, none, nil
}

// meant tells the entries that are to be updated from those that a way without targets
// would change as well.
func (u *update) meant(entries []entry) (found, rest []entry, _ error) {
	var unread error
	entries = slices.DeleteFunc(entries, func(e entry) bool {
		if e.err != nil {
			unread = e.err
		}
		return e.err != nil
	})
	fixed := func(e entry) bool { return e.device.Updateable != nil && !*e.device.Updateable }
	if len(u.opts.Devices) == 0 {
		for _, e := range entries {
			if u.suits(e) {
				found = append(found, e)
			}
		}
		if some := slices.DeleteFunc(slices.Clone(found), fixed); len(some) > 0 {
			found = some // what cannot be changed will not be
		}
	}
	for _, id := range u.opts.Devices {
		e, err := u.named(entries, id, unread)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, e)
	}
	if len(found) == 0 && unread != nil { // it may be for that one
		return nil, nil, unread
	}
	if len(found) == 0 {
		return nil, nil, u.fail(transport.ErrRejected, errors.New("the payload fits no device of the firmware inventory"), "it is for other hardware, or the devices must be named (UpdateOptions.Devices); "+nothingSent)
	}
	for _, e := range found {
		if fixed(e) {
			return nil, nil, u.fail(transport.ErrRejected, fmt.Errorf("the target says that %s cannot be updated", e.device.ID), nothingSent)
		}
	}
	for _, e := range entries {
		is := func(f entry) bool { return f.device.ID == e.device.ID }
		like := func(f entry) bool {
			return u.cargo.pkg == nil && f.device.Name == e.device.Name && f.device.Class == e.device.Class
		}
		if !slices.ContainsFunc(found, is) && !fixed(e) && (u.cargo.pkg != nil && u.suits(e) || slices.ContainsFunc(found, like)) {
			rest = append(rest, e)
		}
	}
	return found, rest, nil
}

// named is the entry of a device that the caller names. Some cards are listed as parts of
// the system alone.
func (u *update) named(entries []entry, id string, unread error) (entry, error) {
	is := func(e entry) bool { return e.device.ID == id }
	if i := slices.IndexFunc(entries, is); i >= 0 {
		return entries[i], nil
	}
	if unread != nil { // it may be that one
		return entry{}, unread
	}
	r := &reader{conn: u.conn, ctx: u.ctx, op: "update", related: map[string]int{}}
	all, err := u.entries(r, true)
	if err != nil {
		return entry{}, err
	}
	if i := slices.IndexFunc(all, func(e entry) bool { return e.err == nil && is(e) }); i >= 0 && all[i].device.Firmware != "" {
		return all[i], nil
	}
	var have []string
	for _, e := range entries {
		have = append(have, fmt.Sprintf("%q", e.device.ID))
	}
	return entry{}, u.fail(transport.ErrInvalid, fmt.Errorf("there is no device %q whose version the inventory tells", id), clip("there are "+strings.Join(have, ", "), 2048))
}

// entries reads the firmware inventory, and with parts also what it does not list.
func (u *update) entries(r *reader, parts bool) ([]entry, error) {
	var systems []system
	if u.profile == ProfileILO4 || parts {
		var err error
		if _, systems, err = r.identity(); err != nil {
			return nil, err
		}
	}
	out, err := u.firmware(u.ctx, "update", systems)
	if err == nil && u.profile == ProfileILO4 && r.unread != nil {
		out = append(out, entry{uri: u.systems(), err: r.unread}) // which lists parts of its own
	}
	if err != nil || !parts {
		return out, err
	}
	r.list(out)
	listed := len(r.inv.Devices)
	if err := r.parts(systems); err != nil {
		return out, err
	}
	for _, d := range r.inv.Devices[listed:] {
		out = append(out, entry{uri: d.ID, device: d, part: true})
	}
	return out, nil
}

// hop refuses what needs a version in between, and says which.
func (u *update) hop(e entry) error {
	if u.cargo.pkg == nil {
		return nil
	}
	d := u.cargo.pkg.fits(e)
	if d == nil {
		return u.fail(transport.ErrRejected, fmt.Errorf("%s is not for %s: none of its targets is that of the device, or it is for another class", u.payload.Name, e.device.ID), nothingSent)
	}
	if version := d.Version; version != "" {
		if order, ok := compare(version, u.payload.Version); ok && order != 0 {
			return u.fail(transport.ErrRejected, fmt.Errorf("the package holds version %s for %s, and the payload is to be %s", version, e.device.ID, u.payload.Version), nothingSent)
		}
	}
	least := u.cargo.pkg.Least(*d)
	if order, ok := compare(e.device.Firmware, least); ok && order < 0 {
		return u.fail(transport.ErrRejected, fmt.Errorf("%s has %s, and %s needs %s at least", e.device.ID, e.device.Firmware, u.payload.Version, least),
			fmt.Sprintf("install %s, or a version between it and this one, first; %s", least, nothingSent))
	}
	return nil
}

// patience is how long what a dead run has left unfinished is waited for.
func (u *update) patience() time.Duration {
	if u.opts.Resume == nil {
		return 0
	}
	return u.s.opts.ResetTimeout
}
