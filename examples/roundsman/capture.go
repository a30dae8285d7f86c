package main

import (
	"bytes"
	"context"
	"os"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/spf13/cobra"
)

func (a *app) captureCommand() *cobra.Command {
	var f sessionFlags
	var out string
	var opts redfish.CaptureOptions
	var megabytes int64
	var again bool
	cmd := &cobra.Command{
		Use:   "capture TARGET -o FILE [--logs] [--overwrite] [--json]",
		Short: "Write down what a management processor answers, without secrets",
		Long: `Capture reads every resource of an iLO, a Superdome Flex or another Redfish service
that the account may read, and writes them to one file, from which the simulator
in transport/redfish/redfishtest serves them again: examples/redfishsim FILE is one
that this program can take for the target. Nothing on the target changes.

Passwords, keys and tokens are replaced, and so are serial numbers, UUIDs, addresses
and names of hosts and accounts: the same one by the same one. Read the file before you
give it to anybody.

What the account may not read is told, and the rest is written: the status is 0, as
long as there is a file. There is none if the target is lost on the way. A file that is
there already stays, unless --overwrite is given.

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
			if _, err := os.Lstat(out); err == nil && !again {
				return usagef("--output %s: it is there already; --overwrite replaces it", out)
			}
			if opts.Resources < 0 || megabytes < 0 {
				return usagef("--resources and --megabytes must not be negative")
			}
			opts.Bytes = megabytes << 20
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
					err = writeFile(out, text.Bytes(), 0o600)
				}
				if err != nil {
					w.fail(ctx, t, err)
					return nil
				}
				for i := range captured.Problems {
					captured.Problems[i].Text = inFlags.Replace(captured.Problems[i].Text)
				}
				w.rep.captured(captureEvent{newHeader("capture"), t.String(), t.Name, out, captured.Resources, captured.Problems})
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write")
	cmd.Flags().BoolVar(&opts.Logs, "logs", false, "take the entries of its logs, too")
	cmd.Flags().BoolVar(&again, "overwrite", false, "replace a FILE that is there already")
	cmd.Flags().IntVar(&opts.Resources, "resources", 0, "take at most `N` resources (5000)")
	cmd.Flags().Int64Var(&megabytes, "megabytes", 0, "take at most `N` MiB (64)")
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
	if len(e.Problems) > 0 {
		r.line("  it is good without them, but lacks what they say of the target")
	}
}
