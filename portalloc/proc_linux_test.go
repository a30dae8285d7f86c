package portalloc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

func init() {
	helpers["user"] = helperUser
	helpers["namespace"] = helperNamespace
}

// comm is the name that the kernel shows for a process: cut off at 15 bytes.
func comm(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

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
		require.Equal(t, []Holder{{PID: p.cmd.Process.Pid, Program: comm(t), UID: os.Getuid(), State: "LISTEN"}}, s.Holders)
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
		a := newAllocator(t, map[Role]Policy{LocalIPC: p})
		e := &Error{}
		a.judge(e, plan{role: LocalIPC, policy: p})
		require.NoError(t, a.Close(t.Context()))
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
	me := Holder{PID: os.Getpid(), Program: comm(t), UID: os.Getuid(), State: "LISTEN"}
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

// helperUser tries a privileged port without any right, as users do.
func helperUser(args []string) error {
	fallback, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return err
		}
		if err := errors.Join(syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			return err
		}
	}
	a, err := New(Config{Policies: map[Role]Policy{
		HTTP: {Prefer: []uint16{80}, First: uint16(fallback), Last: uint16(fallback)},
		Port: Fixed(81),
	}})
	if err != nil {
		return err
	}
	defer a.Close(context.Background())
	ctx := context.Background()
	for r, o := range map[Role]Options{HTTP: {NoFallback: true}, Port: {}} {
		_, err = a.Listen(ctx, r, o)
		if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("%v without right: %v", r, err)
		}
	}
	l, err := a.Listen(ctx, HTTP, Options{})
	if err != nil {
		return err
	}
	if s := l.Skipped(); len(s) != 1 || s[0].Range != (Range{80, 80}) || s[0].Reason != Denied {
		return fmt.Errorf("skipped: %v", s)
	}
	if int(l.Port()) != fallback {
		return fmt.Errorf("port %d", l.Port())
	}
	fmt.Println("fallen back")
	return nil
}

func TestWithoutRights(t *testing.T) {
	if privilegedBelow() <= 81 {
		t.Skip("not run: ports 80 and 81 need no right on this host")
	}
	p := start(t, "user", nil, nil, strconv.Itoa(int(freePorts(t, 1))))
	require.Equal(t, "fallen back", p.line(t))
	require.NoError(t, p.stop())
}

// TestDocumentedPorts runs in a namespace of its own, where every port is free,
// so that the real numbers can be asserted.
func TestDocumentedPorts(t *testing.T) {
	realtest.NeedRoot(t)
	ip := realtest.Need(t, "ip")
	name := "portalloc-test-" + strconv.Itoa(os.Getpid())
	if out, err := exec.Command(ip, "netns", "add", name).CombinedOutput(); err != nil {
		realtest.Missing(t, fmt.Sprintf("network namespaces (%v: %s)", err, out))
	}
	t.Cleanup(func() {
		out, err := exec.Command(ip, "netns", "del", name).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "nic0", "type", "veth", "peer", "name", "nic1"},
		{"link", "set", "nic0", "up"},
		{"addr", "add", "192.0.2.7/24", "dev", "nic0"},
	} {
		out, err := exec.Command(ip, append([]string{"-n", name}, args...)...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	p := start(t, "namespace", nil, []string{ip, "netns", "exec", name})
	require.Equal(t, "ok", p.line(t))
	require.NoError(t, p.stop())
}

func helperNamespace([]string) error {
	ctx := context.Background()
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			_, _, line, _ := runtime.Caller(1)
			problems = append(problems, fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...)))
		}
	}
	one, err := OneNIC()
	check(err == nil && one, "OneNIC: %v, %v", one, err)

	classic, err := New(Config{Generation: Classic})
	if err != nil {
		return err
	}
	defer classic.Close(ctx)
	port := func(a *Allocator, r Role, o Options) uint16 {
		l, err := a.Listen(ctx, r, o)
		if err != nil {
			problems = append(problems, err)
			return 0
		}
		return l.Port()
	}
	for i := range uint16(10) { // 60000 to 60009: no upper limit
		got := port(classic, LocalIPC, Options{})
		check(got == 60000+i, "local-ipc on %d", got)
	}
	local, remote, err := classic.ListenPair(ctx, PairOptions{OneNIC: one})
	check(err == nil && local.Port() == 61000 && remote.Port() == 61001, "pair: %v", err)
	for i := range uint16(10) {
		got := port(classic, TargetToManager, Options{})
		check(got == 61002+i, "target-to-manager on %d", got)
	}
	for _, want := range []uint16{62286, 62287} {
		got := port(classic, Agent, Options{})
		check(got == want, "agent on %d", got)
	}

	// Dialled from 60010, the first that is left; the agent's port answers.
	d, err := classic.Dialer(DialOptions{})
	if err != nil {
		return err
	}
	conn, err := d.DialContext(ctx, "tcp", "192.0.2.7:62286")
	check(err == nil, "dial: %v", err)
	if err == nil {
		check(conn.(*Conn).SourcePort() == 60010, "dialled from %v", conn.LocalAddr())
	}

	current, err := New(Config{})
	if err != nil {
		return err
	}
	defer current.Close(ctx)
	check(port(current, HTTP, Options{NoFallback: true}) == 80, "80 is free and not used")
	seen := make(map[uint16]bool)
	for range 4 {
		seen[port(current, HTTP, Options{})] = true
	}
	for _, want := range []uint16{63000, 63003, 63004, 63005} {
		check(seen[want], "http never fell back to %d: %v", want, seen)
	}
	_, err = current.Listen(ctx, HTTP, Options{})
	check(errors.Is(err, ErrExhausted), "fifth fallback: %v", err)
	check(port(current, Port, Options{}) == 63001, "port")
	check(port(current, SSLPort, Options{}) == 63002, "ssl_port")
	_, err = current.Listen(ctx, FTP, Options{})
	check(errors.Is(err, ErrDisabled), "ftp: %v", err)

	// A second manager on the host: the ranges go on, the fixed ports are busy,
	// and the error names the first manager.
	second, err := New(Config{Generation: Classic})
	if err != nil {
		return err
	}
	defer second.Close(ctx)
	check(port(second, TargetToManager, Options{}) == 61012, "second manager")
	check(port(second, Agent, Options{}) == 62288, "second agent")
	_, err = second.Listen(ctx, HTTP, Options{NoFallback: true})
	var e *Error
	check(errors.Is(err, ErrBusy) && errors.As(err, &e) && len(e.Skips) == 1 && len(e.Skips[0].Holders) == 1 &&
		e.Skips[0].Holders[0].PID == os.Getpid(), "80 without fallback: %v", err)

	if err := errors.Join(problems...); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
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
			require.NotEmpty(t, s.inode)
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
		{port: 62000, state: "LISTEN", uid: 33, inode: "4711"},
		{port: 60000, state: "TIME-WAIT", uid: 0, inode: "0"},
	}, got)
}
