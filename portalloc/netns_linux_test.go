package portalloc

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// namespaceEnv names the test that a process runs in a namespace of its own.
const namespaceEnv = "PORTALLOC_TEST_NAMESPACE"

// inNamespace runs the calling test once more, in a process with a network
// namespace of its own that nothing else uses, so that the documented numbers can
// be asserted. There it returns true, after the setup: a line "ip ..." is a
// command, a line "a/b/c = d" a setting below /proc/sys/net. Out here it returns
// false, when that process has ended. The namespace ends with the process, and
// the process with this one.
func inNamespace(t *testing.T, setup ...string) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		go func() {
			io.Copy(io.Discard, os.Stdin) // until the test outside is gone
			os.Exit(3)
		}()
		for _, line := range append([]string{"ip link set lo up"}, setup...) {
			configure(t, line)
		}
		return true
	}
	realtest.NeedRoot(t)
	realtest.Need(t, "ip")
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		realtest.Missing(t, fmt.Sprintf("network namespaces (%v)", err))
	}
	require.NoError(t, err, "in the namespace:\n%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

func configure(t *testing.T, line string) {
	t.Helper()
	if path, value, ok := strings.Cut(line, " = "); ok {
		require.NoError(t, os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0o644))
		return
	}
	args := strings.Fields(line)
	out, err := exec.Command(realtest.Need(t, args[0]), args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", line, out)
	if addr, ok := strings.CutPrefix(line, "ip addr add "); ok && strings.Contains(addr, ":") {
		// The kernel makes an IPv6 address its own a moment later, also with nodad.
		addr, _, _ = strings.Cut(addr, "/")
		poll(t, func() bool {
			out, _ := exec.Command(realtest.Need(t, "ip"), "-6", "route", "get", addr).Output()
			return strings.HasPrefix(string(out), "local ")
		}, addr+" does not become local")
	}
}

// nic makes a network adapter with addresses, and a peer that has none.
func nic(name string, addrs ...string) []string {
	lines := []string{
		"ip link add " + name + " type veth peer name " + name + "x",
		"ip link set " + name + " up",
		"ip link set " + name + "x up",
	}
	for _, addr := range addrs {
		line := "ip addr add " + addr + " dev " + name
		if strings.Contains(addr, ":") {
			line += " nodad"
		}
		lines = append(lines, line)
	}
	return lines
}

// become gives up the rights of root.
func become(t *testing.T, uid int) {
	t.Helper()
	require.NoError(t, syscall.Setgroups(nil))
	require.NoError(t, syscall.Setgid(uid))
	require.NoError(t, syscall.Setuid(uid))
}

const nobody = 65534

// refuseFamily makes socket(2) fail for an address family, as the setting
// RestrictAddressFamilies of systemd does, and a kernel without the family.
func refuseFamily(t *testing.T, family, errno uint32) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // low half of its first argument
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: family, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	require.NoError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	require.Zero(t, e)
	_, err := unix.Socket(int(family), unix.SOCK_STREAM, 0)
	require.ErrorIs(t, err, syscall.Errno(errno))
}

// answering returns which of the addresses take a connection on the port.
func answering(port uint16, hosts ...string) (got []string) {
	for _, host := range hosts {
		if conn, err := net.Dial("tcp", at(host, port)); err == nil {
			conn.Close()
			got = append(got, host)
		}
	}
	return got
}

const (
	nic4 = "192.0.2.7"
	nic6 = "2001:db8::7"
)

// familyCase is what a host with some choice of families must give.
type familyCase struct {
	dual, loopback []string // addresses that answer
	both           bool     // Options.Addrs of both wildcards
	four, six      bool     // Family IPv4 and IPv6
	oneNIC         bool
}

func testFamilies(t *testing.T, c familyCase) {
	a, err := New(Config{Generation: Classic})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close(t.Context())) })
	all := []string{"127.0.0.1", nic4, "::1", nic6}

	l, err := a.Listen(t.Context(), TargetToManager, Options{})
	require.NoError(t, err)
	require.Equal(t, c.dual, answering(61000, all...), "%v", l.Addrs())
	require.Len(t, l.Addrs(), 1)
	l, err = a.Listen(t.Context(), LocalIPC, Options{})
	require.NoError(t, err)
	require.Equal(t, c.loopback, answering(60000, all...), "%v", l.Addrs())
	require.Equal(t, len(c.loopback), len(l.Addrs()))

	for o, ok := range map[*Options]bool{
		{Family: IPv4}: c.four,
		{Family: IPv6}: c.six,
		{Addrs: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}}: c.both,
	} {
		l, err := a.Listen(t.Context(), TargetToManager, *o)
		if ok {
			require.NoError(t, err, "%+v", o)
			require.NoError(t, l.Close())
			continue
		}
		require.Error(t, err, "%+v", o)
		require.NotEmpty(t, asError(t, err).Advice, "%v", err)
		require.NotErrorIs(t, err, ErrExhausted, "another port does not help")
	}

	// From a held source port to every address that answers.
	d, err := a.Dialer(DialOptions{})
	require.NoError(t, err)
	for i, host := range c.dual {
		conn, err := d.DialContext(t.Context(), "tcp", at(host, 61000))
		require.NoError(t, err)
		require.Equal(t, uint16(60001+i), conn.(*Conn).SourcePort())
	}

	one, err := OneNIC()
	require.NoError(t, err)
	require.Equal(t, c.oneNIC, one)
}

func TestHostWithBothFamilies(t *testing.T) {
	if inNamespace(t, nic("nic0", nic4+"/24", nic6+"/64")...) {
		all := []string{"127.0.0.1", nic4, "::1", nic6}
		testFamilies(t, familyCase{dual: all, loopback: []string{"127.0.0.1", "::1"}, both: true, four: true, six: true})
	}
}

func TestHostWithBindV6Only(t *testing.T) {
	if inNamespace(t, append(nic("nic0", nic4+"/24", nic6+"/64"), "ipv6/bindv6only = 1")...) {
		all := []string{"127.0.0.1", nic4, "::1", nic6}
		testFamilies(t, familyCase{dual: all, loopback: []string{"127.0.0.1", "::1"}, both: true, four: true, six: true})
	}
}

// TestHostWithoutIPv6Addresses has the administrator's switch for "no IPv6".
// The kernel still has IPv6 sockets, with no address to use.
func TestHostWithoutIPv6Addresses(t *testing.T) {
	if inNamespace(t, append([]string{"ipv6/conf/all/disable_ipv6 = 1", "ipv6/conf/default/disable_ipv6 = 1"}, nic("nic0", nic4+"/24")...)...) {
		four := []string{"127.0.0.1", nic4}
		testFamilies(t, familyCase{dual: four, loopback: four[:1], both: true, four: true, six: true, oneNIC: true})
	}
}

// TestHostWithoutIPv6Sockets is a host whose kernel, or a program whose sandbox,
// knows no IPv6.
func TestHostWithoutIPv6Sockets(t *testing.T) {
	if inNamespace(t, nic("nic0", nic4+"/24")...) {
		refuseFamily(t, unix.AF_INET6, uint32(unix.EAFNOSUPPORT))
		four := []string{"127.0.0.1", nic4}
		testFamilies(t, familyCase{dual: four, loopback: four[:1], both: false, four: true, six: false, oneNIC: true})
	}
}

// TestHostWithIPv6Only has no IPv4 address, not even for loopback.
func TestHostWithIPv6Only(t *testing.T) {
	if inNamespace(t, append(nic("nic0", nic6+"/64"), "ip addr del 127.0.0.1/8 dev lo")...) {
		six := []string{"::1", nic6}
		testFamilies(t, familyCase{dual: six, loopback: six[:1], both: true, four: true, six: true})
	}
}

// TestHostWithoutIPv4Sockets is the future.
func TestHostWithoutIPv4Sockets(t *testing.T) {
	if inNamespace(t, append(nic("nic0", nic6+"/64"), "ip addr del 127.0.0.1/8 dev lo")...) {
		refuseFamily(t, unix.AF_INET, uint32(unix.EAFNOSUPPORT))
		six := []string{"::1", nic6}
		testFamilies(t, familyCase{dual: six, loopback: six[:1], both: false, four: false, six: true})
	}
}

func TestLinkLocal(t *testing.T) {
	if !inNamespace(t, nic("nic0", "fe80::7/64")...) {
		return
	}
	a, err := New(Config{Generation: Classic})
	require.NoError(t, err)
	defer a.Close(t.Context())
	addr := netip.MustParseAddr("fe80::7")
	_, err = a.Listen(t.Context(), TargetToManager, Options{Addrs: []netip.Addr{addr}})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = a.Dialer(DialOptions{Local: addr})
	require.ErrorIs(t, err, ErrInvalid)

	addr = addr.WithZone("nic0")
	l, err := a.Listen(t.Context(), TargetToManager, Options{Addrs: []netip.Addr{addr}})
	require.NoError(t, err)
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(addr, 61000)}, l.Addrs())
	d, err := a.Dialer(DialOptions{Local: addr})
	require.NoError(t, err)
	conn, err := d.DialContext(t.Context(), "tcp", "[fe80::7%nic0]:61000")
	require.NoError(t, err)
	require.Equal(t, uint16(60000), conn.(*Conn).SourcePort())
}

func TestOneNICOfTheHost(t *testing.T) {
	if !inNamespace(t, nic("nic0", nic4+"/24")...) {
		return
	}
	rule := func() bool {
		one, err := OneNIC()
		require.NoError(t, err)
		return one
	}
	require.True(t, rule())
	configure(t, "ip addr add "+nic6+"/64 dev nic0 nodad")
	require.False(t, rule(), "IPv6 too")
	configure(t, "ip addr del "+nic6+"/64 dev nic0")
	require.True(t, rule())
	for _, line := range nic("nic1", "198.51.100.1/24") {
		configure(t, line)
	}
	require.False(t, rule(), "two adapters")
	configure(t, "ip link set nic1 down")
	require.True(t, rule(), "one of two is down")
}
