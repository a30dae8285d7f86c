package inventory

import (
	"bufio"
	"io"
	"strings"
)

// Bounds of os-release, which is a few hundred bytes long.
const (
	maxOSRelease     = 64 << 10
	maxOSReleaseLine = 4 << 10
)

// parseOSRelease reads the variables of os-release(5): shell assignments of
// plain or quoted words, without expansion. Lines that are none are ignored, as
// the manual page asks.
func parseOSRelease(r io.Reader) map[string]string {
	out := map[string]string{}
	sc := bufio.NewScanner(io.LimitReader(r, maxOSRelease))
	sc.Buffer(nil, maxOSReleaseLine)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		name, value, ok := strings.Cut(line, "=")
		if !ok || !isVariable(name) {
			continue
		}
		if v, ok := unquote(value); ok {
			out[name] = v
		}
	}
	return out
}

func isVariable(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// unquote takes the quotes off a shell word. It reports false for one that does
// not end.
func unquote(s string) (string, bool) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(s) {
				return "", false
			}
			// Between double quotes the shell keeps a backslash that escapes nothing.
			if quote == '"' && !strings.ContainsRune("\"\\$`", rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), strings.HasPrefix(strings.TrimSpace(s[i:]), "#") || strings.TrimSpace(s[i:]) == ""
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), quote == 0
}
