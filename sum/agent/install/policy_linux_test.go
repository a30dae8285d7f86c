package install_test

import (
	"bytes"
	"context"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// enforcing behaves as a host with SELinux where the agent's program may be
// executed only with the type bin_t.
type enforcing struct {
	transport.Forward
	uid    string
	label  string // the type of the program
	fixed  bool   // chcon is denied
	chcons [][]string
}

func (c *enforcing) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	say := func(w io.Writer, text string, code int) (transport.Exit, error) {
		_, err := io.WriteString(w, text)
		return transport.Exit{Code: code}, err
	}
	line := strings.Join(cmd.Argv, " ")
	switch {
	case path.Base(cmd.Argv[0]) == agent.BinaryName && c.label != "bin_t":
		return say(cmd.Stderr, "Zugriff verweigert\n", 126) // no text is looked at
	case cmd.Argv[0] == "chcon":
		c.chcons = append(c.chcons, cmd.Argv)
		if c.fixed {
			return say(cmd.Stderr, "chcon: failed\n", 1)
		}
		c.label = cmd.Argv[2]
		return transport.Exit{}, nil
	case strings.Contains(line, "fapolicyd.conf"):
		access := "no"
		if c.label == "bin_t" {
			access = "yes"
		}
		return say(cmd.Stdout, "access="+access+"\nenforce=1\nfile=system_u:object_r:"+c.label+":s0\n"+
			"dir=system_u:object_r:var_lib_t:s0\nuser=staff_u:staff_r:staff_t:s0\n", 0)
	case strings.Contains(line, "echo \"uid="):
		var out bytes.Buffer
		answer := cmd.Stdout
		cmd.Stdout = &out
		exit, err := c.Forward.Run(ctx, cmd)
		if err != nil {
			return exit, err
		}
		return say(answer, regexp.MustCompile(`uid=\d+`).ReplaceAllString(out.String(), "uid="+c.uid), exit.Code)
	}
	return c.Forward.Run(ctx, cmd)
}

func TestSELinuxLabel(t *testing.T) {
	t.Parallel()
	l := newLab(t, sshtest.Config{})
	conn := &enforcing{Forward: transport.Forward{Conn: l.dial()}, uid: "0", label: "var_lib_t"}
	a, err := installer().Start(t.Context(), conn, l.opts())
	require.NoError(t, err)
	program := filepath.Join(l.dir(), agent.BinaryName)
	require.Equal(t, [][]string{{"chcon", "-t", "bin_t", program}}, conn.chcons)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	l.requireClean()

	for name, c := range map[string]*enforcing{
		"not root":             {uid: "1000", label: "var_lib_t"},
		"chcon denied":         {uid: "0", label: "var_lib_t", fixed: true},
		"another label":        {uid: "0", label: "etc_t"},
		"label does not help":  {uid: "0", label: "var_lib_t", fixed: false},
		"another label, guest": {uid: "1000", label: "etc_t"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, sshtest.Config{})
			c.Forward = transport.Forward{Conn: l.dial()}
			var target transport.Conn = c
			if name == "label does not help" {
				target = &stubborn{c}
			}
			_, err := installer().Start(t.Context(), target, l.opts())
			require.ErrorIs(t, err, agent.ErrNoDir)
			require.ErrorIs(t, err, agent.ErrPolicy)
			var e *agent.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Hint, "semanage fcontext -a -t bin_t "+filepath.Join(l.dir(), agent.BinaryName))
			require.Contains(t, e.Hint, "staff_t")
			require.Contains(t, err.Error(), "SELinux, where the program has the label")
			want := 0
			if strings.HasPrefix(name, "chcon") || strings.HasPrefix(name, "label") {
				want = 1
			}
			require.Len(t, c.chcons, want)
			l.requireNothing()
		})
	}
}

// stubborn refuses whatever the label is.
type stubborn struct{ *enforcing }

func (c *stubborn) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	if path.Base(cmd.Argv[0]) == agent.BinaryName {
		return transport.Exit{Code: 126}, nil
	}
	return c.enforcing.Run(ctx, cmd)
}

// TestFapolicyd: a real fapolicyd denies the agent's program; the error tells what
// to do, and what it tells helps.
func TestFapolicyd(t *testing.T) {
	t.Parallel()
	realtest.Need(t, "fapolicyd")
	realtest.Need(t, "fagenrules")
	h := boot(t)
	h.Run("sh", "-c", `set -e
mkdir -p /run/fapolicyd /var/lib/fapolicyd
rm -f /etc/fapolicyd/rules.d/* /var/lib/fapolicyd/* /etc/fapolicyd/compiled.rules
cat >/etc/fapolicyd/fapolicyd.conf <<END
permissive = 0
q_size = 640
uid = 0
gid = 0
watch_fs = overlay
trust = file
integrity = none
END
cat >/etc/fapolicyd/rules.d/90-test.rules <<END
deny_syslog perm=execute all : trust=0 dir=/var/lib/roundsman/
deny_syslog perm=execute all : trust=0 dir=/opt/roundsman/
allow perm=any all : all
END
mkdir -p /var/lib/roundsman && cp /bin/true /var/lib/roundsman/try`)
	serve := func() {
		h.Run("fagenrules")
		h.Run("systemd-run", "--quiet", "--collect", "--unit=test-policy", "-p", "Type=exec", "/usr/sbin/fapolicyd", "--debug-deny")
	}
	serve()
	h.await("the beginning of the policy", func() bool {
		if h.property("test-policy", "ActiveState") != "active" {
			realtest.Missing(t, "a kernel that lets fapolicyd decide (fanotify): "+h.Run("journalctl", "--no-pager", "-n", "5", "-u", "test-policy"))
		}
		return h.Command(t.Context(), "/var/lib/roundsman/try").Run() != nil
	})
	h.Run("test", "-x", "/var/lib/roundsman/try")

	conn := h.dial("root")
	_, err := installer().Start(t.Context(), conn, bootOpts())
	require.ErrorIs(t, err, agent.ErrNoDir)
	require.ErrorIs(t, err, agent.ErrPolicy)
	var e *agent.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, "path="+bootDir+"/"+agent.BinaryName+" sha256hash=")
	require.Equal(t, "try\n", h.Run("ls", "/var/lib/roundsman"))
	require.Empty(t, h.units())

	var rules []string
	for _, m := range regexp.MustCompile(`"(allow [^"]*)"`).FindAllStringSubmatch(e.Hint, -1) {
		rules = append(rules, m[1])
	}
	require.Len(t, rules, 2)
	h.Run("systemctl", "stop", "test-policy")
	h.Run("sh", "-c", `printf '%s\n' "$@" >/etc/fapolicyd/rules.d/80-roundsman.rules`, "sh", rules[0], rules[1])
	serve()
	h.await("the beginning of the policy", func() bool {
		return h.Command(t.Context(), "/var/lib/roundsman/try").Run() != nil
	})
	a := h.start(conn)
	job, _ := h.begin(a, "trusted", false)
	h.goOn("trusted")
	h.requireDone(a, job.ID)
	_, err = a.Remove(t.Context())
	require.NoError(t, err)
	require.Error(t, h.Command(t.Context(), "/var/lib/roundsman/try").Run(), "the policy was in force to the end")
	h.requireClean(bootDir)
}
