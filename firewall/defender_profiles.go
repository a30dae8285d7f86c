package firewall

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"strings"
)

// profiles are the network profiles that are in use.
type profiles struct {
	active int32 // NET_FW_PROFILE_TYPE2 values, or-ed
	all    []profile
	modify int32 // NET_FW_MODIFY_STATE
}

type profile struct {
	name     string
	enabled  bool // the firewall filters
	shielded bool // whatever its rules allow, nothing comes in
}

func (d *defender) profiles(policy comObject) (profiles, error) {
	var p profiles
	var err error
	if p.active, err = property[int32](policy, "CurrentProfileTypes"); err != nil {
		return p, err
	}
	if p.modify, err = property[int32](policy, "LocalPolicyModifyState"); err != nil {
		return p, err
	}
	for _, t := range []struct {
		bit  int32
		name string
	}{{fwDomain, "domain"}, {fwPrivate, "private"}, {fwPublic, "public"}} {
		if p.active&t.bit == 0 {
			continue
		}
		one := profile{name: t.name}
		if one.enabled, err = property[bool](policy, "FirewallEnabled", t.bit); err != nil {
			return p, err
		}
		if one.shielded, err = property[bool](policy, "BlockAllInboundTraffic", t.bit); err != nil {
			return p, err
		}
		p.all = append(p.all, one)
	}
	return p, nil
}

// filter reports whether the firewall is on in a profile in use.
func (p profiles) filter() bool {
	return slices.ContainsFunc(p.all, func(one profile) bool { return one.enabled })
}

const (
	whyOverride = "Group Policy does not merge the rules of the host: those that are added here have no effect"
	whyShielded = "it blocks all that comes in, whatever its rules allow"
)

// blocks are what makes local rules ineffective.
func (p profiles) blocks() []Block {
	var blocks []Block
	for _, one := range p.all {
		if one.enabled && one.shielded {
			blocks = append(blocks, Block{Where: "profile " + one.name, Why: whyShielded})
		}
	}
	switch {
	case !p.filter():
	case p.modify == fwOverride:
		blocks = append(blocks, Block{Where: p.String(), Why: whyOverride})
	case p.modify == fwInBlocked && len(blocks) == 0:
		blocks = append(blocks, Block{Where: p.String(), Why: whyShielded})
	}
	return blocks
}

// String names the profiles in use.
func (p profiles) String() string {
	names := make([]string, len(p.all))
	for i, one := range p.all {
		names[i] = one.name
	}
	if len(names) == 1 {
		return "profile " + names[0]
	}
	return "profiles " + strings.Join(names, ", ")
}

// effective returns an error where it is certain that rules open nothing. Where
// several profiles are in use, Windows does not say which of them it is that Group
// Policy rules, and the peer may come in through another one.
func (p profiles) effective(add []Opening) error {
	if !p.filter() {
		return nil // rules do no harm, and the firewall may be switched on
	}
	why := ""
	if !slices.ContainsFunc(p.all, func(one profile) bool { return !one.enabled || !one.shielded }) {
		why = whyShielded
	}
	if len(p.all) == 1 {
		switch p.modify {
		case fwOverride:
			why = whyOverride
		case fwInBlocked:
			why = whyShielded
		}
	}
	if why == "" {
		return nil
	}
	return &Error{
		FrontEnd: Windows, Kind: errors.ErrUnsupported, Detail: p.String() + ": " + why,
		Hint: "have whoever administers the policy allow " + add[0].String() + " there; then leave the firewall alone, with None",
	}
}

// A listedRule is what there is to know about a rule of whomever.
type listedRule struct {
	name, group, app, service             string
	direction, action, profiles, protocol int32
	enabled                               bool
}

// unreadable counts rules that cannot be read. One of somebody else must not keep
// ours from being opened, and swept.
type unreadable struct {
	rules int
	first error
}

func (u *unreadable) skip(err error) error {
	u.rules++
	u.first = cmp.Or(u.first, err)
	return nil
}

func (u *unreadable) tell(log *slog.Logger) {
	if u.rules > 0 {
		log.Warn("rules of the firewall cannot be read and are passed over", "rules", u.rules, "err", u.first)
	}
}

func readRule(r comObject) (listedRule, error) {
	var l listedRule
	var err error
	if l.direction, err = property[int32](r, "Direction"); err != nil || l.direction != fwIn {
		return l, err // most rules of a host are not read further
	}
	if l.enabled, err = property[bool](r, "Enabled"); err != nil || !l.enabled {
		return l, err
	}
	for _, number := range []struct {
		name string
		to   *int32
	}{{"Action", &l.action}, {"Profiles", &l.profiles}, {"Protocol", &l.protocol}} {
		if *number.to, err = property[int32](r, number.name); err != nil {
			return l, err
		}
	}
	for _, text := range []struct {
		name string
		to   *string
	}{{"Name", &l.name}, {"Grouping", &l.group}, {"ApplicationName", &l.app}, {"ServiceName", &l.service}} {
		if *text.to, err = property[string](r, text.name); err != nil {
			return l, err
		}
	}
	return l, nil
}
