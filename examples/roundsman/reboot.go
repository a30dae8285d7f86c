package main

import (
	"context"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/spf13/cobra"
)

func (a *app) rebootCommand() *cobra.Command {
	var f sessionFlags
	var opts transport.RebootOptions
	cmd := &cobra.Command{
		Use:   "reboot TARGET... [--message TEXT] [--delay TIME] [--json]",
		Short: "Restart targets, and wait until they are back",
		Long: `Reboot restarts targets and waits until each answers under another boot ID, which
proves that it has restarted. Users who are logged in there see the message.

A target on which a job runs is not restarted. What deploy reported as
UpdatedNeedsReboot is proven by an inventory afterwards.

Of an iLO, a Superdome Flex or another Redfish service it restarts the host, at once: no
message can be shown, nor a delay be asked for. --reset-type PowerCycle is for what takes
one to become active. The management processor itself is not restarted.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman reboot linux://root@db1 --message 'ファームウェア更新のため再起動します' --delay 5m\n" +
			"  roundsman reboot ilo://ops@ilo-db1 --reset-type PowerCycle",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errNoTargets
			}
			if err := rebootable(list, opts); err != nil {
				return err
			}
			return a.work(cmd.Context(), "reboot", &f, false, func(ctx context.Context, w *work) error {
				nodes, err := w.nodes(list)
				if err != nil {
					return err
				}
				for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) (transport.Identity, error) {
					w.rep.begin(n.Target(), "reboot")
					return sum.Reboot(ctx, n, opts)
				}) {
					w.rep.idle(r.Node.Target())
					if r.Err != nil {
						w.fail(ctx, r.Node.Target(), r.Err)
						continue
					}
					w.rep.rebooted(r.Node.Target(), r.Value)
				}
				return nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.redfish.resetType, "reset-type", "", "how Redfish restarts the host, `TYPE`: GracefulRestart, ForceRestart, PowerCycle and others (the first that the service offers of GracefulRestart and ForceRestart)")
	cmd.Flags().StringVar(&opts.Message, "message", "", "`TEXT` for users who are logged in, in any language")
	cmd.Flags().Var((*span)(&opts.Delay), "delay", "`TIME` until then, rounded up to minutes on servers")
	return cmd
}

// rebootable refuses what a management processor cannot do, before anything is restarted.
func rebootable(list []sum.Target, opts transport.RebootOptions) error {
	for _, t := range list {
		switch {
		case !fleet.SpeaksRedfish(t.Kind):
		case opts.Message != "":
			return usagef("%s: a service of Redfish shows no message to those who are logged in on the host: give no --message for it, in a run of its own", targetKey(t))
		case opts.Delay != 0:
			return usagef("%s: a service of Redfish restarts the host at once: give no --delay for it, in a run of its own", targetKey(t))
		}
	}
	return nil
}

// rebootedEvent says that a target has restarted.
type rebootedEvent struct {
	header
	Target string `json:"target"`
	Name   string `json:"name,omitempty"`
	BootID string `json:"boot_id"` // that it has now
}

func (r *reporter) rebooted(t sum.Target, id transport.Identity) {
	if r.json {
		r.event(rebootedEvent{newHeader("rebooted"), t.String(), t.Name, id.BootID})
		return
	}
	r.line("%s: restarted, boot ID %s", clean(targetKey(t)), clean(id.BootID))
}
