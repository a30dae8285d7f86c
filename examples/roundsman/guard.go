package main

import (
	"os"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/spf13/cobra"
)

// guardName is the command that this program starts beside itself where its rules in the
// firewall would outlive it, as on Windows: see firewall.Options.Guardian.
const guardName = "guard-firewall"

func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use: guardName, Hidden: true, Args: noArgs,
		Short: "Close the firewall behind a manager that was killed",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return firewall.Guard(cmd.Context(), a.stdin, firewall.Options{})
		},
	}
}

// guardian is that command, or nil where the program does not know its own file.
func guardian() []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, guardName}
}
