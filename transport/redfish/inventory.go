package redfish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// system is what is used of a ComputerSystem resource.
type system struct {
	ID                  link `json:"@odata.id"`
	HostName            text
	Manufacturer        text
	Model               text
	Serial              text `json:"SerialNumber"`
	UUID                text
	BIOS                text `json:"BiosVersion"`
	Power               text `json:"PowerState"`
	Reset               text `json:"LastResetTime"`
	Storage, SecureBoot link
	TrustedModules      []struct {
		Type     text `json:"InterfaceType"`
		Firmware text `json:"FirmwareVersion"`
		Status   struct{ State text }
	}
	Oem struct {
		Hpe, Hp struct {
			FirmwareInventory link
			Links, OldLinks   struct{ FirmwareInventory link }
		}
	}
}

// software is what is used of a SoftwareInventory resource.
type software struct {
	ID         link `json:"@odata.id"`
	Key        text `json:"Id"`
	Name       text
	Version    text
	Updateable flag
	Maker      text   `json:"Manufacturer"`
	SoftwareID text   `json:"SoftwareId"`
	Related    []link `json:"RelatedItem"`
	Oem        struct{ Hpe, Hp oemSoftware }
}

// oemSoftware is what HPE adds.
type oemSoftware struct {
	Context     text `json:"DeviceContext"`
	DeviceClass text
	Targets     texts
	Activates   text
}

// reader reads one inventory. What cannot be read is kept as a problem.
type reader struct {
	*conn
	ctx context.Context
	op  string
	inv transport.Inventory
	// related are the resources that an entry of the firmware inventory stands for, and
	// the device that it became.
	related map[string]int
	listed  int   // devices of the firmware inventory, which come first
	unread  error // of a system
}

// Identify implements transport.Conn. BootID is the time of the last restart of the host,
// where there is one and the service tells it.
func (c *conn) Identify(ctx context.Context) (transport.Identity, error) {
	r := &reader{conn: c, ctx: ctx, op: "identify"}
	id, _, err := r.identity()
	return id, err
}

// identity reads the system and the manager.
func (r *reader) identity() (transport.Identity, []system, error) {
	var systems []system
	all, err := r.members(r.ctx, r.op, r.systems())
	if err != nil && (r.op == "identify" || !answered(err)) {
		return transport.Identity{}, nil, err
	}
	r.problem(r.systems(), err)
	r.unread = err
	for _, m := range all {
		var s system
		if m.err == nil {
			m.err = r.decode(r.op, m.uri, m.body, &s)
		}
		if m.err != nil {
			if r.op == "identify" || !answered(m.err) {
				return transport.Identity{}, nil, m.err
			}
			r.problem(m.uri, m.err)
			r.unread = m.err
			continue
		}
		if s.ID == "" {
			s.ID = link(m.uri)
		}
		systems = append(systems, s)
	}
	slices.SortFunc(systems, func(a, b system) int { return cmp.Compare(a.ID, b.ID) })
	id := transport.Identity{OS: string(r.profile), UUID: string(r.root.UUID)}
	if len(systems) > 0 {
		s := systems[0]
		id.Name, id.Vendor, id.Product, id.Serial = string(s.HostName), string(s.Manufacturer), string(s.Model), string(s.Serial)
		if s.UUID != "" {
			id.UUID = string(s.UUID)
		}
	}
	if len(systems) == 1 {
		id.BootID = string(systems[0].Reset)
	}
	if id.Vendor == "" {
		id.Vendor = string(r.root.Vendor)
	}
	if id.Product == "" {
		id.Product = string(r.root.Product)
	}
	if len(r.managers) > 0 {
		var m manager
		if err := r.read(r.ctx, r.op, string(r.managers[0].ID), &m); err != nil {
			if !answered(err) {
				return id, nil, err
			}
			r.problem(string(r.managers[0].ID), err)
		}
		id.Version = string(m.Firmware)
	}
	if id == (transport.Identity{}) {
		return id, nil, &transport.Error{Op: r.op, Target: r.s.target, Kind: transport.ErrProtocol, Err: errors.New("the service tells nothing of who it is")}
	}
	return id, systems, nil
}

// problem keeps why something could not be read.
func (r *reader) problem(part string, err error) {
	if err != nil && part != "" {
		r.inv.Problems = append(r.inv.Problems, transport.Problem{Part: part, Text: clip(err.Error(), 1024)})
	}
}

func (r *reader) note(part, format string, args ...any) {
	r.inv.Notes = append(r.inv.Notes, transport.Problem{Part: part, Text: fmt.Sprintf(format, args...)})
}

// Inventory implements transport.Inventorier.
func (c *conn) Inventory(ctx context.Context) (*transport.Inventory, error) {
	r := &reader{conn: c, ctx: ctx, op: "inventory", related: map[string]int{}}
	r.inv.Taken = time.Now()
	id, systems, err := r.identity()
	if err != nil {
		return nil, err
	}
	r.inv.Identity = id
	entries, err := r.firmware(ctx, r.op, systems)
	if fatal(ctx, err) {
		return nil, err
	}
	r.problem(string(r.firmwarePath()), err)
	r.list(entries)
	for _, s := range systems {
		r.bios(s, len(systems) == 1)
	}
	for _, step := range []func() error{r.programs, func() error { return r.parts(systems) }, func() error { return r.security(systems) }} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(r.inv.Devices, func(a, b transport.Device) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortStableFunc(r.inv.Software, func(a, b transport.Software) int { return cmp.Compare(a.Name, b.Name) })
	byPart := func(a, b transport.Problem) int { return cmp.Compare(a.Part, b.Part) }
	slices.SortStableFunc(r.inv.Problems, byPart)
	slices.SortStableFunc(r.inv.Notes, byPart)
	return &r.inv, nil
}

// list takes over the entries of the firmware inventory.
func (r *reader) list(entries []entry) {
	for _, e := range entries {
		if e.err != nil {
			r.problem(e.uri, e.err)
			continue
		}
		r.inv.Devices = append(r.inv.Devices, e.device)
		for _, l := range e.related {
			r.related[strings.TrimSuffix(string(l), "/")] = len(r.inv.Devices) - 1
		}
	}
	r.listed = len(r.inv.Devices)
}

// fatal reports whether an error ends an inventory: the target did not answer, and would
// not answer the next request.
func fatal(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || !answered(err))
}

// entry is one of the firmware inventory.
type entry struct {
	uri     string
	device  transport.Device
	related []link
	targets []string // HPE's identifiers, lower case
	class   string   // HPE's, lower case
	part    bool     // the firmware inventory does not list it
	err     error
}

// systems is where the systems are. An iLO 4 of old does not link them from its root.
func (c *conn) systems() string {
	switch {
	case c.root.Systems != "":
		return string(c.root.Systems)
	case c.root.Links.Systems != "":
		return string(c.root.Links.Systems)
	case c.profile == ProfileILO4:
		return rootPath + "Systems/"
	}
	return ""
}

// firmwarePath is where the firmware inventory is.
func (c *conn) firmwarePath() link { return c.update.Firmware }

// firmware reads the firmware inventory, as devices with identifiers that stay the same.
func (c *conn) firmware(ctx context.Context, op string, systems []system) ([]entry, error) {
	if c.update.Firmware == "" && c.profile == ProfileILO4 {
		return c.firmware4(ctx, op, systems)
	}
	all, err := c.members(ctx, op, string(c.update.Firmware))
	var out []entry
	for _, m := range all {
		e := entry{uri: m.uri, err: m.err}
		var s software
		if e.err == nil {
			e.err = c.decode(op, m.uri, m.body, &s)
		}
		if e.err == nil {
			if e.uri == "" {
				e.uri = string(s.ID)
			}
			e.device, e.related, e.targets, e.class = c.device(s, e.uri)
		}
		out = append(out, e)
	}
	name(out)
	return out, err
}

// device makes a device of an entry.
func (c *conn) device(s software, uri string) (_ transport.Device, related []link, targets []string, class string) {
	d := transport.Device{ID: uri, Name: string(s.Name), Vendor: string(s.Maker), Firmware: string(s.Version), Updateable: s.Updateable.value}
	if d.Name == "" {
		d.Name = string(s.Key)
	}
	hpe := s.Oem.Hpe
	if hpe.Context == "" && s.Oem.Hp.Context != "" {
		hpe = s.Oem.Hp
	}
	d.Location = string(hpe.Context)
	d.Class = classOf(s.Related, d.Name+" "+string(s.Key)+" "+uri[strings.LastIndexByte(strings.TrimSuffix(uri, "/"), '/')+1:])
	for _, t := range hpe.Targets {
		t = strings.ToLower(t)
		targets = append(targets, t)
		d.HardwareIDs = append(d.HardwareIDs, "hpe-target:"+t)
	}
	if hpe.DeviceClass != "" {
		d.HardwareIDs = append(d.HardwareIDs, "hpe-class:"+strings.ToLower(string(hpe.DeviceClass)))
	}
	if s.SoftwareID != "" {
		d.HardwareIDs = append(d.HardwareIDs, "software-id:"+string(s.SoftwareID))
	}
	if len(hpe.Targets) == 0 && d.Name != "" {
		// What has nothing better. Where there are targets they tell of which make a part
		// is, and a name such as "System ROM" is that of any.
		d.HardwareIDs = append(d.HardwareIDs, "name:"+d.Name)
	}
	if hpe.Context != "" || len(hpe.Targets) > 0 || c.profile.ilo() {
		// The numbers that an iLO gives its entries are others on the next server, and
		// after a card was added.
		d.ID = d.Name
		if d.Location != "" {
			d.ID += " @ " + d.Location
		}
	}
	return d, s.Related, targets, strings.ToLower(string(hpe.DeviceClass))
}

// name makes the identifiers of entries unique: equal parts are counted, in the order of
// the inventory.
func name(entries []entry) {
	slices.SortStableFunc(entries, func(a, b entry) int { return natural(a.uri, b.uri) })
	count := map[string]int{}
	for i := range entries {
		if entries[i].err != nil {
			continue
		}
		d := &entries[i].device
		count[d.ID]++
		if n := count[d.ID]; n > 1 {
			d.ID = fmt.Sprintf("%s #%d", d.ID, n)
		}
	}
}

// natural orders URIs with the numbers in them as numbers.
func natural(a, b string) int {
	if len(a) != len(b) && strings.TrimRight(a, "0123456789/") == strings.TrimRight(b, "0123456789/") {
		return cmp.Compare(len(a), len(b))
	}
	return cmp.Compare(a, b)
}

// firmware4 reads what iLO 4 has for a firmware inventory: lists by kind of device.
func (c *conn) firmware4(ctx context.Context, op string, systems []system) ([]entry, error) {
	var out []entry
	for _, s := range systems {
		at := string(s.Oem.Hp.FirmwareInventory)
		for _, l := range []link{s.Oem.Hp.Links.FirmwareInventory, s.Oem.Hp.OldLinks.FirmwareInventory} {
			if at == "" {
				at = string(l)
			}
		}
		if at == "" {
			at = strings.TrimSuffix(string(s.ID), "/") + "/FirmwareInventory/"
		}
		var list struct {
			Current map[string][]struct {
				Name     text
				Version  text `json:"VersionString"`
				Location text
				Key      text
			}
		}
		if err := c.read(ctx, op, at, &list); err != nil {
			return out, err
		}
		var kinds []string
		for k := range list.Current {
			kinds = append(kinds, k)
		}
		slices.Sort(kinds)
		for _, k := range kinds {
			for i, f := range list.Current[k] {
				d := transport.Device{Name: string(f.Name), Firmware: string(f.Version), Location: string(f.Location), Class: classOf(nil, k+" "+string(f.Name))}
				if d.ID = d.Name; d.ID == "" {
					d.ID = k
				} else {
					d.HardwareIDs = []string{"name:" + d.Name}
				}
				if d.Location != "" {
					d.ID += " @ " + d.Location
				}
				out = append(out, entry{uri: fmt.Sprintf("%s#/Current/%s/%d", at, k, i), device: d})
			}
		}
	}
	name(out)
	return out, nil
}

// bios tells for which product the firmware of a system is, and adds it where the firmware
// inventory has none. Of several systems, each has that which has its name.
func (r *reader) bios(s system, only bool) {
	var product []string
	if s.Model != "" {
		product = []string{"product:" + string(s.Model)}
	}
	name := strings.TrimSuffix(string(s.ID), "/")
	name = strings.ToLower(name[strings.LastIndexByte(name, '/')+1:])
	found := false
	for i := range r.inv.Devices {
		d := &r.inv.Devices[i]
		if d.Class == transport.ClassBIOS && (only || strings.Contains(strings.ToLower(d.ID), name)) {
			found = true
			d.HardwareIDs = append(d.HardwareIDs, product...)
		}
	}
	if !found && s.BIOS != "" {
		r.inv.Devices = append(r.inv.Devices, transport.Device{ID: string(s.ID) + "#/BiosVersion", Class: transport.ClassBIOS, Name: "BIOS",
			Firmware: string(s.BIOS), Vendor: string(s.Manufacturer), Model: string(s.Model), HardwareIDs: product})
	}
}

// programs reads the software inventory.
func (r *reader) programs() error {
	all, err := r.members(r.ctx, r.op, string(r.update.Software))
	if fatal(r.ctx, err) {
		return err
	}
	r.problem(string(r.update.Software), err)
	for _, m := range all {
		var s software
		if m.err == nil {
			m.err = r.decode(r.op, m.uri, m.body, &s)
		}
		if m.err != nil {
			r.problem(m.uri, m.err)
			continue
		}
		r.inv.Software = append(r.inv.Software, transport.Software{Name: string(s.Name), Version: string(s.Version), Source: "redfish"})
	}
	return nil
}

// classOf says what kind of device an entry stands for: by the resources that it names,
// or else by words in its name.
func classOf(related []link, name string) string {
	for _, l := range related {
		path := strings.ToLower(string(l))
		for _, p := range []struct{ part, class string }{
			{"/networkadapters", transport.ClassNIC}, {"/drives/", transport.ClassDisk}, {"/powersupplies", transport.ClassPSU},
			{"/powersubsystem", transport.ClassPSU}, {"/storage", transport.ClassController}, {"/smartstorage", transport.ClassController},
			{"/bios", transport.ClassBIOS}, {"/switches/", transport.ClassSwitch},
		} {
			if strings.Contains(path, p.part) {
				return p.class
			}
		}
		if strings.Contains(path, "/managers/") {
			return transport.ClassBMC
		}
	}
	// A backplane, an expander and the like are none of what they are of.
	words := " " + strings.ToLower(strings.NewReplacer("_", " ", "-", " ", ".", " ", "/", " ", "(", " ", ")", " ").Replace(name)) + " "
	for _, w := range []struct{ words, class string }{
		{"backplane,expander,power management controller", "firmware"},
		{"ilo,bmc,systembmc,idrac,xcc,rmc,openbmc,lights out", transport.ClassBMC},
		{"bios,system rom,systemromactive,systemrombackup,uefi", transport.ClassBIOS},
		{"power supply,psu", transport.ClassPSU},
		{"switch", transport.ClassSwitch}, // of whatever network
		{"fibre channel,hba,fc", transport.ClassHBA},
		{"nic,ethernet,network,lom,flexlom,flexfabric,gbe,gb,adptr", transport.ClassNIC},
		{"array,raid,smart array,storage controller,megaraid,sas controller", transport.ClassController},
		{"drive,ssd,hdd,disk,nvme", transport.ClassDisk},
	} {
		for word := range strings.SplitSeq(w.words, ",") {
			if strings.Contains(words, " "+word+" ") {
				return w.class
			}
		}
	}
	// "iLO 5" and the like hold their number behind a blank; "iLO5" does not.
	if strings.Contains(words, " ilo") {
		return transport.ClassBMC
	}
	return "firmware"
}
