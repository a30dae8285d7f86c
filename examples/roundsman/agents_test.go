//go:build agents

package main

import (
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
)

// TestEmbedded is run by the test of examples/agentpack, which packs the agents.
func TestEmbedded(t *testing.T) {
	f, err := embedded().Open(t.Context(), "linux", runtime.GOARCH)
	require.NoError(t, err)
	require.Equal(t, os.Getenv("AGENTPACK_DIGEST"), f.Digest())
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r)
	require.NoError(t, err)
	require.Equal(t, f.Size, n)
	require.NoError(t, r.Close())
	f, err = (&app{self: install.RunAgent()}).agentSource(io.Discard).Open(t.Context(), "linux", runtime.GOARCH)
	require.NoError(t, err)
	require.Equal(t, os.Getenv("AGENTPACK_DIGEST"), f.Digest(), "the agent is the whole program")
	_, err = embedded().Open(t.Context(), "linux", "mips64")
	require.True(t, errors.Is(err, agent.ErrNoBinary))
}
