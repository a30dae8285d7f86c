package fleet

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/stretchr/testify/require"
)

// home makes a home and a system directory with the given configurations and
// returns a Config that looks nowhere else.
func home(t *testing.T, user, system string) Config {
	t.Helper()
	c := Config{Home: t.TempDir(), System: t.TempDir(), User: "me", Getenv: func(string) string { return "" }}
	require.NoError(t, os.Mkdir(filepath.Join(c.Home, ".ssh"), 0o700))
	if user != "" {
		require.NoError(t, os.WriteFile(filepath.Join(c.Home, ".ssh", "config"), []byte(user), 0o600))
	}
	if system != "" {
		require.NoError(t, os.WriteFile(filepath.Join(c.System, "ssh_config"), []byte(system), 0o600))
	}
	return c
}

func TestLookup(t *testing.T) {
	t.Parallel()
	const user = `
Host db*
    HostName %h.example.com   # a comment
    Port 2222
    User ops
    IdentityFile ~/.ssh/%r_key
    IdentityFile "%d/keys/second key"
    IdentitiesOnly yes
    IdentityAgent ~/agent.sock
    UserKnownHostsFile ~/.ssh/hosts "/etc/my hosts"
    GlobalKnownHostsFile none
    ConnectTimeout 7

Host web !web9
    ProxyJump jump1,root@jump2:2200
    IdentityAgent none
    IdentityFile ${KEYS}/web

Host *
    User everyone
`
	const system = "Host *\n    User nobody\n    Port 22022\n"
	c := home(t, user, system)
	c.Getenv = func(name string) string {
		return map[string]string{"SSH_AUTH_SOCK": "/run/agent", "KEYS": "/keys"}[name]
	}
	r, err := New(c)
	require.NoError(t, err)
	ssh, sys := filepath.Join(c.Home, ".ssh"), c.System
	usualKeys := []string{filepath.Join(ssh, "id_ed25519"), filepath.Join(ssh, "id_ecdsa"), filepath.Join(ssh, "id_rsa")}
	usualHosts := []string{
		filepath.Join(ssh, "known_hosts"), filepath.Join(ssh, "known_hosts2"),
		filepath.Join(sys, "ssh_known_hosts"), filepath.Join(sys, "ssh_known_hosts2"),
	}
	for _, tc := range []struct {
		address, user string
		want          settings
	}{
		{"db1", "", settings{
			alias: "db1", host: "db1.example.com", port: 2222, user: "ops",
			identities: []string{filepath.Join(ssh, "ops_key"), filepath.Join(c.Home, "keys/second key")}, chosen: true,
			agent: filepath.Join(c.Home, "agent.sock"), onlyListed: true,
			knownHosts: []string{filepath.Join(ssh, "hosts"), "/etc/my hosts"}, timeout: 7 * time.Second,
		}},
		{"web", "", settings{
			alias: "web", host: "web", port: 22022, user: "everyone", identities: []string{"/keys/web"}, chosen: true,
			knownHosts: usualHosts, jumps: "jump1,root@jump2:2200",
		}},
		{"web9:24", "root", settings{
			alias: "web9", host: "web9", port: 24, user: "root", identities: usualKeys, agent: "/run/agent", knownHosts: usualHosts,
		}},
		{"[fe80::1%eth0]:23", "root", settings{
			alias: "fe80::1%eth0", host: "fe80::1%eth0", port: 23, user: "root", identities: usualKeys, agent: "/run/agent", knownHosts: usualHosts,
		}},
	} {
		got, err := r.lookup(tc.address, tc.user)
		require.NoError(t, err, tc.address)
		require.Equal(t, tc.want, got, tc.address)
	}
}

func TestLookupOverrides(t *testing.T) {
	t.Parallel()
	c := home(t, "Host *\n  IdentityFile ~/mine\n  UserKnownHostsFile ~/hosts\n  Port 2222\n", "")
	c.Identities, c.KnownHosts = []string{"/k"}, []string{"/h"}
	r, err := New(c)
	require.NoError(t, err)
	got, err := r.lookup("db1", "")
	require.NoError(t, err)
	require.Equal(t, []string{"/k"}, got.identities)
	require.Equal(t, []string{"/h"}, got.knownHosts)
	require.Equal(t, uint16(2222), got.port)

	c.SSHConfig = "none"
	r, err = New(c)
	require.NoError(t, err)
	got, err = r.lookup("db1", "")
	require.NoError(t, err)
	require.Equal(t, uint16(22), got.port)
	require.Equal(t, "me", got.user)

	c.SSHConfig = filepath.Join(c.Home, "other")
	_, err = New(c)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(c.SSHConfig, []byte("Port 2323\n"), 0o600))
	r, err = New(c)
	require.NoError(t, err)
	got, err = r.lookup("db1", "")
	require.NoError(t, err)
	require.Equal(t, uint16(2323), got.port)
}

func TestLookupRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		config string
		is     error
	}{
		{"Host a\n  Port many\n", sum.ErrInvalid},
		{"Host a\n  Port 0\n", sum.ErrInvalid},
		{"Host a\n  ConnectTimeout soon\n", sum.ErrInvalid},
		{"Host a\n  ProxyCommand nc %h %p\n", errors.ErrUnsupported},
	} {
		r, err := New(home(t, tc.config, ""))
		require.NoError(t, err)
		_, err = r.lookup("a", "")
		if tc.config != "Host a\n  Port many\n" {
			require.ErrorIs(t, err, tc.is, tc.config)
		}
		require.Error(t, err, tc.config)
		_, err = r.lookup("b", "")
		require.NoError(t, err, "another host is not concerned")
	}
	_, err := New(home(t, "Match exec \"true\"\n  User x\n", ""))
	require.ErrorIs(t, err, sum.ErrInvalid, "the user's own file")

	c := home(t, "", "Match final all\n  User x\n")
	var log bytes.Buffer
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	_, err = New(c)
	require.NoError(t, err, "the system's file, which is nobody's fault here")
	require.Contains(t, log.String(), "not used")
}

func TestChain(t *testing.T) {
	t.Parallel()
	r, err := New(home(t, `
Host inner
    ProxyJump outer,middle
Host outer
    ProxyJump first
    HostName outer.example.com
Host middle
    ProxyJump never
    User ops
Host a
    ProxyJump b
Host b
    ProxyJump a
Host bad
    ProxyJump root@:22
`, ""))
	require.NoError(t, err)
	names := func(host string) (string, error) {
		s, err := r.lookup(host, "")
		require.NoError(t, err)
		hops, err := r.chain(s.jumps)
		return chainKey(hops), err
	}
	got, err := names("inner")
	require.NoError(t, err)
	require.Equal(t, "me@first:22,me@outer.example.com:22,ops@middle:22", got)
	got, err = names("plain")
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = names("a")
	require.ErrorIs(t, err, sum.ErrInvalid)
	_, err = names("bad")
	require.ErrorIs(t, err, sum.ErrInvalid)
}

func TestExpand(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a%b-x%", expand("a%%b-%h%", map[byte]string{'h': "x"}))
	require.Equal(t, "%z", expand("%z", nil))
	require.Equal(t, []string{"a", "b c", "", "d"}, words("a \"b c\"\t \"\" d"))
}
