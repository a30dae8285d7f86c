package main

import (
	"errors"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// eventVersion is the version of the form of JSON output. Fields may be added to
// a version; none changes its meaning or goes.
const eventVersion = 1

// header begins every JSON object.
type header struct {
	V     int    `json:"v"`
	Event string `json:"event"`
}

func newHeader(event string) header { return header{eventVersion, event} }

type inventoryEvent struct {
	header
	Target    string               `json:"target"`
	Name      string               `json:"name,omitempty"`
	Inventory *transport.Inventory `json:"inventory"`
}

type planEvent struct {
	header
	Target    string        `json:"target"`
	Component string        `json:"component"`
	Action    sum.Action    `json:"action"`
	From      string        `json:"from"`
	To        string        `json:"to"`
	Reason    string        `json:"reason"`
	Name      string        `json:"name,omitempty"`
	Digest    string        `json:"digest"`
	Source    string        `json:"source,omitempty"`
	Subjects  []sum.Subject `json:"subjects,omitempty"`
	Rewrite   bool          `json:"rewrite,omitempty"`
	Downgrade bool          `json:"downgrade,omitempty"`
	Unproven  bool          `json:"unproven,omitempty"`
	Unknown   bool          `json:"unknown,omitempty"` // what is installed could not be read
	Refused   bool          `json:"refused,omitempty"` // it cannot be installed as things are
	After     *sum.Step     `json:"after,omitempty"`   // what brings the version that it needs
}

type progressEvent struct {
	header
	Target    string `json:"target"`
	Component string `json:"component,omitempty"`
	Phase     string `json:"phase"`
	Done      int64  `json:"done,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Kept      int64  `json:"kept,omitempty"`
	Text      string `json:"text,omitempty"`
	Name      string `json:"name,omitempty"`
}

type outcomeEvent struct {
	header
	Target     string               `json:"target"`
	Component  string               `json:"component"`
	Outcome    sum.OutcomeKind      `json:"outcome"`
	From       string               `json:"from"`
	To         string               `json:"to"`
	Code       transport.Code       `json:"code,omitzero"`
	Name       string               `json:"name,omitempty"`
	Version    string               `json:"version,omitempty"` // of the component
	Activation transport.Activation `json:"activation,omitempty"`
	Text       string               `json:"text,omitempty"`
	Error      string               `json:"error,omitempty"`
	ErrorCode  string               `json:"error_code,omitempty"` // as that of an errorEvent; code is what the target said
	Advice     string               `json:"advice,omitempty"`
	Recovered  bool                 `json:"recovered,omitempty"`
	Digest     string               `json:"digest,omitempty"`
	Subjects   []sum.Subject        `json:"subjects,omitempty"`
}

type recoveredEvent struct {
	header
	Target  string   `json:"target"`
	Name    string   `json:"name,omitempty"`
	Left    []string `json:"left,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

type logEvent struct {
	header
	Target string `json:"target"`
	Name   string `json:"name,omitempty"`
	Path   string `json:"path"`
}

type planFileEvent struct {
	header
	Path    string `json:"path"`
	Digest  string `json:"digest"`
	Targets int    `json:"targets"`
}

type errorEvent struct {
	header
	Target    string `json:"target,omitempty"`
	Name      string `json:"name,omitempty"`
	Step      string `json:"step,omitempty"`
	Component string `json:"component,omitempty"`
	Code      string `json:"code"` // stable, such as "wrong-credentials"
	Error     string `json:"error"`
	Advice    string `json:"advice,omitempty"` // by which flags something can be done
}

type summaryEvent struct {
	header
	Command  string                  `json:"command"`
	Targets  int                     `json:"targets"`
	Failed   int                     `json:"failed"` // targets
	Outcomes map[sum.OutcomeKind]int `json:"outcomes,omitempty"`
	Stopped  bool                    `json:"stopped,omitempty"`
	Exit     int                     `json:"exit"`
}

func newOutcomeEvent(o sum.Outcome) outcomeEvent {
	e := outcomeEvent{
		header: newHeader("outcome"), Target: o.Target.String(), Component: o.Component, Outcome: o.Kind,
		From: o.From(), To: o.To(), Code: o.Code, Name: o.Target.Name, Version: o.Version,
		Activation: o.Activation, Text: inFlags.Replace(o.Text), Recovered: o.Recovered, Digest: o.Digest,
	}
	if o.Err != nil {
		e.Error, e.ErrorCode, e.Advice = inFlags.Replace(o.Err.Error()), codeOf(o.Err, o.Target.Kind), adviceOn(o.Err, o.Target.Kind)
	}
	if len(o.Subjects) > 1 {
		e.Subjects = o.Subjects
	}
	return e
}

func newPlanEvent(t sum.Target, it sum.PlanItem) planEvent {
	e := planEvent{
		header: newHeader("plan"), Target: t.String(), Component: it.Component, Action: it.Action, To: it.Version,
		Reason: it.Reason, Name: t.Name, Digest: it.Digest, Source: it.Source,
		Rewrite: it.Rewrite, Downgrade: it.Downgrade, Unproven: it.Unproven, Unknown: it.Unknown, Refused: it.Refused, After: it.After,
	}
	if len(it.Subjects) > 0 {
		e.From, e.To = it.Subjects[0].From, it.Subjects[0].To
	}
	if len(it.Subjects) > 1 {
		e.Subjects = it.Subjects
	}
	return e
}

func newErrorEvent(t *sum.Target, err error) errorEvent {
	e := errorEvent{header: newHeader("error"), Code: codeOf(err, kindOf(t)), Error: inFlags.Replace(err.Error()), Advice: adviceOn(err, kindOf(t))}
	if t != nil {
		e.Target, e.Name = t.String(), t.Name
	}
	var se *sum.Error
	if errors.As(err, &se) {
		e.Step, e.Component = se.Step, se.Component
		if t == nil {
			e.Target = se.Target
		}
	}
	return e
}

// kindOf is the kind of a target that may not be known.
func kindOf(t *sum.Target) sum.Kind {
	if t == nil {
		return ""
	}
	return t.Kind
}
