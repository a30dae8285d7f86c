package portalloc

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMessages has the errors as an operator reads them, word for word.
func TestMessages(t *testing.T) {
	if !inNamespace(t, "ipv4/ip_unprivileged_port_start = 1024", "ipv4/ip_local_port_range = 32768 60999") {
		return
	}
	// hold has another process listen, and returns its name as messages give it.
	hold := func(addresses ...string) string {
		p := start(t, "hold", nil, nil, addresses...)
		require.Equal(t, "ready", p.line(t))
		return fmt.Sprintf("%s (pid %d)", programName(t), p.cmd.Process.Pid)
	}
	says := func(want string, a *Allocator, r Role, o Options) {
		t.Helper()
		_, err := a.Listen(t.Context(), r, o)
		require.EqualError(t, err, "portalloc: "+want)
	}
	web, setting := hold(":80"), hold("127.0.0.1:63001")
	lower, upper := hold(":61000", ":61001", ":61002", ":61003"), hold(":61004", ":61005", ":61006", ":61007")

	a := newManager(t, Config{
		Generation: Classic,
		Policies: map[Role]Policy{
			LocalIPC:        {First: 60000, Last: 60003},
			TargetToManager: {First: 61000, Last: 61007},
			FTP:             Fixed(443),
		},
		Exclude: []Range{{60000, 60001}, {63002, 63002}},
	})
	says("listen for role http on 80: port is taken: 80 taken by "+web+
		" (stop what has the port: the target asks for this port and no other)", a, HTTP, Options{NoFallback: true})
	says("listen for role port on 63001: port is taken: 63001 taken by "+setting+
		" (stop what has the port, or give the role another one in Config.Policies)", a, Port, Options{})
	says("listen for role ssl_port on 63002: invalid configuration: 63002 excluded by configuration"+
		" (take the port out of Config.Exclude, or give the role another one in Config.Policies)", a, SSLPort, Options{})
	says("listen for role target-to-manager on 61000-61007: no free port is left:"+
		" 61000-61003 taken by "+lower+"; 61004-61007 taken by "+upper+
		" (stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies)",
		a, TargetToManager, Options{})

	_, err := leaseAll(t, a, LocalIPC, Options{})
	require.EqualError(t, err, "portalloc: listen for role local-ipc on 60000-60003: no free port is left:"+
		" 60000-60001 excluded by configuration; 60002-60003 leased by this program for role local-ipc"+
		" (close leases that are no longer needed, or widen the range in Config.Policies)")
	_, err = leaseAll(t, a, HTTP, Options{})
	require.EqualError(t, err, "portalloc: listen for role http on 80, then 63000-63005 in random order: no free port is left:"+
		" 80 taken by "+web+"; 63000 leased by this program for role http; 63001 belongs to role port;"+
		" 63002 excluded by configuration; 63003-63005 leased by this program for role http"+
		" (stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies)")
	lease(t, a, FTP, Options{})
	says("listen for role ftp_port on 443: port is taken: 443 leased by this program for role ftp_port"+
		" (this program has the port already: use that lease, or close it)", a, FTP, Options{})

	// A range that the kernel takes source ports from.
	local := hold("127.0.0.1:60000")
	b := newManager(t, Config{Policies: map[Role]Policy{LocalIPC: {First: 60000, Last: 60000}, Port: Fixed(80)}})
	says("listen for role local-ipc on 60000: no free port is left: 60000 taken by "+local+
		" (stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies;"+
		" outgoing connections of this host also use this range: reserve it, that is add 60000 to the sysctl net.ipv4.ip_local_reserved_ports)",
		b, LocalIPC, Options{})
	says("listen for role http on 80: port is taken: 80 belongs to role port"+
		" (use the listener of role port, or give that role another port in Config.Policies)", b, HTTP, Options{NoFallback: true})
	says("listen for role agent: role is off (the role is part of Generation Classic; choose that, or give the role a port in Config.Policies)",
		b, Agent, Options{})
	says("listen for role ftp_port: role is off (give the role a port in Config.Policies)", b, FTP, Options{})

	// A socket that is only bound, which the kernel does not show.
	bound, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer syscall.Close(bound)
	require.NoError(t, syscall.Bind(bound, &syscall.SockaddrInet4{Port: 2121}))
	b = newManager(t, Config{Policies: map[Role]Policy{FTP: Fixed(2121)}})
	says("listen for role ftp_port on 2121: port is taken: 2121 taken"+
		" (stop what has the port, or give the role another one in Config.Policies;"+
		" where no program is named, a socket that does not listen is bound to the port, or it has been closed by now)", b, FTP, Options{})

	// Source ports.
	b = newManager(t, Config{Generation: Classic, Policies: map[Role]Policy{ManagerToTarget: {First: 60000, Last: 60001}}})
	d, err := b.Dialer(DialOptions{})
	require.NoError(t, err)
	_, err = d.DialContext(t.Context(), "tcp", "127.0.0.1:60001")
	require.EqualError(t, err, "portalloc: dial for role manager-to-target from 60000-60001: no free port is left:"+
		" 60000 taken by "+local+"; 60001 the target's own port"+
		" (stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies;"+
		" outgoing connections of this host also use this range: reserve it, that is add 60000-60001 to the sysctl net.ipv4.ip_local_reserved_ports)")

	// Without the rights of root the programs have no names.
	become(t, nobody)
	c := newManager(t, Config{Generation: Classic, Policies: map[Role]Policy{TargetToManager: {First: 61000, Last: 61007}}})
	says("listen for role target-to-manager on 61000-61007: no free port is left: 61000-61007 taken by a program of user id 0"+
		" (stop what has the ports, close leases that are no longer needed, or widen the range in Config.Policies;"+
		" run as root to learn which program that is)", c, TargetToManager, Options{})
	says("listen for role port on 63001: port is taken: 63001 taken by a program of user id 0"+
		" (stop what has the port, or give the role another one in Config.Policies; run as root to learn which program that is)", c, Port, Options{})
	says("listen for role http on 80: permission denied: 80 refused by the operating system"+
		" (run with the right to use privileged ports (root; on Linux also CAP_NET_BIND_SERVICE), or configure a higher port)",
		c, HTTP, Options{NoFallback: true})
}

func TestLongMessagesAreCut(t *testing.T) {
	e := &Error{Op: "listen", Role: Agent, Kind: ErrExhausted}
	for port := uint16(1); port < 100; port += 2 {
		e.Skips = append(e.Skips, Skip{Range: Range{port, port}, Reason: Busy})
	}
	require.Contains(t, e.Error(), "; and 38 more")
	require.Equal(t, 12, strings.Count(e.Error(), "taken"))
}

func TestAdvice(t *testing.T) {
	judged := func(p Policy, skips ...Skip) *Error {
		e := &Error{Skips: skips}
		judge(e, plan{role: LocalIPC, policy: p})
		return e
	}
	one := Range{1030, 1030}
	rng := Policy{First: 1030, Last: 1031}
	for name, c := range map[string]struct {
		policy Policy
		skips  []Skip
		kind   error
		advice string
	}{
		"nothing left":    {rng, []Skip{{Range: one, Reason: OtherRole, Role: HTTP}, {Range: one, Reason: SystemReserved}}, ErrExhausted, "nothing is left for the role"},
		"security policy": {rng, []Skip{{Range: one, Reason: Denied}, {Range: one, Reason: Excluded}}, syscall.EACCES, "SELinux"},
		"partly refused":  {rng, []Skip{{Range: one, Reason: Denied}, {Range: one, Reason: Busy}}, ErrExhausted, "stop what has the ports"},
		"fixed, by name":  {Fixed(1030), []Skip{{Range: one, Reason: OtherRole, Role: HTTP}}, ErrBusy, "role http"},
	} {
		for i := range c.skips {
			if c.skips[i].Reason == Denied {
				c.skips[i].Err = syscall.EACCES
			}
		}
		e := judged(c.policy, c.skips...)
		require.ErrorIs(t, e, c.kind, name)
		require.Contains(t, e.Advice, c.advice, name)
	}
}

func TestHolderAdvice(t *testing.T) {
	busy := func(h ...Holder) []Skip { return []Skip{{Range: Range{1, 1}, Reason: Busy, Holders: h}} }
	known := Holder{PID: 1, Program: "init", State: "LISTEN"}
	ended := Holder{State: "TIME-WAIT"}
	require.Empty(t, holderAdvice(busy(known, ended), nil))
	require.Contains(t, holderAdvice(busy(known, Holder{State: "LISTEN"}), nil), hiddenAdvice())
	require.Contains(t, holderAdvice(busy(), nil), "does not listen")
	require.Contains(t, holderAdvice(busy(), syscall.ENOMEM), syscall.ENOMEM.Error())
	require.Equal(t, "a connection of nc (pid 7)", Holder{PID: 7, Program: "nc", State: "ESTABLISHED"}.String())
	require.Equal(t, "a connection of a program of user id 33", Holder{UID: 33, State: "ESTABLISHED"}.String())
	require.Equal(t, "another program", Holder{UID: -1, State: "LISTEN"}.String())
	require.Equal(t, "pid 7", Holder{PID: 7, State: "LISTEN"}.String())
	require.Equal(t, "a connection that has just ended", ended.String())
}
