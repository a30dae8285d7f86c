package agent_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestGuard: a guardian needs nothing of the service, and works where that does not.
func TestGuard(t *testing.T) {
	var errs strings.Builder
	require.Zero(t, agent.Main([]string{"guard"}, strings.NewReader("agent-7-133\ndone\n"), io.Discard, &errs))
	require.Empty(t, errs.String())
	require.Equal(t, agent.ExitFailed, agent.Main([]string{"guard"}, strings.NewReader(""), io.Discard, &errs))
	require.Contains(t, errs.String(), "firewall: guard: invalid")
}
