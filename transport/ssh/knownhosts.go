package ssh

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// A knownFile is what a known_hosts file says (sshd(8), SSH_KNOWN_HOSTS FILE
// FORMAT). Keys are decoded when their host is looked up: the file of a fleet has
// thousands, of which a dial needs one. A line that makes no sense therefore
// matters only to the hosts that it names, as with OpenSSH; package knownhosts of
// golang.org/x/crypto would refuse the file. A knownFile never changes.
type knownFile struct {
	name    string
	lines   []knownLine
	byName  map[string][]int // lines by host name, of those that name hosts plainly
	matched []int            // lines with patterns
	hashed  []hashedName
	revoked map[string]int // line numbers by key in wire form
}

type knownLine struct {
	number    int
	authority bool // of certificates
	names     string
	keyType   string
	key       string // base64
}

type hashedName struct {
	line      int
	salt, sum []byte
}

// A knownKey is a key that a known_hosts file has for a host.
type knownKey struct {
	key       xssh.PublicKey
	authority bool
	where     string // "file:line"
}

// maxKnown bounds a known_hosts file, in bytes.
const maxKnown = 64 << 20

var (
	errNotKnownHosts = errors.New("not one line in it is a host with its key")
	errKnownLine     = errors.New("this line is broken")
)

// readKnown reads a known_hosts file.
func readKnown(name string) (*knownFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxKnown+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxKnown {
		return nil, fmt.Errorf("%s: longer than %d bytes", name, maxKnown)
	}
	return parseKnown(name, string(content))
}

// parseKnown takes a known_hosts file apart, as far as is needed to find the lines
// about a host. A revocation must not be missed, so one that makes no sense is an
// error, as is a file in which nothing makes any.
func parseKnown(name, content string) (*knownFile, error) {
	f := &knownFile{name: name, byName: map[string][]int{}, revoked: map[string]int{}}
	number, full, sensible := 0, 0, 0 // lines: all, those that say something, those that make sense
	for text := range strings.Lines(content) {
		number++
		word, rest := cutWord(strings.Trim(text, " \t\r\n"))
		if word == "" || word[0] == '#' {
			continue
		}
		full++
		marker := ""
		if word[0] == '@' {
			marker = word
			word, rest = cutWord(rest)
		}
		l := knownLine{number: number, authority: marker == "@cert-authority", names: word}
		l.keyType, rest = cutWord(rest)
		l.key, _ = cutWord(rest)
		// The wire form of a key begins with the length of its type.
		if strings.HasPrefix(l.key, "AAAA") || isNumber(l.keyType) {
			sensible++
		}
		switch marker {
		case "", "@cert-authority":
			f.add(l)
		case "@revoked":
			k, err := l.decode()
			if err != nil {
				return nil, fmt.Errorf("%s:%d: @revoked without a key: %w", name, number, err)
			}
			if k != nil {
				f.revoked[plainKey(k)] = number
			}
			sensible++
		}
	}
	if full > 0 && sensible == 0 {
		return nil, fmt.Errorf("%s: %w", name, errNotKnownHosts)
	}
	return f, nil
}

// add adds a line and the ways to find it.
func (f *knownFile) add(l knownLine) {
	n := len(f.lines)
	switch {
	case l.names == "" || l.names[0] == '@':
		return
	case l.names[0] == '|':
		part := strings.Split(l.names, "|")
		if len(part) != 4 || part[1] != "1" {
			return
		}
		salt, err1 := base64.StdEncoding.DecodeString(part[2])
		sum, err2 := base64.StdEncoding.DecodeString(part[3])
		if err1 != nil || err2 != nil {
			return
		}
		f.hashed = append(f.hashed, hashedName{n, salt, sum})
	case strings.ContainsAny(l.names, "*?!"):
		f.matched = append(f.matched, n)
	default:
		for name := range strings.SplitSeq(strings.ToLower(l.names), ",") {
			f.byName[name] = append(f.byName[name], n)
		}
	}
	f.lines = append(f.lines, l)
}

// find returns the keys for a host, which is named as knownName does.
func (f *knownFile) find(name string) ([]knownKey, error) {
	at := slices.Clone(f.byName[name])
	for _, n := range f.matched {
		if matchNames(name, strings.ToLower(f.lines[n].names)) {
			at = append(at, n)
		}
	}
	for _, h := range f.hashed {
		mac := hmac.New(sha1.New, h.salt)
		_, _ = io.WriteString(mac, name)
		if bytes.Equal(mac.Sum(nil), h.sum) {
			at = append(at, h.line)
		}
	}
	slices.Sort(at)
	var keys []knownKey
	for _, n := range slices.Compact(at) {
		l := f.lines[n]
		where := fmt.Sprintf("%s:%d", f.name, l.number)
		k, err := l.decode()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", where, errKnownLine, err)
		}
		if k != nil {
			keys = append(keys, knownKey{k, l.authority, where})
		}
	}
	return keys, nil
}

// decode returns the key of a line. It is nil if it is of a type that nobody asks
// for here, such as those of version 1 of SSH.
func (l knownLine) decode() (xssh.PublicKey, error) {
	if isNumber(l.keyType) {
		return nil, nil
	}
	wire, err := base64.StdEncoding.DecodeString(l.key)
	if err != nil {
		return nil, err
	}
	var named struct {
		Type string
		Rest []byte `ssh:"rest"`
	}
	if err := xssh.Unmarshal(wire, &named); err != nil || named.Type != l.keyType {
		return nil, fmt.Errorf("the key is not of the type %q", l.keyType)
	}
	k, err := xssh.ParsePublicKey(wire)
	if err != nil && slices.Contains(keyTypes(), l.keyType) {
		return nil, err
	}
	return k, nil
}

// keyTypes are the types of host keys that golang.org/x/crypto/ssh understands.
func keyTypes() []string {
	return append(xssh.SupportedAlgorithms().HostKeys, xssh.InsecureAlgorithms().HostKeys...)
}

// plainKey is a key in wire form; of a certificate it is the key that it certifies.
func plainKey(k xssh.PublicKey) string {
	if cert, ok := k.(*xssh.Certificate); ok {
		k = cert.Key
	}
	return string(k.Marshal())
}

// revokes says where a key is revoked, the one of a certificate or of its authority
// included, or returns "". A revoked key is refused whatever the names in the line.
func (f *knownFile) revokes(k xssh.PublicKey) string {
	keys := []string{plainKey(k)}
	if cert, ok := k.(*xssh.Certificate); ok {
		keys = append(keys, plainKey(cert.SignatureKey))
	}
	for _, k := range keys {
		if n, ok := f.revoked[k]; ok {
			return fmt.Sprintf("%s:%d", f.name, n)
		}
	}
	return ""
}

// canonicalHost is a host as OpenSSH looks it up: names in lower case, addresses
// in their short form.
func canonicalHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String()
	}
	return strings.ToLower(host)
}

// knownName is the name under which known_hosts has a host that was dialled as
// "host:port".
func knownName(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if host = canonicalHost(host); port == "22" {
		return host
	}
	return "[" + host + "]:" + port
}

// matchNames reports whether a list of patterns names a host: one of them, and
// none that begins with "!".
func matchNames(name, list string) bool {
	found := false
	for p := range strings.SplitSeq(list, ",") {
		p, not := strings.CutPrefix(p, "!")
		if p == "" || !matchPattern(name, p) {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}

// matchPattern matches s against a pattern in which "*" stands for any number of
// characters and "?" for one (ssh_config(5), PATTERNS).
func matchPattern(s, pattern string) bool {
	star, from := -1, 0 // the last "*", and where what follows it was tried
	i, p := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			i, p = i+1, p+1
		case star >= 0:
			from++
			i, p = from, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// cutWord cuts the first word off a line.
func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
