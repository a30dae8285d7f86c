package sum

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/sum/internal/journal"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// The kinds of record that a session keeps. Their data is plain and holds no
// secret: credentials are resolved again.
const (
	kindAgent  = "agent"   // an agent on a server; id: Place.ID
	kindJob    = "job"     // an installation by an agent; id: the job's ID
	kindUpdate = "update"  // an update by a device; id: of ours
	kindRules  = "rules"   // openings in the manager's own firewall; id: of ours
	kindDone   = "outcome" // a note: what became of a component
)

// rulesOwner is the target of records of kindRules.
var rulesOwner = Target{Kind: "manager"}

type agentRecord struct {
	Target Target      `json:"target"`
	Place  agent.Place `json:"place"`
}

type jobRecord struct {
	Target Target          `json:"target"`
	Place  agent.Place     `json:"place"` // of the agent that has the job
	Item   PlanItem        `json:"item"`
	Match  component.Match `json:"match"` // what it changes
	Scheme version.Scheme  `json:"scheme,omitempty"`
	Probe  *agent.Probe    `json:"probe,omitempty"` // reads the version, where Match needs one
	Found  *finding        `json:"found,omitempty"` // once it has ended
}

type updateRecord struct {
	Target Target          `json:"target"`
	Item   PlanItem        `json:"item"`
	Match  component.Match `json:"match"`
	Scheme version.Scheme  `json:"scheme,omitempty"`
	State  transport.State `json:"state"`
	// Begun stays set once a state with Sent was handed out: the device may have
	// been changed, however harmless the phase after that is.
	Begun bool `json:"begun,omitempty"`
	// Offers are the payload files that the device may be fetching.
	Offers map[string]offerRecord `json:"offers,omitempty"` // by PublishRequest.Key
	Found  *finding               `json:"found,omitempty"`  // once it has ended
}

// finding is what is known of an attempt that has ended, of which only what it did
// has to be read. Nobody asks the target for it again: that may not know any more.
type finding struct {
	Result transport.Result `json:"result"`
	Lost   string           `json:"lost,omitempty"` // see claim
}

// offerRecord is what it takes to offer a file again where it was. The token
// opens nothing to anybody but the target's own address.
type offerRecord struct {
	Token string `json:"token"`
	Port  uint16 `json:"port"`
}

// books is the journal of this run and those of dead runs that it took over. One
// resource may stand open in several of them: a run that took something over and
// died as well leaves two records of it.
type books struct {
	own *journal.Journal
	dir string
	log *slog.Logger

	taking turn            // whoever has it may use what follows
	taken  bool            // dead runs were taken over
	shut   bool            // and no more are
	torn   map[string]bool // IDs of dead runs that were said to be damaged

	mu      sync.Mutex
	adopted []adoptedRun
	open    map[string]map[recordKey]*openRecord // by Target.id
	left    map[string][]journal.Record          // by Target.id: of dead runs, until they are taken over
	seq     int
}

type adoptedRun struct {
	*journal.Journal
	damaged bool // some of its records cannot be read
}

type recordKey struct{ kind, id string }

// openRecord is a resource that was opened and not closed.
type openRecord struct {
	recordKey
	target string // Target.id
	data   json.RawMessage
	owners []*journal.Journal // whose records say so
	dead   bool               // a dead run opened it
	left   bool               // this run let go of it
	seq    int                // order of opening
}

func openBooks(ctx context.Context, dir string, log *slog.Logger) (*books, error) {
	own, err := journal.Open(dir, journal.Options{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	b := &books{own: own, dir: dir, log: log, taking: make(turn, 1), torn: map[string]bool{}, open: map[string]map[recordKey]*openRecord{}}
	left := map[string][]journal.Record{}
	err = b.dead(func(run journal.Run) error {
		records, _ := b.read(ctx, run)
		for _, r := range records {
			left[r.Target] = append(left[r.Target], r)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	b.left = left
	return b, nil
}

// dead calls f with the dead runs of the directory, oldest first.
func (b *books) dead(f func(journal.Run) error) error {
	runs, err := journal.Runs(b.dir)
	for _, run := range runs {
		if err == nil && run.State == journal.Dead {
			err = f(run)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// read returns what a dead run has open, and whether some of it cannot be read. What
// can is worth more than nothing: a damaged line must not keep everything else from
// being given back.
func (b *books) read(ctx context.Context, run journal.Run) (records []journal.Record, damaged bool) {
	records, err := run.Open()
	if err != nil && !b.torn[run.ID] {
		b.torn[run.ID] = true
		b.log.ErrorContext(ctx, "journal of a dead run is damaged; what the damage hides is not recovered", "err", err)
	}
	return records, err != nil
}

// takeOver takes over the dead runs of the directory, unless it was done. It reports
// whether it did so now.
func (b *books) takeOver(ctx context.Context) (now bool, err error) {
	if err := b.taking.take(ctx); err != nil {
		return false, err
	}
	defer b.taking.give()
	switch {
	case b.shut:
		return false, ErrClosed
	case b.taken:
		return false, nil
	}
	err = b.dead(func(run journal.Run) error {
		j, err := journal.Adopt(ctx, run, journal.Options{})
		if errors.Is(err, journal.ErrLive) || errors.Is(err, journal.ErrEnded) {
			return nil // another manager was quicker
		}
		if err != nil {
			return err
		}
		records, damaged := b.read(ctx, run)
		b.mu.Lock()
		b.adopted = append(b.adopted, adoptedRun{j, damaged})
		b.mu.Unlock()
		for _, r := range records {
			b.enter(j, r.Kind, r.Target, r.ID, r.Data).dead = true
		}
		return nil
	})
	if err != nil {
		return false, err // what was taken over by now stays so
	}
	b.mu.Lock()
	b.left = nil
	b.mu.Unlock()
	b.taken = true
	return true, nil
}

// leftAgent returns where a dead run left an agent on a target, or nil: one that was
// taken over, too.
func (b *books) leftAgent(target string) *agent.Place {
	b.mu.Lock()
	defer b.mu.Unlock()
	var at *agent.Place
	for _, r := range b.left[target] {
		if p := agentPlace(r.Kind, r.Data); p != nil {
			at = p
		}
	}
	newest := 0
	for _, r := range b.open[target] {
		if p := agentPlace(r.kind, r.data); p != nil && r.dead && r.seq > newest {
			at, newest = p, r.seq
		}
	}
	return at
}

// leftRules returns the IDs of records of rules of dead runs that were not taken over.
func (b *books) leftRules() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, r := range b.left[rulesOwner.id()] {
		ids = append(ids, r.ID)
	}
	return ids
}

// agentPlace returns where the agent of a record is, or nil where it is of something
// else.
func agentPlace(kind string, data json.RawMessage) *agent.Place {
	var r agentRecord
	if kind != kindAgent || json.Unmarshal(data, &r) != nil {
		return nil
	}
	return &r.Place
}

// enter notes that a record of journal j says that a resource is open. Later
// records are newer.
func (b *books) enter(j *journal.Journal, kind, target, id string, data json.RawMessage) *openRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.open[target]
	if of == nil {
		of = map[recordKey]*openRecord{}
		b.open[target] = of
	}
	k := recordKey{kind, id}
	r := of[k]
	if r == nil {
		b.seq++
		r = &openRecord{recordKey: k, target: target, seq: b.seq}
		of[k] = r
	}
	r.data = data
	if !slices.Contains(r.owners, j) {
		r.owners = append(r.owners, j)
	}
	return r
}

// pendingFor returns what is open on a target, of this run or of dead ones, in
// the order of opening. The caller keeps other deployments of the target out.
func (b *books) pendingFor(target string) []openRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]openRecord, 0, len(b.open[target]))
	for _, r := range b.open[target] {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b openRecord) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

// leave notes that this run does nothing more for a resource that stays open,
// until it is recovered.
func (b *books) leave(kind string, t Target, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.open[t.id()][recordKey{kind, id}]; r != nil {
		r.left = true
	}
}

// pendingTargets returns the targets on which dead runs, or deployments of this
// one, left something open.
func (b *books) pendingTargets() []Target {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[string]Target{}
	pending := func(id, kind string, data json.RawMessage) {
		// Every record that can be pending carries its target.
		var head struct {
			Target Target `json:"target"`
		}
		if kind != kindRules && json.Unmarshal(data, &head) == nil {
			found[id] = head.Target
		}
	}
	for id, records := range b.left {
		for _, r := range records {
			pending(id, r.Kind, r.Data)
		}
	}
	for id, of := range b.open {
		for _, r := range of {
			if r.dead || r.left {
				pending(id, r.kind, r.data)
			}
		}
	}
	return slices.Collect(maps.Values(found))
}

// opened makes durable that something is about to be opened, or changed.
func (b *books) opened(ctx context.Context, kind string, t Target, id string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if err := b.own.Append(ctx, journal.Opened(kind, t.id(), id, raw)); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	b.enter(b.own, kind, t.id(), id, raw)
	return nil
}

// closed makes durable, in every journal that says otherwise, that it is closed.
func (b *books) closed(ctx context.Context, kind string, t Target, id string) error {
	b.mu.Lock()
	r := b.open[t.id()][recordKey{kind, id}]
	var owners []*journal.Journal
	if r != nil {
		owners = slices.Clone(r.owners)
	}
	b.mu.Unlock()
	for _, j := range owners {
		if err := j.Append(ctx, journal.Closed(kind, t.id(), id)); err != nil {
			return fmt.Errorf("%w: %w", ErrJournal, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if of := b.open[t.id()]; of[recordKey{kind, id}] == r {
		delete(of, recordKey{kind, id})
		if len(of) == 0 {
			delete(b.open, t.id())
		}
	}
	return nil
}

// note records an outcome.
func (b *books) note(ctx context.Context, o Outcome) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if err := b.own.Append(ctx, journal.Record{Kind: kindDone, Target: o.Target.id(), Data: raw}); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// close ends the runs that hold nothing open any more, and lets go of the others.
func (b *books) close(ctx context.Context) error {
	if err := b.taking.take(context.WithoutCancel(ctx)); err != nil { // nobody keeps it for long
		return err
	}
	defer b.taking.give()
	b.shut = true
	var errs []error
	finish := func(j *journal.Journal, damaged bool) {
		if !damaged {
			if err := j.Retire(ctx); err != nil && !errors.Is(err, journal.ErrStillOpen) {
				errs = append(errs, fmt.Errorf("%w: %w", ErrJournal, err))
			}
		}
		if err := j.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", ErrJournal, err))
		}
	}
	for _, a := range b.adopted {
		finish(a.Journal, a.damaged)
	}
	finish(b.own, false)
	return errors.Join(errs...)
}
