package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/spf13/cobra"
)

// deployFlags are the flags that say what is to be installed.
type deployFlags struct {
	sessionFlags
	components []string
	opts       sum.PlanOptions
}

func (f *deployFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringArrayVar(&f.components, "component", nil, "`PATH` of a .deb, .rpm, .fwpkg, component.json or its directory; can be repeated")
	s.BoolVar(&f.opts.Rewrite, "rewrite", false, "install also the version that is there already, or one that cannot be compared")
	s.BoolVar(&f.opts.Downgrade, "downgrade", false, "install also over a newer version")
	f.sessionFlags.add(cmd)
}

// inputs reads what the command line names. Nothing is done to a target before.
func (f *deployFlags) inputs(ctx context.Context, args []string) ([]*component.Component, []sum.Target, error) {
	if len(f.components) == 0 {
		return nil, nil, usagef("no component: give --component PATH")
	}
	paths, urls := splitArgs(f.components, args)
	if err := checkWords(paths[len(f.components):]); err != nil {
		return nil, nil, err
	}
	list, err := f.targets(urls)
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, errNoTargets
	}
	comps, err := components(ctx, paths)
	return comps, list, err
}

func (a *app) planCommand() *cobra.Command {
	var f deployFlags
	var out string
	cmd := &cobra.Command{
		Use:   "plan --component PATH... TARGET... [-o FILE] [--rewrite] [--downgrade] [--json]",
		Short: "Say what a deployment would do, and write it to a file for approval",
		Long: `Plan compares what is on each target with the components and says what deploy
would do, and why. No component is installed.

A component that needs a newer version than is there comes after another one that
brings it, if that is given as well, and is refused otherwise, with the version that
it needs. A signature (.compsig) beside a file for a device belongs to that file.

With -o the plan is written to FILE, for "deploy --plan FILE". It names the
machines, the versions found on them, and each component by its SHA-256; it holds
no secret. No file is written unless every target could be planned.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman plan --component hello_2.10-3_amd64.deb linux://root@db1 -o plan.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			comps, list, err := f.inputs(cmd.Context(), args)
			if err == nil && out != "" {
				err = writable(out)
			}
			if err != nil {
				return err
			}
			return a.work(cmd.Context(), "plan", &f.sessionFlags, false, func(ctx context.Context, w *work) error {
				return w.plan(ctx, comps, list, f.opts, out)
			})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write the plan to")
	f.add(cmd)
	return cmd
}

func (w *work) plan(ctx context.Context, comps []*component.Component, list []sum.Target, opts sum.PlanOptions, out string) error {
	nodes, err := w.nodes(list)
	if err != nil {
		return err
	}
	w.remind(list)
	place := map[*sum.Node]int{}
	for i, n := range nodes {
		place[n] = i
	}
	plans := make([]sum.TargetPlan, len(nodes))
	whole := true
	for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) (sum.TargetPlan, error) {
		return w.planOne(ctx, n, comps, opts)
	}) {
		if r.Err != nil {
			w.fail(ctx, r.Node.Target(), r.Err)
			whole = false
			continue
		}
		w.rep.idle(r.Node.Target())
		plans[place[r.Node]] = r.Value
		w.rep.plan(r.Value)
	}
	if out == "" {
		return nil
	}
	if !whole {
		return fmt.Errorf("%s was not written: not every target could be planned", out)
	}
	return w.writePlan(out, sum.Plan{V: sum.PlanVersion, Created: time.Now().UTC().Truncate(time.Second), Targets: plans})
}

// planOne plans for one target.
func (w *work) planOne(ctx context.Context, n *sum.Node, comps []*component.Component, opts sum.PlanOptions) (sum.TargetPlan, error) {
	w.rep.begin(n.Target(), "inventory")
	inv, err := sum.Inventory(ctx, n, comps...)
	if err != nil {
		return sum.TargetPlan{}, err
	}
	return sum.MakePlan(n.Target(), inv, comps, opts), nil
}

// writePlan writes a plan so that the file is there as a whole or not at all.
func (w *work) writePlan(path string, plan sum.Plan) error {
	data, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		return err
	}
	digest, err := plan.Digest()
	if err != nil {
		return err
	}
	if err := writeFile(path, append(data, '\n'), 0o644); err != nil { // to be read by those who approve it
		return err
	}
	if w.rep.json {
		w.rep.event(planFileEvent{newHeader("plan-file"), path, digest, len(plan.Targets)})
	} else {
		w.rep.line("%s written, SHA-256 of the plan %s", clean(path), digest)
	}
	return nil
}

// writeFile writes a file beside its place and renames it, so that nobody reads
// half of it.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writable looks whether a file can be written, before work is done that would then
// be in vain.
func writable(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return usagef("--output %s: it is a directory", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return usageError{fmt.Errorf("--output: %w", err)}
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// maxPlan bounds a plan file, in bytes.
const maxPlan = 256 << 20

// readPlan reads a plan file and loads the components that it names. Those that
// are gone or have changed make the plan stale, for every target: nothing is to
// be changed by half of what was approved.
func readPlan(ctx context.Context, path string) (sum.Plan, []*component.Component, error) {
	if fi, err := os.Stat(path); err != nil {
		return sum.Plan{}, nil, usageError{fmt.Errorf("plan: %w", err)}
	} else if fi.Size() > maxPlan {
		return sum.Plan{}, nil, usagef("%s: larger than %d bytes", path, maxPlan)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return sum.Plan{}, nil, usageError{err}
	}
	plan, err := sum.ReadPlan(data)
	if err != nil {
		return sum.Plan{}, nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	if len(plan.Targets) == 0 {
		return sum.Plan{}, nil, usagef("%s: a plan without targets", path)
	}
	var comps []*component.Component
	var paths []string
	have := map[string]bool{}
	for _, t := range plan.Targets {
		for _, it := range t.Items {
			if it.Source == "" || slices.Contains(paths, it.Source) {
				continue
			}
			paths = append(paths, it.Source)
			// A relative source was written by somebody else's program: it is
			// beside the plan.
			source := it.Source
			if !filepath.IsAbs(source) {
				source = filepath.Join(filepath.Dir(path), source)
			}
			c, err := component.Load(ctx, source)
			if ctx.Err() != nil {
				return plan, nil, workError{ctx.Err(), exitStopped}
			}
			if err != nil {
				return plan, nil, &sum.Error{Step: "plan", Component: it.Component, Err: fmt.Errorf("%w: %w", sum.ErrPlanStale, err)}
			}
			comps = append(comps, c)
			have[c.Digest()] = true
		}
	}
	for _, t := range plan.Targets {
		for _, it := range t.Items {
			if !have[it.Digest] {
				return plan, nil, &sum.Error{Step: "plan", Component: it.Component,
					Err: fmt.Errorf("%w: %s is not the component that was planned: it has changed", sum.ErrPlanStale, it.Source)}
			}
		}
	}
	return plan, comps, nil
}
