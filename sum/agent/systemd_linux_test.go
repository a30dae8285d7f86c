package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/stretchr/testify/require"
)

func TestUnitNames(t *testing.T) {
	require.Equal(t, "roundsman-agent-m1-db1.example_2.service", UnitName("m1-db1.example_2"))
	require.Equal(t, `roundsman-agent-a\x20b\x2fc\x40\x25n.service`, UnitName("a b/c@%n"))
	job := strings.Repeat("0f", 16)
	require.Equal(t, "roundsman-job-m1-db1-"+job+".service", JobUnitName("m1-db1", job))
	require.Equal(t, UnitName("m1-db1"), home("/var/lib/roundsman/m1-db1").unit())
	require.Equal(t, JobUnitName("m1-db1", job), home("/var/lib/roundsman/m1-db1").jobUnit(job))
}

func TestSystemdRunCommand(t *testing.T) {
	u := unit{
		name: "roundsman-agent-x.service", description: "d", argv: []string{"/opt/$x/roundsman-agent", "serve", "-dir", "/opt/$x/%i"},
		env: []string{"PATH=/bin", "LANG=C.UTF-8"}, props: []string{"TimeoutStopSec=15"},
	}
	require.Equal(t, []string{
		"--quiet", "--no-ask-password", "--collect", "--unit=roundsman-agent-x.service", "--description=d",
		"--property=KillMode=process", "--property=UMask=0077", "--property=Type=exec", "--property=OOMPolicy=continue",
		"--property=TimeoutStopSec=15", "--setenv=PATH=/bin", "--setenv=LANG=C.UTF-8",
		"--", "/opt/$x/roundsman-agent", "serve", "-dir", "/opt/$$x/%i",
	}, (&systemd{version: 252}).args(u))
	old := strings.Join((&systemd{version: 239, user: true}).args(u), " ")
	require.Contains(t, old, " --user ")
	require.NotContains(t, old, "Type=")
	require.NotContains(t, old, "OOMPolicy")
	for _, trap := range []string{"StandardInput", "ExecStop", "RuntimeMax", "KillMode=mixed", "KillMode=control-group"} {
		require.NotContains(t, strings.Join((&systemd{version: 252}).args(u), " "), trap)
	}
}

func TestShimUnit(t *testing.T) {
	h := home(t.TempDir())
	id := channel.NewJobID()
	u := shimUnit(h, id, "/x/roundsman-agent")
	require.Equal(t, []string{"TimeoutStopSec=90"}, u.props)
	require.Equal(t, []string{"/x/roundsman-agent", "shim", "-job", h.jobDir(id), "-unit"}, u.argv)
	require.NoError(t, os.MkdirAll(h.jobDir(id), 0o700))
	for noKill, want := range map[bool][]string{
		false: {"TimeoutStopSec=90"}, true: {"TimeoutStopSec=infinity", "SendSIGKILL=no"},
	} {
		require.NoError(t, writeJSON(filepath.Join(h.jobDir(id), "spec.json"), Job{ID: id, NoKill: noKill, Env: []string{"RM_TOKEN=canary"}}))
		u = shimUnit(h, id, "/x/roundsman-agent")
		require.Equal(t, want, u.props)
		require.NotContains(t, strings.Join((&systemd{version: 252}).args(u), " "), "canary")
	}
}

func TestParseSystemd(t *testing.T) {
	for out, want := range map[string]int{
		"systemd 252 (252.38-1~deb12u1)\n+PAM": 252, "systemd 219\n": 219, "systemd 257~rc1 (x)\n": 257,
		"": 0, "systemd": 0, "systemd x": 0, "busybox 252": 0, "systemd -5": 0,
	} {
		require.Equal(t, want, parseVersion(out), out)
	}
	require.Equal(t, unitState{active: "active", pid: 7, description: "a=b"}, parseUnit("MainPID=7\nDescription=a=b\nActiveState=active\n"))
	for active, over := range map[string]bool{"active": false, "deactivating": false, "activating": false, "inactive": true, "failed": true, "": false} {
		require.Equal(t, over, unitState{active: active}.over(), active)
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"systemd 252 (252.38-1~deb12u1)\n+PAM", "systemd 257~rc1 (x)\n", "systemd", "systemd -5", "systemd 99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, out string) {
		n := parseVersion(out)
		require.GreaterOrEqual(t, n, 0)
		if n > 0 {
			rest, ok := strings.CutPrefix(out, "systemd ")
			require.True(t, ok)
			rest, ok = strings.CutPrefix(strings.TrimLeft(rest, "0"), strconv.Itoa(n))
			require.True(t, ok && (rest == "" || rest[0] < '0' || rest[0] > '9'), "the whole number")
		}
	})
}

func FuzzParseUnit(f *testing.F) {
	f.Add("MainPID=7\nDescription=a=b\nActiveState=active\n")
	f.Add("MainPID=x\nMainPID=99999999999999999999\nActiveState\n=\n\nActiveState=failed")
	f.Fuzz(func(t *testing.T, out string) {
		st := parseUnit(out)
		lines := "\n" + out
		require.Contains(t, lines+"\nActiveState=", "\nActiveState="+st.active)
		require.Contains(t, lines+"\nDescription=", "\nDescription="+st.description)
		require.NotContains(t, st.active+st.description, "\n")
		if st.pid != 0 {
			require.Contains(t, lines, "\nMainPID=")
		}
		require.Equal(t, st, parseUnit(fmt.Sprintf("ActiveState=%s\nMainPID=%d\nDescription=%s\n", st.active, st.pid, st.description)))
	})
}

// fakeSystemd is a directory with a systemd-run and a systemctl that do what files
// there say, and write down how they were called.
type fakeSystemd struct {
	t   *testing.T
	dir string
}

func newFakeSystemd(t *testing.T, version string) *fakeSystemd {
	f := &fakeSystemd{t, t.TempDir()}
	f.write("version", version)
	f.write("state", "ActiveState=inactive\nMainPID=0\nDescription=x\n")
	for _, name := range []string{"systemd-run", "systemctl"} {
		f.write(name, `#!/bin/sh
cd `+f.dir+`
[ "$1" = --version ] && { cat version; exit; }
echo "${0##*/} $*" >>calls
case "$*" in
*" show "*) cat state;;
*" stop "*|*" kill "*) printf 'ActiveState=inactive\n' >state;;
*" -- "*) printf 'ActiveState=active\nMainPID=1\n' >state; [ ! -e run ] || . ./run;;
esac
`)
		require.NoError(t, os.Chmod(filepath.Join(f.dir, name), 0o700))
	}
	return f
}

func (f *fakeSystemd) write(name, content string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600))
}

// calls are the commands that were given, without those that only look.
func (f *fakeSystemd) calls() []string {
	data, err := os.ReadFile(filepath.Join(f.dir, "calls"))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(f.t, err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		for _, verb := range []string{"show", "stop", "kill"} {
			if strings.Contains(line, " "+verb+" ") {
				name = verb
			}
		}
		if name != "show" {
			out = append(out, name)
		}
	}
	return out
}

func TestFindSystemd(t *testing.T) {
	f := newFakeSystemd(t, "systemd 252 (252.38)\n")
	root := t.TempDir()
	mkdir := func(name string) { require.NoError(t, os.MkdirAll(filepath.Join(root, name), 0o700)) }
	sh := systemdHost{root: root, path: f.dir}
	_, err := sh.find(t.Context())
	require.ErrorIs(t, err, errNoSystemd, "not booted with systemd")

	mkdir("run/systemd/system")
	m, err := sh.find(t.Context())
	require.NoError(t, err)
	require.Equal(t, 252, m.version)
	require.False(t, m.user)
	require.Equal(t, filepath.Join(f.dir, "systemd-run"), m.run)

	// Other users have a manager of their own, which may end with the login.
	ops := systemdHost{root: root, path: f.dir, uid: 1000, name: "ops"}
	_, err = ops.find(t.Context())
	require.ErrorIs(t, err, errNoSystemd)
	mkdir("var/lib/systemd/linger/ops")
	_, err = ops.find(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, errNoSystemd, "it should be there")
	mkdir("run/user/1000/systemd/private")
	m, err = ops.find(t.Context())
	require.NoError(t, err)
	require.True(t, m.user)
	require.Contains(t, m.env, "XDG_RUNTIME_DIR="+filepath.Join(root, "run/user/1000"))
	_, err = systemdHost{root: root, path: f.dir, uid: 1000}.find(t.Context())
	require.ErrorIs(t, err, errNoSystemd, "a user without a name")

	f.write("version", "systemd 219\n")
	_, err = sh.find(t.Context())
	require.ErrorContains(t, err, "older")
	require.NotErrorIs(t, err, errNoSystemd)
	_, err = systemdHost{root: root, path: t.TempDir()}.find(t.Context())
	require.Error(t, err)
}

// startUnit is an asUnit with a fake systemd.
func startUnit(t *testing.T, f *fakeSystemd, se selinux) (*launching, error) {
	t.Helper()
	h := home(filepath.Join(f.dir, "m1-db1"))
	require.NoError(t, os.MkdirAll(string(h), 0o700))
	require.NoError(t, writeJSON(h.path(BootstrapName), Bootstrap{Version: 1, Nonce: "n"}))
	file, err := os.OpenFile(h.path(LogName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	l := &launching{home: h, nonce: "n", self: "/x/roundsman-agent", file: file, log: slog.New(slog.NewTextHandler(file, nil)), limit: patienceUnit}
	m := &systemd{run: filepath.Join(f.dir, "systemd-run"), ctl: filepath.Join(f.dir, "systemctl"), version: 252, env: baseEnv()}
	return l, l.asUnit(t.Context(), m, se)
}

const patienceUnit = time.Minute

// ready is what a service does that starts: a part of the fake's script.
func ready() string {
	data, _ := json.Marshal(Ready{Version: 1, Nonce: "n", PID: 1})
	return "rm m1-db1/" + BootstrapName + "; echo '" + string(data) + "' >m1-db1/" + ReadyName + "\n"
}

func TestStartAsUnit(t *testing.T) {
	const version = "systemd 252\n"
	t.Run("ready", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("run", ready())
		_, err := startUnit(t, f, selinux{})
		require.NoError(t, err)
		require.Equal(t, []string{"systemd-run"}, f.calls())
	})
	t.Run("an older agent goes", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("run", ready())
		f.write("state", "ActiveState=active\nMainPID=7\nDescription=roundsman agent in "+f.dir+"/m1-db1\n")
		_, err := startUnit(t, f, selinux{})
		require.NoError(t, err)
		require.Equal(t, []string{"stop", "systemd-run"}, f.calls())
	})
	t.Run("the unit of another directory stays", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("state", "ActiveState=active\nMainPID=7\nDescription=roundsman agent in /elsewhere/m1-db1\n")
		l, err := startUnit(t, f, selinux{})
		require.ErrorContains(t, err, "is taken")
		require.Empty(t, f.calls())
		require.True(t, l.home.waitsFor("n"), "it can still be started otherwise")
	})
	t.Run("refused", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("run", "echo refused by policy >&2; exit 1\n")
		l, err := startUnit(t, f, selinux{})
		require.ErrorContains(t, err, "refused by policy")
		require.True(t, l.home.waitsFor("n"))
	})
	t.Run("ended at once", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("run", "rm m1-db1/"+BootstrapName+"; echo no port is free >>m1-db1/"+LogName+"; printf 'ActiveState=failed\\n' >state\n")
		l, err := startUnit(t, f, selinux{})
		require.ErrorContains(t, err, "the unit is failed")
		require.ErrorContains(t, err, "no port is free")
		require.False(t, l.home.waitsFor("n"), "a second start would not find its identity")
	})
	t.Run("takes too long", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		m := &systemd{run: filepath.Join(f.dir, "systemd-run"), ctl: filepath.Join(f.dir, "systemctl"), env: baseEnv()}
		log, err := os.Create(filepath.Join(f.dir, "log"))
		require.NoError(t, err)
		defer log.Close()
		l := &launching{home: home(f.dir), nonce: "n", file: log, limit: time.Millisecond}
		err = l.runUnit(t.Context(), m, unit{name: "x.service", argv: []string{"/x"}})
		require.ErrorContains(t, err, "did not listen")
		require.Equal(t, []string{"systemd-run", "kill"}, f.calls())
	})
	t.Run("another SELinux label", func(t *testing.T) {
		f := newFakeSystemd(t, version)
		f.write("enforce", "1")
		f.write("run", "[ -e label ] || { echo 203/EXEC >&2; exit 1; }\n"+ready())
		var set []string
		l, err := startUnit(t, f, selinux{
			enforce: filepath.Join(f.dir, "enforce"), root: true,
			get: func(string) (string, error) { return "system_u:object_r:var_lib_t:s0", nil },
			set: func(file, label string) error {
				set = append(set, file, label)
				f.write("label", label)
				return nil
			},
		})
		require.NoError(t, err)
		require.Equal(t, []string{"/x/roundsman-agent", "system_u:object_r:bin_t:s0"}, set)
		require.Equal(t, []string{"systemd-run", "systemd-run"}, f.calls())
		log, err := os.ReadFile(l.home.path(LogName))
		require.NoError(t, err)
		require.Contains(t, string(log), "bin_t")
		require.Contains(t, string(log), "203/EXEC")
	})
}

// TestSpawnShimAsUnit: the shim is known by its process; where systemd does not
// wait for the execution, a failure is still one.
func TestSpawnShimAsUnit(t *testing.T) {
	for _, version := range []int{252, 239} {
		f := newFakeSystemd(t, "")
		h := home(filepath.Join(f.dir, "m1-db1"))
		id := channel.NewJobID()
		require.NoError(t, os.MkdirAll(h.jobDir(id), 0o700))
		require.NoError(t, h.writeRecord(recordAccepted(id)))
		m := &systemd{run: filepath.Join(f.dir, "systemd-run"), ctl: filepath.Join(f.dir, "systemctl"), version: version, env: baseEnv()}

		shim := exec.Command("sleep", "600")
		require.NoError(t, shim.Start())
		defer shim.Wait()
		defer shim.Process.Kill()
		record := strings.ReplaceAll(string(must(os.ReadFile(h.record(id)))), string(Accepted), string(Running))
		f.write("record", record)
		f.write("run", "cp record m1-db1/jobs/"+id+".json; printf 'ActiveState=active\\nMainPID="+strconv.Itoa(shim.Process.Pid)+"\\n' >state\n")
		ended, err := m.spawnShim(t.Context(), h, id, "/x/roundsman-agent")
		require.NoError(t, err)
		select {
		case <-ended:
			t.Fatal("the shim has not ended")
		case <-time.After(2 * shimPoll):
		}
		require.NoError(t, shim.Process.Kill())
		_ = shim.Wait()
		<-ended

		require.NoError(t, h.writeRecord(recordAccepted(id)))
		f.write("run", "printf 'ActiveState=failed\\nMainPID=0\\n' >state\n") // as after 203/EXEC
		ended, err = m.spawnShim(t.Context(), h, id, "/x/roundsman-agent")
		if version < systemdTypeExec {
			require.ErrorContains(t, err, "ended at once")
			continue
		}
		require.NoError(t, err, "systemd has waited for the execution")
		<-ended
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func recordAccepted(id string) record { return record{Version: 1, ID: id, State: Accepted} }

func TestRelabel(t *testing.T) {
	enforce := filepath.Join(t.TempDir(), "enforce")
	const data, program = "system_u:object_r:var_lib_t:s0", "system_u:object_r:bin_t:s0"
	for _, tt := range []struct {
		name, mode string
		root       bool
		file, dir  string
		want       string
	}{
		{"inherited", "1", true, "unconfined_u:object_r:var_lib_t:s0:c0.c3", data, "unconfined_u:object_r:bin_t:s0:c0.c3"},
		{"no levels", "1", true, "u:r:var_lib_t", data, "u:r:bin_t"},
		{"permissive", "0", true, data, data, ""},
		{"no SELinux", "", true, data, data, ""},
		{"not root", "1", false, data, data, ""},
		{"a program already", "1", true, program, program, ""},
		{"a label of its own", "1", true, "system_u:object_r:etc_t:s0", data, ""},
	} {
		os.Remove(enforce)
		if tt.mode != "" {
			require.NoError(t, os.WriteFile(enforce, []byte(tt.mode), 0o600))
		}
		set := ""
		done, err := selinux{
			enforce: enforce, root: tt.root,
			get: func(file string) (string, error) {
				if file == "/x" {
					return tt.dir, nil
				}
				return tt.file, nil
			},
			set: func(file, label string) error { set = label; return nil },
		}.relabel("/x/roundsman-agent")
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.want, set, tt.name)
		require.Equal(t, tt.want != "", done, tt.name)
	}
}

// TestLabels needs no SELinux: the kernel keeps such an attribute without it.
func TestLabels(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(file, nil, 0o700))
	if err := setLabel(file, "system_u:object_r:var_lib_t:s0"); err != nil {
		realtest.Missing(t, "a file system that keeps SELinux labels: "+err.Error())
	}
	got, err := getLabel(file)
	require.NoError(t, err)
	require.Equal(t, "system_u:object_r:var_lib_t:s0", got)
	_, err = getLabel(file + "x")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
