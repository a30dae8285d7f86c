package main

import (
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// TestSenselessTargets: a target that makes no sense as it is given is a mistake in the
// arguments, with what is right instead, and nothing is dialled.
func TestSenselessTargets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for target, want := range map[string]string{
		"windows://LAB":               `"windows://DOMAIN;user@LAB"`,
		"windows://192.0.2.7":         "no user is named; name an administrator",
		"windows://LAB;@192.0.2.7":    `"windows://LAB;user@192.0.2.7"`,
		"windows://;ops@192.0.2.7":    `"windows://DOMAIN;ops@192.0.2.7"`,
		"windows://ops@192.0.2.7/bay": `no object, such as "bay"`,
		"linux://ops@192.0.2.7/bay":   `no object, such as "bay"`,
	} {
		for _, args := range [][]string{{"inventory"}, {"preflight", "--probe"}, {"reboot"}} {
			require.Equal(t, exitUsage, b.real([]string{"ROUNDSMAN_PASSWORD=x"}, append(args, target)...), "%s: %s", target, b.out.String())
			require.Contains(t, b.errs.String(), want, target)
			require.Empty(t, b.out.String())
		}
	}
	file := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("targets:\n  - {kind: windows, user: 'LAB;', address: h}\n  - {kind: linux, address: h, object: x}\n"), 0o600))
	require.Equal(t, exitUsage, b.real(nil, "inventory", "--fleet", file))
	require.Contains(t, b.errs.String(), file+`:2: invalid input: no user behind the domain in the user "LAB;": want "windows://LAB;user@h"`)
	require.Contains(t, b.errs.String(), file+":3: ")
}

// TestLostUser: a matrix needs no user, and says where a shell may have taken it.
func TestLostUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", "windows://LAB"))
	require.Contains(t, b.errs.String(), "no user is named, or LAB is a domain, and a shell took the ; behind it for the end of the command. In quotes")
	require.Contains(t, b.errs.String(), `"windows://DOMAIN;user@host"`)
	for _, fine := range []string{"windows://192.0.2.7", "windows://db2.example", "windows://ops@db2", "linux://db2"} {
		require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", fine))
		require.NotContains(t, b.errs.String(), "shell", fine)
	}
}

// TestUnknownCommand: a word that is no command is told as that, wherever it stands and
// whatever flags are behind it, with what may have been meant.
func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"help nosuch":                   `unknown command "nosuch"`,
		"help invetory":                 `unknown command "invetory"; did you mean inventory?`,
		"invetory --json linux://db1":   `unknown command "invetory"; did you mean inventory?`,
		"nosuch --help":                 `unknown command "nosuch"`,
		"help deploy too":               `unexpected argument "too"`,
		"guad":                          `unknown command "guad"`, // one that only this program calls is not suggested
		"--version deploy --json x":     "unknown flag: --version",
		"preflight --versoin linux://x": "unknown flag: --versoin",
	} {
		var out, errs bytes.Buffer
		require.Equal(t, exitUsage, run(t.Context(), strings.Fields(args), nil, &out, &errs, nil), args)
		require.Contains(t, errs.String(), want, args)
		require.NotContains(t, errs.String(), "guard", args)
		require.Contains(t, errs.String(), "for usage.", args)
		require.Empty(t, out.String(), args)
	}
	var version, flag, help bytes.Buffer
	require.Equal(t, exitFine, run(t.Context(), []string{"version"}, nil, &version, &version, nil))
	require.Equal(t, exitFine, run(t.Context(), []string{"--version"}, nil, &flag, &flag, nil))
	require.Equal(t, version.String(), flag.String())
	require.Equal(t, exitFine, run(t.Context(), []string{"help"}, nil, &help, &help, nil))
	require.Contains(t, help.String(), "\n  inventory ")
	require.Contains(t, help.String(), "--version")
}

// TestPasswordText: what PowerShell writes is read, and what is no text is refused.
func TestPasswordText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read := func(content string) (string, error) {
		name := filepath.Join(dir, "pw")
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		s, err := (&app{}).password(name, "")
		return s.Reveal(), err
	}
	for in, want := range map[string]string{
		"geheim\n": "geheim", "schlüssel": "schlüssel", "\xef\xbb\xbfgeheim\r\n": "geheim",
		"\xff\xfeg\x00\xfc\x00\r\x00\n\x00": "gü", "\xfe\xff\x00g\x00\xfc\x00\n": "gü", "\xff\xfe\x3d\xd8\x00\xde": "😀",
		" x ": " x ",
	} {
		got, err := read(in)
		require.NoError(t, err, "%q", in)
		require.Equal(t, want, got, "%q", in)
	}
	for in, want := range map[string]string{
		"g\x00e\x00": "UTF-16 without", "gef\xe4hrlich": "not in UTF-8", "\xff\xfeg": "is none", "\xff\xfe\x3d\xd8": "is none",
		"\xff\xfe": "want one line", "\xef\xbb\xbf\n": "want one line", "\xff\xfea\x00\n\x00b\x00": "want one line", "": "want one line",
	} {
		_, err := read(in)
		require.True(t, isUsage(err), "%q", in)
		require.ErrorContains(t, err, want, "%q", in)
		require.NotContains(t, err.Error(), "hrlich")
	}
}

// TestRefusedPasswordFile: the advice about a refused password names the file that it is from.
func TestRefusedPasswordFile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	own := filepath.Join(b.dir, "own.txt")
	require.NoError(t, os.WriteFile(own, []byte("x\n"), 0o600))
	file := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte("targets:\n  - {name: one, url: 'windows://LAB;ops@db1', password_file: own.txt}\n  - {name: two, url: 'windows://LAB;ops@db2'}\n"), 0o600))
	refuse := func(ctx context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
		return refusing{}, transport.Endpoint{Address: t.Address}, nil
	}
	for _, args := range [][]string{{"inventory", "--json"}, {"inventory"}, {"preflight", "--probe"}, {"preflight", "--probe", "--json"}} {
		b.out.Reset()
		a := &app{resolve: refuse, installer: b.fake}
		args = append(args, "--fleet", file, "--journal", filepath.Join(b.dir, "journal"))
		require.Equal(t, exitFailed, a.run(t.Context(), args, strings.NewReader(""), &b.out, &b.errs, nil), b.errs.String())
		require.Equal(t, 1, strings.Count(b.out.String(), own), "%v: %s", args, b.out.String())
		require.Contains(t, b.out.String(), "password_file of the fleet file")
	}
}

// refusing takes no password.
type refusing struct{}

func (refusing) Dial(context.Context, transport.Endpoint) (transport.Conn, error) {
	return nil, &transport.Error{Op: "dial", Kind: transport.ErrAuth}
}

// TestRulesOfTheOthers: a target of which something is not known keeps no other from its rules.
func TestRulesOfTheOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, format := range []string{"ufw", "nft", "iptables"} {
		require.Equal(t, exitFailed, b.preflight("--manager", "192.0.2.1", "--format", format, "--for", "between", "linux://192.0.2.11", "vmware://192.0.2.20/host-17", "linux://192.0.2.12"))
		for _, addr := range []string{"192.0.2.11", "192.0.2.12"} {
			require.Contains(t, b.out.String(), addr)
		}
		require.NotContains(t, b.out.String(), "192.0.2.20")
		require.Contains(t, b.errs.String(), "the address of host-17 is not known")
		require.Contains(t, b.errs.String(), "none for: vmware://192.0.2.20/host-17")
	}
}

// TestNetBIOSFlag: what --use netbios is for can be used.
func TestNetBIOSFlag(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", "--netbios", "windows://ops@192.0.2.7"))
	require.Contains(t, b.out.String(), "139/tcp")
	require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", "windows://ops@192.0.2.7"))
	require.NotContains(t, b.out.String(), "139/tcp")
	pw := []string{"ROUNDSMAN_PASSWORD=x"}
	require.Equal(t, exitFailed, b.real(pw, "inventory", "windows://ops@127.0.0.9"), "port 445 of an address where nobody listens")
	require.Contains(t, b.out.String(), "--netbios tries it")
	require.NotContains(t, b.out.String(), "127.0.0.9:139")
	require.Equal(t, exitFailed, b.real(pw, "preflight", "--probe", "--use", "netbios", "windows://ops@127.0.0.9"))
	require.Contains(t, b.out.String(), "127.0.0.9:139")
	require.Equal(t, exitFailed, b.real(pw, "inventory", "--netbios", "windows://ops@127.0.0.9"))
	require.Contains(t, b.out.String(), "127.0.0.9:139")
}

// TestWarningsInWords: warnings name flags, as errors do.
func TestWarningsInWords(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: inWords}))
	log.Warn("x", "err", &transport.Error{Op: "dial", Hint: "Older networks may have port 139 alone: Options.NetBIOS tries it"}, "n", 7)
	require.Contains(t, out.String(), "--netbios tries it")
	require.Contains(t, out.String(), "n=7")

	b := newBench(t)
	require.Equal(t, exitFailed, b.real([]string{"ROUNDSMAN_PASSWORD=x"}, "inventory", "windows://ops@127.0.0.9"))
	require.Contains(t, b.errs.String(), "trying again")
	require.NotRegexp(t, goField, b.errs.String())
}

// TestOneCodeForOneCause: inventory and preflight --probe call the same cause by the same code.
func TestOneCodeForOneCause(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		target string
		env    []string
		code   string
	}{
		{"windows://ops@127.0.0.9", []string{"ROUNDSMAN_PASSWORD=x"}, "refused"},
		{"windows://ops@127.0.0.9", nil, "no-password"},
		{"vmware://127.0.0.9", nil, "unsupported"},
	} {
		b := newBench(t)
		require.Equal(t, exitFailed, b.real(x.env, "inventory", "--json", x.target))
		require.Contains(t, b.out.String(), `"code":"`+x.code+`"`, x.target)
		require.Equal(t, exitFailed, b.real(x.env, "preflight", "--probe", "--json", x.target))
		require.Contains(t, b.out.String(), `"code":"`+x.code+`","severity":"blocks"`, x.target)
	}
	denied := &agent.Error{Op: "start", Kind: agent.ErrNoDir, Err: os.ErrPermission}
	require.Equal(t, "no-elevation", codeOf(denied, sum.Windows))
	require.Equal(t, windowsLoginAdvice, adviceOn(denied, sum.Windows))
	require.Equal(t, "no-directory", codeOf(denied, sum.Linux))
}

// TestJSONIsDocumented: the help has every code of a finding, and the names of the fields.
func TestJSONIsDocumented(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.Equal(t, exitFine, run(t.Context(), []string{"help", "preflight"}, nil, &out, &out, nil))
	words := strings.FieldsFunc(out.String(), func(r rune) bool { return strings.ContainsRune(" \n,;:()", r) })
	for i := range words {
		words[i] = strings.TrimSuffix(words[i], ".")
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "sum", "finding.go"), nil, 0)
	require.NoError(t, err)
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Find") {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			require.Contains(t, words, code)
			n++
		}
		return true
	})
	require.Greater(t, n, 20)
	for _, field := range []string{"event", "target", "code", "severity", "direction", "protocol", "port", "sample", "addr", "text", "advice", "first", "last", "purpose", "exit"} {
		require.Contains(t, words, field)
	}
}

// slowSource takes as long as it is told.
type slowSource struct {
	time.Duration
	err error
}

func (s slowSource) Open(context.Context, string, string) (transport.File, error) {
	time.Sleep(s.Duration)
	return transport.File{}, s.err
}

// TestBuilding: a build that takes long is told, once; one that was stopped is not told as one
// that failed, although the go command heard of it first.
func TestBuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := &building{Source: slowSource{buildQuiet / 2, nil}, stderr: &out}
		_, err := b.Open(t.Context(), "windows", "amd64")
		require.NoError(t, err)
		require.Empty(t, out.String())
		b.Source = slowSource{time.Minute, nil}
		for range 2 {
			_, err = b.Open(t.Context(), "windows", "amd64")
			require.NoError(t, err)
		}
		require.Equal(t, 1, strings.Count(out.String(), "no agent for windows/amd64"))

		failed := &agent.Error{Op: "build", Kind: agent.ErrNoBinary, Err: &exec.ExitError{ProcessState: &os.ProcessState{}}}
		b = &building{Source: slowSource{0, failed}, stderr: io.Discard}
		_, err = b.Open(t.Context(), "windows", "amd64")
		require.ErrorIs(t, err, agent.ErrNoBinary)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(stopGrace/2, cancel)
		_, err = b.Open(ctx, "windows", "amd64")
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, agent.ErrNoBinary)
		require.False(t, errors.Is(err, agent.ErrNoBinary))
	})
}
