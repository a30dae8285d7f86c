package sum

// Event is something that happens during a step, for whoever watches.
type Event struct {
	Target    Target `json:"target"`
	Component string `json:"component,omitempty"`
	// Phase is "inventory", "stage", "install", "verify", "recover", or a device's
	// own word such as "upload", "flash", "reset". "fetch" says that a device has
	// not asked for what it is to fetch, and why that may be; "callback" the same of
	// a server that should have told of news, in the generation Classic.
	Phase string `json:"phase"`
	Done  int64  `json:"done,omitempty"`  // bytes, or parts of Total
	Total int64  `json:"total,omitempty"` // 0: not known
	Kept  int64  `json:"kept,omitempty"`  // bytes that were on the target already
	Text  string `json:"text,omitempty"`  // what the target printed
}

// DeployOptions are the options of Deploy and Recover.
type DeployOptions struct {
	// Events, if set, is called with what happens, from one goroutine at a time
	// for each node.
	Events func(Event)
	// StopOnFailure leaves the components behind a failed one alone.
	StopOnFailure bool
	// NoPreflight begins without having looked whether the target is fit; see
	// Preflight. What is wrong then shows when it stands in the way.
	NoPreflight bool
	// KeepAgent, for a Recover that a Deploy follows, leaves the agent of a dead
	// run, and what was sent to it, for that Deploy.
	KeepAgent bool
	// Abandon gives up what an earlier run began and what cannot be finished: its
	// outcome is Unverified, and the journal forgets it.
	Abandon bool
}

// event reports to the caller, if it listens.
func (o DeployOptions) event(n *Node, component, phase string, edit func(*Event)) {
	if o.Events == nil {
		return
	}
	e := Event{Target: n.t, Component: component, Phase: phase}
	if edit != nil {
		edit(&e)
	}
	o.Events(e)
}
