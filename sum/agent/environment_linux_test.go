package agent

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSearchPath(t *testing.T) {
	require.Equal(t, defaultPath(), searchPath(""))
	got := searchPath("/opt/x:.:rel:/usr/bin::/opt/x")
	require.True(t, strings.HasPrefix(got, "/opt/x:/usr/bin:"), got)
	require.NotContains(t, got, "rel")
	require.Equal(t, 1, strings.Count(got, "/opt/x"))
	for _, dir := range filepath.SplitList(defaultPath()) {
		require.Contains(t, strings.Split(got, ":"), dir)
	}
}
