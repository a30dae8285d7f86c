package ssh_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
)

// sudoPAM counts failed passwords as accounts do that are locked after some.
const sudoPAM = `auth required pam_faillock.so preauth silent dir=/run/faillock
auth [success=1 default=ignore] pam_unix.so
auth [default=die] pam_faillock.so authfail dir=/run/faillock
auth sufficient pam_faillock.so authsucc dir=/run/faillock
account required pam_permit.so
session required pam_permit.so
`

// TestSudoRules takes what sudoers may ask of those who come over SSH.
func TestSudoRules(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "sudo")
	realtest.Need(t, "script")
	realtest.Need(t, "faillock")
	h := newHost(t)
	h.write("/etc/pam.d/sudo", sudoPAM, 0o644)
	h.Run("mkdir", "-p", "/run/faillock")
	const password = "correct horse"
	rules := []struct {
		user, defaults string
		asked          bool // sudo wants a password
		terminal       bool
	}{
		{"free", "!use_pty", false, false},
		{"asked", "!use_pty", true, false},
		{"freepty", "use_pty", false, false},
		{"askedpty", "use_pty", true, false},
		{"freetty", "requiretty,!use_pty", false, true},
		{"askedtty", "requiretty,!use_pty", true, true},
		{"freeboth", "requiretty,use_pty", false, true},
		{"askedboth", "requiretty,use_pty", true, true},
		{"wordy", "requiretty,lecture=always,passprompt_override,timestamp_timeout=0", true, true},
		{"keptenv", "requiretty,!env_reset,!use_pty", false, true},
	}
	sudoers := ""
	for _, r := range rules {
		h.user(r.user, "/bin/bash", map[string]string{".bashrc": "echo Welcome; echo warning >&2\n"})
		tag := "NOPASSWD: "
		if r.asked {
			tag = ""
		}
		sudoers += fmt.Sprintf("Defaults:%s %s\n%s ALL=(ALL) %sALL\n", r.user, r.defaults, r.user, tag)
		h.Run("sh", "-c", "echo "+r.user+":'"+password+"' | chpasswd -c SHA256 -s 1000") // sudo asks for it often
	}
	h.user("stranger", "/bin/sh", nil)
	h.Run("sh", "-c", "echo stranger:'"+password+"' | chpasswd -c SHA256 -s 1000")
	sudoers += "Defaults:strangertty requiretty\n"
	h.user("strangertty", "/bin/sh", nil)
	h.write("/etc/sudoers.d/test", sudoers, 0o440)
	h.Run("visudo", "-c")

	elevated := func(password string) ssh.Options {
		return ssh.Options{Elevate: ssh.Sudo, SudoPassword: transport.NewSecret(password)}
	}
	t.Run("rules", func(t *testing.T) {
		for _, r := range rules {
			t.Run(r.user, func(t *testing.T) {
				t.Parallel()
				h := h.on(t)
				given := ""
				if r.asked {
					given = password
				}
				conn := h.dial(r.user, elevated(given))
				require.Equal(t, "0\n", output(t, conn, "id", "-u"))
				operations(t, conn, "/root/"+r.user)
				streams(t, conn)
				large := bytes.Repeat([]byte("0123456789abcdef\x00\n\xff"), 100_000)
				_, err := putIt(t, dialWith(t, h.transport().InPieces(), h.endpoint(r.user, elevated(given))), "/root/"+r.user+"-large", large)
				require.NoError(t, err)
				got, err := getIt(t, conn, "/root/"+r.user+"-large")
				require.NoError(t, err)
				require.True(t, bytes.Equal(large, got))

				exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "kill -9 $$"}})
				require.NoError(t, err)
				if r.terminal {
					require.Equal(t, transport.Exit{Code: 128 + 9}, exit)
				} else {
					require.Equal(t, transport.Exit{Code: -1, Signal: "KILL"}, exit)
				}
				// What a program leaves behind outlives the terminal, as without one.
				pid := strings.TrimSpace(output(t, conn, "sh", "-c", "sleep 600 >/dev/null 2>&1 </dev/null & echo $!"))
				output(t, conn, "kill", "-0", pid)
				output(t, conn, "kill", pid)
				env := output(t, conn, "env")
				require.NotContains(t, "\n"+env, "\ns=")
				require.NotContains(t, "\n"+env, "\no=")
				require.NotContains(t, env, "SHELL=sh")
				if r.asked {
					require.Zero(t, h.failures(r.user))
					_, err = h.transport().Dial(t.Context(), h.endpoint(r.user, elevated("wrong")))
					require.ErrorIs(t, err, transport.ErrAuth)
					require.NotContains(t, err.Error(), "wrong")
					require.Equal(t, 1, h.failures(r.user), "the wrong password was given once: %v", err)
					_, err = h.transport().Dial(t.Context(), h.endpoint(r.user, elevated("")))
					require.ErrorIs(t, err, transport.ErrAuth)
					require.Equal(t, 1, h.failures(r.user))
				}
			})
		}
		for _, user := range []string{"stranger", "strangertty"} {
			for _, given := range []string{"", password} {
				t.Run(user+" "+given, func(t *testing.T) {
					t.Parallel()
					_, err := h.transport().Dial(t.Context(), h.endpoint(user, elevated(given)))
					require.ErrorIs(t, err, transport.ErrAuth)
					require.NotContains(t, err.Error(), "requiretty", "a terminal did not help")
				})
			}
		}
	})
	t.Run("without script", func(t *testing.T) {
		h := h.on(t)
		h.Run("mv", "/usr/bin/script", "/usr/bin/script.away")
		defer h.Run("mv", "/usr/bin/script.away", "/usr/bin/script")
		_, err := h.transport().Dial(t.Context(), h.endpoint("freetty", elevated("")))
		require.ErrorIs(t, err, transport.ErrAuth)
		require.Contains(t, err.Error(), `"Defaults:freetty !requiretty"`)
		require.Equal(t, "0\n", output(t, h.dial("free", elevated("")), "id", "-u"))
	})
	t.Run("password changed", func(t *testing.T) {
		h := h.on(t)
		conn := h.dial("asked", elevated(password))
		before := h.failures("asked")
		h.Run("sh", "-c", "echo asked:other | chpasswd")
		for range 3 {
			_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"true"}})
			require.ErrorIs(t, err, transport.ErrAuth)
		}
		require.Equal(t, before+1, h.failures("asked"), "one connection tried the password again")
	})
	t.Run("no answer", func(t *testing.T) {
		// A second question, as for a code, is none that the driver can answer.
		h := h.on(t)
		h.write("/usr/local/bin/ask", "#!/bin/sh\nsleep 600\n", 0o755)
		h.write("/etc/pam.d/sudo", "auth required pam_exec.so /usr/local/bin/ask\n"+sudoPAM, 0o644)
		opts := elevated(password)
		opts.ConnectTimeout = 8 * time.Second
		_, err := h.transport().Dial(t.Context(), h.endpoint("askedpty", opts))
		require.ErrorIs(t, err, transport.ErrTimeout)
		require.True(t, transport.Temporary(err))
	})
}

// failures is how many failed attempts are counted for a user.
func (h *host) failures(user string) int {
	h.t.Helper()
	return strings.Count(h.Run("faillock", "--dir", "/run/faillock", "--user", user), " V\n")
}

// streams checks that the three streams are separate, take every byte, and can be
// closed each on its own.
func streams(t *testing.T, conn transport.Conn) {
	t.Helper()
	in := bytes.Repeat([]byte("\x00\x03\x04\x11\x13\x1a\x1c\x7f\r\n\xff~."), 10_000)
	var out, errs bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{
		Argv: []string{"cat"}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.True(t, bytes.Equal(in, out.Bytes()), "standard output differs")
	require.Empty(t, errs.String())
	out.Reset()
	exit, err = transport.Run(t.Context(), conn, transport.Command{
		Argv: []string{"sh", "-c", "cat >&2"}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.True(t, bytes.Equal(in, errs.Bytes()), "standard error differs")
	require.Empty(t, out.String())

	// The end of the input is not the end of the output.
	out.Reset()
	_, err = transport.Run(t.Context(), conn, transport.Command{
		Argv: []string{"sh", "-c", "cat >/dev/null; sleep 0.2; echo after"}, Stdin: strings.NewReader("x"), Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "after\n", out.String())

	// A program that wants no more input ends all the same.
	out.Reset()
	exit, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"head", "-c", "3"}, Stdin: endlessZeros{}, Stdout: &out})
	require.NoError(t, err)
	require.Equal(t, "\x00\x00\x00", out.String())
	require.Zero(t, exit.Code)

	// So does one that closes its output first.
	exit, err = transport.Run(t.Context(), conn, transport.Command{
		Argv: []string{"sh", "-c", "exec >&- 2>&-; cat >/dev/null; exit 5"}, Stdin: strings.NewReader("x"), Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{Code: 5}, exit)
}

// endlessZeros is an input without an end.
type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestSudoPasswordIsForSudo: what shells and wrappers print of the command is not
// sudo asking for the password, and neither sudo nor its log shows variables.
func TestSudoPasswordIsForSudo(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "sudo")
	realtest.Need(t, "script")
	h := newHost(t)
	const password = "correct horse"
	wrapper := `ForceCommand echo "$SSH_ORIGINAL_COMMAND" | tee -a /tmp/log >&2; exec ${SHELL} -c "$SSH_ORIGINAL_COMMAND"`
	h.server(2222, internalSFTP, wrapper)
	h.server(2223, internalSFTP, `ForceCommand echo "$SSH_ORIGINAL_COMMAND" >&2; head -n1 >/tmp/stolen; exit 1`)
	sudoers := "Defaults timestamp_timeout=0\nDefaults:onatty requiretty\n"
	for user, start := range map[string]string{"plain": "", "trace": "set -x\n", "verbose": "set -xv\n", "onatty": "set -x\n"} {
		h.user(user, "/bin/bash", map[string]string{".bashrc": start})
		h.Run("sh", "-c", "echo "+user+":'"+password+"' | chpasswd -c SHA256 -s 1000")
		sudoers += user + " ALL=(ALL) ALL\n"
	}
	h.write("/etc/sudoers.d/test", sudoers, 0o440)
	opts := ssh.Options{Elevate: ssh.Sudo, SudoPassword: transport.NewSecret(password)}
	for _, r := range []struct{ user, port string }{{"plain", ""}, {"trace", ""}, {"verbose", ""}, {"onatty", ""}, {"plain", ":2222"}, {"onatty", ":2222"}} {
		t.Run(r.user+r.port, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			ep := h.endpoint(r.user, opts)
			ep.Address += r.port
			conn := dialWith(t, h.transport(), ep)
			for range 3 {
				require.Equal(t, "begun\ndone\n", output(t, conn, "sh", "-c", "echo begun; sleep 0.1; echo done"))
			}
			var out bytes.Buffer
			large := strings.Repeat("canary-"+r.user, 5000)
			exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", `ps -eo args | grep -c '[c]anary-'; printf %s "$RM_TOKEN"; cat`},
				Env: []string{"RM_TOKEN=" + large}, Stdin: strings.NewReader("input"), Stdout: &out})
			require.NoError(t, err)
			require.Zero(t, exit)
			require.Equal(t, "0\n"+large+"input", out.String())
		})
	}
	t.Run("another program", func(t *testing.T) {
		ep := h.endpoint("plain", opts)
		ep.Address += ":2223"
		opts.ConnectTimeout = 10 * time.Second
		ep.Options = opts
		_, err := h.transport().Dial(t.Context(), ep)
		require.Error(t, err)
		require.NotContains(t, h.Run("sh", "-c", "cat /tmp/stolen || true"), password)
	})
}
