package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
)

// settings are what OpenSSH's configuration and the Config say about one host.
type settings struct {
	alias      string // the host as the caller named it
	host       string
	port       uint16
	user       string
	identities []string // private key files
	chosen     bool     // the identities were named by somebody, not merely usual
	agent      string   // socket of the ssh-agent, or ""
	onlyListed bool     // of the agent's keys only those of identities are to be used
	knownHosts []string
	jumps      string // ProxyJump, or ""
	timeout    time.Duration
}

// sshConfig is the content of the configuration files, the user's first.
type sshConfig []*ssh_config.Config

// loadSSHConfig reads the configuration files. A file of the system that cannot
// be parsed is passed over with a warning, because its user can do nothing about
// it; one of the user's own is an error.
func loadSSHConfig(c Config) (sshConfig, error) {
	switch c.SSHConfig {
	case "none":
		return nil, nil
	case "":
	default:
		f, err := parseSSHConfig(c.SSHConfig)
		if err != nil {
			return nil, err
		}
		return sshConfig{f}, nil
	}
	var out sshConfig
	f, err := parseSSHConfig(filepath.Join(c.Home, ".ssh", "config"))
	switch {
	case err == nil:
		out = append(out, f)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f, err = parseSSHConfig(filepath.Join(c.System, "ssh_config"))
	switch {
	case err == nil:
		out = append(out, f)
	case !errors.Is(err, fs.ErrNotExist):
		c.Logger.Warn("system-wide SSH configuration not used", "err", err)
	}
	return out, nil
}

func parseSSHConfig(filename string) (*ssh_config.Config, error) {
	data, err := os.ReadFile(filename)
	if err != nil {
		return nil, err
	}
	cfg, err := ssh_config.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; another file can be named instead, or none", sum.ErrInvalid, filename, err)
	}
	return cfg, nil
}

// get returns the first value of a keyword for a host, as ssh_config(5) wants it.
func (s sshConfig) get(alias, key string) (string, error) {
	for _, c := range s {
		if v, err := c.Get(alias, key); err != nil || v != "" {
			return strings.TrimSpace(v), err
		}
	}
	return "", nil
}

// all returns every value of a keyword that adds up, such as IdentityFile.
func (s sshConfig) all(alias, key string) ([]string, error) {
	var out []string
	for _, c := range s {
		v, err := c.GetAll(alias, key)
		if err != nil {
			return nil, err
		}
		out = append(out, v...)
	}
	return out, nil
}

// lookup finds the settings for an address with an optional user.
func (r *Resolver) lookup(address, userName string) (settings, error) {
	alias, port, err := transport.Endpoint{Address: address}.HostPort(0)
	if err != nil {
		return settings{}, err
	}
	s := settings{alias: alias, port: port, user: userName}
	l := lookup{r: r, s: &s}
	if s.host = l.get("HostName"); s.host == "" {
		s.host = alias
	} else {
		s.host = expand(s.host, map[byte]string{'h': alias})
	}
	if s.port == 0 {
		s.port = 22
		if v := l.get("Port"); v != "" {
			p, err := strconv.ParseUint(v, 10, 16)
			if err != nil || p == 0 {
				l.bad("Port", v)
			}
			s.port = uint16(p)
		}
	}
	if s.user == "" {
		s.user = l.get("User")
	}
	if s.user == "" {
		s.user = r.cfg.User
	}
	if v := l.get("ConnectTimeout"); v != "" && v != "none" {
		seconds, err := strconv.ParseUint(v, 10, 31)
		if err != nil {
			l.bad("ConnectTimeout", v)
		}
		s.timeout = time.Duration(seconds) * time.Second
	}
	l.keys()
	l.known()
	l.proxy()
	return s, l.err
}

// lookup collects the settings of one host and keeps the first error.
type lookup struct {
	r   *Resolver
	s   *settings
	err error
}

func (l *lookup) get(key string) string {
	v, err := l.r.ssh.get(l.s.alias, key)
	if err != nil && l.err == nil {
		l.err = err
	}
	return v
}

func (l *lookup) bad(key, value string) {
	if l.err == nil {
		l.err = fmt.Errorf("%w: SSH configuration of %s: %s %q", sum.ErrInvalid, l.s.alias, key, value)
	}
}

// keys fills in the identities and the agent.
func (l *lookup) keys() {
	s, cfg := l.s, l.r.cfg
	s.onlyListed = strings.EqualFold(l.get("IdentitiesOnly"), "yes")
	switch v := l.get("IdentityAgent"); {
	case strings.EqualFold(v, "none"):
	case v == "" || v == "SSH_AUTH_SOCK":
		s.agent = cfg.Getenv("SSH_AUTH_SOCK")
	case strings.HasPrefix(v, "$") && !strings.HasPrefix(v, "${"):
		s.agent = cfg.Getenv(v[1:])
	default:
		s.agent = l.path(v)
	}
	if len(cfg.Identities) > 0 {
		s.identities, s.chosen = cfg.Identities, true
		return
	}
	files, err := l.r.ssh.all(s.alias, "IdentityFile")
	if err != nil && l.err == nil {
		l.err = err
	}
	if len(files) > 0 {
		s.chosen = true
		for _, f := range files {
			if strings.EqualFold(f, "none") {
				s.identities = nil
				return
			}
			s.identities = append(s.identities, l.path(f))
		}
		return
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		s.identities = append(s.identities, filepath.Join(cfg.Home, ".ssh", name))
	}
}

// known fills in the known_hosts files.
func (l *lookup) known() {
	cfg := l.r.cfg
	if len(cfg.KnownHosts) > 0 {
		l.s.knownHosts = cfg.KnownHosts
		return
	}
	ssh := filepath.Join(cfg.Home, ".ssh")
	l.files("UserKnownHostsFile", filepath.Join(ssh, "known_hosts"), filepath.Join(ssh, "known_hosts2"))
	l.files("GlobalKnownHostsFile", filepath.Join(cfg.System, "ssh_known_hosts"), filepath.Join(cfg.System, "ssh_known_hosts2"))
}

func (l *lookup) files(key string, usual ...string) {
	v := l.get(key)
	switch {
	case v == "":
		l.s.knownHosts = append(l.s.knownHosts, usual...)
	case strings.EqualFold(v, "none"):
	default:
		for _, f := range words(v) {
			l.s.knownHosts = append(l.s.knownHosts, l.path(f))
		}
	}
}

// proxy fills in the jump hosts.
func (l *lookup) proxy() {
	jump, command := l.get("ProxyJump"), l.get("ProxyCommand")
	switch {
	case jump != "":
		// Given both, ssh takes the one that comes first in its files. Those that
		// have both mean the same way; this is the one that can be gone.
		if !strings.EqualFold(jump, "none") {
			l.s.jumps = jump
		}
	case command != "" && !strings.EqualFold(command, "none") && l.err == nil:
		l.err = fmt.Errorf("%w: SSH configuration of %s: ProxyCommand; say it with ProxyJump", errors.ErrUnsupported, l.s.alias)
	}
}

// path expands a file name of the configuration.
func (l *lookup) path(v string) string {
	s, cfg := l.s, l.r.cfg
	v = os.Expand(escapeBare(v), func(name string) string {
		if name == bareDollar {
			return "$"
		}
		return cfg.Getenv(name)
	})
	v = expand(v, map[byte]string{
		'd': cfg.Home, 'h': s.host, 'n': s.alias, 'p': strconv.Itoa(int(s.port)), 'r': s.user, 'u': cfg.User,
	})
	if v == "~" || strings.HasPrefix(v, "~/") {
		v = filepath.Join(cfg.Home, v[1:])
	}
	if !filepath.IsAbs(v) {
		return v
	}
	return filepath.Clean(v)
}

const bareDollar = "\x00"

// escapeBare protects a "$" that does not begin "${NAME}": ssh_config(5) knows
// that form alone.
func escapeBare(v string) string {
	var b strings.Builder
	for i := range len(v) {
		b.WriteByte(v[i])
		if v[i] == '$' && !strings.HasPrefix(v[i:], "${") {
			b.WriteString("{" + bareDollar + "}")
		}
	}
	return b.String()
}

// expand replaces the tokens of ssh_config(5). One that is not in the table stays
// as it is.
func expand(v string, tokens map[byte]string) string {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] != '%' || i+1 == len(v) {
			b.WriteByte(v[i])
			continue
		}
		i++
		switch to, ok := tokens[v[i]]; {
		case v[i] == '%':
			b.WriteByte('%')
		case ok:
			b.WriteString(to)
		default:
			b.WriteByte('%')
			b.WriteByte(v[i])
		}
	}
	return b.String()
}

// words splits a value at blanks; double quotes keep a word together.
func words(v string) []string {
	var out []string
	var b strings.Builder
	quoted, inWord := false, false
	flush := func() {
		if inWord {
			out = append(out, b.String())
		}
		b.Reset()
		inWord = false
	}
	for _, c := range v {
		switch {
		case c == '"':
			quoted, inWord = !quoted, true
		case !quoted && (c == ' ' || c == '\t'):
			flush()
		default:
			b.WriteRune(c)
			inWord = true
		}
	}
	flush()
	return out
}
