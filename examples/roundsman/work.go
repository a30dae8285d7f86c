package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
)

// A work is one session of a command, with what it reports to.
type work struct {
	command  string
	flags    *sessionFlags
	rep      *reporter
	log      *slog.Logger
	session  *sum.Session
	resolver *fleet.Resolver // nil where a test brought its own Resolve
	tally    tally
	stderr   io.Writer
	targets  map[string]sum.Target // those of nodes, by name
}

// work opens a session, lets do work with it, gives everything back, and sets
// the exit status. It returns usage errors alone; everything else is reported.
func (a *app) work(ctx context.Context, command string, f *sessionFlags, detailed bool, do func(ctx context.Context, w *work) error) error {
	if f.parallel < 0 {
		return usagef("--parallel must not be negative")
	}
	if f.generation == "" { // a command without agents
		f.generation = string(sum.Current)
	}
	switch gen := sum.Generation(f.generation); {
	case gen != sum.Current && gen != sum.Classic:
		return usagef("--generation %q: want current or classic", f.generation)
	case gen == sum.Classic && f.agentless:
		return usagef("--generation classic is a conversation with agents: it excludes --agentless")
	case gen != sum.Classic && (f.portPerTarget || f.firstPorts):
		return usagef("--port-per-target and --first-ports are for --generation classic")
	}
	term := a.terminal(f.json)
	defer term.close()
	w := &work{command: command, flags: f, rep: newReporter(a.stdout, f.json, f.verbose, term.live), stderr: term.stderr}
	w.rep.passwordFile = func(t sum.Target) string { return f.passwordFiles[t.String()] }
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	w.log = slog.New(slog.NewTextHandler(term.stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: inWords}))
	err := a.open(ctx, w, term)
	if err == nil {
		err = do(ctx, w)
		w.close(ctx)
	}
	if isUsage(err) {
		return err
	}
	stopped := ctx.Err() != nil
	if err != nil && !(stopped && errors.Is(err, context.Canceled)) {
		w.tally.fail("")
		w.rep.fail(nil, err)
	}
	status := w.tally.status(stopped, detailed)
	w.rep.summary(summaryEvent{newHeader("summary"), command, w.tally.targets, w.tally.failures(), w.tally.counts(), stopped, status})
	term.close()
	a.status = w.rep.finish(a.stderr, status)
	return nil
}

// inWords says by flags what errors in logs say by names of Go.
func inWords(_ []string, attr slog.Attr) slog.Attr {
	if err, ok := attr.Value.Any().(error); ok {
		attr.Value = slog.StringValue(inFlags.Replace(err.Error()))
	}
	return attr
}

func (a *app) open(ctx context.Context, w *work, term *terminal) error {
	f := w.flags
	if err := f.checkFiles(); err != nil {
		return err
	}
	if err := f.redfish.check(); err != nil {
		return err
	}
	ports, err := portPolicies(f.ports)
	if err != nil {
		return err
	}
	login, sudo, err := a.passwords(f)
	if err != nil {
		return err
	}
	own, err := a.ownPasswords(f)
	if err != nil {
		return err
	}
	f.warnOfReaders(w.log)
	cfg := sum.Config{
		Resolve: a.resolve, Installer: a.installer, Journal: f.journal,
		BaseDirs: f.agentDirs, Lease: f.lease, KeepLogs: f.keepLogs, Ports: ports, Logger: w.log,
		Generation: sum.Generation(f.generation), OpenFirewall: f.openFirewall,
		Classic: sum.ClassicOptions{PortPerTarget: f.portPerTarget, Stay: f.firstPorts},
	}
	if f.openFirewall {
		cfg.Firewall.Guardian = guardian()
	}
	if cfg.Resolve == nil {
		w.resolver, err = fleet.New(fleet.Config{
			SSHConfig: f.sshConfig, Identities: f.identities, KnownHosts: f.knownHosts,
			ConnectTimeout: f.connectTimeout,
			Password:       login, Passwords: own, WMI: f.wmi, NetBIOS: f.netbios, Sudo: f.sudo, SudoPassword: sudo, Ask: term.ask,
			Pins: f.redfish.pins, AcceptNew: f.redfish.acceptNew, Authorities: f.redfish.authorities, Keys: f.redfish.keys(),
			Redfish: f.redfish.options(a.redfish), RedfishTargets: f.redfish.own,
			Logger: w.log, Debug: f.verbose, Getenv: a.getenv,
		})
		if err != nil {
			return usageError{err}
		}
		cfg.Resolve = w.resolver.Resolve
	}
	if cfg.Installer == nil {
		cfg.Installer = &install.Installer{Source: a.agentSource(w.stderr), Agentless: f.agentless, Logger: w.log}
	}
	if w.session, err = sum.Open(ctx, cfg); err != nil {
		return err
	}
	return nil
}

// agentSource has the agents. Those that were built into the program come first: each
// is a small part of its size. Else, where the target is of the same kind as the
// manager, the agent is this program itself, which the operator trusts anyway, wherever
// it is called from. For others the go command makes it, which stderr is told.
func (a *app) agentSource(stderr io.Writer) install.Source {
	return install.First(embedded(), a.self, &building{Source: install.DefaultSource(), stderr: stderr})
}

// close gives everything back and reports what could not be.
func (w *work) close(ctx context.Context) {
	for _, err := range flatten(w.session.Close(ctx)) {
		target := ""
		var se *sum.Error
		if errors.As(err, &se) {
			target = se.Target
		}
		var of *sum.Target
		if t, ok := w.targets[target]; ok {
			of = &t
		}
		if pendingOnly(err) {
			w.tally.leave()
		} else {
			w.tally.fail(target)
		}
		w.rep.fail(of, err)
	}
	if w.resolver != nil {
		_ = w.resolver.Close(ctx) // connections to jump hosts that nobody uses any more
	}
}

// pendingOnly reports whether an error says nothing else than that a result is not
// known or not proven, and that recover comes to the end of it.
func pendingOnly(err error) bool {
	if se, ok := err.(*sum.Error); ok {
		return pendingOnly(se.Err)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return errors.Is(err, sum.ErrPending)
	}
	parts := joined.Unwrap()
	return slices.Contains(parts, sum.ErrPending) || // with its reason
		len(parts) > 0 && !slices.ContainsFunc(parts, func(e error) bool { return !pendingOnly(e) })
}

// flatten takes joined errors apart, so that each target has its own report.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	var se *sum.Error
	if _, single := err.(*sum.Error); !ok || single || !errors.As(err, &se) {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// fail reports that a target failed. An error that only says that the run was
// stopped is no failure of the target.
func (w *work) fail(ctx context.Context, t sum.Target, err error) {
	w.rep.idle(t)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the summary says it
	}
	w.tally.fail(targetKey(t))
	w.rep.fail(&t, err)
}

// outcome counts and reports an outcome.
func (w *work) outcome(o sum.Outcome) {
	if w.tally.add(o) {
		w.rep.outcome(o)
	}
}

// nodes returns the nodes of the targets.
func (w *work) nodes(targets []sum.Target) ([]*sum.Node, error) {
	if err := w.flags.checkKinds(targets); err != nil {
		return nil, err // those of a plan, or of the journal
	}
	w.tally.targets, w.targets = len(targets), map[string]sum.Target{}
	nodes := make([]*sum.Node, 0, len(targets))
	for _, t := range targets {
		// What there is to recover was reached once, and may need no connection. That there
		// is no sudo to this host is no mistake where others of a fleet have it.
		if w.resolver != nil && w.command != "recover" && t.Kind != sum.Local {
			if err := w.resolver.Check(t); err != nil {
				return nil, usagef("%s: %s", targetKey(t), inFlags.Replace(err.Error()))
			}
		}
		n, err := w.session.Node(t)
		if err != nil {
			return nil, usageError{err}
		}
		nodes, w.targets[targetKey(t)] = append(nodes, n), t
	}
	return nodes, nil
}

func (w *work) each() sum.EachOptions { return sum.EachOptions{Parallel: w.flags.parallel} }

func (w *work) events() sum.DeployOptions {
	return sum.DeployOptions{Events: w.rep.progress, NoPreflight: w.flags.noPreflight}
}

// remind says that a dead run left something on these targets, where the command
// does not finish it itself.
func (w *work) remind(targets []sum.Target) {
	mine := map[string]bool{}
	for _, t := range targets {
		mine[targetKey(t)] = true
	}
	for _, t := range w.session.Pending() {
		if mine[targetKey(t)] {
			w.log.Warn("an earlier run left something unfinished; deploy or recover finishes it", "target", targetKey(t))
		}
	}
}

// components loads components from paths.
func components(ctx context.Context, paths []string) ([]*component.Component, error) {
	paths, err := absolute(paths)
	if err != nil {
		return nil, usageError{err}
	}
	var out []*component.Component
	seen := map[string]string{}
	// Signatures come with the files that they are of: a shell's "cp0123.*" names both.
	slices.SortStableFunc(paths, func(a, b string) int { return cmp.Compare(lastly(a), lastly(b)) })
	for _, p := range paths {
		if slices.ContainsFunc(out, func(c *component.Component) bool { return c.Owns(p) }) && lastly(p) > 0 {
			continue
		}
		c, err := component.Load(ctx, p)
		if err != nil {
			if ctx.Err() != nil {
				return nil, workError{err, exitStopped}
			}
			return nil, usageError{err}
		}
		if other, ok := seen[c.Digest()]; ok {
			return nil, usagef("%s and %s are the same component", other, p)
		}
		seen[c.Digest()] = p
		out = append(out, c)
	}
	return out, nil
}

// lastly is more than 0 for a signature.
func lastly(path string) int {
	if strings.EqualFold(filepath.Ext(path), ".compsig") {
		return 1
	}
	return 0
}
