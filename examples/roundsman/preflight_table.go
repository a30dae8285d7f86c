package main

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/roundsman-go/roundsman/sum"
)

// flowEvent is one row of the matrix.
type flowEvent struct {
	header
	Target string `json:"target"`
	Name   string `json:"name,omitempty"`
	sum.Flow
}

// writeMatrix writes a matrix as a table for people, as events, or as RFC 4180 has
// it.
func writeMatrix(rep *reporter, format string, list []sum.Target, flows []sum.Flow) {
	switch format {
	case "json":
		byKey := map[string]sum.Target{}
		for _, t := range list {
			byKey[targetKey(t)] = t
		}
		for _, f := range flows {
			t := byKey[f.Target]
			rep.event(flowEvent{newHeader("flow"), t.String(), t.Name, f})
		}
	case "csv":
		writeMatrixCSV(rep, flows)
	default:
		w := tabwriter.NewWriter(writerFunc(rep.raw), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TARGET\tPHASE\tFROM\tTO\tPORT\tNEED\tPURPOSE")
		has := map[string]bool{}
		for _, f := range flows {
			has[f.Target] = true
			port := f.Ports() + "/" + f.Protocol
			if s := f.Sources(); s != "" {
				port += " from " + s
			}
			need := string(f.Need)
			if f.Option != "" {
				need = "for " + string(f.Option)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(f.Target), words(f.Phases), peer(f.From), peer(f.To), port, need, f.Purpose)
		}
		for _, t := range list {
			if !has[targetKey(t)] {
				fmt.Fprintf(w, "%s\t-\t-\t-\tnone\t-\t\n", cell(targetKey(t)))
			}
		}
		_ = w.Flush() // the reporter keeps the error
	}
}

func words(list []sum.Phase) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = string(p)
	}
	return strings.Join(out, ",")
}

// peer is an end of a flow for people.
func peer(p sum.Peer) string {
	name := p.Host
	if p.Party == sum.PartyManager {
		name = "manager"
	}
	switch a := addresses(p.Addresses, ","); {
	case a == "":
		return clean(name) + " (unknown)"
	case a != name:
		return clean(name) + " " + a
	}
	return clean(name)
}

func addresses(list []netip.Prefix, sep string) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.Addr().String()
		if !p.IsSingleIP() {
			out[i] = p.String()
		}
	}
	return strings.Join(out, sep)
}

func writeMatrixCSV(rep *reporter, flows []sum.Flow) {
	w := csv.NewWriter(writerFunc(rep.raw))
	w.UseCRLF = true
	row := func(cells ...string) { _ = w.Write(cells) } // the reporter keeps the error
	row("target", "kind", "phases", "direction", "from", "from_addresses", "to", "to_addresses",
		"protocol", "first", "last", "open", "source_first", "source_last", "need", "option", "purpose")
	for _, f := range flows {
		end := func(p sum.Peer) string {
			if p.Party == sum.PartyManager {
				return string(p.Party)
			}
			return p.Host
		}
		row(noFormula(f.Target), string(f.Kind), words(f.Phases), string(f.Direction),
			noFormula(end(f.From)), addresses(f.From.Addresses, " "), noFormula(end(f.To)), addresses(f.To.Addresses, " "),
			f.Protocol, fmt.Sprint(f.First), fmt.Sprint(f.Last), fmt.Sprint(f.Open),
			fmt.Sprint(f.SourceFirst), fmt.Sprint(f.SourceLast), string(f.Need), string(f.Option), f.Purpose)
	}
	w.Flush()
}

// noFormula makes a text of users harmless in a spreadsheet, which takes cells that
// begin with certain characters for formulas, also behind blanks.
func noFormula(s string) string {
	s = clean(s)
	if first := strings.TrimLeft(s, " \u00a0\u3000"); first != "" && strings.ContainsRune("=+-@|＝＋－＠", []rune(first)[0]) {
		return "'" + s
	}
	return s
}
