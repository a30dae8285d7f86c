package ssh_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
)

// loginTrust are ways in which a target proves who it is, or fails to. Whoever
// fails is offered no credentials, nor even told the user's name.
func loginTrust(t *testing.T, h *loginHost) {
	kinds := []string{"host-ed25519", "host-ecdsa", "host-rsa"}
	all := []string{"HostKey /etc/rmtest/host-ed25519", "HostKey /etc/rmtest/host-ecdsa", "HostKey /etc/rmtest/host-rsa"}
	// name is how known_hosts has the server.
	name := func(s *loginServer) string { return strings.Replace(s.addr, h.Addr, "["+h.Addr+"]", 1) }
	line := func(key string) func(*testing.T, *loginServer) string {
		return func(t *testing.T, s *loginServer) string { return name(s) + " " + h.public(t, key) + "\n" }
	}
	text := func(format string, keys ...string) func(*testing.T, *loginServer) string {
		return func(t *testing.T, s *loginServer) string {
			out := strings.NewReplacer("NAME", name(s), "HOST", h.Addr).Replace(format)
			for _, k := range keys {
				out = strings.Replace(out, "KEY", h.public(t, k), 1)
			}
			return out + "\n"
		}
	}
	hashed := func(key string) func(*testing.T, *loginServer) string {
		return func(t *testing.T, s *loginServer) string {
			file := writeFile(t, filepath.Join(t.TempDir(), "plain"), line(key)(t, s), 0o600)
			h.keygen(t, "-H", "-f", file)
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NotContains(t, string(b), h.Addr)
			return string(b)
		}
	}
	// certified makes a server with a host certificate, for HOST or whom it is said.
	certified := func(ca string, args ...string) func(*testing.T) []string {
		return func(t *testing.T) []string {
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "HOST", h.Addr)
			}
			key := h.copyKey(t, "host-ed25519")
			h.keygen(t, append(args, "-q", "-h", "-I", "the host", "-s", h.path(ca), key+".pub")...)
			cert, err := os.ReadFile(key + "-cert.pub")
			require.NoError(t, err)
			on := "/etc/rmtest/" + filepath.Base(t.TempDir()) + strings.ReplaceAll(filepath.Base(t.Name()), " ", "_") + "-cert.pub"
			h.on(t).write(on, string(cert), 0o644)
			return []string{"HostKey /etc/rmtest/host-ed25519", "HostCertificate " + on}
		}
	}
	static := func(lines []string) func(*testing.T) []string { return func(*testing.T) []string { return lines } }
	changed := "another key is recorded for it"
	for _, r := range []struct {
		name   string
		config func(*testing.T) []string
		known  func(*testing.T, *loginServer) string
		want   error
		says   string
	}{
		{"right", nil, line("host-ed25519"), nil, ""},
		{"hashed", nil, hashed("host-ed25519"), nil, ""},
		{"hashed, another", nil, hashed("host-ecdsa"), transport.ErrTrust, "no key of a type"},
		{"another", nil, line("ed25519"), transport.ErrTrust, changed},
		{"one of two", nil, text("NAME KEY\nNAME KEY", "ed25519", "host-ed25519"), nil, ""},
		{"nobody", nil, text("# nobody"), transport.ErrTrust, "no key of ["},
		{"somebody else", nil, text("elsewhere KEY", "host-ed25519"), transport.ErrTrust, "no key of ["},
		{"not here", nil, text("!NAME,!HOST,* KEY", "host-ed25519"), transport.ErrTrust, "no key of ["},
		{"all", nil, text("* KEY", "host-ed25519"), nil, ""},
		{"a network", nil, text("[192.0.2.*]:* KEY", "host-ed25519"), nil, ""},
		{"on port 22", nil, text("HOST KEY", "host-ed25519"), nil, ""},
		{"another on port 22", nil, text("HOST KEY", "ed25519"), transport.ErrTrust, "no key of ["},
		{"another here, right on port 22", nil, text("HOST KEY\nNAME KEY", "host-ed25519", "ed25519"), transport.ErrTrust, changed},
		{"revoked", nil, text("NAME KEY\n@revoked NAME KEY", "host-ed25519", "host-ed25519"), transport.ErrTrust, "revoked"},
		{"revoked elsewhere", nil, text("NAME KEY\n@revoked elsewhere KEY", "host-ed25519", "host-ed25519"), transport.ErrTrust, "revoked"},
		{"another revoked", nil, text("NAME KEY\n@revoked * KEY", "host-ed25519", "host-ecdsa"), nil, ""},
		{"rubbish about others", nil, text("NAME KEY\nother ssh-ed25519 AAAAC3\n1.2.3.4 1024 35 77", "host-ed25519"), nil, ""},
		{"rubbish", nil, text("NAME ssh-ed25519 AAAAC3"), transport.ErrInvalid, "this line is broken"},
		{"no known_hosts", nil, text("This is prose."), transport.ErrInvalid, "cannot be used"},
		{"first of three", static(all), line(kinds[0]), nil, ""},
		{"second of three", static(all), line(kinds[1]), nil, ""},
		{"third of three", static(all), line(kinds[2]), nil, ""},
		{"none of three", static(all), line("ecdsa"), transport.ErrTrust, changed},
		{"type gone", static(all[:1]), line(kinds[2]), transport.ErrTrust, "no key of a type that is recorded"},
		{"certificate", certified("ca", "-n", "HOST"), text("@cert-authority NAME KEY", "ca"), nil, ""},
		{"certificate for all", certified("ca"), text("@cert-authority NAME KEY", "ca"), nil, ""},
		{"certificate for a pattern", certified("ca", "-n", "db1,192.0.2.*"), text("@cert-authority NAME KEY", "ca"), nil, ""},
		{"authority on port 22", certified("ca", "-n", "HOST"), text("@cert-authority 192.0.2.* KEY", "ca"), nil, ""},
		{"authority for all", certified("ca", "-n", "HOST"), text("@cert-authority * KEY", "ca"), nil, ""},
		{"authority of others", certified("ca", "-n", "HOST"), text("@cert-authority elsewhere KEY", "ca"), transport.ErrTrust, "no key of ["},
		{"another authority", certified("otherca", "-n", "HOST"), text("@cert-authority NAME KEY", "ca"), transport.ErrTrust, "certificate is not accepted"},
		{"no certificate", nil, text("@cert-authority NAME KEY", "ca"), transport.ErrTrust, "no key of a type"},
		{"certificate of another host", certified("ca", "-n", "elsewhere"), text("@cert-authority NAME KEY", "ca"), transport.ErrTrust, "certificate is not accepted"},
		{"certificate that expired", certified("ca", "-n", "HOST", "-V", "-2d:-1d"), text("@cert-authority NAME KEY", "ca"), transport.ErrTrust, "expired"},
		{"certificate that expired, key known", certified("ca", "-n", "HOST", "-V", "-2d:-1d"), text("@cert-authority NAME KEY\nNAME KEY", "ca", "host-ed25519"), nil, ""},
		{"authority revoked", certified("ca", "-n", "HOST"), text("@cert-authority NAME KEY\n@revoked * KEY", "ca", "ca"), transport.ErrTrust, "revoked"},
		{"certified key revoked", certified("ca", "-n", "HOST"), text("@cert-authority NAME KEY\n@revoked * KEY", "ca", "host-ed25519"), transport.ErrTrust, "revoked"},
		{"user certificate", func(t *testing.T) []string {
			key := h.copyKey(t, "host-ed25519")
			h.keygen(t, "-q", "-I", "x", "-n", h.Addr, "-s", h.path("ca"), key+".pub")
			cert, err := os.ReadFile(key + "-cert.pub")
			require.NoError(t, err)
			h.on(t).write("/etc/rmtest/user-cert.pub", string(cert), 0o644)
			return []string{"HostKey /etc/rmtest/host-ed25519", "HostCertificate /etc/rmtest/user-cert.pub"}
		}, text("@cert-authority NAME KEY", "ca"), transport.ErrTrust, "certificate is not accepted"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var config []string
			if r.config != nil {
				config = r.config(t)
			}
			s := h.start(t, config...)
			ep := s.endpoint(t)
			file := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), r.known(t, s), 0o600)
			empty := writeFile(t, filepath.Join(t.TempDir(), "empty"), "", 0o600)
			for i, files := range [][]string{{file}, {empty, file + ".missing", file}} {
				ep.Trust = transport.Trust{KnownHosts: files}
				err := s.try(t, ep, r.want, r.says)
				if err == nil {
					continue
				}
				failed := i + 1
				if r.want == transport.ErrInvalid {
					failed = 0 // it was not dialled
				}
				require.NotContains(t, s.log(t, failed), "userauth-request", "it was told who wants to log in")
				if strings.Contains(r.says, "no key of [") {
					require.ErrorContains(t, err, "it showed ssh-ed25519 SHA256:", "the operator can compare it")
					require.Equal(t, len(files) > 1, strings.Contains(err.Error(), "missing: no such file"))
				}
			}
		})
	}
	t.Run("first use", func(t *testing.T) { loginFirstUse(t, h) })
}

// loginFirstUse records what it sees.
func loginFirstUse(t *testing.T, h *loginHost) {
	s := h.start(t, "HostKey /etc/rmtest/host-ed25519", "HostKey /etc/rmtest/host-rsa")
	file := filepath.Join(t.TempDir(), "known_hosts")
	ep := s.endpoint(t)
	ep.Trust = transport.Trust{KnownHosts: []string{file}}
	err := s.try(t, ep, transport.ErrTrust, file)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotContains(t, s.log(t, 0), "Connection from "+h.Addr, "it was dialled")

	ep.Trust.FirstUse = ssh.AcceptNew(file)
	s.try(t, ep, nil, "")
	ep.Trust.FirstUse = nil
	s.try(t, ep, nil, "")
	h.keygen(t, "-F", strings.Replace(s.addr, h.Addr, "["+h.Addr+"]", 1), "-f", file) // so does ssh
	h.keygen(t, "-H", "-f", file)
	s.try(t, ep, nil, "")

	// Its other keys do not make it another target; another key in place of all does.
	ep.Trust.FirstUse = ssh.AcceptNew(file)
	other := h.start(t, "HostKey /etc/rmtest/host-ecdsa")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	ep.Address = other.addr
	plain := strings.Replace(other.addr, h.Addr, "["+h.Addr+"]", 1) + " " + h.public(t, "ecdsa") + "\n"
	writeFile(t, file, string(content)+plain, 0o600)
	other.try(t, ep, transport.ErrTrust, "another key is recorded for it")
	require.NotContains(t, other.log(t, 1), "userauth-request")
}

// TestFirstUseIsAskedOnce: key exchanges go on for as long as the connection does,
// and the dial's context has long ended.
func TestFirstUseIsAskedOnce(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "RekeyLimit 256K 1s")
	for name, trust := range map[string]func(file string) transport.Trust{
		"own":        func(string) transport.Trust { return transport.Trust{} },
		"accept-new": func(file string) transport.Trust { return transport.Trust{FirstUse: ssh.AcceptNew(file)} },
	} {
		t.Run(name, func(t *testing.T) {
			ep := s.endpoint(t)
			ep.Trust = trust(filepath.Join(t.TempDir(), "known_hosts"))
			accept := ep.Trust.FirstUse
			var asked atomic.Int32
			ep.Trust.FirstUse = func(ctx context.Context, seen transport.SeenIdentity) error {
				asked.Add(1)
				if accept != nil {
					return accept(ctx, seen)
				}
				return nil
			}
			conn := dial(t, ep)
			file := transport.BytesFile("x", noise(3<<20))
			name := filepath.Join(t.TempDir(), "x")
			_, err := transport.Put(t.Context(), conn, name, file, transport.PutOptions{})
			require.NoError(t, err)
			_, err = transport.Get(t.Context(), conn, name, io.Discard, transport.GetOptions{})
			require.NoError(t, err)
			require.EqualValues(t, 1, asked.Load())
		})
	}
}
