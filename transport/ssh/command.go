package ssh

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

// newToken returns a word that nobody else prints.
func newToken() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// preamble is printed by sh right before the script proper: on both streams the
// token, after which they belong to the script, and on standard error the process
// that the login shell became, which leads the process group of the session.
func preamble(token, pid string) string {
	return "printf '%s\\n' " + token + ";printf '\\n%s %s\\n' " + token + " " + pid + " >&2;"
}

// commandLine is what the login shell is given so that sh runs the script, as
// root if elevate is set. The prompt is not empty if sudo may ask for a password,
// which it then does with these words.
func commandLine(script, token string, elevate bool, prompt string) string {
	if !elevate {
		return "exec " + shC(preamble(token, "$$")+script)
	}
	inner := "SSH_CONNECTION=$1;" + preamble(token, `"$2"`) + script
	sudo := "sudo -n"
	if prompt != "" {
		sudo = "sudo -S -p " + prompt
	}
	outer := fmt.Sprintf("printf '%%s\\n' %s >&2;s=%s;"+
		`[ "$(id -u)" = 0 ] && exec sh -c "$s" sh "$SSH_CONNECTION" $$;`+
		`exec %s -- sh -c "$s" sh "$SSH_CONNECTION" $$`, outerToken(token), quote(inner), sudo)
	return "exec " + shC(outer)
}

// outerToken says that a POSIX sh was reached, whatever becomes of sudo.
func outerToken(token string) string { return "sh-" + token }

// quote makes one word of a POSIX sh out of s, which has no NUL byte.
func quote(s string) string { return shellescape.Quote(s) }

// shC is "sh -c script" in a form that every login shell passes on unchanged. In
// single quotes, csh still sees "!" and the end of the line, fish sees backslashes
// before quotes, and none agrees on how to write a single quote. Such bytes are
// therefore spelled in octal, for printf to turn back.
func shC(script string) string {
	var b strings.Builder
	plain := true
	for i := range len(script) {
		switch c := script[i]; {
		case c < ' ' || c > '~' || c == '\'' || c == '!' || c == '\\':
			plain = false
			fmt.Fprintf(&b, `\0%03o`, c)
		case c == '"' || c == '$' || c == '`':
			fmt.Fprintf(&b, `\0%03o`, c) // quotes again within the quotes of eval
		default:
			b.WriteByte(c)
		}
	}
	if plain {
		return "sh -c '" + script + "'"
	}
	return `sh -c 'eval "$(printf %b "` + b.String() + `")"'`
}

// argvScript replaces sh by a program. Env entries are "NAME=value". The program
// must not begin with a dash.
func argvScript(argv, env []string) string {
	words := shellescape.QuoteCommand(argv)
	switch {
	case len(env) == 0:
		return "exec " + words
	case strings.Contains(argv[0], "="):
		// Env would take the program for one more variable.
		return "exec env " + shellescape.QuoteCommand(env) + ` sh -c 'exec "$@"' sh ` + words
	}
	return "exec env " + shellescape.QuoteCommand(env) + " " + words
}

// scriptWith sets the positional parameters of a fixed script.
func scriptWith(script string, args ...string) string {
	return "set -- " + shellescape.QuoteCommand(args) + "\n" + script
}
