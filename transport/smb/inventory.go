package smb

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

// inventoryTime is how long each of the two halves of an inventory may take, and a little
// more what it last asked for: what was found up to then is told.
const inventoryTime = 5 * time.Minute

// Inventory implements transport.Inventorier. Software is read from the registry, within
// the login of SMB; devices, firmware and drivers come from WMI. If that cannot be
// reached the error says which port and rule of the Windows firewall it takes, and comes
// with the rest. What part of either cannot be read is a Problem.
func (c *conn) Inventory(ctx context.Context) (*transport.Inventory, error) {
	k, err := c.begin(ctx, "inventory", "")
	if err != nil {
		return nil, err
	}
	defer k.end()
	if !c.opts.WMI {
		return nil, &transport.Error{Op: k.op, Target: c.target, Kind: errors.ErrUnsupported, Err: c.WhyNot(transport.CapInventory)}
	}
	// What hangs may find more when the inventory has been handed out: that is its own.
	in := &inventory{k: k, devices: map[string]*transport.Device{}}
	inv, err := work(k, func() (*transport.Inventory, error) { return in.read() })
	if err != nil && k.ctx.Err() != nil {
		return nil, err
	}
	return inv, err
}

// inventory is one Inventory.
type inventory struct {
	k       *call
	end     time.Time
	inv     transport.Inventory
	id      transport.Identity
	bios    transport.Device
	devices map[string]*transport.Device // by ID
}

func (in *inventory) read() (*transport.Inventory, error) {
	in.inv.Taken = time.Now().UTC()
	id, err := in.k.c.identity(in.k)
	if err != nil {
		return nil, err
	}
	in.id = id
	in.bios = transport.Device{ID: "bios", Class: transport.ClassBIOS, Name: "System BIOS"}
	if err := in.half(func(k *call) error { return k.registry(in.fromRegistry) }); err != nil {
		in.problem("programs", err)
	}
	werr := in.half(func(k *call) error { return k.wmi(in.end, in.fromWMI) })
	if err := in.k.ctx.Err(); err != nil {
		return nil, err
	}
	if in.bios.Vendor != "" || in.bios.Firmware != "" {
		if in.id.Product != "" {
			in.bios.HardwareIDs = []string{"product:" + in.id.Product}
		}
		in.devices[in.bios.ID] = &in.bios
	}
	for _, d := range in.devices {
		in.inv.Devices = append(in.inv.Devices, *d)
	}
	slices.SortFunc(in.inv.Devices, func(a, b transport.Device) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(in.inv.Software, func(a, b transport.Software) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
	})
	in.k.c.system.Store(&in.id)
	in.inv.Identity = in.id
	if werr != nil {
		werr = fmt.Errorf("without devices: %w", werr)
		if te := new(transport.Error); errors.As(werr, &te) {
			own := *te
			own.Hint = strings.TrimPrefix(own.Hint+"; an agent reads the same without it", "; ")
			werr = &own
		}
	}
	return &in.inv, werr
}

// half runs one half of the inventory. A host that answers by and by could go on forever.
func (in *inventory) half(f func(k *call) error) error {
	in.end = time.Now().Add(inventoryTime)
	k := *in.k
	ctx, cancel := context.WithTimeout(k.ctx, inventoryTime+asideTime)
	defer cancel()
	k.ctx = ctx
	err := f(&k)
	if err != nil && ctx.Err() != nil && in.k.ctx.Err() == nil {
		return &transport.Error{Kind: transport.ErrTimeout, Err: fmt.Errorf("not finished within %v", inventoryTime)}
	}
	return err
}

// problem notes what part could not be read, and why.
func (in *inventory) problem(part string, err error) {
	text := err.Error()
	if te := new(transport.Error); errors.As(err, &te) && te.Op == "" {
		own := *te
		own.Op = "read"
		text = own.Error()
	}
	in.inv.Problems = append(in.inv.Problems, transport.Problem{Part: part, Text: cleanText(text)})
}

// fromRegistry reads the release of Windows, what Windows noted of the firmware when it
// started, and what is installed.
func (in *inventory) fromRegistry(r *registry) error {
	var product, display, release, revision, maker string
	err := r.values(`SOFTWARE\Microsoft\Windows NT\CurrentVersion`, map[string]*string{
		"ProductName": &product, "DisplayVersion": &display, "ReleaseId": &release, "UBR": &revision})
	if err != nil {
		in.problem("identity", err)
	}
	if product != "" {
		in.id.Version = cleanText(strings.TrimSpace(product + " " + cmp.Or(display, release)))
	}
	if revision != "" && revision != "0" && in.id.Kernel != "" && in.id.Kernel == in.k.c.hello.build {
		in.id.Kernel += "." + cleanText(revision)
	}
	var vendor, name, version, date string
	err = r.values(`HARDWARE\DESCRIPTION\System\BIOS`, map[string]*string{
		"SystemManufacturer": &maker, "SystemProductName": &name, "BIOSVendor": &vendor, "BIOSVersion": &version, "BIOSReleaseDate": &date})
	if err != nil {
		in.problem("bios", err)
	}
	in.id.Vendor, in.id.Product = cleanText(maker), cleanText(name)
	in.bios.Vendor, in.bios.Firmware = cleanText(vendor), cleanText(version)
	return r.programs(in.id.Arch, in.end, func(s transport.Software) { in.inv.Software = append(in.inv.Software, s) })
}
