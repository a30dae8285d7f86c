package ssh_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
)

// startFile is what a shell reads before it runs a command over SSH. Dash, mksh
// and busybox read nothing, but sshd reads its own for them.
var startFile = map[string]string{
	"sh": ".ssh/rc", "mksh": ".ssh/rc", "busybox": ".ssh/rc", "bash": ".bashrc", "zsh": ".zshenv",
	"tcsh": ".tcshrc", "bsd-csh": ".cshrc", "fish": ".config/fish/config.fish",
}

// bashAsSh and busyboxTools are directories for a PATH on the host.
const (
	bashAsSh     = "/opt/bash-as-sh"
	busyboxTools = "/opt/busybox-tools"
)

// program is the login shell of a name.
func (h *host) program(shell string) string {
	if shell == "busybox" {
		h.write("/usr/local/bin/bbsh", "#!/bin/busybox sh\nexec busybox sh \"$@\"\n", 0o755)
		return "/usr/local/bin/bbsh"
	}
	return realtest.Need(h.t, shell)
}

// TestShellMatrix takes every login shell, with start files that keep to nothing.
func TestShellMatrix(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.Run("sh", "-c", "mkdir "+bashAsSh+" "+busyboxTools+" && ln -s /bin/bash "+bashAsSh+"/sh && busybox --install -s "+busyboxTools)
	const chatter = `sh -c 'echo >>$HOME/read; echo Welcome; printf "no newline"; echo Warning >&2; printf "no newline" >&2'` + "\n"
	rows := []struct {
		name, shell string
		start       string // of the shell's own start file
		environment string // for sshd to set
	}{
		{"sh", "sh", "", ""},
		{"bash", "bash", "", ""},
		{"busybox", "busybox", "", ""},
		{"mksh", "mksh", "", ""},
		{"zsh", "zsh", "", ""},
		{"tcsh", "tcsh", "", ""},
		{"csh", "bsd-csh", "", ""},
		{"fish", "fish", "", ""},

		{"sh-chatter", "sh", chatter, ""},
		{"bash-chatter", "bash", chatter, ""},
		{"zsh-chatter", "zsh", chatter, ""},
		{"tcsh-chatter", "tcsh", chatter, ""},
		{"csh-chatter", "bsd-csh", chatter, ""},
		{"fish-chatter", "fish", chatter, ""},
		{"flood", "bash", "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero >&2\n", ""},
		{"echo", "bash", `echo "$BASH_EXECUTION_STRING"; echo "$BASH_EXECUTION_STRING" >&2` + "\n", ""},
		{"trace", "bash", "set -xv\n", ""},
		{"zsh-trace", "zsh", "setopt xtrace verbose\n", ""},
		{"csh-trace", "bsd-csh", "set echo verbose\n", ""},

		{"options", "bash", `set -e -u -C -f -o pipefail
shopt -s expand_aliases
alias cat='cat -n' dd=false ls='ls --color=always -la' printf=false eval=false rm='rm -i'
export CDPATH=/tmp:/usr POSIXLY_CORRECT=1 LANG=de_DE.UTF-8 LC_ALL=C.UTF-8 LANGUAGE=de GREP_OPTIONS=-n LS_COLORS= DF_BLOCK_SIZE=1 BLOCK_SIZE=1 TZ=Asia/Tokyo
umask 077
`, ""},
		{"zsh-options", "zsh", `setopt noclobber nounset noglob shwordsplit
alias cat='cat -n' dd=false ls='ls -la'
export CDPATH=/tmp POSIXLY_CORRECT=1
umask 000
`, ""},
		{"csh-options", "bsd-csh", "set noclobber noglob\nalias cat 'cat -n'\nalias ls 'ls -la'\numask 077\n", ""},
		{"fish-options", "fish", "function cat; command cat -n $argv; end\nalias dd false\numask 000\n", ""},
		// Options that are exported to a sh that is bash.
		{"exported", "bash", "export SHELLOPTS BASHOPTS\nset -e -u -C -f -x -v -o pipefail\n", "PATH=" + bashAsSh + ":/usr/bin:/bin\n"},
		{"inherited", "sh", "", "PATH=" + bashAsSh + ":/usr/bin:/bin\nSHELLOPTS=errexit:nounset:noclobber:noglob\nBASH_ENV=/etc/passwd\nENV=/etc/passwd\nPOSIXLY_CORRECT=1\nLC_ALL=C\n"},
		{"busybox-tools", "sh", "", "PATH=" + busyboxTools + "\n"},
	}
	for _, r := range rows {
		files := map[string]string{".ssh/environment": r.environment}
		if r.start != "" {
			files[startFile[r.shell]] = r.start
		}
		h.user(r.name, h.program(r.shell), files)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			conn := h.dial(r.name, ssh.Options{})
			operations(t, conn, "/home/"+r.name)
			if r.start == chatter {
				require.NotEmpty(t, h.Run("cat", "/home/"+r.name+"/read"), "the start file was not read")
			}
		})
	}
}

// TestSlowStartFile: each call starts the login shell once.
func TestSlowStartFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.user("slow", "/bin/bash", map[string]string{".bashrc": "echo >>~/starts; sleep 0.7\n"})
	conn := h.dial("slow", ssh.Options{})
	starts := func() int { return len(strings.TrimSuffix(h.Run("cat", "/home/slow/starts"), "")) }
	require.Equal(t, 1, starts(), "by Dial")
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for name, call := range map[string]func(ctx context.Context) error{
		"run": func(ctx context.Context) error {
			_, err := transport.Run(ctx, conn, transport.Command{Argv: []string{"cat"}, Stdin: strings.NewReader("x")})
			return err
		},
		"put": func(ctx context.Context) error {
			_, err := transport.Put(ctx, conn, "/home/slow/x", transport.BytesFile("x", large), transport.PutOptions{})
			return err
		},
		"get": func(ctx context.Context) error {
			var b bytes.Buffer
			_, err := transport.Get(ctx, conn, "/etc/passwd", &b, transport.GetOptions{})
			return err
		},
		"identify": func(ctx context.Context) error {
			_, err := conn.Identify(ctx)
			return err
		},
	} {
		before := starts()
		require.NoError(t, call(t.Context()), name)
		require.Equal(t, before+1, starts(), "by %s", name)
	}
	before := starts()
	_, err := transport.Stat(t.Context(), conn, "/etc/passwd")
	require.NoError(t, err)
	require.Equal(t, before, starts(), "the server's own SFTP needs no shell")
}

// TestHangingStartFile: where the login shell never comes to its command, the dial
// says so, unless there is SFTP that does without it.
func TestHangingStartFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.server(2222, "Subsystem sftp /usr/lib/openssh/sftp-server")
	for _, shell := range []string{"bash", "tcsh", "fish"} {
		h.user("hang-"+shell, h.program(shell), map[string]string{startFile[shell]: "echo 'waiting for the file server' >/dev/stderr\nsleep 600\n"})
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			opts := ssh.Options{ConnectTimeout: 10 * time.Second}
			ep := h.endpoint("hang-"+shell, opts)
			ep.Address += ":2222"
			alone := make(chan error, 1)
			go func() {
				_, err := h.transport().Dial(t.Context(), ep)
				alone <- err
			}()
			conn := h.dial("hang-"+shell, opts)
			require.Equal(t, filesCaps, conn.Caps())
			_, err := transport.Put(t.Context(), conn, "/home/hang-"+shell+"/x", transport.BytesFile("x", []byte("x")), transport.PutOptions{})
			require.NoError(t, err)

			err = <-alone
			require.ErrorIs(t, err, transport.ErrTimeout)
			require.True(t, transport.Temporary(err))
			require.Contains(t, err.Error(), "login shell has not answered")
			require.Contains(t, err.Error(), "waiting for the file server")
		})
	}
}

// TestGreedyStartFile: start files that read the input do not get what is meant for
// the program.
func TestGreedyStartFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.user("greedy", "/bin/bash", map[string]string{".bashrc": "read -r x; echo \"$x\" >>~/stolen\n"})
	h.user("glutton", "/usr/bin/tcsh", map[string]string{".tcshrc": "cat >>~/stolen\n"})
	for _, user := range []string{"greedy", "glutton"} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			conn := h.dial(user, ssh.Options{StallTimeout: 10 * time.Second})
			require.Equal(t, "fine\n", output(t, conn, "echo", "fine"))
			ran := make(chan error, 1)
			go func() {
				_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"cat"}, Stdin: strings.NewReader("data\n")})
				ran <- err
			}()
			_, err := transport.Put(t.Context(), conn, "/home/"+user+"/x", transport.BytesFile("x", []byte("data\n")), transport.PutOptions{})
			require.ErrorIs(t, err, transport.ErrTimeout)
			require.ErrorIs(t, <-ran, transport.ErrTimeout)
			require.Empty(t, strings.TrimSpace(h.Run("cat", "/home/"+user+"/stolen")))
		})
	}
}
