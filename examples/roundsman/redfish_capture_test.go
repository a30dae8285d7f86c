package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestCapture writes down what a service of each profile answers, from which another one is
// made, whose inventory is the same.
func TestCapture(t *testing.T) {
	t.Parallel()
	for _, p := range redfishtest.Profiles() {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			kind := sum.ILO
			switch p {
			case redfishtest.Generic:
				kind = sum.Redfish
			case redfishtest.RMC:
				kind = sum.SuperdomeFlex
			}
			l := newRedfishLab(t, kind, redfishtest.Config{Profile: p})
			file := filepath.Join(t.TempDir(), "it.json")
			require.Equal(t, exitFine, l.run("capture", l.target, "-o", file), l.output)
			require.Greater(t, l.of("capture")[0]["resources"].(float64), float64(5))
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, secret := range []string{canary, redfishtest.Serial, l.srv.Addr()} {
				require.NotContains(t, string(data), secret)
			}
			if fi, err := os.Stat(file); runtime.GOOS != "windows" {
				require.NoError(t, err)
				require.Zero(t, fi.Mode().Perm()&0o077, "it is for whoever took it to give away")
			}
			captured, err := redfishtest.ReadCapture(strings.NewReader(string(data)))
			require.NoError(t, err)
			again := newRedfishLab(t, kind, redfishtest.Config{Capture: captured})
			require.Equal(t, exitFine, again.run("inventory", again.target), again.output)
			require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
			devices := func(l *redfishLab) (out []any) {
				for _, d := range l.of("inventory")[0]["inventory"].(map[string]any)["devices"].([]any) {
					d := d.(map[string]any)
					out = append(out, []any{d["name"], d["class"], d["firmware"], d["updateable"]})
				}
				return out
			}
			require.Equal(t, devices(l), devices(again))
			require.Zero(t, l.srv.Sessions())
		})
	}
}

// TestCaptureRefused: what makes no sense is told before anything is dialled, a file that is
// there stays, and so does one where the target is lost.
func TestCaptureRefused(t *testing.T) {
	t.Parallel()
	l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	dir := t.TempDir()
	file := filepath.Join(dir, "ilo.json")
	for want, args := range map[string][]string{
		"give --output FILE":      {l.target},
		"give one target":         {"-o", file},
		"it is a directory":       {l.target, "-o", dir, "--overwrite"},
		"must not be negative":    {l.target, "-o", file, "--resources", "-1"},
		"no such file":            {l.target, "-o", filepath.Join(dir, "none", "x.json")},
		"none of these does":      {"linux://root@db1", "-o", file, "--accept-new"},
		"give one target, such a": {l.target, "ilo://ops@ilo2", "-o", file},
	} {
		require.Equal(t, exitUsage, l.run(append([]string{"capture"}, args...)...), l.output)
		require.Contains(t, l.output, want)
	}
	require.Equal(t, exitFailed, l.run("capture", "linux://root@127.0.0.1:1", "-o", file), l.output)
	require.Contains(t, l.output, "only what speaks Redfish")
	require.Zero(t, l.srv.Total())

	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600))
	require.Equal(t, exitUsage, l.run("capture", l.target, "-o", file), l.output)
	require.Contains(t, l.output, "it is there already; --overwrite replaces it")
	cut := l.srv.Inject(redfishtest.Fault{Kind: redfishtest.ResetAnswered, Path: "/redfish/v1/Chassis"})
	require.Equal(t, exitFailed, l.run("capture", l.target, "-o", file, "--overwrite"), l.output)
	cut.Remove()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "mine", string(data), "half a capture is none")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)

	// What cannot be read is told, and the rest is there.
	broken := l.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "GET", Path: "/redfish/v1/Chassis", Status: 500, MessageID: "InternalError"})
	require.Equal(t, exitFine, l.run("capture", l.target, "-o", file, "--overwrite"), l.output)
	broken.Remove()
	require.Equal(t, "/redfish/v1/Chassis/", l.of("capture")[0]["problems"].([]any)[0].(map[string]any)["part"], l.output)
	require.Contains(t, l.output, "InternalError")
	data, err = os.ReadFile(file)
	require.NoError(t, err)
	_, err = redfishtest.ReadCapture(strings.NewReader(string(data)))
	require.NoError(t, err)

	// More than may be taken, by the flags that allow more.
	require.Equal(t, exitFine, l.run("capture", l.target, "-o", file, "--overwrite", "--resources", "3"), l.output)
	require.EqualValues(t, 3, l.of("capture")[0]["resources"])
	require.Contains(t, l.output, "--resources and --megabytes allow more")
	require.NotRegexp(t, goField, l.output)
}
