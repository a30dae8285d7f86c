package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
		got := adviceOn(x.err, sum.Linux)
		if x.want == "" {
			require.Empty(t, got, x.err)
		} else {
			require.Contains(t, got, x.want, x.err)
		}
	}
	// Every flag that is named is there.
	flags := (&app{}).deployCommand().Flags()
	for _, c := range classes {
		require.NotEmpty(t, c.code, c.is)
		for word := range strings.FieldsSeq(c.advice + " " + c.windows) {
			if name, ok := strings.CutPrefix(strings.Trim(word, "\",.;:()"), "--"); ok {
				require.NotNil(t, flags.Lookup(name), "%s in %q", word, c)
			}
		}
	}
}

// linuxOnly are words that help nobody with a Windows server.
var linuxOnly = []string{"--agentless", "sudo", "--identity", "--known-hosts", "ssh", "/var/"}

// TestAdviceOnWindows: what cannot be done with a Windows server is not advised.
func TestAdviceOnWindows(t *testing.T) {
	t.Parallel()
	for _, c := range classes {
		for _, word := range linuxOnly {
			require.NotContains(t, c.windows, word, c.is)
		}
	}
	for _, x := range []struct {
		err  error
		want string
	}{
		{transport.ErrAuth, "--password-file FILE"},
		{transport.ErrElevation, "administrator"},
		{&agent.Error{Op: "start", Kind: agent.ErrNoDir, Err: agent.ErrPolicy}, "/roundsman"},
		{&agent.Error{Op: "start", Kind: agent.ErrNoDir}, "--agent-dir DIR"},
		{agent.ErrNoBinary, "examples/agentpack"},
		{transport.ErrTimeout, "--connect-timeout TIME"},
		{sum.ErrNoPassword, "ROUNDSMAN_PASSWORD"},
		{sum.ErrNoPassword, "--password-file FILE"},
	} {
		require.Contains(t, adviceOn(x.err, sum.Windows), x.want, x.err)
	}
	// It is shown so for a target, an outcome, and where only its name is known at first.
	const db2 = "windows://LAB;ops@db2"
	b := newBench(t)
	b.fake.Host(db2).Fault(agenttest.Fault{Op: agenttest.Start, Err: agent.ErrNoDir})
	b.fake.Host(db2).Fault(agenttest.Fault{Op: agenttest.Stage, Err: transport.ErrAuth})
	for _, args := range [][]string{{"inventory", db2}, {"deploy", "--component", b.component(nil), db2}} {
		require.Equal(t, exitFailed, b.run(t.Context(), args...))
		for _, word := range linuxOnly {
			require.NotContains(t, b.out.String(), word)
		}
		require.Contains(t, b.out.String(), "--", "there is some advice")
	}
	b = newBench(t)
	b.fake.Host(db2).Fault(agenttest.Fault{Op: agenttest.Remove, Err: errors.Join(agent.ErrJobRunning, agent.ErrNoDir)})
	require.Equal(t, exitFailed, b.run(t.Context(), "inventory", "--json", db2), b.out.String())
	require.Equal(t, db2, b.of("error")[0]["target"])
	require.Equal(t, windowsDirAdvice, b.of("error")[0]["advice"])
}

// TestErrorCodes: output for programs has a code that stays the same.
func TestErrorCodes(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		err  error
		want string
	}{
		{&sum.Error{Err: &transport.Error{Kind: sum.ErrNoPassword}}, "no-password"},
		{transport.ErrAuth, "wrong-credentials"},
		{transport.ErrElevation, "no-elevation"},
		{fmt.Errorf("%w: %w", transport.ErrTrust, transport.ErrUnknownIdentity), "unknown-identity"},
		{agent.ErrNoBinary, "no-binary"},
		{agent.ErrNoDir, "no-directory"},
		{agent.ErrHostBusy, "busy"},
		{transport.ErrUnreachable, "unreachable"},
		{&sum.PreflightError{Findings: []sum.Finding{{Code: sum.FindClock}}}, "clock"},
		{fmt.Errorf("%w: %w", sum.ErrPending, transport.ErrConnLost), "pending"},
		{&agent.Error{Kind: transport.ErrTrust, Err: &channel.Error{}}, "wrong-identity"},
		{context.Canceled, "stopped"},
		{errors.New("x"), "failed"},
	} {
		require.Equal(t, x.want, codeOf(x.err, sum.Linux), x.err)
	}
	b := newBench(t)
	require.Equal(t, exitFailed, b.run(t.Context(), "inventory", "--json", "linux://down"))
	require.Equal(t, "unreachable", b.of("error")[0]["code"])
	b.fake.Host(db1).Fault(agenttest.Fault{Op: agenttest.Stage, Err: transport.ErrAuth})
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--component", b.component(nil), db1))
	require.Equal(t, "wrong-credentials", b.of("outcome")[0]["error_code"])
	require.Nil(t, b.of("outcome")[0]["code"], "that is what the target said")
}

// goField finds fields, and functions, of Go in a text for people.
var goField = regexp.MustCompile(`\b(Config|[a-z]*\.?Options|[A-Z]\w*Options|Trust|Installer|GoBuild|install|smb)\.[A-Z]\w*|\b(CaptureOptions|LegacyTLS|StallTimeout|Connections)\b`)

// TestHintsNameFlags: what the packages below say by names of Go is said by flags. It
// reads every text of theirs, since no test makes all of their errors.
func TestHintsNameFlags(t *testing.T) {
	t.Parallel()
	// These are of settings that this program never makes, or made by its own fault.
	never := regexp.MustCompile(`Config\.(Resolve|TLS|Classic|Generation|HTTPRole|Way is)|Options\.(Elevate|Guardian is)|Endpoint\.Options|install\.RunAgent first|insecure algorithms|Trust\.KnownHosts\), and never|Options\.Proxy|other than StallTimeout|negative number of Connections`)
	root := filepath.Join("..", "..")
	for _, dir := range []string{"sum", "sum/agent", "sum/agent/install", "sum/agent/agentless", "sum/channel", "sum/component",
		"transport", "transport/ssh", "transport/smb", "transport/local", "transport/redfish", "firewall", "portalloc"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, dir)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				if said := inFlags.Replace(text); goField.MatchString(said) && !never.MatchString(text) {
					t.Errorf("%s: %q is said as %q", name, text, said)
				}
				return true
			})
		}
	}
}

// TestFlagsOfOtherKinds: flags that mean nothing for a Windows server are refused before
// anything is dialled, wherever the target comes from.
func TestFlagsOfOtherKinds(t *testing.T) {
	t.Parallel()
	const db2 = "windows://LAB;ops@db2"
	b := newBench(t)
	file := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("targets:\n  - url: linux://db1\n  - {name: two, url: '"+db2+"'}\n"), 0o600))
	plan := filepath.Join(b.dir, "plan.json")
	require.Equal(t, exitFine, b.run(t.Context(), "plan", "--component", b.component(nil), db2, "-o", plan), b.errs.String())
	calls := b.fake.Host(db2).Calls(agenttest.AnyOp)
	for _, flag := range []string{"--agentless", "--sudo"} {
		for _, args := range [][]string{
			{"inventory", flag, db1, db2}, {"inventory", flag, "--fleet", file}, {"preflight", flag, db2}, {"preflight", flag, "--probe", db2},
			{"deploy", flag, "--component", b.component(nil), db2}, {"deploy", flag, "--plan", plan}, {"recover", flag, db2},
		} {
			require.Equal(t, exitUsage, b.run(t.Context(), args...), args)
			require.Contains(t, b.errs.String(), flag+" is for Linux targets, and ")
			require.Empty(t, b.out.String())
		}
		require.Equal(t, exitFine, b.run(t.Context(), "inventory", flag, db1), b.errs.String())
	}
	for dir, why := range map[string]string{`C:\roundsman`: "drives", `\roundsman`: "backslashes", "roundsman": "want a slash", "~/x": "want a slash", "/": "want a slash", "/a/../b": "want a slash", "/a?": "character", "C:/x": "drives"} {
		require.Equal(t, exitUsage, b.run(t.Context(), "inventory", "--agent-dir", dir, db2), dir)
		require.Contains(t, b.errs.String(), "--agent-dir "+dir+": ")
		require.Contains(t, b.errs.String(), why)
		require.Contains(t, b.errs.String(), "ADMIN$")
	}
	require.Equal(t, calls, b.fake.Host(db2).Calls(agenttest.AnyOp))
	require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--agent-dir", "/roundsman2", db2), b.errs.String())
	require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--agent-dir", "~/x", db1), b.errs.String())
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
		require.NotEmpty(t, adviceOn(kind, sum.Linux))
		require.Empty(t, adviceOn(&agent.Error{Op: "connect", Kind: kind, Err: &channel.Error{Op: "dial", Kind: channel.ErrTrust}}, sum.Linux))
	}
}
