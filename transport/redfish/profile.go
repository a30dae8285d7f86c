package redfish

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// manager is what is used of a Manager resource.
type manager struct {
	ID       link `json:"@odata.id"`
	Name     text `json:"Id"`
	Type     text `json:"ManagerType"`
	Model    text
	Firmware text `json:"FirmwareVersion"`
	Reset    text `json:"LastResetTime"`
	Oem      struct{ Hpe, Hp oemManager }
}

// oemManager is what HPE adds.
type oemManager struct {
	Links struct {
		UpdateService, SecurityService link
	} `json:"Links"`
	OldLinks struct {
		UpdateService link
	} `json:"links"`
}

// updateService is what is used of the UpdateService resource, of HPE's additions, and
// of what iLO 4 has in its place.
type updateService struct {
	ID        link   `json:"@odata.id"`
	Enabled   flag   `json:"ServiceEnabled"`
	Firmware  link   `json:"FirmwareInventory"`
	Software  link   `json:"SoftwareInventory"`
	HTTPPush  text   `json:"HttpPushUri"`
	Multipart text   `json:"MultipartHttpPushUri"`
	MaxImage  number `json:"MaxImageSizeBytes"`
	// HttpPushUriTargets: nil where the service does not know it.
	PushTargets json.RawMessage `json:"HttpPushUriTargets"`
	PushBusy    flag            `json:"HttpPushUriTargetsBusy"`
	ApplyTimes  applyTimes      `json:"@Redfish.OperationApplyTimeSupport"`
	PushTimes   applyTimes      `json:"MultipartHttpPushUri@Redfish.OperationApplyTimeSupport"`
	Actions     json.RawMessage
	Oem         struct{ Hpe, Hp oemUpdate }
	// iLO 4
	State    text
	Progress number `json:"ProgressPercent"`
	Flags    texts
	Error    text
	Details  text
}

// oemUpdate is what HPE adds.
type oemUpdate struct {
	State    text
	Progress number `json:"FlashProgressPercent"`
	Result   struct {
		MessageID text  `json:"MessageId"`
		Args      texts `json:"MessageArgs"`
	}
	UploadETag text `json:"UploadCurrentEtag"`
	Push       text `json:"PushUpdateUri"`
	Queue      link `json:"UpdateTaskQueue"`
	Repository link `json:"ComponentRepository"`
	Sets       link `json:"InstallSets"`
	Actions    json.RawMessage
}

// applyTimes are the times at which updates may be applied (DSP0266, "Operation apply
// time"), where the service says that it can be told.
type applyTimes struct {
	Values texts `json:"SupportedValues"`
}

// immediate reports whether a push can be told to be applied at once.
func (u *updateService) immediate() bool {
	return slices.Contains(append(slices.Clone(u.ApplyTimes.Values), u.PushTimes.Values...), "Immediate")
}

// hpe returns the additions, under whichever of the two names.
func (u *updateService) hpe() oemUpdate {
	if u.Oem.Hpe.State == "" && u.Oem.Hp.State != "" {
		return u.Oem.Hp
	}
	return u.Oem.Hpe
}

// action finds the target of an action by the last part of its name, in every place
// where services have put them.
func (u *updateService) action(suffix string) string {
	for _, place := range []json.RawMessage{u.Actions, u.Oem.Hpe.Actions, u.Oem.Hp.Actions} {
		if to := findAction(place, suffix, 0); to != "" {
			return to
		}
	}
	return ""
}

func findAction(raw json.RawMessage, suffix string, depth int) string {
	var fields map[string]json.RawMessage
	if depth > 3 || json.Unmarshal(raw, &fields) != nil {
		return ""
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var a struct {
			Target text `json:"target"`
		}
		if json.Unmarshal(fields[name], &a) == nil && a.Target != "" && lastSegment(strings.TrimPrefix(name, "#")) == suffix {
			return string(a.Target)
		}
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "#") {
			if to := findAction(fields[name], suffix, depth+1); to != "" {
				return to
			}
		}
	}
	return ""
}

// choose finds out what the service is.
func (c *conn) choose(ctx context.Context) error {
	c.profile = c.s.opts.Profile
	managers, err := c.members(ctx, "dial", string(c.root.Managers))
	if err != nil && !answered(err) {
		return err
	}
	var found []manager
	for _, m := range managers {
		var one manager
		if m.err == nil && decode(m.body, &one) == nil {
			if one.ID == "" {
				one.ID = link(m.uri)
			}
			found = append(found, one)
		}
	}
	c.managers = found
	update := string(c.root.UpdateService)
	if update == "" {
		for _, m := range found {
			for _, l := range []link{m.Oem.Hpe.Links.UpdateService, m.Oem.Hp.Links.UpdateService, m.Oem.Hp.OldLinks.UpdateService} {
				if update == "" {
					update = string(l)
				}
			}
		}
	}
	if update == "" && generation(&c.root, found) == 4 && len(found) > 0 {
		update = strings.TrimSuffix(string(found[0].ID), "/") + "/UpdateService/"
	}
	if update != "" {
		switch err := c.read(ctx, "dial", update, &c.update); {
		case err == nil:
			c.updatePath = update
		case !answered(err):
			return err
		default:
			c.noUpdate = err
		}
	}
	if c.profile == ProfileAuto {
		c.profile = profileOf(&c.root, found, &c.update)
	}
	return nil
}

// generation is the number of an iLO, or 0.
func generation(root *serviceRoot, managers []manager) int {
	var said []string
	for _, m := range append(root.Oem.Hpe.Manager, root.Oem.Hp.Manager...) {
		said = append(said, string(m.Type), string(m.Firmware))
	}
	for _, m := range managers {
		said = append(said, string(m.Firmware), string(m.Model))
	}
	for _, s := range said {
		if n, ok := strings.CutPrefix(strings.TrimSpace(s), "iLO "); ok && n != "" && n[0] >= '1' && n[0] <= '9' {
			return int(n[0] - '0')
		}
	}
	return 0
}

// profileOf chooses a profile by what the service says of itself.
func profileOf(root *serviceRoot, managers []manager, update *updateService) Profile {
	switch generation(root, managers) {
	case 4:
		return ProfileILO4
	case 5:
		return ProfileILO5
	case 6:
		return ProfileILO6
	case 7:
		return ProfileILO7
	}
	vendor := strings.ToUpper(string(root.Vendor))
	hpe := vendor == "" || strings.HasPrefix(vendor, "HP")
	rmc := slices.ContainsFunc(managers, func(m manager) bool { return strings.EqualFold(string(m.Name), "RMC") })
	if hpe && (rmc || update.action("UpdateAll") != "") {
		return ProfileRMC
	}
	return ProfileGeneric
}

// ilo reports whether the profile is that of an iLO with HPE's update service.
func (p Profile) ilo() bool { return p == ProfileILO5 || p == ProfileILO6 || p == ProfileILO7 }

// ways are those of a profile, the best first.
func (p Profile) ways() []Way {
	switch p {
	case ProfileILO4:
		return []Way{WayInstallFromURI}
	case ProfileILO5, ProfileILO6, ProfileILO7:
		return []Way{WayHPEPush, WayAddFromURI, WaySimpleUpdate, WayQueue}
	case ProfileRMC:
		return []Way{WayUpdateAll}
	}
	return []Way{WayMultipart, WayHTTPPush, WaySimpleUpdate}
}

// to is where a way's request goes, or "" where the service does not offer it.
func (c *conn) to(w Way, u *updateService) string {
	switch w {
	case WayMultipart:
		return string(u.Multipart)
	case WayHTTPPush:
		return string(u.HTTPPush)
	case WayHPEPush:
		if p := u.hpe().Push; p != "" {
			return string(p)
		}
		return string(u.HTTPPush)
	case WaySimpleUpdate:
		return u.action("SimpleUpdate")
	case WayAddFromURI:
		return u.action("AddFromUri")
	case WayInstallFromURI:
		return u.action("InstallFromURI")
	case WayUpdateAll:
		return u.action("UpdateAll")
	case WayQueue, WayInstallSet:
		hpe := u.hpe()
		if hpe.Repository == "" || c.to(WayHPEPush, u) == "" || w == WayInstallSet && hpe.Sets == "" {
			return ""
		}
		return string(hpe.Queue)
	}
	return ""
}

// ways are those that the service offers and the caller allows.
func (c *conn) ways(u *updateService) []Way {
	var out []Way
	all := c.profile.ways()
	if w := c.s.opts.Way; w != WayAuto {
		all = []Way{w}
	}
	for _, w := range all {
		if c.to(w, u) != "" {
			out = append(out, w)
		}
	}
	return out
}

// WhyNot implements transport.Explainer.
func (c *conn) WhyNot(want transport.Caps) error {
	if want&transport.CapUpdate == 0 || c.Caps().Has(transport.CapUpdate) {
		return nil
	}
	if c.noUpdate != nil {
		return c.noUpdate
	}
	return c.lacks(&c.update, c.s.opts.Way)
}

// lacks says which ways there are where the one that is wanted is not among them.
func (c *conn) lacks(u *updateService, want Way) error {
	var have []string
	for _, w := range c.profile.ways() {
		if c.to(w, u) != "" {
			have = append(have, string(w))
		}
	}
	if len(have) == 0 || want == WayAuto {
		return fmt.Errorf("the service offers none of the ways of an update of the profile %s", c.profile)
	}
	return fmt.Errorf("the service does not offer the way %s; it has %s: leave Options.Way empty, or set it to one of these", want, strings.Join(have, ", "))
}
