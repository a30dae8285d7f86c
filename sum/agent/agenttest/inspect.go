package agenttest

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"path"
	"slices"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// SetFacts sets what Inspect finds on the host. Without it, that is root's login on
// Linux with room for everything, and the jobs that run.
func (h *Host) SetFacts(f agent.Facts) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.facts = &f
}

// SetReached sets whom the host reaches. Without it, it cannot try.
func (h *Host) SetReached(f func(addr netip.AddrPort) agent.Reached) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.reached = f
}

// Inspect implements agent.Installer. Nobody can listen on a host that exists in
// memory only: Listen fails with errors.ErrUnsupported.
func (in *Installer) Inspect(ctx context.Context, conn transport.Conn, opts agent.InspectOptions) (agent.Inspector, error) {
	in.mu.Lock()
	h := in.host(opts.Target)
	in.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, &agent.Error{Op: "check", Target: h.name, Kind: err}
	}
	if conn == nil {
		return nil, &agent.Error{Op: "check", Target: h.name, Kind: transport.ErrInvalid, Hint: "no connection"}
	}
	if !in.Detached {
		if _, err := conn.Identify(ctx); err != nil {
			return nil, &agent.Error{Op: "check", Target: h.name, Err: err}
		}
	}
	return &inspection{h, opts.Place, path.Dir(dirFor(agent.StartOptions{ID: "x", Place: opts.Place, BaseDirs: opts.BaseDirs}))}, nil
}

type inspection struct {
	h     *Host
	place *agent.Place // of the manager's own agent, or nil
	dir   string
}

func (i *inspection) Facts(ctx context.Context) (agent.Facts, error) {
	i.h.in.mu.Lock()
	defer i.h.in.mu.Unlock()
	if i.h.facts != nil {
		return *i.h.facts, ctx.Err()
	}
	f := agent.Facts{OS: "linux", Arch: "amd64", Dir: i.dir, Free: 1 << 40}
	for _, id := range slices.Sorted(maps.Keys(i.h.places)) {
		p := i.h.places[id]
		if !p.running {
			p.settle()
		}
		if job := p.runningJob(); job != "" {
			spec := p.jobs[job].spec
			f.Holders = append(f.Holders, agent.HostHolder{Agent: id, Job: job, Component: spec.Component, Version: spec.Version, Target: i.h.name})
		}
		if i.place != nil && i.place.ID == id {
			for _, b := range p.blobs {
				f.Staged += b.have
			}
		}
	}
	return f, ctx.Err()
}

func (i *inspection) Dial(ctx context.Context, addr netip.AddrPort) (agent.Reached, error) {
	i.h.in.mu.Lock()
	reached := i.h.reached
	i.h.in.mu.Unlock()
	if reached == nil {
		return agent.Reached{}, &agent.Error{Op: "dial", Target: i.h.name, Kind: errors.ErrUnsupported}
	}
	return reached(addr), ctx.Err()
}

func (i *inspection) Listen(context.Context, agent.ListenOptions) (agent.Listening, error) {
	return agent.Listening{}, &agent.Error{Op: "listen", Target: i.h.name, Kind: errors.ErrUnsupported}
}

func (i *inspection) Unlisten(context.Context, agent.Listening) error { return nil }

func (i *inspection) Close(context.Context) error { return nil }
