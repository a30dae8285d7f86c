package smb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	//lint:ignore SA1019 the hash of NTLM
	"golang.org/x/crypto/md4"
)

func dial(t testing.TB, ep transport.Endpoint) transport.Conn {
	conn, err := (&smb.Transport{}).Dial(t.Context(), ep)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// refused dials, and returns the error.
func refused(t testing.TB, ep transport.Endpoint) error {
	conn, err := (&smb.Transport{}).Dial(t.Context(), ep)
	if err == nil {
		_ = conn.Close(context.Background())
	}
	require.Error(t, err)
	var te *transport.Error
	require.ErrorAs(t, err, &te)
	require.Equal(t, "dial", te.Op)
	require.Equal(t, ep.Address, te.Target)
	if pw := ep.Credentials.Password.Reveal(); pw != "" {
		require.NotContains(t, err.Error(), pw)
	}
	return err
}

// What makes no sense is refused before anything is sent.
func TestDialRefuses(t *testing.T) {
	t.Parallel()
	nobody := &smb.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("it was dialled")
	}}
	good := transport.Endpoint{Address: "db1", Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("correct horse")}}
	for what, x := range map[string]struct {
		change func(ep *transport.Endpoint)
		want   error
	}{
		"trust":      {func(ep *transport.Endpoint) { ep.Trust.HostKeys = []string{"x"} }, transport.ErrTrust},
		"object":     {func(ep *transport.Endpoint) { ep.Object = "x" }, transport.ErrInvalid},
		"no user":    {func(ep *transport.Endpoint) { ep.Credentials.User = "" }, transport.ErrInvalid},
		"no secret":  {func(ep *transport.Endpoint) { ep.Credentials.Password = transport.Secret{} }, transport.ErrInvalid},
		"no domain;": {func(ep *transport.Endpoint) { ep.Credentials.User = ";ops" }, transport.ErrInvalid},
		"no user;":   {func(ep *transport.Endpoint) { ep.Credentials.User = "LAB;" }, transport.ErrInvalid},
		"options":    {func(ep *transport.Endpoint) { ep.Options = 7 }, transport.ErrInvalid},
		"address":    {func(ep *transport.Endpoint) { ep.Address = "db1:port" }, transport.ErrInvalid},
		"kerberos":   {func(ep *transport.Endpoint) { ep.Options = smb.Options{Kerberos: true} }, errors.ErrUnsupported},
		"pipes":      {func(ep *transport.Endpoint) { ep.Options = &smb.Options{Share: "ipc$"} }, transport.ErrInvalid},
	} {
		ep := good
		x.change(&ep)
		_, err := nobody.Dial(t.Context(), ep)
		require.ErrorIs(t, err, x.want, what)
		var te *transport.Error
		require.ErrorAs(t, err, &te, what)
		require.Greater(t, len(err.Error()), len("dial on db1: ")+len(x.want.Error()), "it says why")
	}
	for user, want := range map[string]string{";ops": "no domain before the ;", "LAB;": "no name after the ;: write LAB;user", "ops@": "user@lab.example"} {
		ep := good
		ep.Credentials.User = user
		_, err := nobody.Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrInvalid, user)
		require.ErrorContains(t, err, want, user)
	}
	_, err := nobody.Dial(t.Context(), good)
	require.ErrorContains(t, err, "it was dialled")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = nobody.Dial(ended, good)
	require.ErrorIs(t, err, context.Canceled)
}

// TestLogin shows how logins of all kinds end.
func TestLogin(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	good := endpoint(srv)
	for what, change := range map[string]func(ep *transport.Endpoint){
		"local": func(ep *transport.Endpoint) { ep.Credentials.Domain = "" },
		"domain\\user": func(ep *transport.Endpoint) {
			ep.Credentials.User = srv.Domain() + `\` + srv.User()
			ep.Credentials.Domain = ""
		},
		"user@domain": func(ep *transport.Endpoint) {
			ep.Credentials.User, ep.Credentials.Domain = srv.User()+"@"+srv.Domain(), ""
		},
		"user@realm": func(ep *transport.Endpoint) {
			ep.Credentials.User = srv.User() + "@" + strings.ToLower(srv.Domain()) + ".example" // and its domain does not count
		},
		"domain;user": func(ep *transport.Endpoint) {
			ep.Credentials.User, ep.Credentials.Domain = srv.Domain()+";"+srv.User(), ""
		},
		"case":          func(ep *transport.Endpoint) { ep.Credentials.User = strings.ToUpper(srv.User()) },
		"another share": func(ep *transport.Endpoint) { ep.Options = smb.Options{Share: "files"} },
		"hash": func(ep *transport.Endpoint) {
			ep.Credentials.Password = transport.Secret{}
			ep.Options = &smb.Options{NTHash: transport.NewSecret(ntHash(srv.Password()))}
		},
	} {
		ep := good
		change(&ep)
		conn := dial(t, ep)
		_, err := transport.List(t.Context(), conn, "/")
		require.NoError(t, err, what)
	}

	wrong := good
	wrong.Credentials.Password = transport.NewSecret("battery staple")
	err := refused(t, wrong)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.Equal(t, transport.Code{Space: "ntstatus", Value: "0xC000006D"}, transport.CodeOf(err))
	require.ErrorContains(t, err, srv.Domain()+";"+srv.User(), "which account that was")
	require.ErrorContains(t, err, "HOST;user")
	wrong.Credentials.Domain = ""
	err = refused(t, wrong)
	require.ErrorContains(t, err, srv.Name()+";"+srv.User(), "the host's own")
	require.ErrorContains(t, err, "LAB;"+srv.User())
	nobody := good
	nobody.Credentials.User = "nobody-of-this-name"
	require.ErrorIs(t, refused(t, nobody), transport.ErrAuth)
	realm := good
	realm.Credentials.User, realm.Credentials.Domain = srv.User()+"@another.example", ""
	err = refused(t, realm)
	require.ErrorIs(t, err, transport.ErrAuth)
	require.ErrorContains(t, err, srv.User()+"@another.example")
	require.NotContains(t, err.Error(), ";"+srv.User(), "it names where the account is")
	share := good
	share.Options = smb.Options{Share: "D$"}
	err = refused(t, share)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, transport.Code{Space: "ntstatus", Value: "0xC00000CC"}, transport.CodeOf(err))
	require.ErrorContains(t, err, "D$")
	for account, code := range map[smbtest.Account]string{
		smbtest.AccountDisabled: "0xC0000072", smbtest.AccountLocked: "0xC0000234", smbtest.AccountMustChangePassword: "0xC0000224",
	} {
		require.NoError(t, srv.SetAccount(account))
		err := refused(t, good)
		require.ErrorIs(t, err, transport.ErrAuth)
		require.Equal(t, code, transport.CodeOf(err).Value, account)
		require.ErrorContains(t, err, "the account is "+srv.Domain()+";"+srv.User())
		require.ErrorContains(t, err, "LAB;user")
		if account == smbtest.AccountLocked {
			require.ErrorContains(t, err, "unlock")
		}
	}
	require.NoError(t, srv.SetAccount(smbtest.AccountActive))
	dial(t, good)
}

func ntHash(password string) string {
	h := md4.New()
	for _, u := range utf16.Encode([]rune(password)) {
		_, _ = h.Write(binary.LittleEndian.AppendUint16(nil, u))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// An older dialect is spoken with whom asks for it alone, and with nobody without a
// signature.
func TestDialects(t *testing.T) {
	t.Parallel()
	old := serve(t, smbtest.Config{MaxProtocol: "SMB3_02"})
	err := refused(t, endpoint(old))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "Options.Dialect")
	for _, d := range []smb.Dialect{smb.SMB302, smb.SMB300, smb.SMB210} {
		ep := endpoint(old)
		ep.Options = smb.Options{Dialect: d}
		conn := dial(t, ep)
		_, err := transport.Put(t.Context(), conn, "x", transport.BytesFile("x", bytes.Repeat([]byte("x"), 3<<20)), transport.PutOptions{})
		require.NoError(t, err, d)
	}

	sealed := serve(t, smbtest.Config{Encryption: true})
	ep := endpoint(sealed)
	ep.Options = smb.Options{RequireEncryption: true}
	dial(t, ep)
	ep.Options = smb.Options{Dialect: smb.SMB210}
	err = refused(t, ep)
	require.Contains(t, []string{"0xC00000BB", "0xC0000022"}, transport.CodeOf(err).Value)
	ep = endpoint(old)
	ep.Options = smb.Options{RequireEncryption: true, Dialect: smb.SMB302}
	err = refused(t, ep)
	require.ErrorIs(t, err, transport.ErrTrust)
	require.ErrorContains(t, err, "does not encrypt")
	require.Eventually(t, func() bool { return old.Connections() == 3 }, 10*time.Second, 10*time.Millisecond, "nothing is left of those that were refused")
}

// Port 139 and IPv6.
func TestNetBIOSSession(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{NetBIOS: true})
	_, port, err := net.SplitHostPort(srv.Addr())
	require.NoError(t, err)
	ep := endpoint(srv)
	ep.Options = smb.Options{ConnectTimeout: 5 * time.Second}
	require.ErrorIs(t, refused(t, ep), transport.ErrConnLost, "a session has to be asked for")
	through := func(_ context.Context, network, addr string) (net.Conn, error) {
		require.Equal(t, "db1:139", addr)
		return net.Dial(network, net.JoinHostPort("127.0.0.1", port))
	}
	ep.Address = "db1:139"
	conn, err := (&smb.Transport{DialContext: through}).Dial(t.Context(), ep)
	require.NoError(t, err)
	_, err = transport.Put(t.Context(), conn, "x", transport.BytesFile("x", []byte("x")), transport.PutOptions{})
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	// Where it may be tried.
	var asked []string
	fallback := func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = append(asked, addr)
		if addr == "db1:445" {
			return nil, &net.OpError{Op: "dial", Err: errors.New("filtered")}
		}
		return through(ctx, network, addr)
	}
	ep.Address = "db1"
	_, err = (&smb.Transport{DialContext: fallback}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrUnreachable)
	require.Equal(t, []string{"db1:445"}, asked)
	ep.Options = smb.Options{NetBIOS: true}
	conn, err = (&smb.Transport{DialContext: fallback}).Dial(t.Context(), ep)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	ep.Address = "db1:445"
	_, err = (&smb.Transport{DialContext: fallback}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrUnreachable, "it names the port")
}

// A name that only NetBIOS knows.
func TestNetBIOSName(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	names, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = names.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := names.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			reply := append(bytes.Clone(buf[:2]), 0x85, 0, 0, 0, 0, 1, 0, 0, 0, 0)
			reply = append(reply, buf[12:n-4]...) // the name
			reply = append(reply, 0, 0x20, 0, 1, 0, 0, 0, 60, 0, 6, 0, 0, 127, 0, 0, 1)
			_, _ = names.WriteToUDPAddrPort(reply, from)
		}
	}()
	ep := endpoint(srv)
	_, port, err := net.SplitHostPort(ep.Address)
	require.NoError(t, err)
	ep.Address = "no-such-host-1:" + port
	require.ErrorIs(t, refused(t, ep), transport.ErrUnreachable)
	ep.Options = smb.Options{NetBIOS: true, NameServers: []netip.AddrPort{names.LocalAddr().(*net.UDPAddr).AddrPort()}}
	conn := dial(t, ep)
	_, err = conn.Identify(t.Context())
	require.NoError(t, err)
}

// A server without a preference, and over IPv6.
func TestOtherKinds(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]smbtest.Config{"optional": {Signing: "optional"}, "ipv6": {IPv6: true}} {
		conn := dial(t, endpoint(serve(t, cfg)))
		_, err := transport.Put(t.Context(), conn, "x", transport.BytesFile("x", []byte(name)), transport.PutOptions{})
		require.NoError(t, err)
		_, err = transport.QueryService(t.Context(), conn, "none")
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
}

// What is in another place by DFS is refused, and nothing of it is taken for what is
// here.
func TestDFS(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{DFS: true})
	ep := endpoint(srv)
	ep.Options = smb.Options{Share: "dfs"}
	conn := dial(t, ep)
	ctx, file := t.Context(), transport.BytesFile("x", []byte("x"))
	_, err := transport.Put(ctx, conn, "own", file, transport.PutOptions{})
	require.NoError(t, err, "what is in the root itself is here")
	for what, f := range map[string]func(name string) error{
		"stat": func(name string) error { _, err := transport.Stat(ctx, conn, name); return err },
		"list": func(name string) error { _, err := transport.List(ctx, conn, name); return err },
		"get": func(name string) error {
			_, err := transport.Get(ctx, conn, name, io.Discard, transport.GetOptions{})
			return err
		},
		"put": func(name string) error {
			_, err := transport.Put(ctx, conn, name, file, transport.PutOptions{})
			return err
		},
		"mkdir":  func(name string) error { return transport.Mkdir(ctx, conn, name, 0o700) },
		"remove": func(name string) error { return transport.Remove(ctx, conn, name) },
	} {
		for _, name := range []string{"elsewhere", "elsewhere/x"} {
			err := f(name)
			require.ErrorIs(t, err, errors.ErrUnsupported, "%s %s", what, name)
			require.Equal(t, transport.Code{Space: "ntstatus", Value: "0xC0000257"}, transport.CodeOf(err), what)
			require.ErrorContains(t, err, "DFS")
		}
	}
	target, err := os.Readlink(filepath.Join(srv.Dir("dfs"), "elsewhere"))
	require.NoError(t, err)
	require.Contains(t, target, "msdfs:")
}

// nameServer answers every question with a code (RCODE, RFC 1035, section 4.1.1), and
// returns a dialer that asks it.
func nameServer(t *testing.T, code byte) *net.Dialer {
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = udp.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			buf[2], buf[3] = 0x81, 0x80|code
			_, _ = udp.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", udp.LocalAddr().String())
	}}}
}

// A name that leads to no address is told apart from a port that nobody answers at.
func TestNoSuchHost(t *testing.T) {
	t.Parallel()
	for code, x := range map[byte]struct {
		notFound bool
		hint     string
	}{3: {true, "no host has this name"}, 2: {false, "name servers"}} { // NXDOMAIN, SERVFAIL
		ep := transport.Endpoint{Address: "no-such-host.example", Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("correct horse")}}
		_, err := (&smb.Transport{DialContext: nameServer(t, code).DialContext}).Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrUnreachable)
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		require.Equal(t, x.notFound, dns.IsNotFound, err)
		require.ErrorContains(t, err, x.hint)
		require.ErrorContains(t, err, "no-such-host.example")
		require.NotContains(t, err.Error(), "445 open")
	}
	// One that no name server answers is not one whose port is swallowed.
	ep := transport.Endpoint{Address: "db1", Options: smb.Options{ConnectTimeout: time.Millisecond},
		Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("correct horse")}}
	_, err := (&smb.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "i/o timeout", Name: "db1", IsTimeout: true}}
	}}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.ErrorContains(t, err, "name servers")
	require.NotContains(t, err.Error(), "swallows")
}

// A port where something else is served, or nothing, says so.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	said := make(chan []byte, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = c.Read(buf)
			_, _ = c.Write(<-said)
			_ = c.Close()
		}
	}()
	ep := transport.Endpoint{Address: l.Addr().String(), Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("correct horse")}}
	said <- []byte("HTTP/1.1 400 Bad Request\r\n\r\n")
	require.ErrorIs(t, refused(t, ep), transport.ErrProtocol)
	said <- nil
	require.ErrorIs(t, refused(t, ep), transport.ErrConnLost)
	require.NoError(t, l.Close())
	require.ErrorIs(t, refused(t, ep), transport.ErrUnreachable)
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	id, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, srv.Name(), id.Name)
	require.Equal(t, "windows", id.OS)
	require.NotEmpty(t, id.Version)
	require.Empty(t, id.Arch)
	require.Empty(t, id.BootID, "Samba tells of none")

	boot := filepath.Join(srv.Admin(), "bootstat.dat")
	require.NoError(t, os.WriteFile(boot, nil, 0o600))
	pe := make([]byte, 256)
	copy(pe, "MZ")
	pe[60] = 128
	copy(pe[128:], "PE\x00\x00\x64\x86")
	require.NoError(t, os.MkdirAll(filepath.Join(srv.Admin(), "System32"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(srv.Admin(), "System32", "kernel32.dll"), pe, 0o600))
	first, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, "amd64", first.Arch)
	require.NotEmpty(t, first.BootID)
	again, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NoError(t, os.Chtimes(boot, time.Time{}, time.Now().Add(time.Hour)))
	other, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, first.BootID, other.BootID)
	require.True(t, conn.Path().Remote.IsValid())
	require.Equal(t, "127.0.0.1", conn.Path().SeenAs.String())
}

// Of permissions there is one attribute, which is shown and never set.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	for _, mode := range []fs.FileMode{0, 0o400, 0o755} {
		res, err := transport.Put(t.Context(), conn, "x", transport.BytesFile("x", []byte{byte(mode)}), transport.PutOptions{Mode: mode})
		require.NoError(t, err)
		require.EqualValues(t, 0o600, res.Info.Mode)
	}
	require.NoError(t, os.Chmod(filepath.Join(srv.Admin(), "x"), 0o400))
	fi, err := transport.Stat(t.Context(), conn, "x")
	require.NoError(t, err)
	require.EqualValues(t, 0o400, fi.Mode)
}

// How much room there is, and what time: here that of this machine.
func TestSpaceAndClock(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	require.NoError(t, os.Mkdir(filepath.Join(srv.Admin(), "Temp"), 0o755))
	conn := dial(t, endpoint(srv))
	free, err := transport.Space(t.Context(), conn, "/Temp")
	require.NoError(t, err)
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(srv.Admin(), &st))
	here := int64(st.Bavail) * st.Bsize
	require.Greater(t, free, here/2, "others use it, too")
	require.Less(t, free, here*2)
	_, err = transport.Space(t.Context(), conn, "none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	clock, err := transport.ReadClock(t.Context(), conn)
	require.NoError(t, err)
	require.Positive(t, clock.Within)
	require.LessOrEqual(t, clock.Skew.Abs(), clock.Within)
	srv.CloseConnections()
	_, err = transport.ReadClock(t.Context(), conn)
	require.ErrorIs(t, err, transport.ErrConnLost)
}

func TestNative(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	require.NoError(t, os.Mkdir(filepath.Join(srv.Admin(), "Temp"), 0o755))
	ep := endpoint(srv)
	ep.Options = smb.Options{ShareRoot: `C:\Windows\`}
	res, err := transport.Put(t.Context(), dial(t, ep), "/Temp/x", transport.BytesFile("x", nil), transport.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, `C:\Windows\Temp\x`, res.Info.Native)

	// A host that does not say is trusted to know where its own directory is.
	fi, err := transport.Stat(t.Context(), dial(t, endpoint(srv)), "Temp/x")
	require.NoError(t, err)
	require.Equal(t, `%SystemRoot%\Temp\x`, fi.Native)
	ep.Options = smb.Options{Share: "files"}
	fi, err = transport.Stat(t.Context(), dial(t, ep), "/")
	require.NoError(t, err)
	require.Equal(t, `\\127.0.0.1\files`, fi.Native)
}

// A file that somebody has open is tried again for a while, and then it is said.
func TestInUse(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	put := func(content string) error {
		_, err := transport.Put(t.Context(), conn, "x.exe", transport.BytesFile("x", []byte(content)), transport.PutOptions{})
		return err
	}
	require.NoError(t, put("old"))
	release, err := srv.Hold("ADMIN$", "x.exe")
	require.NoError(t, err)
	require.NoError(t, put("old"), "it is there")
	err = transport.Remove(t.Context(), conn, "x.exe")
	require.ErrorIs(t, err, transport.ErrBusy)
	require.Equal(t, transport.Code{Space: "ntstatus", Value: "0xC0000043"}, transport.CodeOf(err))
	ended, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, transport.Remove(ended, conn, "x.exe"), context.DeadlineExceeded)

	done := make(chan error, 1)
	go func() { done <- put("new") }()
	part := func() bool {
		files, _ := filepath.Glob(filepath.Join(srv.Admin(), ".x.exe.*.part"))
		return len(files) == 1
	}
	require.Eventually(t, part, 10*time.Second, time.Millisecond)
	release()
	require.NoError(t, <-done)
	content, err := os.ReadFile(filepath.Join(srv.Admin(), "x.exe"))
	require.NoError(t, err)
	require.Equal(t, "new", string(content))
	require.False(t, part())
}

// A partial file with a hole in it, as several requests at once may leave, is
// continued from the hole.
func TestPutOverAHole(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	first, conn := dial(t, endpoint(srv)), dial(t, endpoint(srv))
	content := make([]byte, 5<<20)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	f := transport.BytesFile("x", content)
	ended, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := transport.Put(ended, first, "x", f, transport.PutOptions{Progress: func(int64) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, first.Close(t.Context()), "what was on its way has arrived")
	files, err := filepath.Glob(filepath.Join(srv.Admin(), ".x.*.part"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	hole := bytes.Clone(content)
	copy(hole[1<<20:2<<20], make([]byte, 1<<20))
	require.NoError(t, os.WriteFile(files[0], hole, 0o600))
	res, err := transport.Put(t.Context(), conn, "x", f, transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, res.Kept)
	require.EqualValues(t, 4<<20, res.Sent)
	got, err := os.ReadFile(filepath.Join(srv.Admin(), "x"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// A host that falls silent is found out.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	ep := endpoint(srv)
	ep.Options = smb.Options{KeepAlive: 50 * time.Millisecond}
	conn := dial(t, ep)
	time.Sleep(500 * time.Millisecond) // ten times as long, while it answers
	_, err := conn.Identify(t.Context())
	require.NoError(t, err)
	srv.Stall(true)
	defer srv.Stall(false)
	require.Eventually(t, func() bool {
		_, err := conn.Identify(t.Context())
		return errors.Is(err, transport.ErrConnLost)
	}, 30*time.Second, 10*time.Millisecond)
}

// A transfer of which nothing moves ends, though the host still answers.
func TestNoNames(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	before := srv.Requests()
	for _, name := range []string{"a:b", `a\b`, "CON", "end.", "a/*/b"} {
		_, err := transport.Stat(t.Context(), conn, name)
		require.ErrorIs(t, err, transport.ErrInvalid, name)
		_, err = transport.Put(t.Context(), conn, name, transport.BytesFile("x", nil), transport.PutOptions{})
		require.ErrorIs(t, err, transport.ErrInvalid, name)
	}
	require.ErrorIs(t, transport.Remove(t.Context(), conn, "/"), transport.ErrInvalid)
	require.Equal(t, before, srv.Requests())
}

// Several Puts of one file do not get into each other's way, and a source that has
// become shorter than what was sent of it is found out, and nothing of it kept.
func TestPutAtOnce(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	f := transport.BytesFile("x", bytes.Repeat([]byte("0123456789"), 300_000))
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := transport.Put(t.Context(), conn, "x", f, transport.PutOptions{})
			errs <- err
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.NoError(t, transport.Remove(t.Context(), conn, "x"))

	ended, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := transport.Put(ended, conn, "x", f, transport.PutOptions{Progress: func(int64) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	short := f
	short.Open = transport.BytesFile("x", []byte("0123456789")).Open
	for range 2 {
		_, err = transport.Put(t.Context(), conn, "x", short, transport.PutOptions{})
		require.ErrorIs(t, err, transport.ErrIntegrity)
		entries, err := os.ReadDir(srv.Admin())
		require.NoError(t, err)
		for _, e := range entries {
			require.NotContains(t, e.Name(), ".part")
		}
	}
}

// A tunnel, which has a line of its own, ends with the connection that it was dialled on,
// however that ends.
func TestTunnelEndsWithLostConnection(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	l, err := srv.Listen("silent")
	require.NoError(t, err)
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	var lines []net.Conn
	own := &smb.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		lines = append(lines, c)
		return c, err
	}}
	conn, err := own.Dial(t.Context(), endpoint(srv))
	require.NoError(t, err)
	tunnel, err := transport.Dial(t.Context(), conn, "pipe", "silent")
	require.NoError(t, err)
	require.Len(t, lines, 2)
	require.NoError(t, lines[0].Close())
	_, err = conn.Identify(t.Context())
	require.ErrorIs(t, err, transport.ErrConnLost)
	_, err = tunnel.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.Eventually(t, func() bool { return srv.Connections() == 0 }, 10*time.Second, 10*time.Millisecond)
}
