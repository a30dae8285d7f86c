package sum

import (
	"context"
	"time"
)

// PollRarely has jobs asked for once, and then only on news.
func (s *Session) PollRarely() {
	s.poll.longest, s.poll.longestTold, s.poll.growth = time.Hour, time.Hour, 1e6
}

// Abandon lets go of the session as SIGKILL does, as far as a test in the same
// process can: nothing more is written to the journal, its locks are released and
// its records stay, connections break, nothing is given back.
func (s *Session) Abandon() {
	ctx := context.Background()
	s.mu.Lock()
	s.closed = true
	nodes := s.nodes
	s.mu.Unlock()
	_ = s.books.own.Close(ctx)
	s.books.mu.Lock()
	for _, a := range s.books.adopted {
		_ = a.Close(ctx)
	}
	s.books.mu.Unlock()
	for _, n := range nodes {
		n.mu.Lock()
		n.closing, n.closed = true, true
		conn := n.conn
		n.mu.Unlock()
		n.drop(ctx, conn, nil)
	}
	_ = s.classic.close(ctx)
	_ = s.publish.close(ctx)
	close(s.ended)
}
