package portalloc

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// programName is the name that the kernel shows for a process: cut off at 15 bytes.
func programName(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func tellsOwners() bool { return true }

func TestExhaustedTellsWhy(t *testing.T) {
	first := freePorts(t, 6)
	a := newWith(t, Config{
		Policies: map[Role]Policy{
			Agent:   {First: first, Last: first + 5},
			SSLPort: Fixed(first + 3),
		},
		Exclude: []Range{{first + 4, first + 5}},
	})
	// 0 and 1: one process, through IPv4 and IPv6; 2: this program's own lease.
	child := start(t, "hold", nil, nil, at("127.0.0.1", first))
	require.Equal(t, "ready", child.line(t))
	second := start(t, "hold", nil, nil, at("", first+1))
	require.Equal(t, "ready", second.line(t))
	_, err := a.Listen(t.Context(), Agent, Options{})
	require.NoError(t, err)

	_, err = a.Listen(t.Context(), Agent, Options{})
	require.ErrorIs(t, err, ErrExhausted)
	e := asError(t, err)
	require.Equal(t, "listen", e.Op)
	require.Equal(t, Agent, e.Role)
	require.Equal(t, Policy{First: first, Last: first + 5}, e.Policy)
	require.NotEmpty(t, e.Advice)
	require.Len(t, e.Skips, 5)

	for i, p := range []*process{child, second} {
		s := e.Skips[i]
		require.Equal(t, Range{first + uint16(i), first + uint16(i)}, s.Range)
		require.Equal(t, Busy, s.Reason)
		require.ErrorIs(t, s.Err, syscall.EADDRINUSE)
		require.Equal(t, []Holder{{PID: p.cmd.Process.Pid, Program: programName(t), UID: os.Getuid(), State: "LISTEN"}}, s.Holders)
	}
	require.Equal(t, Skip{Range: Range{first + 2, first + 2}, Reason: Held, Role: Agent}, e.Skips[2])
	require.Equal(t, Skip{Range: Range{first + 3, first + 3}, Reason: OtherRole, Role: SSLPort}, e.Skips[3])
	require.Equal(t, Skip{Range: Range{first + 4, first + 5}, Reason: Excluded}, e.Skips[4])

	// The message is made of these fields.
	text := err.Error()
	for _, part := range []string{e.Role.String(), e.Policy.String(), strconv.Itoa(child.cmd.Process.Pid), e.Advice} {
		require.Contains(t, text, part)
	}
	for _, s := range e.Skips {
		require.Contains(t, text, s.String())
	}
}

func TestAdviceNamesTheEphemeralRange(t *testing.T) {
	eph, ok := ephemeralPorts()
	require.True(t, ok)
	judged := func(p Policy) string {
		e := &Error{Skips: []Skip{{Range: Range{p.First, p.Last}, Reason: Busy}}}
		judge(e, plan{role: LocalIPC, policy: p})
		return e.Advice
	}
	inside := Range{eph.First, eph.First + 7}
	require.Contains(t, judged(Policy{First: inside.First, Last: inside.Last}), reserveAdvice(inside))
	require.NotContains(t, judged(Policy{First: 1030, Last: 1031}), reserveAdvice(Range{1030, 1031}))
}

func TestHoldersOf(t *testing.T) {
	port := freePorts(t, 1)
	none, err := HoldersOf(t.Context(), port)
	require.NoError(t, err)
	require.Empty(t, none)

	ln := foreign(t, "tcp", at("", port))
	conn, err := net.Dial("tcp", at("127.0.0.1", port))
	require.NoError(t, err)
	defer conn.Close()
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	me := Holder{PID: os.Getpid(), Program: programName(t), UID: os.Getuid(), State: "LISTEN"}
	got, err := HoldersOf(t.Context(), port)
	require.NoError(t, err)
	require.Equal(t, []Holder{me}, got, "a listener hides its connections")

	// Without the listener the connection is what keeps the port.
	require.NoError(t, ln.Close())
	got, err = HoldersOf(t.Context(), port)
	require.NoError(t, err)
	me.State = "ESTABLISHED"
	require.Equal(t, []Holder{me}, got)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = HoldersOf(ended, port)
	require.ErrorIs(t, err, context.Canceled)
}

func TestParseRanges(t *testing.T) {
	for s, want := range map[string][]Range{
		"":                        nil,
		"\n":                      nil,
		"8080\n":                  {{8080, 8080}},
		"8080,9148-9150\n":        {{8080, 8080}, {9148, 9150}},
		"5-4,x,70000,1-,-1,7":     {{7, 7}},
		"60000-60007,61000-61007": {{60000, 60007}, {61000, 61007}},
	} {
		require.Equal(t, want, parseRanges(s), "%q", s)
	}
}

func FuzzParseSockets(f *testing.F) {
	for _, table := range []string{"tcp", "tcp6"} {
		if b, err := os.ReadFile(filepath.Join("/proc/net", table)); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte("   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  33 0 4711 1\n"))
	f.Add([]byte("0: : : : : : : : : :"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		if err := parseSockets(bytes.NewReader(b), func(s socket) bool {
			n++
			require.NotEmpty(t, s.state)
			return true
		}); err == nil {
			require.LessOrEqual(t, n, bytes.Count(b, []byte("\n"))+1)
		}
	})
}

func TestParseSockets(t *testing.T) {
	var got []socket
	require.NoError(t, parseSockets(strings.NewReader(
		`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:F230 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:EA60 00000000000000000000000001000000:1F90 06 00000000:00000000 03:00000A0B 00000000     0        0 0 3 0000000000000000
`), func(s socket) bool { got = append(got, s); return true }))
	require.Equal(t, []socket{
		{port: 62000, state: "LISTEN", uid: 33, owner: 4711},
		{port: 60000, state: "TIME-WAIT", uid: 0},
	}, got)
}
