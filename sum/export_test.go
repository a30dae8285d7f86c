package sum

import "context"

// Abandon lets go of the session as SIGKILL does, as far as a test in the same
// process can: connections break, nothing is given back, the journal's locks are
// released and its records stay.
func (s *Session) Abandon() {
	ctx := context.Background()
	s.mu.Lock()
	s.closed = true
	nodes := s.nodes
	s.mu.Unlock()
	for _, n := range nodes {
		n.mu.Lock()
		n.closed = true
		n.mu.Unlock()
		n.drop(ctx)
	}
	_ = s.publish.close(ctx)
	for _, j := range append(s.books.adopted, s.books.own) {
		_ = j.Close(ctx)
	}
}
