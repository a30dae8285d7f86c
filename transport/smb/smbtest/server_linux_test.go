package smbtest_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/hirochachacha/go-smb2"
	"github.com/oiweiwei/go-msrpc/msrpc/scmr/svcctl/v2"
	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// roundTrip puts a file, gets it back and removes it.
func roundTrip(t *testing.T, s *smbtest.Server, share string, args ...string) {
	t.Helper()
	src, back := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "back")
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(i * i >> 7)
	}
	require.NoError(t, os.WriteFile(src, want, 0o600))
	out, err := client(t, s, share, "put "+src+" Agent.exe; get agent.EXE "+back, args...)
	require.NoError(t, err, out)
	got, err := os.ReadFile(back)
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = os.ReadFile(filepath.Join(s.Dir(share), "Agent.exe"))
	require.NoError(t, err)
	require.Equal(t, want, got)
	out, err = client(t, s, share, "rm agent.exe", args...)
	require.NoError(t, err, out)
	left, err := os.ReadDir(s.Dir(share))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestFiles(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cfg     smbtest.Config
		args    []string
		refused []string // arguments with which smbclient must not get in
		status  string
	}{
		{name: "signing mandatory", args: []string{"--client-protection=off"}}, // it signs all the same
		{name: "signing optional", cfg: smbtest.Config{Signing: "optional"}, args: []string{"--client-protection=off"}},
		{name: "encryption", cfg: smbtest.Config{Encryption: true}, refused: []string{"-m", "SMB2_10"}, status: "NT_STATUS_ACCESS_DENIED"},
		{name: "old", cfg: smbtest.Config{MaxProtocol: "SMB2_10"}, refused: []string{"--option=client min protocol=SMB3_11"}, status: "NT_STATUS_NOT_SUPPORTED"},
		{name: "new", cfg: smbtest.Config{MinProtocol: "SMB3_11"}, refused: []string{"-m", "SMB3_02"}, status: "NT_STATUS_NOT_SUPPORTED"},
		{name: "IPv6", cfg: smbtest.Config{IPv6: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.cfg)
			roundTrip(t, s, "ADMIN$", tt.args...)
			roundTrip(t, s, "files", tt.args...)
			if tt.refused != nil {
				out, err := client(t, s, "ADMIN$", "ls", tt.refused...)
				require.Error(t, err)
				require.Contains(t, out, tt.status)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := newServer(t, smbtest.Config{})
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir("RO"), "x"), []byte("x"), 0o644))
	for _, tt := range []struct {
		name, share, command, status string
		args                         []string
	}{
		{name: "password", share: "ADMIN$", command: "ls", status: "NT_STATUS_LOGON_FAILURE", args: []string{"-U", s.User() + "%wrong"}},
		{name: "user", share: "ADMIN$", command: "ls", status: "NT_STATUS_LOGON_FAILURE", args: []string{"-U", "root2%" + s.Password()}},
		{name: "nobody", share: "ADMIN$", command: "ls", status: "NT_STATUS_ACCESS_DENIED", args: []string{"-N", "-U", "%"}},
		{name: "share", share: "D$", command: "ls", status: "NT_STATUS_BAD_NETWORK_NAME"},
		{name: "put", share: "ro", command: "put /etc/hostname y", status: "NT_STATUS_ACCESS_DENIED"},
		{name: "rm", share: "ro", command: "rm x", status: "NT_STATUS_ACCESS_DENIED"},
		{name: "pipe", share: "IPC$", command: "open winreg", status: "NT_STATUS_OBJECT_NAME_NOT_FOUND"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := client(t, s, tt.share, tt.command, tt.args...)
			require.Contains(t, out, tt.status)
		})
	}
	for _, user := range []string{"OPS", "ops@LAB", `LAB\ops`, `ELSEWHERE\ops`} {
		out, err := client(t, s, "ADMIN$", "ls", "-U", user+"%"+s.Password())
		require.NoError(t, err, "%s: %s", user, out)
	}
	for account, status := range map[smbtest.Account]string{
		smbtest.AccountDisabled: "NT_STATUS_ACCOUNT_DISABLED", smbtest.AccountLocked: "NT_STATUS_ACCOUNT_LOCKED_OUT",
		smbtest.AccountMustChangePassword: "NT_STATUS_PASSWORD_MUST_CHANGE",
	} {
		require.NoError(t, s.SetAccount(account))
		out, err := client(t, s, "ADMIN$", "ls")
		require.Error(t, err)
		require.Contains(t, out, status)
		require.NoError(t, s.SetAccount(smbtest.AccountActive))
		out, err = client(t, s, "ADMIN$", "ls")
		require.NoError(t, err, out)
	}
	require.Error(t, s.SetAccount("asleep"))
}

// TestOrdinary: who is no administrator logs in and uses shares, but neither
// ADMIN$ nor the service control manager.
func TestOrdinary(t *testing.T) {
	s := newServer(t, smbtest.Config{Ordinary: true, Signing: "optional"})
	out, _ := client(t, s, "ADMIN$", "ls")
	require.Contains(t, out, "NT_STATUS_ACCESS_DENIED")
	roundTrip(t, s, "files")
	c := control(t, login(t, s))
	r, _ := c.OpenSCMW(t.Context(), &svcctl.OpenSCMWRequest{DesiredAccess: 0x2})
	require.Equal(t, smbtest.ErrAccessDenied, smbtest.Win32(r.Return))
	r, err := c.OpenSCMW(t.Context(), &svcctl.OpenSCMWRequest{DesiredAccess: 0x4})
	require.NoError(t, err)
	require.Zero(t, r.Return)
}

func TestNetBIOS(t *testing.T) {
	s := newServer(t, smbtest.Config{NetBIOS: true, Signing: "optional"})
	// A client that does not begin with a session request is turned away.
	c, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	_, err = (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(c)
	require.Error(t, err)
	_ = c.Close()
	require.Zero(t, s.Requests())

	request := func(called string) (net.Conn, []byte) {
		c, err := net.Dial("tcp", s.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		b := []byte{0x81, 0, 0, 68}
		for _, name := range []string{called, "TESTER"} {
			b = append(b, 32)
			for i := range 16 {
				ch := byte(' ')
				if i < len(name) {
					ch = name[i]
				}
				b = append(b, 'A'+ch>>4, 'A'+ch&15)
			}
			b = append(b, 0)
		}
		_, err = c.Write(b)
		require.NoError(t, err)
		answer := make([]byte, 64)
		n, err := c.Read(answer)
		require.NoError(t, err)
		return c, answer[:n]
	}
	_, answer := request("SOMEBODY")
	require.Equal(t, []byte{0x83, 0, 0, 1, 0x82}, answer)
	for _, called := range []string{"*SMBSERVER", s.Name()} {
		c, answer := request(called)
		require.Equal(t, []byte{0x82, 0, 0, 0}, answer)
		session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(c)
		require.NoError(t, err)
		_, err = session.Mount("ADMIN$")
		require.NoError(t, err)
	}
	require.Positive(t, s.Requests())
}

func TestCutAndStall(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	fsys, err := login(t, s).Mount("files")
	require.NoError(t, err)
	_, err = fsys.ReadDir(".")
	require.NoError(t, err)
	require.Equal(t, 1, s.Connections())

	s.Stall(true)
	before := s.Requests()
	done := make(chan error, 2)
	go func() { _, err := fsys.ReadDir("."); done <- err }()
	late, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer late.Close()
	go func() {
		_, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(late)
		done <- err
	}()
	eventually(t, func() bool { return s.Connections() == 2 }, "the new connection was not accepted")
	require.Empty(t, done)
	require.Equal(t, before, s.Requests())
	s.Stall(false)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.Greater(t, s.Requests(), before)

	s.CloseConnections()
	_, err = fsys.ReadDir(".")
	require.Error(t, err)
	require.Zero(t, s.Connections())
	_, err = login(t, s).Mount("files")
	require.NoError(t, err)

	s.Stall(true) // Close ends what hangs
	require.NoError(t, s.Close())
}

// TestHold: who opens a file without sharing its removal keeps it from being
// removed, on a server that demands encryption as well.
func TestHold(t *testing.T) {
	for _, cfg := range []smbtest.Config{{}, {Encryption: true}} {
		s := newServer(t, cfg)
		require.NoError(t, os.WriteFile(filepath.Join(s.Admin(), "busy.exe"), []byte("x"), 0o755))
		release, err := s.Hold("ADMIN$", "busy.exe")
		require.NoError(t, err)
		s.CloseConnections()
		finalize()
		for _, command := range []string{"rm busy.exe", "rename busy.exe other.exe"} {
			out, _ := client(t, s, "ADMIN$", command)
			require.Contains(t, out, "NT_STATUS_SHARING_VIOLATION")
		}
		out, err := client(t, s, "ADMIN$", "get busy.exe -")
		require.NoError(t, err, out)
		release()
		release()
		out, err = client(t, s, "ADMIN$", "rm busy.exe")
		require.NoError(t, err, out)
		require.NoFileExists(t, filepath.Join(s.Admin(), "busy.exe"))
		_, err = s.Hold("ADMIN$", "busy.exe")
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// statuses are those of the plain SMB2 replies that came in.
func (s *sniffer) statuses() []uint32 {
	var out []uint32
	for b := s.got; len(b) >= 16; b = b[4+binary.BigEndian.Uint32(b):] {
		out = append(out, binary.LittleEndian.Uint32(b[4+8:]))
	}
	return out
}

// TestExamples: what the documentation shows runs.
func TestExamples(t *testing.T) {
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	Example()
	Example_pipeline()
}

// TestExecute: a program that runs can be renamed, and under no name be removed.
func TestExecute(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	exe := filepath.Join(s.Admin(), "a.exe")
	require.NoError(t, os.WriteFile(exe, []byte("MZ"), 0o755))
	c, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer c.Close()
	line := &sniffer{Conn: c}
	session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(line)
	require.NoError(t, err)
	fsys, err := session.Mount("ADMIN$")
	require.NoError(t, err)
	release, err := s.Execute("ADMIN$", "a.exe")
	require.NoError(t, err)
	require.NoError(t, fsys.Rename("a.exe", "b.exe"))
	require.NotContains(t, line.statuses(), uint32(0xC0000121))
	require.ErrorIs(t, fsys.Remove("b.exe"), os.ErrPermission)
	require.Contains(t, line.statuses(), uint32(0xC0000121))
	b, err := fsys.ReadFile("b.exe")
	require.NoError(t, err)
	require.Equal(t, "MZ", string(b))
	require.NoError(t, release())
	require.NoError(t, release())
	fi, err := os.Stat(filepath.Join(s.Admin(), "b.exe"))
	require.NoError(t, err)
	require.EqualValues(t, 0o755, fi.Mode())
	require.Zero(t, fi.Sys().(*syscall.Stat_t).Uid)
	require.NoError(t, fsys.Remove("b.exe"))
	_, err = s.Execute("ADMIN$", "none")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = s.Execute("none", "none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestPin: a program that runs cannot be deleted, nor made to be; and a server
// that ends with one goes like any other.
func TestPin(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	exe := filepath.Join(s.Admin(), "dir", "a b.exe")
	require.NoError(t, os.Mkdir(filepath.Dir(exe), 0o755))
	require.NoError(t, os.WriteFile(exe, []byte("MZ"), 0o755))
	c, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer c.Close()
	line := &sniffer{Conn: c}
	session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(line)
	require.NoError(t, err)
	fsys, err := session.Mount("ADMIN$")
	require.NoError(t, err)
	release, err := s.Pin("ADMIN$", `dir\a b.exe`)
	require.NoError(t, err)
	require.NotContains(t, line.statuses(), uint32(0xC0000121))
	require.ErrorIs(t, fsys.Remove(`dir\a b.exe`), os.ErrPermission)
	require.Contains(t, line.statuses(), uint32(0xC0000121))
	_, _ = client(t, s, "ADMIN$", `cd dir; setmode "a b.exe" -r`)
	out, _ := client(t, s, "ADMIN$", `cd dir; rm "a b.exe"`) // which tries to clear the attribute as well
	require.Contains(t, out, "NT_STATUS_")
	require.ErrorIs(t, fsys.Remove(`dir\a b.exe`), os.ErrPermission)
	require.Error(t, fsys.WriteFile(`dir\a b.exe`, nil, 0o666))
	b, err := fsys.ReadFile(`dir\a b.exe`)
	require.NoError(t, err)
	require.Equal(t, "MZ", string(b))
	require.NoError(t, release())
	require.NoError(t, release())
	require.NoError(t, fsys.Remove(`dir\a b.exe`))
	_, err = s.Pin("ADMIN$", "none")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = s.Pin("none", "none")
	require.ErrorIs(t, err, os.ErrNotExist)

	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, nil, 0o755))
	_, err = s.Pin("ADMIN$", "dir/a b.exe")
	require.NoError(t, err)
	after, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.Equal(t, string(mounts), string(after))
	require.NoError(t, s.Close())
	require.NoDirExists(t, root(s))
}

// finalize collects garbage and waits until finalizers have run.
func finalize() {
	for range 2 {
		done := make(chan bool)
		runtime.SetFinalizer(&struct{ n [64]byte }{}, func(any) { close(done) })
		runtime.GC()
		<-done
	}
}

// TestReadOnlyFile: of the attributes this one is kept.
func TestReadOnlyFile(t *testing.T) {
	s := newServer(t, smbtest.Config{Signing: "optional"})
	fsys, err := login(t, s).Mount("files")
	require.NoError(t, err)
	require.NoError(t, fsys.WriteFile("fixed", nil, 0o444))
	require.NoError(t, fsys.WriteFile("free", nil, 0o644))
	out, err := client(t, s, "files", "allinfo fixed")
	require.NoError(t, err, out)
	require.Contains(t, out, "attributes: R (1)")
	out, err = client(t, s, "files", "allinfo free")
	require.NoError(t, err, out)
	require.NotContains(t, out, "attributes: R")
}

// sniffer keeps the beginning of what comes in.
type sniffer struct {
	net.Conn
	got []byte
}

func (s *sniffer) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.got = append(s.got, b[:n]...)
	return n, err
}

// TestSigning: what the server says of signing, and go-smb2's trouble with it: an
// interim reply, which is not signed (MS-SMB2, 3.2.5.1.3), ends its session. The
// driver's line mends that; here it shows that signing is really demanded.
func TestSigning(t *testing.T) {
	for signing, mode := range map[string]byte{"mandatory": 3, "optional": 1} {
		s := newServer(t, smbtest.Config{Signing: signing})
		c, err := net.Dial("tcp", s.Addr())
		require.NoError(t, err)
		defer c.Close()
		line := &sniffer{Conn: c}
		session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User(), Password: s.Password()}}).Dial(line)
		require.NoError(t, err)
		require.Equal(t, mode, line.got[4+64+2], "SecurityMode of the NEGOTIATE response (MS-SMB2, 2.2.4)")
		l, err := s.Listen("slow")
		require.NoError(t, err)
		p := openPipe(t, session, "slow")
		far, err := l.Accept()
		require.NoError(t, err)
		read := make(chan error, 1)
		interim := s.Requests()
		go func() { _, err := p.Read(make([]byte, 64)); read <- err }()
		if signing == "mandatory" {
			require.ErrorContains(t, <-read, "signing required")
			continue
		}
		eventually(t, func() bool { return s.Requests() > interim }, "the read was not sent")
		_, err = far.Write([]byte("late"))
		require.NoError(t, err)
		require.NoError(t, <-read)
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []smbtest.Config{
		{Signing: "perhaps"}, {MaxProtocol: "NT1"}, {MinProtocol: "SMB3_11", MaxProtocol: "SMB2_10"}, {User: "a\nb"}, {Domain: "x y"},
	} {
		_, err := smbtest.NewServer(cfg)
		require.Error(t, err)
		require.False(t, errors.Is(err, errors.ErrUnsupported))
	}
}
