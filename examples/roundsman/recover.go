package main

import (
	"context"
	"fmt"
	"os"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/spf13/cobra"
)

func (a *app) recoverCommand() *cobra.Command {
	var f sessionFlags
	var abandon bool
	cmd := &cobra.Command{
		Use:   "recover [TARGET...] [--json]",
		Short: "Finish what a killed run left behind",
		Long: `Recover finishes what a run that was killed left on targets, as its journal
says: installations that run are waited for, those that have ended are judged by
a second inventory, those that never began are dropped, agents are removed.
Nothing is installed. Tasks, install sets and components that the run has left in
the update queue of an iLO are taken out of it, unless they are at work; those of
others stay. Without TARGET it looks after every target of the journal that has
something unfinished.

A target that cannot be reached, or an update that cannot be finished, stays in
the journal; run recover again, or give it up with --abandon.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman recover\n  roundsman recover linux://root@db1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			if err != nil {
				return err
			}
			if f.journal != "" {
				// A run would make it. Whoever names one to recover from means one that is there.
				if _, err := os.Stat(f.journal); err != nil {
					return usageError{fmt.Errorf("--journal: there is nothing to recover: %w", err)}
				}
			}
			return a.work(cmd.Context(), "recover", &f, false, func(ctx context.Context, w *work) error {
				// Also what is left on this host, and where no target has anything left.
				if err := w.session.TakeOver(ctx); err != nil {
					return err
				}
				nodes, err := w.nodes(pending(w.session.Pending(), list))
				if err != nil {
					return err
				}
				for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) (sum.Recovery, error) {
					w.rep.begin(n.Target(), "recover")
					opts := w.events()
					opts.Abandon = abandon
					return sum.Recover(ctx, n, opts)
				}) {
					w.rep.idle(r.Node.Target())
					for _, o := range r.Value.Outcomes {
						w.outcome(o)
					}
					if r.Err != nil {
						w.fail(ctx, r.Node.Target(), r.Err)
						continue
					}
					w.rep.recovered(r.Value)
				}
				return nil
			})
		},
	}
	f.add(cmd)
	f.redfish.addUpdates(cmd)
	cmd.Flags().BoolVar(&abandon, "abandon", false, "give up what cannot be finished: its outcome is Unverified, and the journal forgets it")
	return cmd
}

// pending chooses what to recover: everything that the journal has open, or of it
// what the caller named. A target may be named by its URL, although the run that
// was killed knew it by a name of its fleet file.
func pending(open, named []sum.Target) []sum.Target {
	if len(named) == 0 {
		return open
	}
	var out []sum.Target
	for _, t := range named {
		found := false
		for _, p := range open {
			if targetKey(p) == targetKey(t) || p.String() == t.String() {
				out, found = append(out, p), true
			}
		}
		if !found {
			out = append(out, t)
		}
	}
	return out
}
