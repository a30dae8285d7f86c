package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// Errors of the packages name fields of Go; the program names its flags.
func TestAdvice(t *testing.T) {
	for _, x := range []struct {
		err  error
		want string // "" is none
	}{
		{&transport.Error{Op: "dial", Kind: transport.ErrTrust, Hint: "decide on first use (Trust.FirstUse)"}, "--known-hosts FILE"},
		{&sum.Error{Err: &transport.Error{Op: "dial", Kind: transport.ErrAuth}}, "--identity FILE"},
		{&agent.Error{Op: "start", Kind: agent.ErrNoDir}, "--agent-dir DIR"},
		{fmt.Errorf("x: %w", &agent.Error{Op: "start", Kind: agent.ErrNoBinary}), "--agentless"},
		{&agent.Error{Op: "start", Kind: agent.ErrNoDir, Err: agent.ErrPolicy}, "--agentless"},
		{fmt.Errorf("%w: x", sum.ErrJournal), "--journal DIR"},
		{&portalloc.Error{Op: "listen", Kind: portalloc.ErrExhausted, Advice: "widen its range in Config.Policies"}, "--port ROLE=PORT"},
		{fmt.Errorf("y: %w", &portalloc.Error{Kind: portalloc.ErrDisabled}), "--port ROLE=PORT"},
		{&transport.Error{Op: "dial", Kind: transport.ErrTimeout}, "--ssh-config FILE"},
		{&transport.Error{Kind: transport.ErrConnLost}, ""},
		{errors.New("Trust.FirstUse"), ""}, // text alone says nothing
		{nil, ""},
	} {
		got := adviceOn(x.err)
		if x.want == "" {
			require.Empty(t, got, x.err)
		} else {
			require.Contains(t, got, x.want, x.err)
		}
	}
	// Every flag that is named is there.
	flags := (&app{}).deployCommand().Flags()
	for _, a := range advices {
		for word := range strings.FieldsSeq(a.text) {
			if name, ok := strings.CutPrefix(strings.Trim(word, "\",.;:()"), "--"); ok {
				require.NotNil(t, flags.Lookup(name), "%s in %q", word, a.text)
			}
		}
	}
}

// The advice is shown where the error is, of a target as of an outcome.
func TestAdviceIsShown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fake.Host(db1).Fault(agenttest.Fault{Op: agenttest.Start, Err: agent.ErrNoDir})
	require.Equal(t, exitFailed, b.run(t.Context(), "inventory", db1))
	require.Contains(t, b.out.String(), "--agent-dir DIR")
	require.Equal(t, exitFailed, b.run(t.Context(), "inventory", "--json", db1))
	require.Contains(t, b.of("error")[0]["advice"], "--agent-dir DIR")
	require.NotContains(t, b.of("error")[0]["error"], "--agent-dir")

	b = newBench(t)
	b.fake.Host(db1).Fault(agenttest.Fault{Op: agenttest.Stage, Err: transport.ErrAuth})
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--component", b.component(nil), db1))
	require.Contains(t, b.out.String(), "--identity FILE")
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--component", b.component(nil), db1))
	require.Contains(t, b.of("outcome")[0]["advice"], "--identity FILE")
}

// A word after --component that is neither a target nor a file is told as that.
func TestWordsThatAreNoFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	comp := b.component(nil)
	for _, args := range [][]string{
		{"deploy", db1, "--component", comp, "web1"},
		{"plan", "--component", comp, db1, "web1"},
		{"deploy", "web1", "--component", comp, db1},
	} {
		require.Equal(t, exitUsage, b.run(t.Context(), args...))
		require.Contains(t, b.errs.String(), `"web1" is neither a target, such as linux://web1, nor a file`)
	}
	require.Equal(t, exitUsage, b.run(t.Context(), "deploy", "--component", comp, "web1"), "also if there is no target at all")
	require.Contains(t, b.errs.String(), `"web1" is neither a target`)
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--component", comp, db1), b.errs.String())
	// The shell has made several words of a pattern.
	other := b.component(map[string]any{"name": "other"})
	require.Equal(t, exitFine, b.run(t.Context(), "plan", "--component", comp, other, db1), b.errs.String())
	// A component that is given and missing is told as such.
	require.Equal(t, exitUsage, b.run(t.Context(), "deploy", "--component", comp+".missing", db1))
	require.NotContains(t, b.errs.String(), "neither")
	require.Zero(t, b.fake.Runs("web1"))
}

// Files that the command line names are looked for before anything is dialled.
func TestMissingFilesAreFoundEarly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(key+".pub", nil, 0o600))
	there := filepath.Join(dir, "known")
	require.NoError(t, os.WriteFile(there, nil, 0o600))
	for flag, file := range map[string]string{"--identity": filepath.Join(dir, "missing"), "--known-hosts": filepath.Join(dir, "gone"), "--known-hosts ": dir} {
		b := newBench(t)
		require.Equal(t, exitUsage, b.run(t.Context(), "inventory", strings.TrimSpace(flag), file, db1), flag)
		require.Contains(t, b.errs.String(), strings.TrimSpace(flag)+" "+file)
		require.Zero(t, b.fake.Host(db1).Calls(agenttest.Start))
	}
	b := newBench(t)
	require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--known-hosts", there, "--identity", there, db1), b.errs.String())
	require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--identity", key, db1), "the private half may be in the agent alone")
}

func TestPortsOfTheManager(t *testing.T) {
	got, err := portPolicies([]string{"port=8080", "http=63000-63005", "ftp_port=21", "ssl_port=0"})
	require.NoError(t, err)
	require.Equal(t, map[portalloc.Role]portalloc.Policy{
		portalloc.Port: portalloc.Fixed(8080), portalloc.HTTP: {First: 63000, Last: 63005}, portalloc.FTP: portalloc.Fixed(21), portalloc.SSLPort: {},
	}, got)
	for _, bad := range []string{"port", "port=", "x=1", "port=65536", "port=-1", "port=5-4", "port=1-", "agent=1", "port=1-2-3", "=1", "port=0-5"} {
		_, err := portPolicies([]string{bad})
		require.Error(t, err, bad)
		require.True(t, isUsage(err), bad)
	}
	_, err = portPolicies([]string{"port=1", "port=2"})
	require.ErrorContains(t, err, "twice")
	var out bytes.Buffer
	require.Equal(t, exitUsage, run(t.Context(), []string{"inventory", "--port", "x=1", "linux://db1"}, nil, &out, &out, nil))
	require.Contains(t, out.String(), "ssl_port")
}

// starts is an installer that keeps what it was asked for.
type starts struct {
	agent.Installer
	opts agent.StartOptions
}

func (s *starts) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	s.opts = opts
	return s.Installer.Start(ctx, conn, opts)
}

func TestKeepLogsFlag(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "48h": 48 * time.Hour, "-1s": -time.Second} {
		b := newBench(t)
		s := &starts{Installer: b.fake}
		args := []string{"inventory", db1, "--journal", b.dir}
		if in != "" {
			args = append(args, "--keep-logs="+in)
		}
		require.Zero(t, (&app{resolve: b.resolve, installer: s}).run(t.Context(), args, strings.NewReader(""), &b.out, &b.errs, nil), b.errs.String())
		require.Equal(t, want, s.opts.KeepLogs)
	}
}

// TestAdviceOnTheChannel: who is refused by the agent's channel is helped by no key
// for SSH.
func TestAdviceOnTheChannel(t *testing.T) {
	for _, kind := range []error{transport.ErrTrust, transport.ErrAuth, transport.ErrTimeout} {
		require.NotEmpty(t, adviceOn(kind))
		require.Empty(t, adviceOn(&agent.Error{Op: "connect", Kind: kind, Err: &channel.Error{Op: "dial", Kind: channel.ErrTrust}}))
	}
}
