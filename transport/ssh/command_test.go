package ssh

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shells are the shells of this machine that can stand for sh.
func shells(t testing.TB) [][]string {
	var out [][]string
	for _, argv := range [][]string{{"sh"}, {"dash"}, {"bash"}, {"bash", "--posix"}, {"ksh"}, {"mksh"}, {"zsh"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(argv[0]); err == nil {
			out = append(out, argv)
		}
	}
	require.NotEmpty(t, out, "there is no sh")
	return out
}

// printArgs prints its arguments, each with a NUL byte behind it.
var printArgs = []string{"sh", "-c", `for a in "$@"; do printf '%s\0' "$a"; done`, "sh"}

func checkArgs(t *testing.T, shell []string, args, env []string) {
	line := commandLine(argvScript(append(printArgs[:len(printArgs):len(printArgs)], args...), env), "TOKEN", false, "")
	cmd := exec.Command(shell[0], append(shell[1:], "-c", line)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s: %s", line, errs.String())
	_, rest, err := awaitToken(&out, "TOKEN", &errs, nil)
	require.NoError(t, err)
	want := strings.Join(args, "\x00") + "\x00"
	if len(args) == 0 {
		want = ""
	}
	got := string(rest) + out.String()
	require.Equal(t, want, got, "through %q by %q", shell, line)
}

func TestQuotingKeepsEveryByte(t *testing.T) {
	var every []byte
	args := []string{"", " ", "'", `\`, `\\`, `\n`, "\n", "a\n", "!", "!!", "$HOME", "`id`", "%s%n%b", "-n", "--", "*", "~", "#", "{a,b}", "a=b"}
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
		args = append(args, string([]byte{byte(b)}))
	}
	args = append(args, string(every), strings.Repeat("'", 1000))
	for _, shell := range shells(t) {
		checkArgs(t, shell, args, nil)
		checkArgs(t, shell, args, []string{"A=" + string(every), "B.C=x"})
		checkArgs(t, shell, nil, nil)
	}
}

// TestOuterQuoting: what a login shell sees has nothing in it on which Bourne
// shells, csh and fish disagree.
func TestOuterQuoting(t *testing.T) {
	common := regexp.MustCompile(`^exec sh -c '(?:[ -&(-\[\]-~]|\\0)*'$`) // a backslash before a zero alone, no single quote
	for _, script := range []string{"true", "echo 'it'", "a\nb", `a\b`, "a!b", string([]byte{1, 127, 200, 255}), getScript, putScript} {
		for _, elevate := range []bool{false, true} {
			line := commandLine(script, "token", elevate, "")
			require.Regexp(t, common, line)
			require.NotContains(t, line, "!")
			require.NotContains(t, line, "\n")
		}
	}
}

func FuzzQuoting(f *testing.F) {
	f.Add("plain", "it's", "X=1")
	f.Add("", "\n", "A=\xff!\\")
	all := shells(f)
	f.Fuzz(func(t *testing.T, a, b, env string) {
		if strings.Contains(a+b+env, "\x00") {
			t.Skip("no program can be given a NUL byte")
		}
		var vars []string
		if strings.Index(env, "=") > 0 && env[0] != '-' {
			vars = []string{env}
			for _, name := range []string{"PATH=", "LD_", "BASH", "ENV=", "SHELLOPTS="} {
				if strings.HasPrefix(env, name) {
					t.Skip("changes what the shell of the test does")
				}
			}
		}
		for _, shell := range all {
			checkArgs(t, shell, []string{a, b}, vars)
		}
	})
}

func TestProgramNameWithEqualsSign(t *testing.T) {
	dir := t.TempDir()
	for _, shell := range shells(t) {
		for _, env := range [][]string{nil, {"X=1"}} {
			script := argvScript([]string{dir + "/a=b"}, env)
			out, err := exec.Command(shell[0], append(shell[1:], "-c", script)...).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 127, exit.ExitCode(), "%s: %s", script, out)
			require.Contains(t, string(out), "a=b", "it was looked for as a program")
		}
	}
}
