package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSpans(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0, "1.5h": 90 * time.Minute, "36500d": 36500 * 24 * time.Hour,
	} {
		var s span
		require.NoError(t, s.Set(in), in)
		require.Equal(t, want, time.Duration(s), in)
	}
	for in, want := range map[string]string{
		"5": "such as 5s, 5m, 5h or 5d", "-5s": "negative", "-1d": "negative", "": "such as 90s", "d": "such as 90s", "2dd": "such as 90s",
		"2d-1h": "such as 90s", "--1s": "such as 90s", "1w": "such as 90s", "36501d": "more than", "x": "such as 90s", "9999999d": "such as 90s", "99999999h": "such as 90s",
	} {
		var s span
		require.ErrorContains(t, s.Set(in), want, in)
		require.Zero(t, s, in)
	}
	for in, want := range map[string]time.Duration{"2d": 48 * time.Hour, "-1s": -time.Second, "-1d": -24 * time.Hour, "forever": -1} {
		var k keepTime
		require.NoError(t, k.Set(in), in)
		require.Equal(t, want, time.Duration(k), in)
		require.Equal(t, want < 0, k.String() == "forever")
	}
	for in, want := range map[string]string{"0": "without the flag it is the default", "0s": "default", "-5": "-5d", "never": "such as"} {
		var k keepTime
		require.ErrorContains(t, k.Set(in), want, in)
	}
}

// The flag is named with what is wrong, before anything is opened.
func TestSpanFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--keep-logs", "0"}, {"--keep-logs=-5"}, {"--lease", "15"}, {"--connect-timeout", "0"}, {"--connect-timeout", "30"}} {
		b := newBench(t)
		require.Equal(t, exitUsage, b.run(t.Context(), append([]string{"inventory", db1}, args...)...))
		flag, _, _ := strings.Cut(args[0], "=")
		require.Contains(t, b.errs.String(), flag)
		require.NotContains(t, b.errs.String(), "time: ")
		require.NoDirExists(t, b.dir+"/journal")
	}
}
