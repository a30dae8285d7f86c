//go:build !unix && !windows

package local

import (
	"os"
	"os/exec"

	"github.com/roundsman-go/roundsman/transport"
)

type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) *group { return &group{cmd} }
func (g *group) started()           {}
func (g *group) close()             {}
func (g *group) alive() bool        { return false }
func (g *group) end(force bool) {
	if force {
		_ = g.cmd.Process.Kill()
	}
}

func exitOf(ps *os.ProcessState) transport.Exit { return transport.Exit{Code: ps.ExitCode()} }
