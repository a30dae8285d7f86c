package agenttest

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Installer is an agent.Installer whose agents exist in memory only. Its zero
// value is ready; it is safe for concurrent use and must not be copied.
type Installer struct {
	// Detached agents do not go through the connection that Start was given: its
	// faults do not reach their calls, and its BootID is not noticed.
	Detached bool
	// Dial, if set, is how agents call the manager in the classic generation, at the
	// addresses that agent.Classic.Callback gave: once they have started, and in each
	// Install and Status that has news of a job. Nil lets them call nobody, as where
	// a firewall blocks the way back.
	Dial transport.DialFunc

	mu         sync.Mutex
	hosts      map[string]*Host
	violations []string
	open       int
}

var _ agent.Installer = (*Installer)(nil)

// Host returns the host with this name, which is the Target of StartOptions. It
// is made when it is asked for first, also by a Start.
func (in *Installer) Host(name string) *Host {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.host(name)
}

func (in *Installer) host(name string) *Host {
	h := in.hosts[name]
	if h == nil {
		h = &Host{in: in, name: name, scripts: map[string]func(agent.Job) Job{}, calls: map[Op]int{}, places: map[string]*place{}}
		if in.hosts == nil {
			in.hosts = map[string]*Host{}
		}
		in.hosts[name] = h
	}
	return h
}

func (in *Installer) sorted() []*Host {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []*Host
	for _, name := range slices.Sorted(maps.Keys(in.hosts)) {
		out = append(out, in.hosts[name])
	}
	return out
}

// Runs returns how many times programs of the component were started on all hosts.
func (in *Installer) Runs(component string) int {
	n := 0
	for _, h := range in.sorted() {
		n += h.Runs(component)
	}
	return n
}

// Left returns what was left on all hosts; see [Host.Left].
func (in *Installer) Left() []string {
	var out []string
	for _, h := range in.sorted() {
		out = append(out, h.Left()...)
	}
	return out
}

// Open returns how many agents are neither removed nor closed.
func (in *Installer) Open() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.open
}

// Violations returns the calls that broke the rules of package agent: of jobs
// whose files were not staged, of agents that had been closed, and the like.
func (in *Installer) Violations() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.violations)
}

// Check returns an error that names every violation, every agent that is still
// open, and everything that was left on the hosts; nil if there is nothing.
func (in *Installer) Check() error {
	var errs []error
	for _, v := range in.Violations() {
		errs = append(errs, errors.New("violation: "+v))
	}
	if n := in.Open(); n != 0 {
		errs = append(errs, fmt.Errorf("%d agents are still open", n))
	}
	for _, l := range in.Left() {
		errs = append(errs, errors.New("left: "+l))
	}
	return errors.Join(errs...)
}

// violate records a broken rule; the caller holds in.mu.
func (in *Installer) violate(format string, args ...any) {
	in.violations = append(in.violations, fmt.Sprintf(format, args...))
}

// place is the directory of an agent on a host.
type place struct {
	h        *Host
	id       string
	dir      string
	port     uint16 // where the agent listens in the classic generation, else 0
	machine  string // identity of the connection that made it
	running  bool
	files    bool // binary and sockets
	epoch    int
	blobs    map[string]*blob
	jobs     map[string]*job
	order    []string
	received int64
}

type blob struct {
	have int64
	size int64
	sum  hash.Hash
	ok   bool // whole, and the digest fits
}

func (p *place) addr() string {
	if p.port != 0 {
		return fmt.Sprintf("[::]:%d", p.port)
	}
	return p.dir + "/agent.sock"
}

func (p *place) place() agent.Place {
	out := agent.Place{ID: p.id, Dir: p.dir}
	if p.running {
		out.Addr = p.addr()
	}
	return out
}

func (p *place) die() { p.running = false }

// runningJob returns the ID of a job whose program runs, or "". Jobs end only
// when they are asked about or when nobody is there to ask.
func (p *place) runningJob() string {
	for _, id := range p.order {
		if j := p.jobs[id]; j.state == agent.Running {
			return id
		}
	}
	return ""
}

// settle lets the programs go on that nobody watches: all steps at once.
func (p *place) settle() {
	for _, id := range p.order {
		switch j := p.jobs[id]; {
		case j.state != agent.Running:
		case j.cancel:
			j.step(p.h)
		case !j.held():
			j.finish(p.h)
		}
	}
}

func (p *place) remove() {
	p.running, p.files = false, false
	clear(p.blobs)
}

// logs returns the paths of what stays.
func (p *place) logs() []string {
	var out []string
	if p.epoch > 0 && len(p.order) > 0 { // one that did nothing leaves nothing
		out = append(out, p.dir+"/agent.log")
	}
	for _, id := range p.order {
		out = append(out, p.dir+"/jobs/"+id+".json", p.dir+"/jobs/"+id+".log")
	}
	slices.Sort(out)
	return out
}

// machineOf tells machines apart by what their connection shows.
func machineOf(id transport.Identity) string {
	return strings.Join([]string{id.Name, id.Serial, id.UUID}, "\x00")
}

// Start implements agent.Installer.
func (in *Installer) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	fail := func(kind error, hint string) (agent.Agent, error) {
		return nil, &agent.Error{Op: string(Start), Target: opts.Target, Kind: kind, Hint: hint}
	}
	if conn == nil || opts.Target == "" || opts.ID == "" || path.Base(opts.ID) != opts.ID || opts.ID == "." || opts.ID == ".." {
		in.mu.Lock()
		in.violate("start on %q with id %q: it needs a connection, a target, and an ID that can name a directory", opts.Target, opts.ID)
		in.mu.Unlock()
		return fail(transport.ErrInvalid, "a connection, a target and an ID are needed")
	}
	h := in.Host(opts.Target)
	f := h.hit(Start)
	if err := ctx.Err(); err != nil {
		return fail(err, "")
	}
	if f.fails() && !f.late(Start) {
		return nil, f.wait(ctx, Start, h.name)
	}
	var ident transport.Identity
	if !in.Detached {
		var err error
		if ident, err = conn.Identify(ctx); err != nil {
			return nil, &agent.Error{Op: string(Start), Target: h.name, Err: err}
		}
	}

	in.mu.Lock()
	h.noticeBoot(ident.BootID)
	p := h.places[opts.ID]
	if p == nil {
		p = &place{h: h, id: opts.ID, dir: dirFor(opts), blobs: map[string]*blob{}, jobs: map[string]*job{}}
	}
	if opts.Place != nil && opts.Place.Dir != p.dir {
		in.violate("start on %s: the agent %s is in %s, not in %s", h.name, p.id, p.dir, opts.Place.Dir)
	}
	first := agent.Place{ID: p.id, Dir: p.dir}
	in.mu.Unlock()

	if opts.Opened != nil {
		if err := opts.Opened(ctx, first); err != nil {
			return nil, &agent.Error{Op: string(Start), Target: h.name, Err: err}
		}
	}
	back, err := in.meet(ctx, h, opts)
	if err != nil {
		return nil, &agent.Error{Op: string(Start), Target: h.name, Err: err}
	}
	in.mu.Lock()
	h.places[p.id] = p
	if p.running, p.port = false, 0; back != nil {
		p.port = h.freePort()
	}
	p.machine = machineOf(ident)
	p.files, p.running = true, true
	p.epoch++
	a := &fakeAgent{in: in, h: h, p: p, conn: conn, epoch: p.epoch, back: back}
	p.settle()
	full := p.place()
	in.open++
	in.mu.Unlock()

	err = ctx.Err()
	if opts.Opened != nil && err == nil {
		err = opts.Opened(ctx, full)
	}
	if back != nil && !opts.Classic.Stay && err == nil {
		in.mu.Lock()
		p.port = h.movedPort()
		full = p.place()
		in.mu.Unlock()
		if opts.Opened != nil {
			err = opts.Opened(ctx, full)
		}
	}
	if err != nil { // what was begun is undone
		back.close(ctx)
		in.mu.Lock()
		defer in.mu.Unlock()
		in.open--
		p.remove()
		return nil, &agent.Error{Op: string(Start), Target: h.name, Err: err}
	}
	if f.fails() {
		back.close(ctx)
		in.mu.Lock()
		in.open--
		in.mu.Unlock()
		return nil, f.wait(ctx, Start, h.name)
	}
	back.contact(ctx)
	return a, nil
}

func dirFor(opts agent.StartOptions) string {
	if opts.Place != nil {
		return opts.Place.Dir
	}
	base := "/var/lib/roundsman"
	if len(opts.BaseDirs) > 0 {
		base = opts.BaseDirs[0]
	}
	return path.Join(base, opts.ID)
}

// noticeBoot lets the host reboot if its connection shows another boot.
func (h *Host) noticeBoot(bootID string) {
	if bootID != "" && h.connBoot != "" && bootID != h.connBoot {
		h.reboot()
	}
	if bootID != "" {
		h.connBoot = bootID
	}
}

// Sweep implements agent.Installer. A place that nothing is known of is swept
// already.
func (in *Installer) Sweep(ctx context.Context, conn transport.Conn, pl agent.Place) ([]string, error) {
	p := in.find(pl)
	if p == nil {
		return nil, ctx.Err()
	}
	h := p.h
	f := h.hit(Sweep)
	if err := ctx.Err(); err != nil {
		return nil, &agent.Error{Op: string(Sweep), Target: h.name, Kind: err}
	}
	if f.fails() && !f.late(Sweep) {
		return nil, f.wait(ctx, Sweep, h.name)
	}
	if conn == nil {
		return nil, &agent.Error{Op: string(Sweep), Target: h.name, Kind: transport.ErrInvalid, Hint: "no connection"}
	}
	var ident transport.Identity
	if !in.Detached {
		var err error
		if ident, err = conn.Identify(ctx); err != nil {
			return nil, &agent.Error{Op: string(Sweep), Target: h.name, Err: err}
		}
	}
	in.mu.Lock()
	if machineOf(ident) != p.machine {
		in.violate("sweep of %s, which is on %s, through a connection to another machine (%s)", p.dir, h.name, ident.Name)
		in.mu.Unlock()
		return nil, nil
	}
	h.noticeBoot(ident.BootID)
	if !p.running {
		p.settle()
	}
	if id := p.runningJob(); id != "" {
		in.mu.Unlock()
		return nil, &agent.Error{Op: string(Sweep), Target: h.name, Kind: agent.ErrJobRunning, Hint: "job " + id}
	}
	p.remove()
	left := p.logs()
	in.mu.Unlock()
	if f.fails() {
		return nil, f.wait(ctx, Sweep, h.name)
	}
	return left, nil
}

func (in *Installer) find(pl agent.Place) *place {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, h := range in.hosts {
		if p := h.places[pl.ID]; p != nil && (pl.Dir == "" || pl.Dir == p.dir) {
			return p
		}
	}
	return nil
}
