package agenttest

import (
	"context"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Op names a call for a [Fault].
type Op string

// The calls. AnyOp stands for each of them.
const (
	AnyOp     Op = ""
	Start     Op = "start"
	Sweep     Op = "sweep"
	Remove    Op = "remove"
	Inventory Op = "inventory"
	Stage     Op = "stage"
	Install   Op = "install"
	Status    Op = "status"
	Jobs      Op = "jobs"
	Cancel    Op = "cancel"
	Logs      Op = "logs"
	Log       Op = "log"
	Reboot    Op = "reboot"
	Stop      Op = "stop"
)

// A Fault is something that goes wrong in calls to one host.
type Fault struct {
	// Op and Call choose the call: the Call-th one of Op, counted from 1 and from
	// when the fault was set; 0 means every one.
	Op   Op
	Call int
	// Bytes lets a Stage or Log get so many bytes further before it fails.
	Bytes int64
	// After lets the call take effect: only its answer is lost. A Start then
	// leaves a running agent behind.
	After bool
	// Stall makes the call wait for the end of its context.
	Stall bool
	// Err is what the call fails with; an *agent.Error is made around it. It is
	// transport.ErrConnLost if Err and Do are nil and Stall is false.
	Err error
	// Do, if set, is called first, with no lock held: to kill the agent, cut a
	// connection, or cancel a context. Without Err the call then goes on.
	Do func()
}

type armed struct {
	Fault
	seen int
}

// Fault sets a fault. Faults add up; the first that matches a call counts.
func (h *Host) Fault(f Fault) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if f.Err == nil && f.Do == nil && !f.Stall {
		f.Err = transport.ErrConnLost
	}
	h.faults = append(h.faults, &armed{Fault: f})
}

// ClearFaults takes all faults of the host away.
func (h *Host) ClearFaults() {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.faults = nil
}

// hit counts a call and returns the fault that it meets, or nil.
func (h *Host) hit(op Op) *Fault {
	h.in.mu.Lock()
	h.calls[op]++
	var out *Fault
	for _, a := range h.faults {
		if a.Op != AnyOp && a.Op != op {
			continue
		}
		a.seen++
		if out == nil && (a.Call == 0 || a.Call == a.seen) {
			f := a.Fault
			out = &f
		}
	}
	h.in.mu.Unlock()
	if out != nil && out.Do != nil {
		out.Do()
	}
	return out
}

// fails reports whether the fault makes its call fail.
func (f *Fault) fails() bool { return f != nil && (f.Stall || f.Err != nil) }

// late reports whether the call takes effect, in whole or in part, before it fails.
func (f *Fault) late(op Op) bool {
	return f.fails() && (f.After || f.Bytes > 0 && (op == Stage || op == Log))
}

// wait stalls if that is the fault, and returns the error of the call.
func (f *Fault) wait(ctx context.Context, op Op, target string) error {
	if f.Stall {
		<-ctx.Done()
		return &agent.Error{Op: string(op), Target: target, Kind: ctx.Err(), Err: f.Err}
	}
	return &agent.Error{Op: string(op), Target: target, Kind: f.Err}
}
