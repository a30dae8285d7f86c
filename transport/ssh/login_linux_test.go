package ssh_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// loginPAM asks for the password, and the user twice something more.
const loginPAM = `auth required pam_unix.so
auth [success=1 default=ignore] pam_succeed_if.so quiet user != twice
auth optional pam_ftp.so
account required pam_nologin.so
account required pam_unix.so
password required pam_unix.so
session required pam_permit.so
`

const (
	right = "correct horse"
	wrong = "battery staple"
)

// loginHost is a host with users, keys and authorities, on which servers of many
// configurations run.
type loginHost struct {
	*host
	dir   string // of keys, on the manager
	ports *atomic.Int32
}

// key types of the users and the host, by the names of their files
var keyKinds = map[string][]string{
	"ed25519": {"-t", "ed25519"}, "ecdsa": {"-t", "ecdsa", "-b", "256"}, "ecdsa521": {"-t", "ecdsa", "-b", "521"},
	"rsa": {"-t", "rsa", "-b", "2048"}, "dsa": {"-t", "dsa", "-m", "PEM"}, "locked": {"-t", "ed25519", "-N", right, "-a", "1"},
	"stranger": {"-t", "ed25519"}, "ca": {"-t", "ed25519"}, "otherca": {"-t", "ecdsa"}, "certified": {"-t", "ed25519"},
	"host-ed25519": {"-t", "ed25519"}, "host-ecdsa": {"-t", "ecdsa"}, "host-rsa": {"-t", "rsa", "-b", "2048"}, "host-dsa": {"-t", "dsa", "-m", "PEM"},
}

func newLoginHost(t *testing.T) *loginHost {
	h := &loginHost{host: newHost(t), dir: t.TempDir(), ports: &atomic.Int32{}}
	for name, args := range keyKinds {
		h.keygen(t, append([]string{"-q", "-N", "", "-C", name, "-f", h.path(name)}, args...)...)
	}
	var keys strings.Builder
	for _, name := range []string{"ed25519", "ecdsa", "ecdsa521", "rsa", "dsa", "locked"} {
		keys.WriteString(h.public(t, name) + "\n")
	}
	h.write("/etc/rmtest/userkeys", keys.String(), 0o644)
	h.write("/etc/rmtest/ca.pub", h.public(t, "ca")+"\n", 0o644)
	for _, name := range []string{"host-ed25519", "host-ecdsa", "host-rsa", "host-dsa"} {
		h.install(t, name)
	}
	h.write("/etc/pam.d/sshd", loginPAM, 0o644)
	passwords := ""
	for _, user := range []string{"alice", "twice", "expired", "closed"} {
		h.user(user, "/bin/bash", nil)
		passwords += user + ":" + right + "\n"
	}
	h.write("/run/passwords", passwords, 0o600)
	h.Run("sh", "-c", "chpasswd </run/passwords")
	h.Run("chage", "-d", "0", "expired")
	h.Run("usermod", "-e", "1970-01-02", "closed")
	return h
}

func (h *loginHost) path(name string) string { return filepath.Join(h.dir, name) }

func (h *loginHost) keygen(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(realtest.Need(t, "ssh-keygen"), args...).CombinedOutput()
	require.NoError(t, err, "ssh-keygen %q: %s", args, out)
}

// public is a public key in authorized_keys form.
func (h *loginHost) public(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(h.path(name + ".pub"))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

// install puts a host key on the host.
func (h *loginHost) install(t *testing.T, name string) {
	t.Helper()
	pem, err := os.ReadFile(h.path(name))
	require.NoError(t, err)
	h.write("/etc/rmtest/"+name, string(pem), 0o600)
}

func (h *loginHost) signer(t *testing.T, name string) xssh.Signer {
	t.Helper()
	pem, err := os.ReadFile(h.path(name))
	require.NoError(t, err)
	s, err := ssh.ParseKey(pem, transport.NewSecret(right))
	require.NoError(t, err)
	return s
}

// copyKey makes a copy of a key, so that it can have another certificate.
func (h *loginHost) copyKey(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	for _, ext := range []string{"", ".pub"} {
		b, err := os.ReadFile(h.path(name) + ext)
		require.NoError(t, err)
		writeFile(t, to+ext, string(b), 0o600)
	}
	return to
}

// userCert is a key with a certificate that ssh-keygen makes with these arguments.
func (h *loginHost) userCert(t *testing.T, key string, args ...string) string {
	t.Helper()
	path := h.copyKey(t, key)
	h.keygen(t, append(args, "-q", "-I", "id of the test", path+".pub")...)
	return path
}

// server is a running sshd.
type loginServer struct {
	h    *loginHost
	port int
	addr string
}

// start starts sshd with this configuration and little else: lines that a
// configuration lacks are those of a usual server. What comes first counts.
func (h *loginHost) start(t *testing.T, lines ...string) *loginServer {
	t.Helper()
	port := 3000 + int(h.ports.Add(1))
	s := &loginServer{h: h, port: port, addr: net.JoinHostPort(h.Addr, strconv.Itoa(port))}
	config := append([]string{"Port " + strconv.Itoa(port), "PidFile none", "LogLevel DEBUG1"}, lines...)
	config = append(config, "AuthorizedKeysFile /etc/rmtest/userkeys", "StrictModes no",
		"UsePAM yes", "PasswordAuthentication yes", "KbdInteractiveAuthentication yes", "Subsystem sftp internal-sftp")
	if !strings.Contains("\n"+strings.Join(lines, "\n"), "\nHostKey ") { // they would add up
		config = append(config, "HostKey /etc/rmtest/host-ed25519")
	}
	// It ends with the host.
	cmd := h.Command(t.Context(), "sh", "-ec", `nft insert rule inet only22 in tcp dport "$1" accept
cat >"/etc/rmtest/sshd_$1"
/usr/sbin/sshd -f "/etc/rmtest/sshd_$1" -E "$2"
for try in $(seq 400); do ss -Htln "sport = :$1" | grep -q . && exit; sleep 0.05; done; exit 1`, "sh", strconv.Itoa(port), s.logFile())
	cmd.Stdin = strings.NewReader(strings.Join(config, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return s
}

func (s *loginServer) logFile() string { return "/run/sshd_" + strconv.Itoa(s.port) + ".log" }

// preauth is a line about the end of a connection without a login.
var preauth = regexp.MustCompile(`(?m)^(Connection (closed|reset)|Disconnect|Unable to negotiate|fatal: |Access denied).*\[preauth\]`)

// log is what the server has said once so many logins have failed.
func (s *loginServer) log(t *testing.T, failed int) (log string) {
	t.Helper()
	require.Eventually(t, func() bool {
		log = s.h.on(t).Run("cat", s.logFile())
		return len(preauth.FindAllString(log, -1)) >= failed
	}, 20*time.Second, 50*time.Millisecond, "the log of the server lacks the end of a connection")
	return log
}

// endpoint is where alice logs in with her key.
func (s *loginServer) endpoint(t *testing.T) transport.Endpoint {
	return transport.Endpoint{Address: s.addr, Credentials: transport.Credentials{User: "alice"},
		Trust:   transport.Trust{HostKeys: []string{s.h.public(t, "host-ed25519")}},
		Options: ssh.Options{Signers: []xssh.Signer{s.h.signer(t, "ed25519")}}}
}

// password logs in with a password alone.
func password(ep *transport.Endpoint, user, password string) {
	ep.Credentials = transport.Credentials{User: user, Password: transport.NewSecret(password)}
	ep.Options = ssh.Options{}
}

// try dials, and compares what comes of it.
func (s *loginServer) try(t *testing.T, ep transport.Endpoint, want error, says string) error {
	t.Helper()
	conn, err := s.h.transport().Dial(t.Context(), ep)
	if want == nil {
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close(context.Background())) }()
		require.Equal(t, ep.Credentials.User+"\n", output(t, conn, "id", "-un"))
		return nil
	}
	if err == nil {
		_ = conn.Close(context.Background())
	}
	require.ErrorIs(t, err, want)
	require.ErrorContains(t, err, says)
	for _, secret := range []string{right, wrong} {
		require.NotContains(t, err.Error(), secret)
	}
	t.Log(err)
	return err
}

// TestLoginMatrix takes configurations of real servers, one in each row, and what
// the driver must make of them.
func TestLoginMatrix(t *testing.T) {
	t.Parallel()
	h := newLoginHost(t)
	for name, rows := range map[string]func(*testing.T, *loginHost){
		"methods": loginMethods, "keys": loginKeys, "trust": loginTrust, "algorithms": loginAlgorithms, "limits": loginLimits,
		"dropbear": loginDropbear, "tinysshd": loginTiny,
	} {
		t.Run(name, func(t *testing.T) { rows(t, h) })
	}
}

// loginMethods are ways to log in, and to fail.
func loginMethods(t *testing.T, h *loginHost) {
	alone := func(method string) []string {
		lines := map[string]string{"password": "PasswordAuthentication", "keyboard-interactive": "KbdInteractiveAuthentication", "publickey": "PubkeyAuthentication"}
		var out []string
		for m, keyword := range lines {
			if m != method {
				out = append(out, keyword+" no")
			}
		}
		return out
	}
	methods := func(m string) []string { return []string{"AuthenticationMethods " + m} }
	with := func(key, pw string) func(t *testing.T, ep *transport.Endpoint) {
		return func(t *testing.T, ep *transport.Endpoint) {
			password(ep, ep.Credentials.User, pw)
			if key != "" {
				ep.Options = ssh.Options{Signers: []xssh.Signer{h.signer(t, key)}}
			}
		}
	}
	as := func(user, pw string) func(t *testing.T, ep *transport.Endpoint) {
		return func(_ *testing.T, ep *transport.Endpoint) { password(ep, user, pw) }
	}
	for _, r := range []struct {
		name   string
		config []string
		who    func(t *testing.T, ep *transport.Endpoint)
		want   error
		says   string
	}{
		{"password", alone("password"), with("", right), nil, ""},
		{"password without PAM", append(alone("password"), "UsePAM no"), with("", right), nil, ""},
		{"password after a key", alone("password"), with("ed25519", right), nil, ""},
		{"wrong password", alone("password"), with("", wrong), transport.ErrAuth, "refused the password; it takes password"},
		{"no password", alone("password"), with("ed25519", ""), transport.ErrAuth, "nothing to offer of what the target takes (password)"},
		{"keyboard-interactive", alone("keyboard-interactive"), with("", right), nil, ""},
		{"keyboard-interactive, wrong", alone("keyboard-interactive"), with("", wrong), transport.ErrAuth, "refused the password; it takes keyboard-interactive"},
		{"two questions", alone("keyboard-interactive"), as("twice", right), transport.ErrAuth, "asks for more than a user and a password"},
		{"password that has expired", alone("keyboard-interactive"), as("expired", right), transport.ErrAuth, "a new password"},
		{"account that has expired, with a key", alone("publickey"), func(t *testing.T, ep *transport.Endpoint) {
			ep.Credentials.User = "closed" // sshd hangs up without a word
		}, transport.ErrAuth, "broke the login off when it was offered the key"},
		{"account that has expired", alone("keyboard-interactive"), as("closed", right), transport.ErrAuth, ""},
		{"no such user", nil, as("nobody-of-this-name", right), transport.ErrAuth, "refused the password"},
		{"user not allowed", []string{"DenyUsers alice"}, with("ed25519", right), transport.ErrAuth, "refused the key and the password"},
		{"root without password", []string{"PermitRootLogin prohibit-password"}, as("root", right), transport.ErrAuth, "refused the password"},
		{"key", alone("publickey"), with("ed25519", ""), nil, ""},
		{"key and wrong password", nil, with("ed25519", wrong), nil, ""},
		{"wrong key and password", nil, with("stranger", right), nil, ""},
		{"wrong key", alone("publickey"), with("stranger", right), transport.ErrAuth, "refused the key; it takes publickey"},
		{"key, then password", methods("publickey,password"), with("ed25519", right), nil, ""},
		{"key, then wrong password", methods("publickey,password"), with("ed25519", wrong), transport.ErrAuth, "accepted publickey, but wants password as well"},
		{"key, then no password", methods("publickey,password"), with("ed25519", ""), transport.ErrAuth, "accepted publickey, but wants password as well"},
		{"password alone of two", methods("publickey,password"), with("", right), transport.ErrAuth, "takes (publickey)"},
		{"password, then key", methods("password,publickey"), with("ed25519", right), nil, ""},
		{"key, then conversation", methods("publickey,keyboard-interactive"), with("ed25519", right), nil, ""},
		{"key, then PAM", methods("publickey,keyboard-interactive:pam"), with("ed25519", right), nil, ""},
		{"either", methods("publickey,password publickey,keyboard-interactive"), with("ed25519", right), nil, ""},
		{"two keys", methods("publickey,publickey"), func(t *testing.T, ep *transport.Endpoint) {
			ep.Options = ssh.Options{Signers: []xssh.Signer{h.signer(t, "ed25519"), h.signer(t, "rsa")}}
		}, nil, ""},
		{"one of two keys", methods("publickey,publickey"), with("ed25519", ""), transport.ErrAuth, "accepted publickey, but wants publickey as well"},
		{"banner", []string{"Banner /etc/passwd"}, with("ed25519", ""), nil, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := h.start(t, r.config...)
			ep := s.endpoint(t)
			r.who(t, &ep)
			s.try(t, ep, r.want, r.says)
			if r.want != nil {
				require.LessOrEqual(t, strings.Count(s.log(t, 1), "Failed password for"), 1, "a secret was offered twice")
			}
		})
	}
}

// loginKeys are keys of every kind.
func loginKeys(t *testing.T, h *loginHost) {
	file := func(name string) func(*testing.T) ssh.Options {
		return func(*testing.T) ssh.Options {
			return ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: h.path(name)}}}
		}
	}
	cert := func(args ...string) func(*testing.T) ssh.Options {
		return func(t *testing.T) ssh.Options {
			return ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: h.userCert(t, "certified", args...)}}}
		}
	}
	old := func(wanted bool) func(*testing.T) ssh.Options {
		return func(t *testing.T) ssh.Options {
			s, err := xssh.NewSignerWithAlgorithms(h.signer(t, "rsa").(xssh.AlgorithmSigner), []string{xssh.KeyAlgoRSA})
			require.NoError(t, err)
			return ssh.Options{LegacyAlgorithms: wanted, Signers: []xssh.Signer{s}}
		}
	}
	sign := func(args ...string) []string { return append([]string{"-s", h.path("ca")}, args...) }
	trusted := []string{"TrustedUserCAKeys /etc/rmtest/ca.pub"}
	h.write("/etc/rmtest/principals", "operators\n", 0o644)
	for _, r := range []struct {
		name   string
		config []string
		opts   func(t *testing.T) ssh.Options
		want   error
		says   string
	}{
		{"ed25519", nil, file("ed25519"), nil, ""},
		{"ecdsa", nil, file("ecdsa"), nil, ""},
		{"ecdsa 521", nil, file("ecdsa521"), nil, ""},
		{"rsa", nil, file("rsa"), nil, ""},
		{"rsa with SHA-512", []string{"PubkeyAcceptedAlgorithms rsa-sha2-512"}, file("rsa"), nil, ""},
		// This sshd says that it takes all of them, so ssh does not get in, either.
		{"rsa with SHA-256", []string{"PubkeyAcceptedAlgorithms rsa-sha2-256"}, file("rsa"), transport.ErrAuth, "refused the key"},
		{"rsa with SHA-1", []string{"PubkeyAcceptedAlgorithms ssh-rsa"}, old(false), transport.ErrAuth, "signs in no secure way"},
		{"rsa with SHA-1, wanted", []string{"PubkeyAcceptedAlgorithms ssh-rsa"}, old(true), nil, ""},
		{"dsa", []string{"PubkeyAcceptedAlgorithms +ssh-dss"}, file("dsa"), transport.ErrAuth, "signs in no secure way"},
		{"dsa, wanted", []string{"PubkeyAcceptedAlgorithms +ssh-dss"}, func(t *testing.T) ssh.Options {
			return ssh.Options{LegacyAlgorithms: true, Signers: []xssh.Signer{h.signer(t, "dsa")}}
		}, nil, ""},
		{"no rsa", []string{"PubkeyAcceptedAlgorithms ssh-ed25519"}, file("rsa"), transport.ErrAuth, "refused the key"},
		{"passphrase", nil, func(*testing.T) ssh.Options {
			return ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: h.path("locked"), Passphrase: transport.NewSecret(right)}}}
		}, nil, ""},
		{"wrong passphrase", nil, func(*testing.T) ssh.Options {
			return ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: h.path("locked"), Passphrase: transport.NewSecret(wrong)}}}
		}, transport.ErrInvalid, "does not open this private key"},
		{"no passphrase", nil, file("locked"), transport.ErrInvalid, "is encrypted"},
		{"certificate", trusted, cert(sign("-n", "alice")...), nil, ""},
		{"certificate for all", trusted, cert(sign()...), transport.ErrAuth, "refused 2 keys"}, // sshd wants a name
		{"certificate of a role", append(trusted, "AuthorizedPrincipalsFile /etc/rmtest/principals"), cert(sign("-n", "operators")...), nil, ""},
		{"certificate of another role", append(trusted, "AuthorizedPrincipalsFile /etc/rmtest/principals"), cert(sign("-n", "others")...), transport.ErrAuth, "refused 2 keys"},
		{"certificate for another", trusted, cert(sign("-n", "bob")...), transport.ErrAuth, "refused 2 keys"},
		{"certificate that expired", trusted, cert(sign("-n", "alice", "-V", "-2d:-1d")...), transport.ErrAuth, `the certificate "id of the test" has expired`},
		{"certificate of tomorrow", trusted, cert(sign("-n", "alice", "-V", "+1d:+2d")...), transport.ErrAuth, `the certificate "id of the test" is not valid yet`},
		{"certificate by another", trusted, cert("-s", h.path("otherca"), "-n", "alice"), transport.ErrAuth, "refused 2 keys"},
		{"certificate from elsewhere", trusted, cert(sign("-n", "alice", "-O", "source-address=198.51.100.0/24")...), transport.ErrAuth, ""},
		{"certificate for nothing", nil, cert(sign("-n", "alice")...), transport.ErrAuth, "refused 2 keys"},
		{"certificate with rsa", trusted, func(t *testing.T) ssh.Options {
			return ssh.Options{IdentityFiles: []ssh.IdentityFile{{Path: h.userCert(t, "rsa", sign("-n", "alice")...)}}}
		}, nil, ""},
		{"host certificate", trusted, cert(sign("-h", "-n", "alice")...), transport.ErrAuth, "refused 2 keys"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := h.start(t, append([]string{"PasswordAuthentication no", "KbdInteractiveAuthentication no"}, r.config...)...)
			ep := s.endpoint(t)
			ep.Options = r.opts(t)
			s.try(t, ep, r.want, r.says)
		})
	}
}
