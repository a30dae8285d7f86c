package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// places are the zones that packets of the openings can arrive in. firewalld looks
// at the source first, then at the interface; an interface that is in no zone is
// in the default one.
func (z *zones) places(ctx context.Context) (map[placed]bool, error) {
	links, err := interfaces()
	if err != nil {
		return nil, err
	}
	// One call instead of getZoneOfInterface for each.
	var active map[string]map[string][]string
	if err := z.bus.call(ctx, firewalldPath, firewalldZone+"getActiveZones", nil, &active); err != nil {
		return nil, err
	}
	var byDefault string
	if err := z.bus.call(ctx, firewalldPath, firewalldName+".getDefaultZone", nil, &byDefault); err != nil {
		return nil, err
	}
	z.links = fmt.Sprint(links)
	ofLinks := zonesOf(links, active, byDefault)
	target := map[placed]bool{}
	for o := range z.want {
		covered := false // by a source: what comes from there never gets to the interface's zone
		for zone, about := range active {
			for _, source := range about["sources"] {
				p, ok := sourcePrefix(source)
				if ok && !p.Overlaps(o.From) {
					continue
				}
				target[placed{zone, o}] = true
				covered = covered || ok && p.Bits() <= o.From.Bits()
			}
		}
		if !covered {
			for _, zone := range ofLinks {
				target[placed{zone, o}] = true
			}
		}
	}
	return target, nil
}

// interfaces are the names of this host's interfaces but the loopback one, which
// firewalld leaves open.
func interfaces() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// zonesOf are the zones that interfaces are in. In a zone's list a name can end
// with a plus sign, for all that begin so.
func zonesOf(links []string, active map[string]map[string][]string, byDefault string) []string {
	var zones []string
	for _, link := range links {
		of := byDefault
		for zone, about := range active {
			if slices.ContainsFunc(about["interfaces"], func(name string) bool {
				prefix, any := strings.CutSuffix(name, "+")
				return name == link || any && strings.HasPrefix(link, prefix)
			}) {
				of = zone
				if slices.Contains(about["interfaces"], link) {
					break
				}
			}
		}
		zones = append(zones, of)
	}
	if len(zones) == 0 {
		zones = []string{byDefault}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

// sourcePrefix reads a source of a zone. Others than IP addresses, which are MAC
// addresses and sets, can be any peer's.
func sourcePrefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil
}

// blocks are what keeps rules in zones from opening anything.
func (z *zones) blocks(ctx context.Context) ([]Block, error) {
	if err := z.ready(ctx); err != nil {
		if errors.Is(err, errNotRunning) {
			return []Block{{Where: "firewalld", Why: "it does not run, but its rules are in force"}}, nil
		}
		return nil, err
	}
	var blocks []Block
	var panicMode bool
	if err := z.bus.call(ctx, firewalldPath, firewalldName+".queryPanicMode", nil, &panicMode); err != nil {
		return nil, err
	}
	if panicMode {
		blocks = append(blocks, Block{Where: "firewalld", Why: "it is in panic mode, in which nothing passes"})
	}
	// Policies came with firewalld 0.9.
	var policies map[string]map[string][]string
	if err := z.bus.call(ctx, firewalldPath, firewalldPolicy+"getActivePolicies", nil, &policies); err != nil {
		var d dbus.Error
		if errors.As(err, &d) && strings.HasPrefix(d.Name, "org.freedesktop.DBus.Error.Unknown") {
			err = nil
		}
		return blocks, err
	}
	for name, about := range policies {
		if !slices.Contains(about["egress_zones"], "HOST") {
			continue
		}
		var settings map[string]dbus.Variant
		if err := z.bus.call(ctx, firewalldPath, firewalldPolicy+"getPolicySettings", []any{name}, &settings); err != nil {
			return nil, err
		}
		priority, _ := settings["priority"].Value().(int32)
		if priority < 0 && policyDrops(settings) {
			blocks = append(blocks, Block{Where: "policy " + name + " of firewalld", Why: "its priority puts it before the zones"})
		}
	}
	slices.SortFunc(blocks, func(a, b Block) int { return strings.Compare(a.Where, b.Where) })
	return blocks, nil
}

func policyDrops(settings map[string]dbus.Variant) bool {
	if target, _ := settings["target"].Value().(string); target == "DROP" || target == "REJECT" {
		return true
	}
	rules, _ := settings["rich_rules"].Value().([]string)
	return slices.ContainsFunc(rules, func(r string) bool {
		fields := strings.Fields(r)
		return slices.Contains(fields, "drop") || slices.Contains(fields, "reject")
	})
}

// sweep removes the rules of dead owners before they end by themselves.
func (z *zones) sweep(ctx context.Context, living []Owner) ([]Leftover, error) {
	if err := z.ready(ctx); err != nil {
		if errors.Is(err, errNotRunning) {
			return nil, nil
		}
		return nil, err
	}
	taken := map[int]bool{}
	for _, o := range living {
		taken[slotOf(o)] = true
	}
	var names []string
	if err := z.bus.call(ctx, firewalldPath, firewalldZone+"getZones", nil, &names); err != nil {
		return nil, err
	}
	var left []Leftover
	for _, zone := range names {
		var texts []string
		if err := z.bus.call(ctx, firewalldPath, firewalldZone+"getRichRules", []any{zone}, &texts); err != nil {
			return left, err
		}
		for _, text := range texts {
			slot, ours := slotOfRule(text)
			if !ours || taken[slot] {
				continue
			}
			permanent, err := z.permanent(ctx, zone, text)
			if err != nil {
				if ctx.Err() != nil {
					return left, err
				}
				z.log.Warn("whether a rule of a dead process was made permanent in firewalld is not known; it is left to end by itself",
					"zone", zone, "rule", text, "err", err)
				continue
			}
			if permanent {
				z.log.Warn("somebody made a rule of a dead process permanent in firewalld", "zone", zone, "rule", text,
					"remove", fmt.Sprintf("firewall-cmd --permanent --zone=%s --remove-rich-rule='%s'", zone, text))
				continue
			}
			err = z.bus.call(ctx, firewalldPath, firewalldZone+"removeRichRule", []any{zone, text}, new(string))
			switch codeOf(err) {
			case "NOT_ENABLED": // it has just ended
				continue
			case "PANIC_MODE":
				z.log.Warn("in panic mode firewalld keeps a rule of a dead process", "zone", zone, "rule", text)
				continue
			}
			if err != nil {
				return left, err
			}
			left = append(left, Leftover{FrontEnd: Firewalld, What: "rich rule in zone " + zone + ": " + text})
		}
	}
	return left, nil
}

// permanent reports whether a rule is in firewalld's files: "firewall-cmd
// --runtime-to-permanent" writes there what it finds, and then it is an
// administrator's.
func (z *zones) permanent(ctx context.Context, zone, text string) (bool, error) {
	var path dbus.ObjectPath
	err := z.bus.call(ctx, firewalldPath+"/config", firewalldName+".config.getZoneByName", []any{zone}, &path)
	if codeOf(err) == "INVALID_ZONE" { // the files no longer have it
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var there bool
	err = z.bus.call(ctx, path, firewalldName+".config.zone.queryRichRule", []any{text}, &there)
	return there, err
}
