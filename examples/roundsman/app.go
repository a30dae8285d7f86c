package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/spf13/cobra"
)

// The environment variables that hold passwords.
const (
	passwordVariable     = "ROUNDSMAN_PASSWORD"
	sudoPasswordVariable = "ROUNDSMAN_SUDO_PASSWORD"
)

var secretVariables = []string{passwordVariable, sudoPasswordVariable}

// app is one run of the program.
type app struct {
	self install.Self // offers this program as the agent, if main lets it

	// Tests put fakes here; nil means the real ones.
	resolve   sum.Resolve
	installer agent.Installer
	redfish   redfish.Options // how often to look, and how long to wait

	stdin          io.Reader
	stdout, stderr io.Writer
	env            map[string]string
	status         int
}

// usageError is the caller's mistake: nothing was done.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (a *app) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	a.stdin, a.stdout, a.stderr = stdin, stdout, stderr
	a.env = map[string]string{}
	for _, kv := range env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			a.env[name] = value
		}
	}
	root := a.command()
	if err := knownCommand(root, args); err != nil {
		fmt.Fprintf(stderr, "roundsman: %s\nRun 'roundsman --help' for usage.\n", clean(err.Error()))
		return exitUsage
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return a.status
	}
	// What did not come from a command's own work is cobra's verdict on the
	// arguments.
	var several fleet.FileErrors
	if errors.As(err, &several) {
		for _, e := range several {
			fmt.Fprintf(stderr, "roundsman: %s\n", clean(e.Error()))
		}
	} else {
		fmt.Fprintf(stderr, "roundsman: %s\n", clean(err.Error()))
	}
	var work workError
	if errors.As(err, &work) {
		return work.status
	}
	fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	return exitUsage
}

// workError ends a run that could not begin its work for a reason that is not in
// the arguments.
type workError struct {
	error
	status int
}

func (e workError) Unwrap() error { return e.error }

func (a *app) getenv(name string) string { return a.env[name] }

func (a *app) command() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "roundsman",
		Short: "Put firmware, drivers and software onto servers and devices",
		Long: `Roundsman puts firmware, drivers and software onto servers and devices, proves
the result by a second inventory, and leaves nothing behind but logs.

A TARGET is a URL: kind://[user@]host[:port][/object], such as
linux://root@db1, linux://ops@[2001:db8::7]:2222 or "windows://LAB;ops@db2" (in
quotes, as a shell takes ; for the end of the command); or local:, which is the
manager's own host and takes no connection. --fleet FILE takes many.

` + exitHelp,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknownCommand(cmd, args[0])
			case !version:
				return usagef("no command")
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			a.version(false)
			return nil
		},
		SuggestionsMinimumDistance: 2,
	}
	root.Flags().BoolVar(&version, "version", false, "say which version this program is, as the command version does")
	root.SetHelpCommand(helpCommand())
	root.AddCommand(a.portsCommand(), a.preflightCommand(), a.inventoryCommand(), a.planCommand(), a.deployCommand(), a.logsCommand(), a.captureCommand(), a.rebootCommand(), a.recoverCommand(), a.versionCommand(), a.guardCommand())
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
		c.Flags().SortFlags = false
	}
	return root
}

// unknownCommand refuses a word that is no command, and says which may have been meant.
func unknownCommand(root *cobra.Command, word string) error {
	if like := root.SuggestionsFor(word); len(like) > 0 {
		return usagef("unknown command %q; did you mean %s?", word, strings.Join(like, " or "))
	}
	return usagef("unknown command %q", word)
}

// knownCommand looks at the first word before the flags behind it, which are those of a
// command that the library would not know.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || args[0] == "help" {
		return nil
	}
	if cmd, _, _ := root.Find(args); cmd == root {
		return unknownCommand(root, args[0])
	}
	return nil
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "help [COMMAND]",
		Short:                 "Say what a command does, and which flags it has",
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			about, rest, _ := root.Find(args)
			switch {
			case len(args) > 0 && about == root:
				return unknownCommand(root, args[0])
			case len(rest) > 0:
				return usagef("unexpected argument %q", rest[0])
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}
