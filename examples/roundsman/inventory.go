package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/spf13/cobra"
)

func (a *app) inventoryCommand() *cobra.Command {
	var f sessionFlags
	cmd := &cobra.Command{
		Use:   "inventory TARGET... [--json] [--fleet FILE]",
		Short: "Read what is in the targets",
		Long: `Inventory reads hardware, firmware, drivers and software of each target. On a
server a small agent is started for it, and removed in the end; nothing else is
changed. For people it counts the packages; --json has them all.

With --wmi no agent is started on Windows servers: what they have is read by WMI and
from the registry. Beside port 445 that takes 135 and a further port that the server
names: the rules DCOM-In, WMI-In and Async-In of the Windows firewall. Nothing else
takes them; preflight --use wmi has them in its matrix, and with --probe tries 135.

` + sessionHelp + "\n\n" + exitHelp,
		Example: "  roundsman inventory linux://root@db1\n  roundsman inventory --fleet fleet.yaml --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.targets(args)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errNoTargets
			}
			if f.wmi && !slices.ContainsFunc(list, func(t sum.Target) bool { return t.Kind == sum.Windows }) {
				return usagef("--wmi is for Windows servers, and none of the targets is one")
			}
			return a.work(cmd.Context(), "inventory", &f, false, func(ctx context.Context, w *work) error {
				nodes, err := w.nodes(list)
				if err != nil {
					return err
				}
				w.remind(list)
				for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) (*transport.Inventory, error) {
					w.rep.begin(n.Target(), "inventory")
					if f.wmi && n.Target().Kind == sum.Windows {
						return byWMI(ctx, n)
					}
					return sum.Inventory(ctx, n)
				}) {
					t := r.Node.Target()
					w.rep.idle(t)
					if r.Err != nil {
						w.fail(ctx, t, r.Err)
						continue
					}
					w.rep.inventory(inventoryEvent{newHeader("inventory"), t.String(), t.Name, r.Value}, t)
				}
				return nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.wmi, "wmi", false, "read Windows servers by WMI, without an agent")
	return cmd
}

// byWMI reads a Windows server without an agent.
func byWMI(ctx context.Context, n *sum.Node) (inv *transport.Inventory, err error) {
	err = n.WithConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		inv, err = transport.ReadInventory(ctx, conn)
		return err
	})
	var se *sum.Error
	if errors.As(err, &se) {
		se.Step = "inventory" // WithConn knows of none
	}
	if err == nil && inv.Taken.IsZero() {
		inv.Taken = time.Now().UTC()
	}
	return inv, err
}

// writeInventory writes an inventory for people.
func writeInventory(r *reporter, t sum.Target, inv *transport.Inventory) {
	id := inv.Identity
	r.line("%s", clean(targetKey(t)))
	w := tabwriter.NewWriter(writerFunc(r.raw), 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"name", id.Name}, {"system", joinWords(id.Vendor, id.Product)}, {"serial", id.Serial},
		{"OS", joinWords(id.OS, id.Version)}, {"kernel", joinWords(id.Kernel, id.Arch)}, {"boot", id.BootID},
	} {
		if row[1] != "" {
			fmt.Fprintf(w, "  %s\t%s\n", row[0], clean(row[1]))
		}
	}
	_ = w.Flush() // the reporter keeps the error
	if len(inv.Devices) > 0 {
		fmt.Fprintln(w, "  DEVICE\tCLASS\tNAME\tFIRMWARE\tDRIVER")
		for _, d := range inv.Devices {
			name := d.Name
			if name == "" {
				name = joinWords(d.Vendor, d.Model)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", cell(d.ID), cell(d.Class), cell(name), cell(d.Firmware), cell(joinWords(d.Driver, d.DriverVersion)))
		}
		_ = w.Flush()
	}
	count := map[string]int{}
	var sources []string
	for _, s := range inv.Software {
		if count[s.Source]++; count[s.Source] == 1 {
			sources = append(sources, s.Source)
		}
	}
	for _, s := range sources {
		r.line("  %s of %s", plural(count[s], "package"), cell(s))
	}
	for _, p := range inv.Problems {
		r.line("  not read: %s: %s", clean(p.Part), clean(p.Text))
	}
}

// cell is text for a column; an empty one shows as such.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

// joinWords joins two texts, either of which may be empty.
func joinWords(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + " " + b
}
