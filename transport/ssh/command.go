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

// rights say as whom a script runs. The zero value is the user who logged in.
type rights struct {
	sudo bool
	// prompt, if it is not empty, is what sudo asks for the password with.
	prompt string
	// terminal gives sudo a terminal, which "Defaults requiretty" in sudoers wants.
	// Data do not go through it.
	terminal bool
}

// plainly takes back what a login shell that is bash may pass on to a sh that is
// bash by an exported SHELLOPTS, such as the trace of all commands.
const plainly = "set +abCefmuvx;case ${SHELLOPTS-} in *pipefail*)set +o pipefail;;esac;"

// leads sets g to "alone" if the process leads no group, as every command of
// OpenSSH's server does, but none of Dropbear's.
const leads = "kill -0 -$$ 2>/dev/null&&g=||g=alone;"

// preamble is what sh does right before the script proper. It prints on both
// streams the token, after which they belong to the script, and on standard error
// pids, the processes to end so that the program ends; see isPIDs.
func preamble(token, pids string) string {
	return plainly + "printf '%s\\n' " + token + ";printf '\\n%s %s\\n' " + token + " " + pids + " >&2;"
}

// wrapped is what sh is to run so that the script runs with the given rights.
func wrapped(script, token string, as rights) string {
	if !as.sudo {
		return leads + preamble(token, `"$$ $g"`) + script
	}
	reached := plainly + "printf '%s %s\\n' " + outerToken(token) + " $$ >&2;"
	sudo := "exec sudo -n"
	if as.prompt != "" {
		sudo = "exec sudo -S -p " + as.prompt
	}
	sudo += ` -- sh -c "$s" sh "$SSH_CONNECTION" `
	how := sudo + `"$$ $g"`
	if as.terminal {
		// The descriptors 3, 4 and 5 lead past the terminal, whose end, the signal
		// HUP, must not reach what the program leaves behind. The variables go to
		// script by the environment, and are gone again where sudo lets them through.
		inside := `SHELL=$o;trap '' HUP;exec <&3 >&4 2>&5 3<&- 4>&- 5>&-;` + reached + sudo + `"$PPID $$"`
		how = "o=${SHELL-};SHELL=$(command -v sh);export s o SHELL;" + // not exec 3<&0: what ksh opens that way it passes to nobody
			"exec script -qec " + quote(inside) + " /dev/null 3<&0 4>&1 5>&2 </dev/null >/dev/null"
	}
	return leads + reached + "s=" + quote(asRoot(script, token)) + ";" +
		`[ "$(id -u)" = 0 ] && exec sh -c "$s" sh "$SSH_CONNECTION" "$$ $g";` + how
}

// asRoot is what sudo is to run, as one argument of sh.
func asRoot(script, token string) string {
	return "SSH_CONNECTION=$1;unset s o;" + preamble(token, `"$2 $$"`) + script
}

const (
	// maxWord bounds the words of a command line: BSD's csh takes no long ones.
	maxWord = 1000
	// maxLine bounds a command line in bytes. Dropbear ends the connection if one
	// takes more than 9000, and sshd hands it to the login shell as one string.
	maxLine = 8000
	// maxString is what Linux passes to a program in one string (execve(2),
	// MAX_ARG_STRLEN, without its NUL byte), and maxStrings what can be counted on
	// for all.
	maxString  = 128<<10 - 1
	maxStrings = 1 << 20
)

// commandLine is what the login shell is given so that sh runs a script. A long
// script goes by the standard input, before anything else.
func commandLine(script string) (line, input string) {
	if line = byLine(script); len(line) > maxLine {
		return byInput(script)
	}
	return line, ""
}

func byLine(script string) string { return "exec " + shC(script) }

func byInput(script string) (line, input string) {
	read, input := readScript(script)
	return "exec sh -c '" + read + "' sh", input
}

// readScript is a script that runs another, and input what that is to be given as. It
// reads single bytes, because nothing behind them may be read. Of a script that was
// cut short nothing runs: its brace is not closed.
func readScript(script string) (read, input string) {
	input = "{ " + script + "\n}"
	return fmt.Sprintf(`s=$(dd bs=1 count=%d 2>/dev/null)&&eval "$s"`, len(input)), input
}

// outerToken says on standard error that a POSIX sh was reached, whatever becomes
// of sudo, in a line with the number of the process that becomes sudo. With a
// terminal it says so twice: before it is had, and on it.
func outerToken(token string) string { return "sh-" + token }

// quote makes one word of a POSIX sh out of s, which has no NUL byte.
func quote(s string) string { return shellescape.Quote(s) }

// shC is "sh -c script" in a form that every login shell passes on unchanged. In
// single quotes, csh still sees "!" and the end of the line, fish sees backslashes
// before quotes, and none agrees on how to write a single quote. Such bytes are
// therefore spelled in octal, for printf to turn back.
func shC(script string) string {
	var b strings.Builder
	b.WriteString(`sh -c 'eval "$(printf %b "$@")"' sh '`)
	word := b.Len()
	for i := range len(script) {
		if b.Len()-word > maxWord-len(`\0000`) {
			b.WriteString(`' '`)
			word = b.Len()
		}
		switch c := script[i]; {
		case c < ' ' || c > '~' || c == '\'' || c == '!' || c == '\\':
			fmt.Fprintf(&b, `\0%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
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

// scriptWith sets the positional parameters of a fixed script. Comments and
// indentation are left out: some servers take no long command lines.
func scriptWith(script string, args ...string) string {
	var b strings.Builder
	b.WriteString("set -- " + shellescape.QuoteCommand(args) + "\n")
	for line := range strings.Lines(script) {
		line = strings.TrimLeft(line, "\t")
		if line != "\n" && !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
