package agenttest

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// fakeAgent is one agent as seen by the manager that started it.
type fakeAgent struct {
	in    *Installer
	h     *Host
	p     *place
	conn  transport.Conn
	epoch int
	back  *classic // nil in the current generation

	// Guarded by in.mu.
	ident  transport.Identity // what the connection said last
	lost   bool               // the connection broke
	closed bool
}

var _ agent.Agent = (*fakeAgent)(nil)

func (a *fakeAgent) err(op Op, kind error, hint string) error {
	return &agent.Error{Op: string(op), Target: a.h.name, Kind: kind, Hint: hint}
}

// call runs f under the lock, if the agent can be reached and no fault is in the
// way.
func (a *fakeAgent) call(ctx context.Context, op Op, f func() error) error {
	fault, err := a.enter(ctx, op)
	if err != nil {
		return err
	}
	a.in.mu.Lock()
	if err = a.reach(op); err == nil {
		err = f()
	}
	a.in.mu.Unlock()
	return a.leave(ctx, op, fault, err)
}

// enter counts the call, lets early faults happen and asks the connection.
func (a *fakeAgent) enter(ctx context.Context, op Op) (*Fault, error) {
	a.in.mu.Lock()
	if a.closed {
		a.in.violate("%s on %s after the agent was closed", op, a.h.name)
		a.in.mu.Unlock()
		return nil, a.err(op, transport.ErrClosed, "")
	}
	lost := a.lost
	a.in.mu.Unlock()
	fault := a.h.hit(op)
	if err := ctx.Err(); err != nil {
		return nil, a.err(op, err, "")
	}
	if lost {
		return nil, a.err(op, transport.ErrConnLost, "the connection was lost before")
	}
	if fault.fails() && !fault.late(op) {
		return nil, a.leave(ctx, op, fault, nil)
	}
	if !a.in.Detached {
		ident, err := a.conn.Identify(ctx)
		if err != nil {
			return nil, &agent.Error{Op: string(op), Target: a.h.name, Err: err}
		}
		a.in.mu.Lock()
		a.ident = ident
		a.h.noticeBoot(ident.BootID)
		a.in.mu.Unlock()
	}
	return fault, nil
}

// reach says whether there is an agent that can answer; the caller holds in.mu.
func (a *fakeAgent) reach(op Op) error {
	if op != Remove && (!a.p.running || a.p.epoch != a.epoch) {
		return a.err(op, transport.ErrConnLost, "the agent does not run")
	}
	return nil
}

// leave turns a fault into the result of the call.
func (a *fakeAgent) leave(ctx context.Context, op Op, fault *Fault, err error) error {
	if fault.fails() {
		err = fault.wait(ctx, op, a.h.name)
	}
	if errors.Is(err, transport.ErrConnLost) {
		a.in.mu.Lock()
		if fault.fails() {
			a.lost = true
		}
		a.in.mu.Unlock()
	}
	return err
}

func (a *fakeAgent) Place() agent.Place {
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	return agent.Place{ID: a.p.id, Dir: a.p.dir, Addr: a.p.addr()}
}

func (a *fakeAgent) Inventory(ctx context.Context, req agent.InventoryRequest) (*transport.Inventory, error) {
	var out *transport.Inventory
	err := a.call(ctx, Inventory, func() error {
		for _, p := range req.Probes {
			if p.Name == "" || len(p.Argv) == 0 {
				a.in.violate("inventory of %s with a probe without name or program", a.h.name)
				return a.err(Inventory, transport.ErrInvalid, "a probe needs a name and a program")
			}
		}
		h := a.h
		inv := &transport.Inventory{
			Taken: time.Now(), Identity: h.identity,
			Devices: slices.Clone(h.devices), Problems: slices.Clone(h.problems), Notes: slices.Clone(h.notes),
		}
		if inv.Identity == (transport.Identity{}) {
			inv.Identity = a.ident
		}
		if inv.Identity.Name == "" {
			inv.Identity.Name = h.name
		}
		if inv.Identity.BootID == "" || h.connBoot != "" {
			inv.Identity.BootID = h.bootID()
		}
		for _, s := range h.software {
			probed := slices.ContainsFunc(req.Probes, func(p agent.Probe) bool { return p.Name == s.Name })
			if s.Source != agent.ProbeSource || probed {
				inv.Software = append(inv.Software, s)
			}
		}
		out = inv
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (a *fakeAgent) Install(ctx context.Context, spec agent.Job) (agent.Status, error) {
	var out agent.Status
	err := a.call(ctx, Install, func() error {
		if bad := checkJob(spec); bad != "" {
			a.in.violate("install on %s: %s", a.h.name, bad)
			return a.err(Install, transport.ErrInvalid, bad)
		}
		if j := a.p.jobs[spec.ID]; j != nil {
			if !sameJob(j.spec, spec) {
				return a.err(Install, agent.ErrJobConflict, "")
			}
			out = j.status(-1)
			return nil
		}
		for _, f := range spec.Files {
			if b := a.p.blobs[f.SHA256]; b == nil || !b.ok || b.size != f.Size {
				a.in.violate("install on %s: file %s of job %s was not staged", a.h.name, f.Name, spec.ID)
				return a.err(Install, fs.ErrNotExist, "stage "+f.Name+" first")
			}
		}
		j := &job{spec: cloneJob(spec), state: agent.Accepted}
		if f := a.h.scripts[spec.Component]; f != nil {
			j.script = f(cloneJob(spec))
		}
		a.p.jobs[spec.ID] = j
		a.p.order = append(a.p.order, spec.ID)
		out = j.status(-1)
		if j.script.HostBusy {
			j.refuse()
		} else {
			j.begin(a.h.bootID())
		}
		return nil
	})
	if err != nil {
		return agent.Status{}, err
	}
	a.back.report(ctx, spec.ID, a.newsOf(spec.ID))
	return out, nil
}

// newsOf is what there is to tell of a job.
func (a *fakeAgent) newsOf(id string) news {
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	j := a.p.jobs[id]
	return news{j.state, len(j.log)}
}

// checkJob says what is wrong with a job, or "".
func checkJob(j agent.Job) string {
	switch {
	case !lowerHex(j.ID, 32):
		return "a job ID is 32 lower-case hexadecimal digits"
	case j.Component == "":
		return "a job needs a component"
	case len(j.Argv) == 0 || j.Argv[0] == "":
		return "a job needs a program"
	case !j.Profile.Known():
		return "unknown profile " + string(j.Profile)
	}
	seen := map[string]bool{}
	for _, f := range j.Files {
		if !lowerHex(f.SHA256, 64) || f.Size < 0 {
			return "file " + f.Name + " needs a SHA-256 and a size"
		}
		if (transport.File{Name: f.Name, Open: transport.BytesFile("x", nil).Open}).Check() != nil || seen[strings.ToLower(f.Name)] {
			return "file name " + f.Name + " is not clean or comes twice"
		}
		seen[strings.ToLower(f.Name)] = true
	}
	return ""
}

func lowerHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == n && strings.ToLower(s) == s
}

func (a *fakeAgent) Status(ctx context.Context, id string, offset int64) (agent.Status, error) {
	var out agent.Status
	err := a.call(ctx, Status, func() error {
		j := a.p.jobs[id]
		if j == nil {
			return a.err(Status, agent.ErrNoJob, "")
		}
		if offset < 0 || offset > int64(len(j.log)) {
			a.in.violate("status of job %s on %s from offset %d of a log of %d bytes", id, a.h.name, offset, len(j.log))
			return a.err(Status, transport.ErrInvalid, "the log offset is outside the log")
		}
		if j.script.AgentDies && j.state == agent.Running {
			j.script.AgentDies = false
			a.p.die()
			return a.reach(Status)
		}
		j.step(a.h)
		out = j.status(offset)
		return nil
	})
	if err != nil {
		return agent.Status{}, err
	}
	a.back.report(ctx, id, a.newsOf(id))
	return out, nil
}

func (a *fakeAgent) Jobs(ctx context.Context) ([]agent.Status, error) {
	var out []agent.Status
	err := a.call(ctx, Jobs, func() error {
		for _, id := range a.p.order {
			out = append(out, a.p.jobs[id].status(-1))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (a *fakeAgent) Cancel(ctx context.Context, id string) (agent.Status, error) {
	var out agent.Status
	err := a.call(ctx, Cancel, func() error {
		j := a.p.jobs[id]
		if j == nil {
			return a.err(Cancel, agent.ErrNoJob, "")
		}
		// As of a real agent, the answer does not wait for the program's end.
		j.cancel = j.cancel || !j.state.Final() && !j.spec.NoKill
		out = j.status(-1)
		return nil
	})
	if err != nil {
		return agent.Status{}, err
	}
	return out, nil
}

func (a *fakeAgent) Reboot(ctx context.Context, opts transport.RebootOptions) error {
	var after func()
	err := a.call(ctx, Reboot, func() error {
		if id := a.p.runningJob(); id != "" {
			return a.err(Reboot, agent.ErrJobRunning, "job "+id)
		}
		a.h.rebootMsg = append(a.h.rebootMsg, opts.Message)
		after = a.h.reboot()
		return nil
	})
	if after != nil {
		after()
	}
	return err
}

func (a *fakeAgent) Stop(ctx context.Context, remove bool) ([]string, error) {
	var left []string
	err := a.call(ctx, Stop, func() error {
		if !remove {
			a.p.die()
			return nil
		}
		var err error
		left, err = a.removeAll(Stop)
		return err
	})
	if err != nil {
		return nil, err
	}
	return left, nil
}

// removeAll leaves the logs only; the caller holds in.mu.
func (a *fakeAgent) removeAll(op Op) ([]string, error) {
	if id := a.p.runningJob(); id != "" {
		return nil, a.err(op, agent.ErrJobRunning, "job "+id)
	}
	a.p.remove()
	return a.p.logs(), nil
}

func (a *fakeAgent) Remove(ctx context.Context) ([]string, error) {
	var left []string
	err := a.call(ctx, Remove, func() error {
		if a.p.epoch != a.epoch && a.p.running {
			return a.err(Remove, transport.ErrConnLost, "another agent has taken the place of this one")
		}
		if !a.p.running {
			a.p.settle()
		}
		var err error
		if left, err = a.removeAll(Remove); err != nil {
			return err
		}
		a.close()
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.back.close(ctx)
	return left, nil
}

// close marks the agent as closed; the caller holds in.mu.
func (a *fakeAgent) close() {
	if !a.closed {
		a.closed = true
		a.in.open--
	}
}

func (a *fakeAgent) Close(ctx context.Context) error {
	a.back.close(ctx)
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	a.close()
	return nil
}
