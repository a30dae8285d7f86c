package sum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	kindDone   = "outcome" // a note: what became of a component
)

type agentRecord struct {
	Target Target      `json:"target"`
	Place  agent.Place `json:"place"`
}

type jobRecord struct {
	Target Target          `json:"target"`
	Item   PlanItem        `json:"item"`
	Match  component.Match `json:"match"` // what it changes
	Scheme version.Scheme  `json:"scheme,omitempty"`
	Probe  *agent.Probe    `json:"probe,omitempty"` // reads the version, where Match needs one
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
}

// books is the journal of this run and those of dead runs that it took over.
type books struct {
	own *journal.Journal

	mu      sync.Mutex
	adopted []*journal.Journal
	pending map[string][]pendingRecord // by target key
}

// pendingRecord is something that a dead run left open.
type pendingRecord struct {
	journal.Record
	from *journal.Journal
}

func openBooks(ctx context.Context, dir string, log *slog.Logger) (*books, error) {
	own, err := journal.Open(dir, journal.Options{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	b := &books{own: own, pending: map[string][]pendingRecord{}}
	if err := b.adopt(ctx, dir, log); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	return b, nil
}

// adopt takes over the dead runs of the directory.
func (b *books) adopt(ctx context.Context, dir string, log *slog.Logger) error {
	runs, err := journal.Runs(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	for _, run := range runs {
		if run.State != journal.Dead {
			continue
		}
		j, err := journal.Adopt(ctx, run, journal.Options{})
		if errors.Is(err, journal.ErrLive) || errors.Is(err, journal.ErrEnded) {
			continue // another manager was quicker
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrJournal, err)
		}
		b.adopted = append(b.adopted, j)
		open, err := run.Open()
		if err != nil {
			// What can be read is worth more than nothing: a damaged line must not
			// keep everything else from being given back.
			log.ErrorContext(ctx, "journal of a dead run is damaged; what it hid is not recovered", "err", err)
		}
		for _, r := range open {
			b.pending[r.Target] = append(b.pending[r.Target], pendingRecord{r, j})
		}
	}
	return nil
}

func (b *books) pendingTargets() []Target {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Target
	for _, records := range b.pending {
		for _, r := range records {
			// Every record that can be pending carries its target.
			var head struct {
				Target Target `json:"target"`
			}
			if json.Unmarshal(r.Data, &head) == nil {
				out = append(out, head.Target)
				break
			}
		}
	}
	return out
}

// pendingFor returns what dead runs left open on a target.
func (b *books) pendingFor(target string) []pendingRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]pendingRecord(nil), b.pending[target]...)
}

// settle writes that a pending record is closed.
func (b *books) settle(ctx context.Context, p pendingRecord) error {
	if err := p.from.Append(ctx, journal.Closed(p.Kind, p.Target, p.ID)); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.pending[p.Target][:0]
	for _, q := range b.pending[p.Target] {
		if q.Kind != p.Kind || q.ID != p.ID {
			kept = append(kept, q)
		}
	}
	if b.pending[p.Target] = kept; len(kept) == 0 {
		delete(b.pending, p.Target)
	}
	return nil
}

// opened makes durable that something is about to be opened, or changed.
func (b *books) opened(ctx context.Context, kind, target, id string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if err := b.own.Append(ctx, journal.Opened(kind, target, id, raw)); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// closed makes durable that it is closed.
func (b *books) closed(ctx context.Context, kind, target, id string) error {
	if err := b.own.Append(ctx, journal.Closed(kind, target, id)); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// note records an outcome.
func (b *books) note(ctx context.Context, o Outcome) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if err := b.own.Append(ctx, journal.Record{Kind: kindDone, Target: o.Target.key(), Data: raw}); err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// close ends the runs that hold nothing open any more, and lets go of the others.
func (b *books) close(ctx context.Context) error {
	var errs []error
	for _, j := range append(b.adopted, b.own) {
		if err := j.Retire(ctx); err != nil && !errors.Is(err, journal.ErrStillOpen) {
			errs = append(errs, fmt.Errorf("%w: %w", ErrJournal, err))
		}
		if err := j.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", ErrJournal, err))
		}
	}
	return errors.Join(errs...)
}
