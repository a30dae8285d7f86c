package sum

import (
	"context"
	"iter"
	"sync"
)

// defaultParallel bounds parallel work where the caller does not.
const defaultParallel = 32

// EachOptions are the options of Each.
type EachOptions struct {
	// Parallel is how many nodes are worked on at a time; 0 means 32.
	Parallel int
	// PerAddress is how many of them may share one address (hosts behind one
	// vCenter, bays of one enclosure); 0 means 4.
	PerAddress int
}

// Result is the end of a step on one node.
type Result[T any] struct {
	Node  *Node
	Value T
	Err   error
}

// Each runs a step on every node and yields the results as they come. Breaking
// out of the loop cancels what runs and waits for it; when ctx ends, the nodes
// that have not begun yield the context's error. A step that fails does not stop
// the others.
//
//	step := func(ctx context.Context, n *sum.Node) (*transport.Inventory, error) {
//		return sum.Inventory(ctx, n)
//	}
//	for r := range sum.Each(ctx, nodes, sum.EachOptions{}, step) {
//		fmt.Println(r.Node.Target(), r.Err)
//	}
func Each[T any](ctx context.Context, nodes []*Node, opts EachOptions, step func(context.Context, *Node) (T, error)) iter.Seq[Result[T]] {
	if opts.Parallel <= 0 {
		opts.Parallel = defaultParallel
	}
	if opts.PerAddress <= 0 {
		opts.PerAddress = 4
	}
	return func(yield func(Result[T]) bool) {
		ctx, cancel := context.WithCancel(ctx)
		results := make(chan Result[T])
		var wg sync.WaitGroup
		defer func() {
			cancel()
			go func() { wg.Wait(); close(results) }()
			for range results { // the joined workers' last words
			}
		}()
		q := newQueue(nodes, opts.PerAddress)
		for range min(opts.Parallel, len(nodes)) {
			wg.Go(func() {
				for n := q.next(); n != nil; n = q.next() {
					r := Result[T]{Node: n}
					if r.Err = ctx.Err(); r.Err != nil {
						r.Err = &Error{Target: n.t.key(), Step: "start", Err: r.Err}
					} else {
						r.Value, r.Err = step(ctx, n)
					}
					q.done(n)
					results <- r
				}
			})
		}
		for range nodes {
			if !yield(<-results) {
				return
			}
		}
	}
}

// queue hands out nodes so that no address is overrun.
type queue struct {
	mu      sync.Mutex
	ready   sync.Cond
	waiting []*Node
	running map[string]int
	limit   int
}

func newQueue(nodes []*Node, limit int) *queue {
	q := &queue{waiting: append([]*Node(nil), nodes...), running: map[string]int{}, limit: limit}
	q.ready.L = &q.mu
	return q
}

// next returns a node whose address has room, waiting for one if need be, or nil
// when none is left.
func (q *queue) next() *Node {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		for i, n := range q.waiting {
			if q.running[n.t.Address] < q.limit {
				q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
				q.running[n.t.Address]++
				return n
			}
		}
		q.ready.Wait()
	}
	return nil
}

func (q *queue) done(n *Node) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running[n.t.Address]--; q.running[n.t.Address] == 0 {
		delete(q.running, n.t.Address)
	}
	q.ready.Broadcast()
}
