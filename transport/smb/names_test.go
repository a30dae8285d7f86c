package smb

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestNameOf(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "/": "", ".": "", "a": "a", "/Temp/x y.exe": `Temp\x y.exe`, "a//b/": `a\b`, "a/./b": `a\b`, "a/../b": "b", "a/b/../../c": "c", "größe-日本語": "größe-日本語",
		"/../a": "a", "Console": "Console", "COM10.txt": "COM10.txt", "COM12": "COM12", ".hidden": ".hidden", "COM": "COM",
	} {
		got, err := nameOf(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{
		`a\b`, "a:stream", "a*", "a?", `a"b`, "a<b", "a>b", "a|b", "a\nb", "a\x00", "end.", "end ", "a/end./b", "..twodots...", "\xff",
		"..", "../x", "a/../../x", "./../x", "CON", "nul.txt", "x/Com1", "lpt9.log", "com¹", "CONIN$", "aux .c", "prn",
	} {
		_, err := nameOf(in)
		require.Error(t, err, in)
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		want string
		argv []string
	}{
		{`"C:\Windows\a b\x.exe" serve`, []string{`C:\Windows\a b\x.exe`, "serve"}},
		{`"x" "" "a b" "say \"hi\"" back\slash "end \\" "q\\\"q"`, []string{"x", "", "a b", `say "hi"`, `back\slash`, `end \`, `q\"q`}},
	} {
		got, err := commandLine(x.argv)
		require.NoError(t, err)
		require.Equal(t, x.want, got)
	}
	for _, bad := range [][]string{{`a"b`}, {"a\x00"}, {"a", "b\x00"}} {
		_, err := commandLine(bad)
		require.Error(t, err)
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	status := func(state, exit, specific, pid uint32) []byte {
		b := make([]byte, statusBuffer)
		for i, v := range map[int]uint32{0: ownProcess, 1: state, 3: exit, 4: specific, 7: pid} {
			binary.LittleEndian.PutUint32(b[4*i:], v)
		}
		return b
	}
	for _, x := range []struct {
		in   []byte
		want transport.ServiceStatus
	}{
		{status(4, 0, 0, 9), transport.ServiceStatus{State: transport.ServiceRunning, PID: 9}},
		{status(2, 0, 0, 9), transport.ServiceStatus{State: transport.ServiceStarting, PID: 9}},
		{status(3, 0, 0, 9), transport.ServiceStatus{State: transport.ServiceStopping, PID: 9}},
		{status(7, 0, 0, 9), transport.ServiceStatus{State: transport.ServiceRunning, PID: 9}},
		{status(1, 1077, 0, 9), transport.ServiceStatus{State: transport.ServiceStopped}},
		{status(1, 1067, 0, 0), transport.ServiceStatus{State: transport.ServiceStopped, Exit: transport.Code{Space: "win32", Value: "1067"}}},
		{status(1, 1066, 3, 0), transport.ServiceStatus{State: transport.ServiceStopped, Exit: transport.Code{Space: "service", Value: "3"}}},
	} {
		st, err := parseStatus(x.in)
		require.NoError(t, err)
		require.Equal(t, x.want, st)
	}
	_, err := parseStatus(status(9, 0, 0, 0))
	require.Error(t, err)
	_, err = parseStatus(make([]byte, statusBuffer-1))
	require.Error(t, err)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("0f", 16)
	for _, x := range []struct {
		creds transport.Credentials
		opts  Options
		want  account
	}{
		{transport.Credentials{User: "ops", Password: transport.NewSecret("p")}, Options{}, account{user: "ops", password: "p"}},
		{transport.Credentials{User: `LAB\ops`, Password: transport.NewSecret("p")}, Options{}, account{user: "ops", domain: "LAB", password: "p"}},
		{transport.Credentials{User: "LAB;ops", Domain: "lab", Password: transport.NewSecret("p")}, Options{}, account{user: "ops", domain: "LAB", password: "p"}},
		{transport.Credentials{User: `.\ops`, Password: transport.NewSecret("p")}, Options{}, account{user: "ops", password: "p"}},
		{transport.Credentials{User: "ops@lab.example", Domain: "LAB", Password: transport.NewSecret("p")}, Options{}, account{user: "ops@lab.example", password: "p"}},
		{transport.Credentials{User: "ops"}, Options{NTHash: transport.NewSecret(hash)}, account{user: "ops", hash: strings.Repeat("\x0f", 16)}},
	} {
		got, err := accountOf(transport.Endpoint{Credentials: x.creds}, x.opts)
		require.NoError(t, err)
		require.Equal(t, x.want, got)
	}
	for _, x := range []struct {
		creds transport.Credentials
		opts  Options
	}{
		{transport.Credentials{Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: "ops"}, Options{}},
		{transport.Credentials{User: ";"}, Options{}},
		{transport.Credentials{User: ";ops", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: `\ops`, Domain: "LAB", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: "LAB;", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: `LAB\`, Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: "ops@", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: "@lab.example", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: `A\ops`, Domain: "B", Password: transport.NewSecret("p")}, Options{}},
		{transport.Credentials{User: "ops", Password: transport.NewSecret("p")}, Options{NTHash: transport.NewSecret(hash)}},
		{transport.Credentials{User: "ops"}, Options{NTHash: transport.NewSecret(hash[1:])}},
	} {
		_, err := accountOf(transport.Endpoint{Credentials: x.creds}, x.opts)
		require.Error(t, err)
		require.NotContains(t, err.Error(), hash[1:])
	}
	for _, bad := range []any{Options{Share: "IPC$"}, Options{Share: `a\b`}, Options{Dialect: 0x100}, Options{ConnectTimeout: -1}, &struct{}{}, 7} {
		_, err := options(transport.Endpoint{Options: bad})
		require.Error(t, err)
	}
	o, err := options(transport.Endpoint{Options: (*Options)(nil)})
	require.NoError(t, err)
	require.Equal(t, "3.1.1", o.Dialect.String())
	require.True(t, o.isAdmin())
	require.Equal(t, "fe80--1s4.ipv6-literal.net", uncHost("fe80::1%4"))
	require.Equal(t, "db1", uncHost("db1"))
}
