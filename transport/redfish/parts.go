package redfish

import (
	"encoding/json"
	"strings"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/roundsman-go/roundsman/transport"
)

// parts reads adapters, controllers and drives: what the firmware inventory leaves out
// of them (serial numbers, models), and those that it does not list. They are decoded by
// the library's types.
func (r *reader) parts(systems []system) error {
	for _, s := range systems {
		err := r.each(string(s.Storage), func(uri string, body []byte) error { return r.storage(uri, body) })
		if err != nil {
			return err
		}
	}
	return r.each(string(r.root.Chassis), func(_ string, body []byte) error {
		var links struct {
			NetworkAdapters link
		}
		if err := decode(body, &links); err != nil {
			return err
		}
		return r.each(string(links.NetworkAdapters), r.adapter)
	})
}

// each calls f for the members of a collection. What f or the target says of one of them
// is a problem; the error is for what ended the reading.
func (r *reader) each(uri string, f func(uri string, body []byte) error) error {
	all, err := r.members(r.ctx, r.op, uri)
	if fatal(r.ctx, err) {
		return err
	}
	r.problem(uri, err)
	for _, m := range all {
		if m.err == nil {
			m.err = f(m.uri, m.body)
		}
		if fatal(r.ctx, m.err) && isConn(m.err) {
			return m.err
		}
		r.problem(m.uri, m.err)
	}
	return r.ended()
}

// isConn reports whether the error is one of the driver's, and not of a decoder.
func isConn(err error) bool {
	_, ok := err.(*transport.Error)
	return ok
}

// ended is the error of a context that ended meanwhile.
func (r *reader) ended() error {
	if err := r.ctx.Err(); err != nil {
		return r.s.fail(r.ctx, request{op: r.op}, err)
	}
	return nil
}

// add adds a device, or what is known of it to the one that the firmware inventory has.
func (r *reader) add(d transport.Device) {
	i, ok := r.related[strings.TrimSuffix(d.ID, "/")]
	if !ok {
		i, ok = r.alike(d)
	}
	if !ok {
		r.inv.Devices = append(r.inv.Devices, d)
		return
	}
	have := &r.inv.Devices[i]
	for _, f := range []struct {
		to   *string
		from string
	}{{&have.Serial, d.Serial}, {&have.Model, d.Model}, {&have.Vendor, d.Vendor}, {&have.Location, d.Location}, {&have.Firmware, d.Firmware}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	have.HardwareIDs = append(have.HardwareIDs, d.HardwareIDs...)
}

// alike finds the entry of the firmware inventory that is the same device, where no
// reference tells: the only one of its class with that version and name.
func (r *reader) alike(d transport.Device) (at int, ok bool) {
	in := func(a, b string) bool { return b != "" && strings.Contains(strings.ToLower(a), strings.ToLower(b)) }
	count := 0
	for i, e := range r.inv.Devices[:r.listed] {
		if e.Class == d.Class && d.Firmware != "" && e.Firmware == d.Firmware && (in(e.Name, d.Name) || in(e.Name, d.Model)) {
			at = i
			count++
		}
	}
	return at, count == 1
}

func (r *reader) storage(_ string, body []byte) error {
	var links struct {
		Drives      []json.RawMessage
		Controllers link
		// Before there was a collection of them they were inside.
		Inside []struct {
			ID          link `json:"@odata.id"`
			Name, Model text
			Maker       text `json:"Manufacturer"`
			Serial      text `json:"SerialNumber"`
			Firmware    text `json:"FirmwareVersion"`
		} `json:"StorageControllers"`
	}
	if err := decode(body, &links); err != nil {
		return err
	}
	for _, c := range links.Inside {
		if c.ID != "" && c.Firmware != "" {
			r.add(transport.Device{ID: string(c.ID), Class: transport.ClassController, Name: string(c.Name), Vendor: string(c.Maker), Model: string(c.Model),
				Serial: string(c.Serial), Firmware: string(c.Firmware), HardwareIDs: model(string(c.Model))})
		}
	}
	if err := r.each(string(links.Controllers), func(uri string, body []byte) error {
		var c schemas.StorageController
		if err := decode(body, &c); err != nil {
			return err
		}
		if c.FirmwareVersion != "" {
			r.add(transport.Device{ID: uri, Class: transport.ClassController, Name: c.Name, Vendor: c.Manufacturer, Model: c.Model,
				Serial: c.SerialNumber, Firmware: c.FirmwareVersion, HardwareIDs: model(c.Model)})
		}
		return nil
	}); err != nil {
		return err
	}
	for i, raw := range links.Drives {
		if i == maxMembers {
			break
		}
		m := r.member(r.ctx, r.op, raw)
		if m.err == nil {
			m.err = r.drive(m.uri, m.body)
		}
		if fatal(r.ctx, m.err) && isConn(m.err) {
			return m.err
		}
		r.problem(m.uri, m.err)
	}
	return nil
}

func (r *reader) drive(uri string, body []byte) error {
	var d schemas.Drive
	if err := decode(body, &d); err != nil {
		return err
	}
	version := d.FirmwareVersion
	if version == "" {
		version = d.Revision
	}
	r.add(transport.Device{ID: uri, Class: transport.ClassDisk, Name: d.Name, Vendor: d.Manufacturer, Model: d.Model, Serial: d.SerialNumber,
		Firmware: version, Location: d.PhysicalLocation.PartLocation.ServiceLabel, HardwareIDs: model(d.Model)})
	return nil
}

func (r *reader) adapter(uri string, body []byte) error {
	var a schemas.NetworkAdapter
	if err := decode(body, &a); err != nil {
		return err
	}
	d := transport.Device{ID: uri, Class: transport.ClassNIC, Name: a.Name, Vendor: a.Manufacturer, Model: a.Model, Serial: a.SerialNumber, HardwareIDs: model(a.Model)}
	for _, c := range a.Controllers {
		if d.Firmware == "" {
			d.Firmware = c.FirmwarePackageVersion
		}
		if d.Location == "" {
			d.Location = c.Location.PartLocation.ServiceLabel
		}
	}
	r.add(d)
	return nil
}

// model is how a component names devices of a model.
func model(name string) []string {
	if name = strings.TrimSpace(name); name != "" {
		return []string{"model:" + name}
	}
	return nil
}

// security reads what guards the firmware: secure boot, trusted modules, the security
// state of an iLO.
func (r *reader) security(systems []system) error {
	for _, s := range systems {
		for _, m := range s.TrustedModules {
			r.note("trusted module", "%s %s, %s", m.Type, m.Firmware, m.Status.State)
		}
		if s.SecureBoot == "" {
			continue
		}
		var boot struct {
			Current text `json:"SecureBootCurrentBoot"`
			Enable  flag `json:"SecureBootEnable"`
		}
		err := r.read(r.ctx, r.op, string(s.SecureBoot), &boot)
		if fatal(r.ctx, err) {
			return err
		}
		if err != nil {
			r.problem(string(s.SecureBoot), err)
			continue
		}
		if boot.Current != "" {
			r.note("secure boot", "%s", boot.Current)
		}
	}
	for _, m := range r.managers {
		at := m.Oem.Hpe.Links.SecurityService
		if at == "" {
			continue
		}
		var state struct{ SecurityState text }
		err := r.read(r.ctx, r.op, string(at), &state)
		if fatal(r.ctx, err) {
			return err
		}
		r.problem(string(at), err)
		if state.SecurityState != "" {
			r.note("security state", "%s", state.SecurityState)
		}
	}
	return nil
}
