package main

import (
	"bytes"
	"context"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/spf13/cobra"
)

func (a *app) captureCommand() *cobra.Command {
	var f sessionFlags
	var out string
	var opts redfish.CaptureOptions
	cmd := &cobra.Command{
		Use:   "capture TARGET -o FILE [--logs] [--json]",
		Short: "Write down what a management processor answers, without secrets",
		Long: `Capture reads every resource of an iLO, a Superdome Flex or another Redfish service
that the account may read, and writes them to one file, from which the simulator
in transport/redfish/redfishtest serves them again. Nothing on the target changes.

Passwords, keys and tokens are replaced, and so are serial numbers, UUIDs, addresses
and names of hosts and accounts: the same one by the same one. Read the file before you
give it to anybody.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman capture ilo://ops@ilo-db1 -o ilo-db1.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			switch {
			case err != nil:
				return err
			case len(list) != 1:
				return usagef("give one target, such as ilo://ops@ilo-db1")
			case out == "":
				return usagef("no file for the capture: give --output FILE")
			}
			if err := writable(out); err != nil {
				return err
			}
			return a.work(cmd.Context(), "capture", &f, false, func(ctx context.Context, w *work) error {
				w.tally.targets = 1
				t := list[0]
				w.rep.begin(t, "capture")
				var text bytes.Buffer // bounded by the options
				captured, err := w.resolver.Capture(ctx, t, &text, opts)
				w.rep.idle(t)
				if err == nil {
					err = writeFile(out, text.Bytes())
				}
				if err != nil {
					w.fail(ctx, t, err)
					return nil
				}
				w.rep.captured(captureEvent{newHeader("capture"), t.String(), t.Name, out, captured.Resources, captured.Problems})
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write")
	cmd.Flags().BoolVar(&opts.Logs, "logs", false, "take the entries of its logs, too")
	f.addTargets(cmd)
	return cmd
}

// captureEvent says what was written.
type captureEvent struct {
	header
	Target    string              `json:"target"`
	Name      string              `json:"name,omitempty"`
	File      string              `json:"file"`
	Resources int                 `json:"resources"`
	Problems  []transport.Problem `json:"problems,omitempty"`
}

func (r *reporter) captured(e captureEvent) {
	if r.json {
		r.event(e)
		return
	}
	r.line("%s: %s written to %s", clean(e.Target), plural(e.Resources, "resource"), clean(e.File))
	for _, p := range e.Problems {
		r.line("  not read: %s: %s", clean(p.Part), clean(p.Text))
	}
}
