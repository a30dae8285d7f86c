package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/spf13/cobra"
)

func (a *app) portsCommand() *cobra.Command {
	var kind, phase, generation, format string
	cmd := &cobra.Command{
		Use:   "ports [--kind K] [--phase inventory|deploy] [--generation current|classic] [--format text|json]",
		Short: "Say which ports must be open, and who dials whom",
		Long: `Ports prints the port table: for each kind of target and each phase, who dials
whom, on which port, and what for. Without --kind it has every kind, without
--phase both phases. It needs no target and asks none.

A "+" behind a range means that the next free port above it may be taken.`,
		Example: "  roundsman ports --kind linux --phase deploy\n  roundsman ports --generation classic --format json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			kinds, phases := sum.Kinds(), []sum.Phase{sum.PhaseInventory, sum.PhaseDeploy}
			if kind != "" {
				k, err := sum.ParseKind(kind)
				if err != nil {
					return usageError{err}
				}
				kinds = []sum.Kind{k}
			}
			switch p := sum.Phase(phase); p {
			case "":
			case sum.PhaseInventory, sum.PhaseDeploy:
				phases = []sum.Phase{p}
			default:
				return usagef("--phase %q: want inventory or deploy", phase)
			}
			gen := sum.Generation(generation)
			if gen != sum.Current && gen != sum.Classic {
				return usagef("--generation %q: want current or classic", generation)
			}
			if format != "text" && format != "json" {
				return usagef("--format %q: want text or json", format)
			}
			return a.ports(kinds, phases, gen, format == "json")
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "kind", "", "`KIND` of target, such as linux or ilo (all)")
	f.StringVar(&phase, "phase", "", "`PHASE`: inventory or deploy (both)")
	f.StringVar(&generation, "generation", string(sum.Current), "`GENERATION`: current (SUM 7.3 and later) or classic (HP SUM 4 to 6)")
	f.StringVar(&format, "format", "text", "`FORMAT`: text or json")
	return cmd
}

// portEvent is one row of the port table.
type portEvent struct {
	header
	Kind       sum.Kind       `json:"kind"`
	Phase      sum.Phase      `json:"phase"`
	Generation sum.Generation `json:"generation"`
	sum.Port
}

func (a *app) ports(kinds []sum.Kind, phases []sum.Phase, gen sum.Generation, asJSON bool) error {
	rep := newReporter(a.stdout, asJSON, false, nil)
	w := tabwriter.NewWriter(writerFunc(rep.raw), 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(w, "KIND\tPHASE\tDIRECTION\tPORT\tNEED\tPURPOSE")
	}
	for _, k := range kinds {
		for _, ph := range phases {
			rows := sum.PortsFor(k, ph, gen)
			for _, p := range rows {
				if asJSON {
					rep.event(portEvent{newHeader("port"), k, ph, gen, p})
					continue
				}
				from := ""
				if p.SourceFirst > 0 {
					from = fmt.Sprintf(" from %d+", p.SourceFirst)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s/%s%s\t%s\t%s\n", k, ph, p.Direction, p.Ports(), p.Protocol, from, p.Need, p.Purpose)
			}
			if len(rows) == 0 && !asJSON {
				fmt.Fprintf(w, "%s\t%s\t-\tnone\t-\t\n", k, ph)
			}
		}
	}
	if !asJSON {
		_ = w.Flush() // the reporter keeps the error
	}
	a.status = rep.finish(a.stderr, exitFine)
	return nil
}

// noArgs refuses arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}
