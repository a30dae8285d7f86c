package ssh_test

import (
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// loginAlgorithms restricts servers to one algorithm. Those that are not secure are
// used if the caller wants them and the key of the target is known, and not before.
func loginAlgorithms(t *testing.T, h *loginHost) {
	ctr := "Ciphers aes256-ctr"
	for _, r := range []struct {
		name   string
		config []string
		host   string // key
		old    bool   // not secure
		want   error  // in any case
		says   string
	}{
		{"aes128-gcm", []string{"Ciphers aes128-gcm@openssh.com"}, "ed25519", false, nil, ""},
		{"aes256-gcm", []string{"Ciphers aes256-gcm@openssh.com"}, "ed25519", false, nil, ""},
		{"chacha20", []string{"Ciphers chacha20-poly1305@openssh.com"}, "ed25519", false, nil, ""},
		{"aes128-ctr", []string{"Ciphers aes128-ctr"}, "ed25519", false, nil, ""},
		{"aes192-ctr", []string{"Ciphers aes192-ctr"}, "ed25519", false, nil, ""},
		{"hmac-sha2-256-etm", []string{ctr, "MACs hmac-sha2-256-etm@openssh.com"}, "ed25519", false, nil, ""},
		{"hmac-sha2-512-etm", []string{ctr, "MACs hmac-sha2-512-etm@openssh.com"}, "ed25519", false, nil, ""},
		{"hmac-sha2-256", []string{ctr, "MACs hmac-sha2-256"}, "ed25519", false, nil, ""},
		{"hmac-sha2-512", []string{ctr, "MACs hmac-sha2-512"}, "ed25519", false, nil, ""},
		{"hmac-sha1", []string{ctr, "MACs hmac-sha1"}, "ed25519", false, nil, ""}, // as a MAC it is secure
		{"curve25519", []string{"KexAlgorithms curve25519-sha256"}, "ed25519", false, nil, ""},
		{"curve25519 of libssh", []string{"KexAlgorithms curve25519-sha256@libssh.org"}, "ed25519", false, nil, ""},
		{"nistp256", []string{"KexAlgorithms ecdh-sha2-nistp256"}, "ed25519", false, nil, ""},
		{"nistp384", []string{"KexAlgorithms ecdh-sha2-nistp384"}, "ed25519", false, nil, ""},
		{"nistp521", []string{"KexAlgorithms ecdh-sha2-nistp521"}, "ed25519", false, nil, ""},
		{"group14-sha256", []string{"KexAlgorithms diffie-hellman-group14-sha256"}, "ed25519", false, nil, ""},
		{"group16-sha512", []string{"KexAlgorithms diffie-hellman-group16-sha512"}, "ed25519", false, nil, ""},
		{"group-exchange-sha256", []string{"KexAlgorithms diffie-hellman-group-exchange-sha256"}, "ed25519", false, nil, ""},
		{"host ecdsa", nil, "ecdsa", false, nil, ""},
		{"host rsa", nil, "rsa", false, nil, ""},
		{"host rsa-sha2-256", []string{"HostKeyAlgorithms rsa-sha2-256"}, "rsa", false, nil, ""},
		{"compression", []string{"Compression yes"}, "ed25519", false, nil, ""},

		// What golang.org/x/crypto/ssh does not have.
		{"sntrup761", []string{"KexAlgorithms sntrup761x25519-sha512@openssh.com"}, "ed25519", false, transport.ErrRejected, "no algorithm that this program knows"},
		{"umac", []string{ctr, "MACs umac-128-etm@openssh.com"}, "ed25519", false, transport.ErrRejected, "no algorithm that this program knows"},
		{"aes256-cbc", []string{"Ciphers aes256-cbc"}, "ed25519", false, transport.ErrRejected, "no algorithm that this program knows"},

		{"group14-sha1", []string{"KexAlgorithms diffie-hellman-group14-sha1"}, "ed25519", true, nil, "diffie-hellman-group14-sha1"},
		{"group1-sha1", []string{"KexAlgorithms diffie-hellman-group1-sha1"}, "ed25519", true, nil, "diffie-hellman-group1-sha1"},
		{"group-exchange-sha1", []string{"KexAlgorithms diffie-hellman-group-exchange-sha1"}, "ed25519", true, nil, "diffie-hellman-group-exchange-sha1"},
		{"3des", []string{"Ciphers 3des-cbc"}, "ed25519", true, nil, "3des-cbc"},
		{"aes128-cbc", []string{"Ciphers aes128-cbc"}, "ed25519", true, nil, "aes128-cbc"},
		{"hmac-sha1-96", []string{ctr, "MACs hmac-sha1-96"}, "ed25519", true, nil, "hmac-sha1-96"},
		{"host ssh-rsa", []string{"HostKeyAlgorithms ssh-rsa"}, "rsa", true, nil, "ssh-rsa"},
		{"host ssh-dss", []string{"HostKeyAlgorithms ssh-dss"}, "dsa", true, nil, "ssh-dss"},
		{"management processor", []string{"KexAlgorithms diffie-hellman-group1-sha1,diffie-hellman-group14-sha1", "Ciphers 3des-cbc,aes128-cbc",
			"MACs hmac-sha1,hmac-md5", "HostKeyAlgorithms ssh-rsa,ssh-dss", "HostKey /etc/rmtest/host-dsa"}, "rsa", true, nil, "diffie-hellman-group1-sha1"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := h.start(t, append([]string{"HostKey /etc/rmtest/host-" + r.host}, r.config...)...)
			ep := s.endpoint(t)
			ep.Trust = transport.Trust{HostKeys: []string{h.public(t, "host-"+r.host)}}
			opts := ssh.Options{Signers: []xssh.Signer{h.signer(t, "ed25519")}}
			for _, legacy := range []bool{false, true} {
				opts.LegacyAlgorithms = legacy
				ep.Options = opts
				if r.old && !legacy {
					err := s.try(t, ep, transport.ErrRejected, "(Options.LegacyAlgorithms)")
					require.ErrorContains(t, err, r.says)
					require.False(t, transport.Temporary(err))
					failed := 1
					if r.name == "host ssh-dss" {
						failed = 0 // it was not dialled
					}
					require.NotContains(t, s.log(t, failed), "userauth-request")
					continue
				}
				if err := s.try(t, ep, r.want, r.says); err != nil {
					require.NotContains(t, err.Error(), "LegacyAlgorithms")
				}
			}
			if r.old {
				// The key must have been known before.
				ep.Trust.FirstUse = ssh.AcceptNew(t.TempDir() + "/known_hosts")
				s.try(t, ep, transport.ErrInvalid, "LegacyAlgorithms")
				ep.Trust.FirstUse = nil
				ep.Trust.HostKeys = []string{strings.Replace(h.public(t, "ed25519"), "x", "x", 1)}
				require.Error(t, s.try(t, ep, transport.ErrTrust, ""))
			}
		})
	}
}
