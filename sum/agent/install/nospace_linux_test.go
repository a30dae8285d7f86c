package install_test

import (
	"context"
	"fmt"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
)

// fullConn is a connection to a target whose disk has room for the agent's files,
// and none for what it writes as it starts.
type fullConn struct{ transport.Forward }

func (c fullConn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	if path.Base(cmd.Argv[0]) == agent.BinaryName && cmd.Argv[1] == "start" {
		_, err := fmt.Fprintln(cmd.Stderr, "why not")
		return transport.Exit{Code: agent.ExitNoSpace}, err
	}
	return c.Forward.Run(ctx, cmd)
}

// TestNoRoomToStart: an agent that finds no room when it starts is told from one
// that does not start for another reason.
func TestNoRoomToStart(t *testing.T) {
	l := newLab(t, sshtest.Config{})
	conn := fullConn{l.dial().Forward}
	_, err := installer().Start(t.Context(), conn, l.opts())
	require.ErrorIs(t, err, transport.ErrNoSpace)
	require.ErrorIs(t, err, agent.ErrStart)
	require.NotErrorIs(t, err, agent.ErrNoDir)
	require.Equal(t, transport.Code{Space: "exit", Value: "4"}, transport.CodeOf(err))
	require.ErrorContains(t, err, "why not")
	require.ErrorContains(t, err, "make room on the file system of "+l.dir())
	require.Empty(t, files(t, l.base))
}
