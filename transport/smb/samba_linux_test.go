package smb_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

const sambaLibexec = "/usr/libexec/samba/"

// sambaRPC starts Samba's own services of MS-RPCE beside a server: over TCP, with an
// endpoint mapper on port 135 of a loopback address of its own, which it returns, and
// over the pipes of the server, unless these are to be in another directory. It ends with
// the test, also if that is killed.
func sambaRPC(t *testing.T, srv *smbtest.Server, pipes string, services ...string) netip.Addr {
	realtest.NeedRoot(t)
	realtest.Need(t, sambaLibexec+"samba-dcerpcd")
	addr := netip.AddrFrom4([4]byte{127, byte(64 + rand.IntN(64)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	dir := configDir(t, srv)
	args := []string{"-c", `"$@" </dev/null & read -r _; kill -KILL 0`, "sh",
		sambaLibexec + "samba-dcerpcd", "-F", "--no-process-group", "-s", filepath.Join(dir, "smb.conf"), "-l", t.TempDir(),
		"--option=interfaces=" + addr.String() + "/8", "--option=log file=/dev/null"}
	sockets := filepath.Join(dir, "rpc", "np")
	if pipes != "" {
		sockets = filepath.Join(pipes, "np")
		require.NoError(t, os.MkdirAll(sockets, 0o700))
		args = append(args, "--option=ncalrpc dir="+pipes)
	}
	for _, s := range services {
		args = append(args, sambaLibexec+s)
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	// In a process namespace of its own it would have the process IDs of smbd, by which
	// Samba's processes find each other.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	life, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = life.Close()
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		if !slices.Contains(services, "rpcd_epmapper") {
			found, err := filepath.Glob(filepath.Join(sockets, "winreg"))
			return err == nil && len(found) > 0
		}
		c, err := net.Dial("tcp", netip.AddrPortFrom(addr, 135).String())
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}, time.Minute, 10*time.Millisecond, "samba-dcerpcd listens")
	return addr
}

// configDir is where a server keeps what it has.
func configDir(t *testing.T, srv *smbtest.Server) string {
	dir := filepath.Dir(filepath.Dir(srv.Admin()))
	require.FileExists(t, filepath.Join(dir, "smb.conf"))
	return dir
}

// registered puts values into the registry of a server: key, name, type and value.
func registered(t *testing.T, srv *smbtest.Server, values [][4]string) {
	realtest.Need(t, "net")
	var text strings.Builder
	text.WriteString("Windows Registry Editor Version 5.00\r\n")
	for _, v := range values {
		value := strconv.Quote(v[3])
		if v[2] == "dword" {
			n, err := strconv.ParseUint(v[3], 10, 32)
			require.NoError(t, err)
			value = fmt.Sprintf("dword:%08x", n)
		}
		fmt.Fprintf(&text, "\r\n[%s]\r\n%q=%s\r\n", strings.Replace(v[0], "HKLM", "HKEY_LOCAL_MACHINE", 1), v[1], value)
	}
	text.WriteString("\r\n") // or the last one is not read
	file := filepath.Join(t.TempDir(), "values.reg")
	var u []byte
	for _, c := range utf16.Encode([]rune("\ufeff" + text.String())) {
		u = binary.LittleEndian.AppendUint16(u, c)
	}
	require.NoError(t, os.WriteFile(file, u, 0o600))
	out, err := exec.Command("net", "-s", filepath.Join(configDir(t, srv), "smb.conf"), "registry", "import", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

var errElsewhere = errors.New("this port is elsewhere")

// beside dials the port of SMB of a server, and every other port at another address; nil
// refuses them.
func beside(srv *smbtest.Server, other func(ctx context.Context, port string) (net.Conn, error)) *smb.Transport {
	return &smb.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == srv.Addr() {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if own, _, _ := net.SplitHostPort(srv.Addr()); host != own {
			return nil, fmt.Errorf("%s is another host", addr)
		}
		if other == nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errElsewhere}
		}
		return other(ctx, port)
	}}
}

func at(addr netip.Addr) func(ctx context.Context, port string) (net.Conn, error) {
	return func(ctx context.Context, port string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), port))
	}
}

func dialWith(t *testing.T, tr *smb.Transport, ep transport.Endpoint) transport.Conn {
	conn, err := tr.Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// What is installed is read from a real registry, also where WMI is not to be had.
func TestPrograms(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	const (
		native = `HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\`
		wow    = `HKLM\SOFTWARE\WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall\`
		code   = `{0f693AA3-4387-4ACB-A6FD-3A396290587A}`
	)
	upper := strings.ToUpper(code)
	values := [][4]string{
		{native + "Agentless", "Publisher", "sz", "Größe & Co."},
		{native + "Agentless", "DisplayName", "sz", "Größe 日本語"}, {native + "Agentless", "DisplayVersion", "sz", "1.2.3"},
		{native + code, "DisplayName", "sz", "Integrated Smart Update Tools"}, {native + code, "WindowsInstaller", "dword", "1"},
		{native + code, "Version", "dword", fmt.Sprint(4<<24 | 1<<16 | 77)},
		{native + "KB1", "DisplayName", "sz", "an update"}, {native + "KB1", "ParentKeyName", "sz", "OperatingSystem"},
		{native + "settings", "NoRemove", "dword", "1"},
		{wow + "Old", "DisplayName", "sz", "Old tool"}, {wow + "Old", "DisplayVersion", "sz", "0.9"},
		{`HKLM\HARDWARE\DESCRIPTION\System\BIOS`, "SystemManufacturer", "sz", "HPE"},
		{`HKLM\HARDWARE\DESCRIPTION\System\BIOS`, "SystemProductName", "sz", "ProLiant DL380 Gen10"},
		{`HKLM\HARDWARE\DESCRIPTION\System\BIOS`, "BIOSVersion", "sz", "U30"},
	}
	for i := range 30 { // more than a response holds
		values = append(values, [4]string{fmt.Sprintf("%sp%02d", native, i), "DisplayName", "sz", fmt.Sprintf("Program %02d", i)})
	}
	registered(t, srv, values)
	sambaRPC(t, srv, "", "rpcd_winreg")
	require.NoError(t, os.MkdirAll(filepath.Join(srv.Admin(), "System32"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(srv.Admin(), "System32", "kernel32.dll"), peHeader(0x8664), 0o644))

	ep := endpoint(srv)
	ep.Options = smb.Options{WMI: true}
	conn := dialWith(t, beside(srv, nil), ep)
	require.True(t, conn.Caps().Has(transport.CapInventory))
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorIs(t, err, errElsewhere)
	require.ErrorContains(t, err, "DCOM-In")
	require.ErrorContains(t, err, "135")
	require.ErrorContains(t, err, ep.Address)
	require.NotNil(t, inv, "it is told what could be read")
	require.Empty(t, inv.Problems)
	require.Equal(t, []transport.Software{
		{ID: upper, Name: upper, Version: "4.1.77", Arch: "amd64", Source: "msi"},
		{ID: "Agentless", Name: "Größe 日本語", Vendor: "Größe & Co.", Version: "1.2.3", Arch: "amd64", Source: "program"},
		{ID: upper, Name: "Integrated Smart Update Tools", Version: "4.1.77", Arch: "amd64", Source: "program"},
		{ID: "Old", Name: "Old tool", Version: "0.9", Arch: "386", Source: "program"},
		{ID: "p00", Name: "Program 00", Arch: "amd64", Source: "program"},
	}, inv.Software[:5])
	require.Len(t, inv.Software, 2*33)
	require.Equal(t, "HPE", inv.Identity.Vendor)
	require.Equal(t, []transport.Device{{ID: "bios", Class: transport.ClassBIOS, Name: "System BIOS", Firmware: "U30",
		HardwareIDs: []string{"product:ProLiant DL380 Gen10"}}}, inv.Devices)
	id, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, inv.Identity, id)
}

// peHeader is the beginning of a program for a machine.
func peHeader(machine uint16) []byte {
	b := make([]byte, 128)
	copy(b, "MZ")
	b[60] = 64
	copy(b[64:], "PE\x00\x00")
	b[68], b[69] = byte(machine), byte(machine>>8)
	return b
}

// Without the option nothing is offered, and without the pipe it is said what is missing.
func TestInventoryRefused(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	require.False(t, conn.Caps().Has(transport.CapInventory))
	_, err := transport.ReadInventory(t.Context(), conn)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "Options.WMI")
	_, err = transport.Run(t.Context(), transport.Forward{Conn: conn}, transport.Command{Argv: []string{"ver"}})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "agent")
	require.ErrorContains(t, err, "service")

	ep := endpoint(srv)
	ep.Options = smb.Options{WMI: true}
	inv, err := transport.ReadInventory(t.Context(), dialWith(t, beside(srv, nil), ep))
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.Empty(t, inv.Software)
	require.Len(t, inv.Problems, 1)
	require.Contains(t, inv.Problems[0].Text, "RemoteRegistry")

	// Where a firewall swallows what is sent, it is said which port that is.
	ep.Options = smb.Options{WMI: true, ConnectTimeout: 5 * time.Second}
	_, err = transport.ReadInventory(t.Context(), dialWith(t, beside(srv, func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}), ep))
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.ErrorContains(t, err, "135")
}
