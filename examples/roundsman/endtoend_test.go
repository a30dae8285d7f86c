//go:build linux || darwin

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// lab is an SSH server on the loopback interface, whose commands really run, and
// the program with a real agent.
type lab struct {
	t      *testing.T
	srv    *sshtest.Server
	target string
	flags  []string
	base   string // of agents on the target
	events []map[string]any
	output string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: canary})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(srv.Addr())
	require.NoError(t, err)
	known := filepath.Join(dir, "known_hosts")
	require.NoError(t, os.WriteFile(known, fmt.Appendf(nil, "[%s]:%s %s\n", host, port, srv.AuthorizedHostKey()), 0o600))
	base := filepath.Join(dir, "base")
	require.NoError(t, os.Mkdir(base, 0o700))
	return &lab{
		t: t, srv: srv, target: "linux://ops@" + srv.Addr(), base: base,
		flags: []string{"--json", "--ssh-config", "none", "--known-hosts", known, "--journal", filepath.Join(dir, "journal"), "--agent-dir", base},
	}
}

// command returns the program as a process of its own.
func (l *lab) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(l.t, err)
	cmd := exec.Command(self)
	cmd.Args = append(append([]string{"roundsman"}, args...), l.flags...)
	cmd.Env = append(os.Environ(), passwordVariable+"="+canary, "SSH_AUTH_SOCK=")
	return cmd
}

// run runs the program in this process.
func (l *lab) run(args ...string) int {
	l.t.Helper()
	var out, errs bytes.Buffer
	env := append(os.Environ(), passwordVariable+"="+canary, "SSH_AUTH_SOCK=")
	status := run(l.t.Context(), append(args, l.flags...), strings.NewReader(""), &out, &errs, env)
	l.parse(out.String(), errs.String())
	return status
}

func (l *lab) parse(out, errs string) {
	l.t.Helper()
	require.NotContains(l.t, out+errs, canary)
	l.output, l.events = out+errs, nil
	for line := range strings.Lines(out) {
		var e map[string]any
		require.NoError(l.t, json.Unmarshal([]byte(line), &e), line)
		l.events = append(l.events, e)
	}
}

func (l *lab) of(event string) []map[string]any {
	var out []map[string]any
	for _, e := range l.events {
		if e["event"] == event {
			out = append(out, e)
		}
	}
	return out
}

// component makes a component that writes its version to a file in the home
// directory, and notes each run of its installer.
func (l *lab) component(version, script string) string {
	l.t.Helper()
	dir := l.t.TempDir()
	text, err := json.Marshal(map[string]any{
		"name": "hello", "version": version, "scheme": "numeric", "kinds": []string{"linux"}, "profile": "zero-ok",
		"install": []string{"./install.sh", version},
		"probe":   map[string]any{"argv": []string{"cat", filepath.Join(l.srv.Home(), "VERSION")}},
		"files":   []map[string]any{{"name": "install.sh"}},
	})
	require.NoError(l.t, err)
	require.NoError(l.t, os.WriteFile(filepath.Join(dir, "component.json"), text, 0o600))
	script = "#!/bin/sh\nset -e\necho run >> \"$HOME/RUNS\"\n" + script + "\necho \"installing $1\"\necho \"$1\" > \"$HOME/VERSION\"\n"
	require.NoError(l.t, os.WriteFile(filepath.Join(dir, "install.sh"), []byte(script), 0o700))
	return dir
}

func (l *lab) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(l.srv.Home(), name))
	return string(data)
}

// clean checks that nothing is left on the target but logs.
func (l *lab) clean() {
	l.t.Helper()
	var left []string
	require.NoError(l.t, filepath.WalkDir(l.base, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".log") && !strings.HasSuffix(path, ".json") {
			left = append(left, path)
		}
		return err
	}))
	require.Empty(l.t, left)
}

func TestEndToEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	one := l.component("1.0", "")
	require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
	require.NotEmpty(t, l.of("inventory")[0]["inventory"].(map[string]any)["identity"])
	l.clean()

	plan := filepath.Join(t.TempDir(), "plan.json")
	require.Equal(t, exitFine, l.run("plan", "--component", one, l.target, "-o", plan), l.output)
	require.Equal(t, "install", l.of("plan")[0]["action"])
	require.Empty(t, l.read("RUNS"))

	require.Equal(t, exitFine, l.run("deploy", "--component", one, l.target, "--detailed-exitcode"), l.output)
	outcome := l.of("outcome")[0]
	require.Equal(t, "Updated", outcome["outcome"])
	require.Equal(t, "", outcome["from"])
	require.Equal(t, "1.0", outcome["to"])
	require.Equal(t, "1.0\n", l.read("VERSION"))
	l.clean()

	require.Equal(t, exitNothing, l.run("deploy", "--component", one, l.target, "--detailed-exitcode"), l.output)
	require.Equal(t, "NotNeeded", l.of("outcome")[0]["outcome"])
	require.Equal(t, "run\n", l.read("RUNS"))

	require.Equal(t, exitFailed, l.run("deploy", "--plan", plan), l.output)
	require.Contains(t, l.output, "plan no longer matches")
	require.Equal(t, "run\n", l.read("RUNS"), "a stale plan changes nothing")

	two := l.component("2.0", "")
	require.Equal(t, exitFine, l.run("plan", "--component", two, l.target, "-o", plan), l.output)
	require.Equal(t, exitFine, l.run("deploy", "--plan", plan), l.output)
	require.Equal(t, "1.0", l.of("outcome")[0]["from"])
	require.Equal(t, "2.0", l.of("outcome")[0]["to"])

	require.Equal(t, exitFine, l.run("deploy", "--component", one, l.target), l.output)
	require.Equal(t, "NotNeeded", l.of("outcome")[0]["outcome"], "an older version is left alone")
	require.Equal(t, exitFine, l.run("deploy", "--downgrade", "--component", one, l.target), l.output)
	require.Equal(t, "1.0\n", l.read("VERSION"))

	require.Equal(t, exitFailed, l.run("deploy", "--component", l.component("3.0", "echo broken >&2; exit 7"), l.target), l.output)
	require.Equal(t, "Failed", l.of("outcome")[0]["outcome"])
	require.Equal(t, map[string]any{"space": "exit", "value": "7"}, l.of("outcome")[0]["code"])
	l.clean()

	logs := t.TempDir()
	require.Equal(t, exitFine, l.run("logs", l.target, "--out", logs), l.output)
	text := ""
	for _, e := range l.of("log") {
		data, err := os.ReadFile(e["path"].(string))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(e["path"].(string), logs))
		text += string(data)
	}
	require.Contains(t, text, "installing 2.0")
	require.Contains(t, text, "broken")
	require.NotContains(t, text, canary)

	require.Equal(t, exitFine, l.run("recover"), l.output)
	require.EqualValues(t, 0, l.of("summary")[0]["targets"])
}

// TestKilled kills the program in the middle of an installation. The next one
// fetches the result and does not install again.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"recover", "deploy"} {
		t.Run(next, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			comp := l.component("1.0", `while [ ! -e "$HOME/GO" ]; do sleep 0.05; done`)
			cmd := l.command("deploy", "--component", comp, l.target)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool { return l.read("RUNS") != "" }, 2*time.Minute, 20*time.Millisecond)
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.NoError(t, os.WriteFile(filepath.Join(l.srv.Home(), "GO"), nil, 0o600))

			args := []string{"recover"}
			if next == "deploy" {
				args = []string{"deploy", "--component", comp, l.target}
			}
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Len(t, l.of("outcome"), 1, l.output)
			require.Equal(t, "Updated", l.of("outcome")[0]["outcome"])
			require.Equal(t, true, l.of("outcome")[0]["recovered"])
			require.Equal(t, "run\n", l.read("RUNS"), "installed once")
			require.Equal(t, "1.0\n", l.read("VERSION"))
			if next == "recover" {
				require.Len(t, l.of("recovered"), 1)
			}
			l.clean()
			require.Equal(t, exitFine, l.run("recover"), l.output)
			require.EqualValues(t, 0, l.of("summary")[0]["targets"], "nothing is left to do")
		})
	}
}

// TestInterrupted stops the program by a signal while an installer runs that ends
// soon after.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	comp := l.component("1.0", `while [ ! -e "$HOME/GO" ]; do sleep 0.05; done`)
	cmd := l.command("deploy", "--component", comp, l.target)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return l.read("RUNS") != "" }, 2*time.Minute, 20*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, os.WriteFile(filepath.Join(l.srv.Home(), "GO"), nil, 0o600))
	err := cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, exitStopped, exit.ExitCode(), "%s%s", out.String(), errs.String())
	require.Contains(t, errs.String(), "stopping")
	l.parse(out.String(), errs.String())
	require.Equal(t, "Updated", l.of("outcome")[0]["outcome"], "what had begun was let end, and is proven")
	require.Equal(t, true, l.of("summary")[0]["stopped"])
	l.clean()
}
