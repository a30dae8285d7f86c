package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// clean makes one harmless line of any text. What comes from a target, or from a
// file that somebody sent, may hold control sequences that rewrite the screen,
// and marks that reverse the direction of writing: they are shown as escapes.
func clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t':
			b.WriteByte(' ')
		case r == '\n' || r == '\r' && strings.HasPrefix(s[i+1:], "\n"):
			if r == '\r' {
				n = 2
			}
			b.WriteString(" | ")
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

func isClean(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// cleanLines is clean for each line of a text; empty lines at the end are dropped.
func cleanLines(s string) []string {
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	if s == "" {
		return nil
	}
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		// A bare CR is how programs redraw a line: what stood there last counts.
		l = strings.TrimRight(l, "\r")
		lines[i] = clean(l[strings.LastIndexByte(l, '\r')+1:])
	}
	return lines
}

// cleanJSON escapes what JSON allows in strings and a terminal may obey: DEL, the
// C1 control characters, and format characters. JSON has such runes in strings
// alone.
func cleanJSON(b []byte) []byte {
	if isClean(string(b)) {
		return b
	}
	var out strings.Builder
	for _, r := range string(b) {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			out.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, hi, lo)
		}
	}
	return []byte(out.String())
}
