package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/spf13/cobra"
)

// preflightFlags are those of preflight alone.
type preflightFlags struct {
	phase    string
	manager  []string
	side     string
	format   string
	use      []string
	all      bool
	optional bool
	probe    bool
}

const preflightJSON = `With --json there is an object for each row of the matrix, or with --probe for each
finding, and then a summary. What is empty is left out:

  event flow     target, name, kind, phases; from and to (party, host, addresses);
                 direction, protocol, first and last (the ports), open, source_first,
                 source_last, need, option and purpose
  event finding  target, name; code; severity: passed (it is not so, or as it
                 should be), notice, or blocks (work would fail); direction:
                 to-target or to-manager; protocol, port, addr, sample; text, advice
  event error    target, name, step, code, error and advice
  event summary  targets, failed, stopped and exit, the exit status

Codes, which errors of other commands have, too: reached, refused, filtered,
no-route, unknown-name, wrong-service, wrong-identity, unknown-identity,
wrong-credentials, no-password, no-elevation, invalid, timeout, unreachable,
connection-lost, failed, untried, unsupported, port-taken, firewall, denied,
not-root, no-space, noexec, policy, no-directory, no-binary, clock and busy.
`

func (a *app) preflightCommand() *cobra.Command {
	var (
		f sessionFlags
		p preflightFlags
	)
	cmd := &cobra.Command{
		Use:   "preflight TARGET... [--fleet FILE] [--phase inventory|deploy] [--probe] [--for manager|target|between] [--format FORMAT]",
		Short: "Say exactly which ports these targets need, or write the firewall rules",
		Long: `Preflight prints the firewall matrix of these targets under these settings: who
dials whom, from where, on which port, in which phase and what for. It dials no
target. It looks names up, and reads ~/.ssh/config for ports and jump hosts; its
own addresses are those that the routes to the targets have, or those that
--manager gives, where targets see it otherwise.

A --format other than text, json and csv writes rules, ready to paste, for
--for manager (what targets dial on this host), for the targets themselves, or
for a firewall between them. Rules are never wider than needed: where an address
is not known there are none. Ports that are used only if they are open are there
as comments, or as rules with --optional.

Rows for an option that is not in use are left out; --use names those in use,
and --all shows all.

With --probe it tries: it dials every port, logs in, looks at each target from
inside (rights, room, where programs may be executed, clock, other managers), and
has it dial back where that is needed. On a target it needs one temporary file,
which it removes. What it finds has codes that stay the same, such as filtered,
wrong-identity or noexec, and says what to do; it fails where work would. Ports of
an option are tried where --use names it: with --use oa-fetch whether an OA would
get port 80 of this host, with --use wmi port 135, without which inventory --wmi
fails (and with --phase inventory no agent is looked for), with --use netbios, or
--netbios, port 139.

` + preflightJSON + `

An iLO or another device cannot be asked to dial back: that way is untried, and named with
its port. Where it must stay closed the address of the device's own web page is told. Of
an iLO the ports 22 and 80 are in the table of SUM; Redfish, which is all that is spoken
here, takes 443 alone, so that they never block.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman preflight --fleet fleet.yaml\n" +
			"  roundsman preflight --probe \"windows://LAB;ops@db2\" ilo://ops@ilo-db2\n" +
			"  roundsman preflight --format nft --for between linux://root@db1 ilo://ilo1\n" +
			"  roundsman preflight --generation classic --first-ports --format ufw --manager 192.0.2.10 --for target linux://root@db1",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errNoTargets
			}
			if err := p.check(&f, cmd.Flags().Changed("format"), cmd.Flags().Changed("for")); err != nil {
				return err
			}
			if p.probe {
				return a.probe(cmd.Context(), &f, &p, list)
			}
			return a.matrix(cmd.Context(), &f, &p, list)
		},
	}
	f.add(cmd)
	s := cmd.Flags()
	s.StringVar(&p.phase, "phase", "", "`PHASE`: inventory or deploy (both)")
	s.StringVar(&p.format, "format", "text", "`FORMAT`: text, json, csv, "+join(sum.RuleFormats()))
	s.StringVar(&p.side, "for", string(sum.SideManager), "whose firewall the rules are for, `SIDE`: manager, target or between")
	s.BoolVar(&p.probe, "probe", false, "try it: dial every port, log in, look at each target from inside, and have it dial back")
	s.StringArrayVar(&p.manager, "manager", nil, "`ADDRESS` of this host as targets see it; can be repeated")
	s.StringArrayVar(&p.use, "use", nil, "`OPTION` in use; can be repeated. Options: "+join(sum.PortOptions()))
	s.BoolVar(&p.all, "all", false, "show also the rows of options that are not in use")
	s.BoolVar(&p.optional, "optional", false, "rules also for ports that are used only if they are open")
	return cmd
}

// join is for sentences.
func join[S ~string](list []S) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

func (p *preflightFlags) check(f *sessionFlags, formatGiven, sideGiven bool) error {
	if f.json {
		if formatGiven && p.format != "json" {
			return usagef("--json excludes --format %s", p.format)
		}
		p.format = "json"
	}
	if netbios := string(sum.UseNetBIOS); f.netbios && !slices.Contains(p.use, netbios) {
		p.use = append(p.use, netbios)
	}
	f.netbios = slices.Contains(p.use, string(sum.UseNetBIOS)) // who says that it is in use wants it tried, too
	gen := sum.Generation(f.generation)
	switch {
	case gen != sum.Current && gen != sum.Classic:
		return usagef("--generation %q: want current or classic", f.generation)
	case gen != sum.Classic && (f.portPerTarget || f.firstPorts):
		return usagef("--port-per-target and --first-ports are for --generation classic")
	}
	switch sum.Phase(p.phase) {
	case "", sum.PhaseInventory, sum.PhaseDeploy:
	default:
		return usagef("--phase %q: want inventory or deploy", p.phase)
	}
	if !p.isTable() && !slices.Contains(sum.RuleFormats(), sum.RuleFormat(p.format)) {
		return usagef("--format %q: want text, json, csv, %s", p.format, join(sum.RuleFormats()))
	}
	if p.probe && (!p.isTable() || len(p.manager) > 0 || p.all || p.optional) {
		return usagef("--probe tries what the targets need, and writes text, json or csv: it excludes rules, --manager, --all and --optional")
	}
	switch sum.Side(p.side) {
	case sum.SideManager, sum.SideTarget, sum.SideBetween:
	default:
		return usagef("--for %q: want manager, target or between", p.side)
	}
	if p.isTable() && (sideGiven || p.optional) {
		return usagef("--for and --optional are for rules: give their --format, one of %s", join(sum.RuleFormats()))
	}
	for _, u := range p.use {
		if !slices.Contains(sum.PortOptions(), sum.PortOption(u)) {
			return usagef("--use %q: want one of %s", u, join(sum.PortOptions()))
		}
	}
	return nil
}

// isTable reports whether the format is one of the matrix itself, not of rules.
func (p *preflightFlags) isTable() bool {
	return slices.Contains([]string{"text", "json", "csv"}, p.format)
}

// matrix prints the matrix, or the rules that come from it.
func (a *app) matrix(ctx context.Context, f *sessionFlags, p *preflightFlags, list []sum.Target) error {
	o, err := p.settings(f)
	if err != nil {
		return err
	}
	r, err := fleet.New(fleet.Config{SSHConfig: f.sshConfig, Getenv: a.getenv})
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = r.Close(ctx) }() // it has connected to nothing
	routes := map[string]sum.Route{}
	for _, t := range list {
		route, err := r.Route(t)
		if err != nil {
			return usageError{&sum.Error{Target: targetKey(t), Step: "preflight", Err: err}}
		}
		routes[t.String()] = route
	}
	o.Route = func(t sum.Target) sum.Route { return routes[t.String()] }
	n := names{lookup: net.DefaultResolver.LookupNetIP}
	flows, err := n.matrix(ctx, list, o)
	if err != nil {
		return err
	}
	for _, t := range list {
		if lost := fleet.LostUser(t); lost != "" && runtime.GOOS != "windows" {
			fmt.Fprintf(a.stderr, "roundsman: %s: no user is named%s. In quotes it stays whole: \"windows://DOMAIN;user@host\"\n", clean(targetKey(t)), clean(lost))
		}
	}
	for _, err := range n.failed {
		fmt.Fprintf(a.stderr, "roundsman: %s\n", clean(err.Error()))
	}
	rep := newReporter(a.stdout, p.format == "json", false, nil)
	status := exitFine
	switch {
	case p.isTable():
		writeMatrix(rep, p.format, list, flows)
		if rep.json {
			rep.summary(summaryEvent{header: newHeader("summary"), Command: "preflight", Targets: len(list), Exit: status})
		}
	default:
		err := writeRules(rep.raw, flows, sum.RuleOptions{Format: sum.RuleFormat(p.format), Side: sum.Side(p.side), Optional: p.optional})
		if errors.Is(err, errors.ErrUnsupported) {
			return usageError{err}
		}
		for _, err := range flatten(err) {
			fmt.Fprintf(a.stderr, "roundsman: %s\n", clean(err.Error()))
			status = exitFailed
		}
		if status == exitFailed && len(p.manager) == 0 && slices.ContainsFunc(flows, managerUnknown) {
			fmt.Fprintln(a.stderr, "roundsman: with --manager ADDRESS the address of this host is the one that is given")
		}
	}
	a.status = rep.finish(a.stderr, status)
	return nil
}

// managerUnknown reports whether a flow has an end at this host whose address is not known.
func managerUnknown(f sum.Flow) bool {
	return f.From.Party == sum.PartyManager && len(f.From.Addresses) == 0 || f.To.Party == sum.PartyManager && len(f.To.Addresses) == 0
}

// writeRules writes the rules of those targets of which everything is known that they take,
// and returns what is not known of the others.
func writeRules(write writerFunc, flows []sum.Flow, o sum.RuleOptions) error {
	err := sum.WriteRules(write, flows, o)
	without := map[string]bool{}
	for _, e := range flatten(err) {
		if se, ok := e.(*sum.Error); ok && se.Target != "" {
			without[se.Target] = true
		}
	}
	rest := slices.DeleteFunc(slices.Clone(flows), func(f sum.Flow) bool { return without[f.Target] })
	if err == nil || len(without) == 0 || len(rest) == 0 {
		return err
	}
	return errors.Join(err, sum.WriteRules(write, rest, o),
		fmt.Errorf("the rules that were written are those of the other targets, and none for: %s", strings.Join(slices.Sorted(maps.Keys(without)), ", ")))
}

// options are those in use.
func (p *preflightFlags) options() []sum.PortOption {
	var out []sum.PortOption
	for _, u := range p.use {
		out = append(out, sum.PortOption(u))
	}
	return out
}

// settings are what the flags say of the matrix.
func (p *preflightFlags) settings(f *sessionFlags) (sum.MatrixOptions, error) {
	ports, err := portPolicies(f.ports)
	if err != nil {
		return sum.MatrixOptions{}, err
	}
	o := sum.MatrixOptions{
		Phase: sum.Phase(p.phase), Generation: sum.Generation(f.generation),
		Classic: sum.ClassicOptions{PortPerTarget: f.portPerTarget, Stay: f.firstPorts},
		Ports:   ports, All: p.all,
	}
	o.Use = p.options()
	for _, m := range p.manager {
		addr, err := netip.ParseAddr(m)
		if err != nil {
			return o, usagef("--manager %q: want an IP address", m)
		}
		o.Manager = append(o.Manager, addr)
	}
	return o, nil
}

// names looks up the names of a fleet.
type names struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	failed []error // in the order of the targets
}

// How names are looked up.
const (
	lookupsAtOnce = 32
	lookupTime    = 15 * time.Second
)

// matrix returns the matrix with the addresses of names, and of this host where the
// options do not have them.
func (n *names) matrix(ctx context.Context, list []sum.Target, o sum.MatrixOptions) ([]sum.Flow, error) {
	var hosts []string
	seen := map[string]bool{}
	o.Lookup = func(host string) []netip.Addr {
		if !seen[host] {
			seen[host] = true
			hosts = append(hosts, host)
		}
		return nil
	}
	_, _ = sum.Matrix(list, o) // says which names it needs; its errors come again
	found, err := n.addresses(ctx, hosts)
	if err != nil {
		return nil, err
	}
	o.Lookup = func(host string) []netip.Addr { return found[host] }
	if len(o.Manager) == 0 {
		own := map[netip.Addr][]netip.Addr{}
		o.SeenAs = func(target netip.Addr) []netip.Addr {
			if _, known := own[target]; !known {
				own[target] = ownAddress(ctx, target)
			}
			return own[target]
		}
	}
	flows, err := sum.Matrix(list, o)
	if err != nil {
		return nil, usageError{err}
	}
	return flows, nil
}

func (n *names) addresses(ctx context.Context, hosts []string) (map[string][]netip.Addr, error) {
	var (
		wg     sync.WaitGroup
		slot   = make(chan struct{}, lookupsAtOnce)
		addrs  = make([][]netip.Addr, len(hosts))
		errs   = make([]error, len(hosts))
		result = map[string][]netip.Addr{}
	)
	for i, host := range hosts {
		slot <- struct{}{}
		wg.Go(func() {
			defer func() { <-slot }()
			ctx, cancel := context.WithTimeout(ctx, lookupTime)
			defer cancel()
			addrs[i], errs[i] = n.lookup(ctx, "ip", host)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, workError{err, exitStopped}
	}
	for i, host := range hosts {
		if result[host] = addrs[i]; errs[i] != nil {
			n.failed = append(n.failed, fmt.Errorf("no address for %s: %w", host, errs[i]))
		}
	}
	return result, nil
}

// ownAddress is the address from which this host would dial another. Connecting a
// UDP socket sends nothing.
func ownAddress(ctx context.Context, to netip.Addr) []netip.Addr {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return nil // no route: unknown
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return []netip.Addr{a.AddrPort().Addr().Unmap()}
	}
	return nil
}
