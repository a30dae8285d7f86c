package main

import (
	"context"
	"errors"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/spf13/cobra"
)

const noAgentLogs = "a device has no agent and so no logs of one; what it has logged itself, roundsman capture --logs writes down"

func (a *app) logsCommand() *cobra.Command {
	var f sessionFlags
	var out string
	cmd := &cobra.Command{
		Use:   "logs TARGET... --out DIR [--json]",
		Short: "Fetch the logs that agents left on servers",
		Long: `Logs copies what agents and installers logged, from each target into a directory
of its own below DIR, and prints the paths there. Nothing on the target changes,
and no agent is started.

An iLO, or another Redfish service, has no agent and so none of these logs, and is not
dialled. What it has logged itself is in its capture: roundsman capture --logs.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman logs linux://root@db1 --out logs",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errNoTargets
			}
			if out == "" {
				return usagef("no directory for the logs: give --out DIR")
			}
			var servers []sum.Target
			for _, t := range list {
				if !fleet.SpeaksRedfish(t.Kind) {
					servers = append(servers, t)
				}
			}
			if len(servers) == 0 {
				return usagef("%s: %s", targetKey(list[0]), noAgentLogs)
			}
			return a.work(cmd.Context(), "logs", &f, false, func(ctx context.Context, w *work) error {
				nodes, err := w.nodes(servers)
				if err != nil {
					return err
				}
				w.tally.targets = len(list)
				for _, t := range list {
					if fleet.SpeaksRedfish(t.Kind) {
						w.fail(ctx, t, &sum.Error{Target: targetKey(t), Step: "logs", Err: &transport.Error{Op: "logs", Target: t.Address, Kind: errors.ErrUnsupported, Hint: noAgentLogs}})
					}
				}
				for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) ([]string, error) {
					w.rep.begin(n.Target(), "logs")
					return sum.Logs(ctx, n, out)
				}) {
					w.rep.idle(r.Node.Target())
					for _, path := range r.Value {
						w.rep.log(r.Node.Target(), path)
					}
					if r.Err != nil {
						w.fail(ctx, r.Node.Target(), r.Err)
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`DIR` to copy the logs to")
	f.addTargets(cmd)
	return cmd
}
