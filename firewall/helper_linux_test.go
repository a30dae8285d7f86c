package firewall_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/internal/realtest"
)

// roleEnv names what a process of the test binary does instead of testing.
const roleEnv = "FIREWALL_TEST_ROLE"

const (
	tcpPort = 8080
	udpPort = 8081
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "listen":
		listen()
	case "dial":
		dial()
	case "manager":
		manage()
	case "driver":
		drive()
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// listen serves the two ports on both families until its input ends.
func listen() {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", tcpPort))
	check(err)
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", udpPort))
	check(err)
	go func() {
		for {
			c, err := l.Accept()
			check(err)
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(b)
			check(err)
			_, err = u.WriteTo(b[:n], from)
			check(err)
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// dial tries each of its arguments, "network source destination", at once, and
// prints a line for each.
func dial() {
	results := make([]chan string, len(os.Args)-1)
	for i, arg := range os.Args[1:] {
		results[i] = make(chan string, 1)
		go func() { results[i] <- dialOne(strings.Fields(arg)) }()
	}
	for _, r := range results {
		fmt.Println(<-r)
	}
}

func dialOne(f []string) string {
	network, source, dest := f[0], netip.MustParseAddr(f[1]), f[2]
	d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	c, err := d.Dial(network, dest)
	if err == nil && network == "udp" {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err = c.Write([]byte("hello")); err == nil {
			_, err = c.Read(make([]byte, 10))
		}
	}
	switch {
	case err == nil:
		return "open"
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EINVAL):
		return "error " + err.Error() // the test has a wrong source
	}
	return "closed " + err.Error()
}

// manage is a manager that does what it is told, a line at a time.
func manage() {
	ctx := context.Background()
	o := firewall.Options{
		Run: "test", Check: time.Hour, // events have to do
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Rules:  []firewall.Rule{rule("tcp", tcpPort, "192.0.2.5/32")},
	}
	var fw *firewall.Firewall
	var leases []*firewall.Lease
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		answer, err := "", error(nil)
		switch f[0] {
		case "open": // options
			for _, option := range f[1:] {
				setOption(&o, option)
			}
			fw, err = firewall.Open(ctx, o)
			answer = fmt.Sprint(os.Getpid())
		case "allow": // network, prefixes
			var l *firewall.Lease
			port := uint16(tcpPort)
			if f[1] == "udp" {
				port = udpPort
			}
			if l, err = fw.Allow(ctx, rule(f[1], port, f[2:]...)); err == nil {
				leases = append(leases, l)
				answer = strings.Join(l.ByHand(), "; ")
			}
		case "many": // leases at once
			var rules []firewall.Rule
			for i := range 1000 {
				v4 := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
				v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(i >> 8), byte(i)})
				rules = append(rules, firewall.Rule{Network: "tcp", Port: uint16(20000 + i), From: []netip.Prefix{
					netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}})
			}
			start := time.Now()
			var l *firewall.Lease
			if l, err = fw.Allow(ctx, rules...); err == nil {
				leases = append(leases, l)
			}
			answer = time.Since(start).String()
		case "release":
			for _, l := range leases {
				err = errors.Join(err, l.Close(ctx), l.Close(ctx))
			}
			leases = nil
		case "state":
			var s firewall.State
			s, err = fw.State(ctx)
			answer = fmt.Sprintf("{%v %v %v}", s.FrontEnds, s.Blocks, s.Owners)
			if s.Guessed {
				answer += " guessed"
			}
		case "close":
			err = errors.Join(fw.Close(ctx), fw.Close(ctx))
		case "sweep":
			var left []firewall.Leftover
			left, err = firewall.Sweep(ctx, o)
			answer = fmt.Sprintf("%d %v", len(left), left)
		}
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " | "))
		} else {
			fmt.Println("ok", answer)
		}
	}
}

// setOption sets for example "check=1s".
func setOption(o *firewall.Options, option string) {
	name, value, _ := strings.Cut(option, "=")
	var err error
	switch name {
	case "check":
		o.Check, err = time.ParseDuration(value)
	case "ttl":
		o.TTL, err = time.ParseDuration(value)
	case "old":
		firewall.OldKernel(o)
	case "none":
		o.Driver = firewall.None()
	case "lock":
		o.LockFile = value
	case "mark":
		_, err = fmt.Sscanf(value, "%v/%v", &o.Mark, &o.Mask)
	default:
		err = fmt.Errorf("option %q", option)
	}
	check(err)
}

// drive asks this host's driver, a step a line, for what it must refuse.
func drive() {
	ctx := context.Background()
	d, err := firewall.System(ctx, firewall.Options{Run: "test", Mark: 2, Mask: 0xffffffff, Check: time.Hour})
	check(err)
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	open := firewall.Opening{Network: "tcp", Port: tcpPort, From: netip.MustParsePrefix(friend4 + "/32")}
	never := firewall.Opening{Network: "tcp", Port: 1, From: netip.MustParsePrefix("10.0.0.0/8")}
	err = d.Apply(ctx, []firewall.Opening{open}, []firewall.Opening{never})
	fmt.Println("refused:", errors.Is(err, syscall.ENOENT), err)
	in.Scan()
	check(d.Apply(ctx, []firewall.Opening{open}, nil))
	err = d.Apply(ctx, []firewall.Opening{never}, []firewall.Opening{never})
	fmt.Println("refused:", errors.Is(err, syscall.ENOENT), err)
	in.Scan()
	check(d.Close(ctx))
	fmt.Println("closed")
}

func rule(network string, port uint16, from ...string) firewall.Rule {
	r := firewall.Rule{Network: network, Port: port}
	for _, p := range from {
		if p == "anyone" {
			r.Anyone = true
			continue
		}
		r.From = append(r.From, netip.MustParsePrefix(p))
	}
	return r
}

// The manager's addresses: a friend that rules name, and a stranger.
const (
	friend4, stranger4 = "192.0.2.5", "198.51.100.9"
	friend6, stranger6 = "2001:db8:1::1", "2001:db8:ffff::9"
)

// A lab is a host with listeners, and two addresses that dial it.
type lab struct {
	*realtest.Host
	t   *testing.T
	net *realtest.Net
}

const program = "/usr/local/bin/fwtest"

// newLab makes a host without any firewall, and does what the script says on it.
func newLab(t *testing.T, script string) *lab {
	t.Helper()
	n := realtest.NewNet(t)
	l := &lab{Host: n.Host(realtest.HostConfig{}), t: t, net: n}
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer self.Close()
	cmd := l.Command(t.Context(), "sh", "-c", "cat >"+program+" && chmod +x "+program)
	cmd.Stdin = self
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, args := range [][]string{{"addr", "add", stranger4 + "/32", "dev", "v1"}, {"addr", "add", stranger6 + "/128", "dev", "v1", "nodad"}} {
		out, err := n.Command(t.Context(), "ip", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	// What is rejected is to show at once, each time.
	const quick = "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit\necho 0 >/proc/sys/net/ipv6/icmp/ratelimit\n"
	l.Run("sh", "-ec", quick+"nft flush ruleset\nip route add "+stranger4+" dev eth0\nip -6 route add "+stranger6+" dev eth0\n"+script)
	require.Equal(t, "ready", l.start("listen").line())
	return l
}

// A process is one of the test binary's roles on the host.
type process struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func (l *lab) start(role string, prefix ...string) *process {
	l.t.Helper()
	args := append(append([]string{}, prefix...), "env", roleEnv+"="+role, "GORACE=atexit_sleep_ms=0", program)
	cmd := l.Command(l.t.Context(), args[0], args[1:]...)
	in, err := cmd.StdinPipe()
	require.NoError(l.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(l.t, err)
	errs := &bytes.Buffer{}
	cmd.Stderr = errs
	require.NoError(l.t, cmd.Start())
	l.t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // ends with its input
		if l.t.Failed() {
			l.t.Logf("%s:\n%s", role, errs)
		}
	})
	return &process{l.t, in, bufio.NewScanner(out)}
}

func (p *process) line() string {
	p.t.Helper()
	require.True(p.t, p.out.Scan(), "the process has ended")
	return p.out.Text()
}

// do sends a line and returns the answer to it, which must be ok.
func (p *process) do(line string) string {
	p.t.Helper()
	answer := p.try(line)
	require.Truef(p.t, strings.HasPrefix(answer, "ok"), "%s: %s", line, answer)
	return strings.TrimSpace(strings.TrimPrefix(answer, "ok"))
}

func (p *process) try(line string) string {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, line)
	require.NoError(p.t, err)
	return p.line()
}

// manager starts a manager and opens its firewall.
func (l *lab) manager(options ...string) (m *process, pid string) {
	l.t.Helper()
	m = l.start("manager")
	return m, m.do("open " + strings.Join(options, " "))
}

// kill kills a process on the host and waits for its end.
func (l *lab) kill(pid string) {
	l.t.Helper()
	l.Run("kill", "-KILL", pid)
	l.poll(func() bool {
		return l.Command(l.t.Context(), "sh", "-c", `! [ -e /proc/$1 ] || grep -q "^State:.Z" /proc/$1/status`, "sh", pid).Run() == nil
	}, "the killed process is still there")
}

// killedInMid kills a new manager so long after it was told to open, or every third
// time to close.
func (l *lab) killedInMid(i int, after time.Duration) {
	l.t.Helper()
	victim, pid := l.manager()
	command := allowFriend
	if i%3 == 2 {
		victim.do(allowFriend)
		command = "close"
	}
	_, err := fmt.Fprintln(victim.in, command)
	require.NoError(l.t, err)
	time.Sleep(after) // any point will do
	l.kill(pid)
}

func (l *lab) poll(ok func() bool, message string) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		require.True(l.t, time.Now().Before(deadline), message)
	}
}

// reach dials a port from friend and stranger, over both families, and returns
// who got in: "friend4 friend6 stranger4 stranger6".
func (l *lab) reach(network string) string {
	l.t.Helper()
	port := tcpPort
	if network == "udp" {
		port = udpPort
	}
	from := []struct{ name, source, dest string }{
		{"friend4", friend4, l.Addr}, {"friend6", friend6, l.Addr6},
		{"stranger4", stranger4, l.Addr}, {"stranger6", stranger6, l.Addr6},
	}
	// The race detector would sleep for a second at the end.
	args := []string{roleEnv + "=dial", "GORACE=atexit_sleep_ms=0", selfPath(l.t)}
	for _, f := range from {
		args = append(args, fmt.Sprintf("%s %s %s", network, f.source, net.JoinHostPort(f.dest, fmt.Sprint(port))))
	}
	out, err := l.net.Command(l.t.Context(), "env", args...).CombinedOutput()
	require.NoError(l.t, err, "%s", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(l.t, lines, len(from), "%s", out)
	var in []string
	for i, f := range from {
		if lines[i] == "open" {
			in = append(in, f.name)
		} else {
			require.Contains(l.t, lines[i], "closed")
		}
	}
	return strings.Join(in, " ")
}

func selfPath(t *testing.T) string {
	self, err := os.Executable()
	require.NoError(t, err)
	return self
}

var counters = regexp.MustCompile(`(?m) \[[0-9]+:[0-9]+\]|^#.*\n`)

// dump is everything that the host's front ends hold, without counters and times.
func (l *lab) dump(frontEnd string) string {
	l.t.Helper()
	dump := l.Run("nft", "-s", "list", "ruleset")
	switch frontEnd {
	case "nft": // the others would make tables only to look
	case "firewalld":
		dump += l.Run("sh", "-ec", "firewall-cmd --list-all-zones | sort") // its order is random
	case "iptables-legacy":
		dump += l.Run("sh", "-ec", "iptables-legacy-save; ip6tables-legacy-save")
	default:
		dump += l.Run("sh", "-ec", "iptables-nft-save; ip6tables-nft-save")
	}
	return counters.ReplaceAllString(dump, "")
}

func needs(t *testing.T, programs ...string) {
	for _, p := range programs {
		realtest.Need(t, p)
	}
}
