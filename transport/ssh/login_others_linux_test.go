package ssh_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// loginDropbear logs in to the server of small systems, which hangs up without a
// word when enough was tried.
func loginDropbear(t *testing.T, h *loginHost) {
	dropbear, keygen := realtest.Need(t, "dropbear"), realtest.Need(t, "dropbearkey")
	on := h.on(t)
	known := map[string]string{}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		file := "/etc/rmtest/dropbear_" + kind
		on.Run(keygen, "-t", kind, "-f", file)
		for line := range strings.Lines(on.Run(keygen, "-y", "-f", file)) {
			if strings.HasPrefix(line, "ssh-") || strings.HasPrefix(line, "ecdsa-") {
				known[kind] = strings.TrimSpace(line)
			}
		}
		require.NotEmpty(t, known[kind])
	}
	keys := on.Run("cat", "/etc/rmtest/userkeys")
	on.write("/home/alice/.ssh/authorized_keys", strings.ReplaceAll(keys, "ssh-dss", "#ssh-dss"), 0o600)
	on.Run("chown", "-R", "alice:", "/home/alice/.ssh")
	key := func(names ...string) func(*transport.Endpoint) {
		return func(ep *transport.Endpoint) {
			var signers []xssh.Signer
			for _, n := range names {
				signers = append(signers, h.signer(t, n))
			}
			ep.Options = ssh.Options{Signers: signers}
		}
	}
	both := func(name, pw string) func(*transport.Endpoint) {
		return func(ep *transport.Endpoint) {
			key(name)(ep)
			ep.Credentials.Password = transport.NewSecret(pw)
		}
	}
	pass := func(pw string) func(*transport.Endpoint) {
		return func(ep *transport.Endpoint) { password(ep, "alice", pw) }
	}
	for _, r := range []struct {
		name string
		args []string
		host string
		who  func(*transport.Endpoint)
		want error
		says string
	}{
		{"ed25519", nil, "ed25519", key("ed25519"), nil, ""},
		{"ecdsa", nil, "ecdsa", key("ecdsa"), nil, ""},
		{"rsa", nil, "rsa", key("rsa"), nil, ""},
		{"encrypted", nil, "ed25519", key("locked"), nil, ""},
		{"password", nil, "ed25519", pass(right), nil, ""},
		{"wrong password", nil, "ed25519", pass(wrong), transport.ErrAuth, "refused the password"},
		{"wrong key", nil, "ed25519", key("stranger"), transport.ErrAuth, "refused the key"},
		{"key and password", []string{"-t"}, "ed25519", both("ed25519", right), nil, ""},
		{"key and wrong password", []string{"-t"}, "ed25519", both("ed25519", wrong), transport.ErrAuth, "accepted publickey, but wants password as well"},
		{"no passwords", []string{"-s"}, "ed25519", pass(right), transport.ErrAuth, "takes (publickey)"},
		{"right key among many", []string{"-T", "2"}, "ed25519", key("stranger", "ca", "otherca", "ed25519"), nil, ""},
		{"one try", []string{"-T", "1"}, "ed25519", pass(wrong), transport.ErrAuth, "broke the login off when it was offered the password"},
		{"another host key", nil, "", key("ed25519"), transport.ErrTrust, "none of those expected"},
		{"no forwarding", []string{"-j"}, "ed25519", key("ed25519"), nil, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			on := h.on(t)
			port := 3000 + int(h.ports.Add(1))
			on.allow(port)
			args := append([]string{"-p", strconv.Itoa(port), "-P", "/run/dropbear_" + strconv.Itoa(port)}, r.args...)
			for kind := range known {
				args = append(args, "-r", "/etc/rmtest/dropbear_"+kind)
			}
			on.Run(dropbear, args...)
			on.listening(port)
			s := &loginServer{h: h, port: port, addr: net.JoinHostPort(h.Addr, strconv.Itoa(port))}
			ep := s.endpoint(t)
			if r.host != "" {
				ep.Trust.HostKeys = []string{known[r.host]}
			}
			r.who(&ep)
			err := s.try(t, ep, r.want, r.says)
			require.False(t, transport.Temporary(err))
			if r.name == "no forwarding" {
				_, err := transport.Dial(t.Context(), dialWith(t, h.transport(), ep), "tcp", "127.0.0.1:22")
				require.ErrorIs(t, err, transport.ErrRejected)
			}
		})
	}
}

// loginTiny logs in to the server that has the fewest algorithms. It opens one
// session in the life of a connection, so that nothing but the login works.
func loginTiny(t *testing.T, h *loginHost) {
	tiny, makekey := realtest.Need(t, "tinysshd"), realtest.Need(t, "tinysshd-makekey")
	on := h.on(t)
	on.Run(makekey, "/etc/rmtest/tiny")
	_, host, ok := strings.Cut(on.Run("tinysshd-printkey", "/etc/rmtest/tiny"), "ssh-ed25519 ")
	require.True(t, ok)
	on.user("tiny", "/bin/sh", map[string]string{".ssh/authorized_keys": h.public(t, "ed25519") + "\n"})
	on.Run("chmod", "-R", "go=", "/home/tiny/.ssh")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			_ = c.Close()
			if err != nil {
				return
			}
			cmd := h.Command(ctx, tiny, "-x", "sftp=/usr/lib/openssh/sftp-server", "/etc/rmtest/tiny")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, nil
			wg.Go(func() {
				defer f.Close()
				_ = cmd.Run()
			})
		}
	})
	tr := &ssh.Transport{}
	ep := transport.Endpoint{Address: l.Addr().String(), Credentials: transport.Credentials{User: "tiny"},
		Trust:   transport.Trust{HostKeys: []string{"ssh-ed25519 " + strings.Fields(host)[0]}},
		Options: ssh.Options{Signers: []xssh.Signer{h.signer(t, "rsa"), h.signer(t, "ed25519")}}}
	conn, err := tr.Dial(t.Context(), ep)
	if err == nil {
		_, err = conn.Identify(t.Context())
		require.NoError(t, conn.Close(t.Context()))
	}
	require.Error(t, err)
	for _, no := range []error{transport.ErrAuth, transport.ErrTrust} {
		require.NotErrorIs(t, err, no, "the login itself works")
	}

	for _, r := range []struct {
		change func(*transport.Endpoint)
		want   error
		says   string
	}{
		{func(ep *transport.Endpoint) {
			ep.Options = ssh.Options{Signers: []xssh.Signer{h.signer(t, "stranger")}}
		}, transport.ErrAuth, "refused the key"},
		{func(ep *transport.Endpoint) { ep.Options = ssh.Options{Signers: []xssh.Signer{h.signer(t, "rsa")}} }, transport.ErrAuth, ""},
		{func(ep *transport.Endpoint) { password(ep, "tiny", right) }, transport.ErrAuth, "takes (publickey)"},
		{func(ep *transport.Endpoint) { ep.Credentials.User = "nobody-of-this-name" }, transport.ErrAuth, ""},
		{func(ep *transport.Endpoint) { ep.Trust.HostKeys = []string{h.public(t, "ca")} }, transport.ErrTrust, "none of those expected"},
		{func(ep *transport.Endpoint) { ep.Trust.HostKeys = []string{h.public(t, "rsa")} }, transport.ErrTrust, "no key of a type"},
	} {
		wrong := ep
		r.change(&wrong)
		_, err := tr.Dial(t.Context(), wrong)
		require.ErrorIs(t, err, r.want)
		require.ErrorContains(t, err, r.says)
		t.Log(err)
	}
}
