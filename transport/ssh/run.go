package ssh

import (
	"context"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// Run implements transport.Runner. Arguments and variables pass every byte but NUL,
// and take up to 128 KiB each, 1 MiB together, or 128 KiB together with Options.Elevate.
// The program is looked up in the PATH of the login shell, or of sudo; that it is
// missing shows as exit status 127, and that it cannot be executed, for want of a
// permission or because of its file system, as 126. With a sudo that wants a
// terminal, a signal that ended the program shows as 128 plus its number. Run returns when the program has ended and whatever
// it started has closed the output; what it leaves behind should redirect its
// own. A read from cmd.Stdin that is going on then is not waited for, neither by
// Run nor by Close.
//
// Variables go by standard input, so that neither sudo nor its log shows them. In
// the target's process list they are for the instant in which env(1) becomes the
// program.
//
// When ctx ends, the process group of the program gets SIGTERM, and SIGKILL
// about two seconds later if that was not enough.
func (c *conn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	program := ""
	if len(cmd.Argv) > 0 {
		program = cmd.Argv[0]
	}
	k, err := c.begin(ctx, "run", program)
	if err != nil {
		return transport.Exit{}, err
	}
	defer k.end()
	if hint := badCommand(cmd); hint != "" {
		return transport.Exit{}, c.invalid("run", program, hint)
	}
	t := task{script: argvScript(cmd.Argv, cmd.Env), stdin: cmd.Stdin, stdout: cmd.Stdout, stderr: cmd.Stderr, mayHang: true}
	if len(cmd.Env) > 0 {
		// As arguments they would be in the process list for as long as the program
		// runs, and in the log of sudo.
		if len(t.script) > maxStrings {
			return transport.Exit{}, k.fail(tooLong(maxStrings))
		}
		t.script, t.private = readScript(t.script)
	}
	return k.exec(t)
}

const longString = "no argument or variable has more than 128 KiB; hand long values over by standard input or in a file"

// badCommand says what is wrong with a command, or returns "".
func badCommand(cmd transport.Command) string {
	if len(cmd.Argv) == 0 || cmd.Argv[0] == "" {
		return "Argv names no program"
	}
	if strings.HasPrefix(cmd.Argv[0], "-") {
		return "a program whose name begins with a dash needs its path"
	}
	for _, a := range cmd.Argv {
		if strings.Contains(a, "\x00") {
			return "an argument contains a NUL byte"
		}
		if len(a) > maxString {
			return longString
		}
	}
	for _, e := range cmd.Env {
		if strings.Index(e, "=") < 1 || strings.Contains(e, "\x00") || strings.HasPrefix(e, "-") {
			return `Env entries are "NAME=value", without NUL bytes`
		}
		if len(e) > maxString {
			return longString
		}
	}
	return ""
}
