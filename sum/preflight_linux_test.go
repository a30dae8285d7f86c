package sum_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestPreflightFirewallUnseen: a manager that may not look at its host's firewall says
// so where a target does not reach it. It is a copy of this program, without rights.
func TestPreflightFirewallUnseen(t *testing.T) {
	const unprivileged = "SUM_TEST_UNPRIVILEGED"
	if os.Getenv(unprivileged) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), unprivileged+"=1", "TMPDIR="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			realtest.Missing(t, "user namespaces: "+err.Error())
		}
		require.NoError(t, err, "%s", out)
		return
	}
	l := newClassicLab(t)
	l.opts.OpenRule = nil
	s := l.open()
	n := l.nodes(s)[0]
	l.lab.agents.Host(n.Target().Name).SetReached(func(netip.AddrPort) agent.Reached { return agent.Reached{How: agent.ReachedNothing} })
	list, err := sum.Preflight(t.Context(), n, sum.PreflightOptions{DialContext: nobody})
	require.NoError(t, err)
	filtered := found(list, sum.FindFiltered)
	require.Len(t, filtered, 1, "%v", list)
	require.Equal(t, sum.ToManager, filtered[0].Direction)
	require.Contains(t, filtered[0].Advice, "if this host has a firewall, which only root can see")
	require.Contains(t, filtered[0].Advice, "open it by: ")
	require.NoError(t, s.Close(t.Context()))
}
