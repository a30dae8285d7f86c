package main

import (
	"context"
	"encoding/csv"
	"fmt"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// probe looks at the targets and says what was found.
func (a *app) probe(ctx context.Context, f *sessionFlags, p *preflightFlags, list []sum.Target) error {
	f.json = p.format == "json"
	quiet := *a
	var rows *csv.Writer
	if p.format == "csv" { // the rest is for people, and not in the way
		rows = csv.NewWriter(a.stdout)
		rows.UseCRLF = true
		quiet.stdout = a.stderr
		_ = rows.Write([]string{"target", "code", "severity", "direction", "protocol", "port", "addr", "text", "advice"})
	}
	err := quiet.work(ctx, "preflight", f, false, func(ctx context.Context, w *work) error {
		nodes, err := w.nodes(list)
		if err != nil {
			return err
		}
		w.remind(list)
		for r := range sum.Each(ctx, nodes, w.each(), func(ctx context.Context, n *sum.Node) ([]sum.Finding, error) {
			w.rep.begin(n.Target(), "preflight")
			return sum.Preflight(ctx, n, sum.PreflightOptions{Phase: sum.Phase(p.phase), Use: p.options()})
		}) {
			t := r.Node.Target()
			w.rep.idle(t)
			for i := range r.Value {
				f := &r.Value[i]
				if file := w.rep.passwordFile(t); file != "" && f.Code == sum.FindLogin && f.Severity == sum.Blocks {
					f.Advice += "; " + refusedFile(file)
				}
				if fleet.SpeaksRedfish(t.Kind) && f.Code == sum.FindUnknown {
					f.Advice += "; " + redfishAdvice(transport.ErrUnknownIdentity)
				}
				f.Text, f.Advice = inFlags.Replace(f.Text), inFlags.Replace(f.Advice)
			}
			if len(sum.Blocking(r.Value)) > 0 {
				w.tally.fail(targetKey(t))
			}
			if rows != nil {
				for _, f := range r.Value {
					port := ""
					if f.Port != 0 {
						port = fmt.Sprint(f.Port)
					}
					_ = rows.Write([]string{noFormula(targetKey(t)), string(f.Code), string(f.Severity), string(f.Direction), f.Protocol, port,
						noFormula(f.Addr), noFormula(f.Text), noFormula(f.Advice)})
				}
			} else {
				w.rep.findings(t, r.Value)
			}
			if r.Err != nil {
				w.fail(ctx, t, r.Err)
			}
		}
		return nil
	})
	a.status = quiet.status
	if rows != nil {
		rows.Flush()
		if rows.Error() != nil && err == nil {
			return rows.Error()
		}
	}
	return err
}

// findingEvent is one finding.
type findingEvent struct {
	header
	Target string `json:"target"`
	Name   string `json:"name,omitempty"`
	sum.Finding
}

// findings writes what was found about a target: for people what blocks comes first.
func (r *reporter) findings(t sum.Target, list []sum.Finding) {
	if r.json {
		for _, f := range list {
			r.event(findingEvent{newHeader("finding"), t.String(), t.Name, f})
		}
		return
	}
	r.line("%s", clean(targetKey(t)))
	for _, s := range []sum.Severity{sum.Blocks, sum.Notice, sum.Passed} {
		for _, f := range list {
			if f.Severity != s {
				continue
			}
			where := ""
			if f.Port != 0 {
				where = fmt.Sprintf(" %s %d/%s", f.Direction, f.Port, f.Protocol)
			}
			r.line("  %s %s%s: %s", f.Severity, f.Code, where, clean(f.Text))
			if f.Advice != "" && s != sum.Passed {
				r.lines(f.Advice)
			}
		}
	}
}
