package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// street is an agent that listens on TCP, and its manager.
type street struct {
	t       *testing.T
	svc     *service
	manager *channel.ManagerCredentials
	first   uint16

	mu    sync.Mutex
	rules map[uint16]bool // that are open
	fail  error           // of the next rule
}

func newStreet(t *testing.T) *street {
	t.Helper()
	s := &street{t: t, svc: testService(t), rules: map[uint16]bool{}}
	m, a, err := channel.NewIdentity("test")
	require.NoError(t, err)
	s.manager = m
	ports, err := portalloc.New(portalloc.Config{Generation: portalloc.Classic})
	require.NoError(t, err)
	ln, err := listenTCP(t.Context(), ports, "127.0.0.1:0")
	require.NoError(t, err)
	s.first = portOf(ln.Addr())
	d := newDoors(t.Context(), &channel.Server{Credentials: a, Handler: s.svc, Blobs: s.svc, Logs: s.svc})
	d.listen = dynamicPort(ports, ln.Addr())
	d.rule = func(_ context.Context, port uint16) (func(), error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fail != nil {
			return nil, s.fail
		}
		s.rules[port] = true
		return func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.rules, port)
		}, nil
	}
	s.svc.doors = d
	d.first(ln, nil)
	t.Cleanup(func() {
		require.NoError(t, d.close(context.Background()))
		require.Empty(t, s.open(), "a rule outlives its listener")
		require.NoError(t, ports.Close(context.Background()))
	})
	return s
}

func portOf(a net.Addr) uint16 { return a.(*net.TCPAddr).AddrPort().Port() }

func (s *street) open() []uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []uint16
	for p := range s.rules {
		out = append(out, p)
	}
	return out
}

// client speaks to the agent on a port.
func (s *street) client(port uint16) *channel.Client {
	c := &channel.Client{Credentials: s.manager, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	}}
	s.t.Cleanup(func() { require.NoError(s.t, c.Close(context.Background())) })
	return c
}

func (s *street) answers(port uint16) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	_, err := s.client(port).Heartbeat(ctx, nil)
	return err == nil
}

// TestMove: the manager goes to another port, whose rule is open by then, and the
// first one is free for others.
func TestMove(t *testing.T) {
	s := newStreet(t)
	ctx := t.Context()
	c := s.client(s.first)
	_, err := c.Move(ctx, &channel.MoveRequest{Done: true})
	require.ErrorIs(t, err, channel.ErrFault, "it is not about to move")

	where, err := c.Move(ctx, nil)
	require.NoError(t, err)
	port := uint16(where.Port)
	require.Greater(t, port, uint16(1024))
	require.NotEqual(t, s.first, port)
	require.Equal(t, []uint16{port}, s.open(), "named before it is open")
	require.True(t, s.answers(s.first), "the manager has not gone yet")

	where, err = s.client(port).Move(ctx, &channel.MoveRequest{Done: true})
	require.NoError(t, err)
	require.EqualValues(t, port, where.Port)
	require.True(t, s.answers(port))
	require.Eventually(t, func() bool {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.first))))
		if err == nil {
			ln.Close()
		}
		return err == nil
	}, time.Minute, 10*time.Millisecond, "the first port is not given back")

	// Once more, from there.
	where, err = s.client(port).Move(ctx, nil)
	require.NoError(t, err)
	_, err = s.client(uint16(where.Port)).Move(ctx, &channel.MoveRequest{Done: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(s.open()) == 1 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, []uint16{uint16(where.Port)}, s.open())
}

// TestMoveIsNotHeard: a port that the manager does not come to is closed again.
func TestMoveIsNotHeard(t *testing.T) {
	s := newStreet(t)
	s.svc.doors.patience = 50 * time.Millisecond
	where, err := s.client(s.first).Move(t.Context(), nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(s.open()) == 0 }, time.Minute, time.Millisecond)
	require.False(t, s.answers(uint16(where.Port)))
	require.True(t, s.answers(s.first))

	// Of two that are asked for, the second counts.
	s.svc.doors.patience = time.Hour
	a, err := s.client(s.first).Move(t.Context(), nil)
	require.NoError(t, err)
	b, err := s.client(s.first).Move(t.Context(), nil)
	require.NoError(t, err)
	require.NotEqual(t, a.Port, b.Port)
	require.Eventually(t, func() bool { return len(s.open()) == 1 }, time.Minute, time.Millisecond)
	require.True(t, s.answers(uint16(b.Port)))
}

// TestMoveWithoutRule: where the firewall cannot be opened, no port is named.
func TestMoveWithoutRule(t *testing.T) {
	s := newStreet(t)
	s.fail = &channel.Fault{Code: channel.CodeRefused, Message: "the firewall is not ours"}
	_, err := s.client(s.first).Move(t.Context(), nil)
	var f *channel.Fault
	require.ErrorAs(t, err, &f)
	require.Equal(t, channel.CodeRefused, f.Code)
	require.True(t, s.answers(s.first))

	s.svc.doors.listen = nil // as on a Unix socket
	_, err = s.client(s.first).Move(t.Context(), nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// listening is a manager that takes reports.
type listening struct {
	mu   sync.Mutex
	port uint32
	got  []channel.ReportRequest
}

func (l *listening) Contact(context.Context, *channel.ContactRequest) (*channel.ContactResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &channel.ContactResponse{Port: l.port}, nil
}

func (l *listening) Report(_ context.Context, r *channel.ReportRequest) (*channel.ReportResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, *r)
	return &channel.ReportResponse{}, nil
}

func (l *listening) states(id string) (out []channel.JobState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.got {
		if r.JobID == id {
			out = append(out, r.State)
		}
	}
	return out
}

// TestReports: the first address is dead, the second names a port of its own; jobs
// that change are told there, also after the line was lost.
func TestReports(t *testing.T) {
	h := testService(t).home
	m, a, err := channel.NewIdentity("test")
	require.NoError(t, err)
	l := &listening{}
	serve := func() (string, func()) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c := &channel.Callbacks{}
		_, err = c.Add("test", m, l)
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- c.Serve(context.Background(), ln) }()
		return ln.Addr().String(), func() {
			require.NoError(t, c.Close(context.Background()))
			<-served
		}
	}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	first, endFirst := serve()
	defer endFirst()
	second, endSecond := serve()
	_, port, err := net.SplitHostPort(second)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	l.port = uint32(n)

	write := func(id string, state State, log string) {
		t.Helper()
		require.NoError(t, os.WriteFile(h.output(id), []byte(log), 0o600))
		require.NoError(t, h.writeRecord(record{Version: fileVersion, ID: id, State: state, Accepted: time.Now()}))
	}
	before, id := channel.NewJobID(), channel.NewJobID()
	write(before, Done, "")
	r := newReporter(h, a, []string{dead.Addr().String(), first}, slog.New(slog.DiscardHandler))
	r.look, r.shortest = 5*time.Millisecond, 5*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.run(ctx) }()
	defer func() { cancel(); <-ended }()

	told := func(want channel.JobState) {
		t.Helper()
		require.Eventually(t, func() bool {
			states := l.states(id)
			return len(states) > 0 && states[len(states)-1] == want
		}, time.Minute, time.Millisecond)
	}
	write(id, Running, "")
	told(channel.StateRunning)
	count := len(l.states(id))
	write(id, Running, "more")
	require.Eventually(t, func() bool { return len(l.states(id)) > count }, time.Minute, time.Millisecond, "its log is longer")

	endSecond()
	l.mu.Lock()
	l.port = 0 // from now on where the first contact is
	l.mu.Unlock()
	write(id, Done, "more")
	told(channel.StateDone)
	require.Empty(t, l.states(before), "known for long")
}
