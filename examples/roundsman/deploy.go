package main

import (
	"context"
	"errors"
	"slices"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/spf13/cobra"
)

func (a *app) deployCommand() *cobra.Command {
	var f deployFlags
	var planFile string
	var detailed bool
	cmd := &cobra.Command{
		Use:   "deploy --component PATH... TARGET... | --plan FILE  [--rewrite] [--downgrade] [--no-preflight] [--json] [--detailed-exitcode]",
		Short: "Install components and prove the result",
		Long: `Deploy installs the components where they are needed, and reads the inventory a
second time to prove the outcome:

  Updated             the new version was read back
  UpdatedNeedsReboot  installed; takes effect with the next reboot (or reset)
  NotNeeded           nothing was to be done
  Failed              the target says so, or it could not be attempted
  Cancelled           it did not begin
  Unverified          something was done that could not be proven

A version that cannot be compared is left alone unless --rewrite is given; so is
what cannot be read, and that has Failed. What a killed run began on these targets is finished first, and not installed twice.

Before the first change on a target it looks whether that is fit, as preflight
--probe does: room, rights, noexec. --no-preflight begins without a look, where it
is known that what was found does not matter.

With --plan exactly what was planned is done. The plan is refused when one of its
components has changed, and on each target where the machine or the versions are
not those that it was made for. --fleet then names the passwords of its targets, and
no further targets.

` + sessionHelp + "\n\n" + exitDetailedHelp,
		Example: "  roundsman deploy --component hello_2.10-3_amd64.deb linux://root@db1\n" +
			"  roundsman deploy --component ilo5 ilo://ops@ilo-db1 --accept-new\n  roundsman deploy --plan plan.json --json --detailed-exitcode",
		RunE: func(cmd *cobra.Command, args []string) error {
			if planFile != "" {
				switch {
				case len(args) > 0 || len(f.components) > 0:
					return usagef("--plan says what goes where: it excludes TARGET and --component")
				case f.opts.Rewrite || f.opts.Downgrade:
					return usagef("--rewrite and --downgrade are for plan, when a plan is to be applied")
				}
				if _, err := f.targets(nil); err != nil { // for the passwords that it names
					return err
				}
				return a.deployPlan(cmd.Context(), &f, planFile, detailed)
			}
			comps, list, err := f.inputs(cmd.Context(), args)
			if err != nil {
				return err
			}
			return a.work(cmd.Context(), "deploy", &f.sessionFlags, detailed, func(ctx context.Context, w *work) error {
				nodes, err := w.nodes(list)
				if err != nil {
					return err
				}
				w.deploy(ctx, nodes, func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
					return w.deployOne(ctx, n, comps, f.opts)
				})
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "apply the plan in `FILE`")
	f.add(cmd)
	f.redfish.addUpdates(cmd)
	cmd.Flags().BoolVar(&f.noPreflight, "no-preflight", false, "begin without a look whether the target is fit")
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "tell \"needs a reboot\" and \"nothing needed\" by the exit status")
	return cmd
}

// deploy runs a step on every node and reports its outcomes.
func (w *work) deploy(ctx context.Context, nodes []*sum.Node, step func(context.Context, *sum.Node) ([]sum.Outcome, error)) {
	for r := range sum.Each(ctx, nodes, w.each(), step) {
		w.rep.idle(r.Node.Target())
		for _, o := range r.Value {
			w.outcome(o)
		}
		if r.Err != nil {
			w.fail(ctx, r.Node.Target(), r.Err)
		}
	}
}

// deployOne finishes what a dead run left on a target, plans, and applies the
// plan.
func (w *work) deployOne(ctx context.Context, n *sum.Node, comps []*component.Component, opts sum.PlanOptions) ([]sum.Outcome, error) {
	w.rep.begin(n.Target(), "inventory")
	events := w.events()
	events.KeepAgent = true // and what was sent to it
	rec, err := sum.Recover(ctx, n, events, comps...)
	for _, o := range rec.Outcomes {
		w.outcome(o)
		if o.Kind == sum.Unverified {
			// Something was done that nothing proves: to do it again is for people to
			// decide, by running the command again.
			comps = slices.DeleteFunc(slices.Clone(comps), func(c *component.Component) bool { return c.Digest() == o.Digest })
		}
	}
	if err != nil {
		return nil, err
	}
	if len(rec.Removed) > 0 {
		w.rep.recovered(rec)
	}
	plan, err := w.planOne(ctx, n, comps, opts)
	if err != nil {
		return nil, err
	}
	w.rep.plan(plan)
	return sum.Deploy(ctx, n, plan, comps, w.events())
}

func (a *app) deployPlan(ctx context.Context, f *deployFlags, planFile string, detailed bool) error {
	plan, comps, planErr := readPlan(ctx, planFile)
	var stopped workError
	if isUsage(planErr) || errors.As(planErr, &stopped) {
		return planErr
	}
	return a.work(ctx, "deploy", &f.sessionFlags, detailed, func(ctx context.Context, w *work) error {
		if planErr != nil {
			w.tally.targets = len(plan.Targets)
			return planErr
		}
		list := make([]sum.Target, len(plan.Targets))
		byTarget := map[string]sum.TargetPlan{}
		for i, p := range plan.Targets {
			list[i] = p.Target
			if _, ok := byTarget[targetKey(p.Target)]; ok {
				return usagef("%s: target %s is there twice", planFile, targetKey(p.Target))
			}
			byTarget[targetKey(p.Target)] = p
		}
		nodes, err := w.nodes(list)
		if err != nil {
			return err
		}
		w.deploy(ctx, nodes, func(ctx context.Context, n *sum.Node) ([]sum.Outcome, error) {
			// Deploy itself finishes what a dead run of this plan began, and
			// knows that the inventory has moved on because of it.
			return sum.Deploy(ctx, n, byTarget[targetKey(n.Target())], comps, w.events())
		})
		return nil
	})
}
