package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// UnitName is the systemd unit in which the agent with an ID runs, where systemd
// starts it. The ID is the name of the agent's directory.
func UnitName(id string) string { return "roundsman-agent-" + escapeUnit(id) + ".service" }

// JobUnitName is the systemd unit in which a job of that agent runs.
func JobUnitName(id, job string) string {
	return "roundsman-job-" + escapeUnit(id) + "-" + escapeUnit(job) + ".service"
}

// escapeUnit makes a string fit to be a part of a unit's name (systemd.unit(5)).
// An ID of StartOptions stays as it is.
func escapeUnit(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

func (h home) id() string                { return filepath.Base(string(h)) }
func (h home) unit() string              { return UnitName(h.id()) }
func (h home) jobUnit(job string) string { return JobUnitName(h.id(), job) }

// Versions of systemd that brought what is asked of it.
const (
	systemdCollect   = 236 // units that failed are not kept (--collect)
	systemdTypeExec  = 240 // a program that cannot be executed fails the start (Type=exec)
	systemdOOMPolicy = 243
)

// systemdTime is for one request to systemd.
const systemdTime = 20 * time.Second

// errNoSystemd: systemd has not started this host. Nothing is wrong then.
var errNoSystemd = errors.New("systemd does not manage the services of this host")

// systemd is the service manager of the host, or of a user, as its own programs
// reach it.
type systemd struct {
	run, ctl string // systemd-run, systemctl
	user     bool
	version  int
	env      []string // of these programs
}

// systemdHost is what the search for systemd looks at.
type systemdHost struct {
	root string // in front of the paths that it looks at; "" but in tests
	path string // where programs are searched
	uid  int
	name string // of the user
}

func thisSystemdHost() systemdHost {
	sh := systemdHost{path: searchPath(os.Getenv("PATH")), uid: os.Geteuid()}
	if sh.uid > 0 {
		if u, err := user.LookupId(strconv.Itoa(sh.uid)); err == nil {
			sh.name = u.Username
		}
	}
	return sh
}

// find returns the systemd that can start services for this user: root's is the
// system's. The manager of another user ends with the last login, and with it
// what it started, unless the user lingers; so only then is it taken. For other
// users a session of its own serves better: that ends with the login only where
// logind kills (KillUserProcesses).
func (sh systemdHost) find(ctx context.Context) (*systemd, error) {
	// sd_booted(3)
	if fi, err := os.Lstat(sh.root + "/run/systemd/system"); err != nil || !fi.IsDir() {
		return nil, errNoSystemd
	}
	m := &systemd{user: sh.uid != 0, env: baseEnv()}
	if m.user {
		linger := filepath.Join(sh.root, "/var/lib/systemd/linger", sh.name)
		if _, err := os.Lstat(linger); sh.name == "" || err != nil {
			return nil, fmt.Errorf("%w: user %d has a service manager only while logged in (loginctl enable-linger changes that)", errNoSystemd, sh.uid)
		}
		dir := filepath.Join(sh.root, "/run/user", strconv.Itoa(sh.uid))
		if _, err := os.Lstat(filepath.Join(dir, "systemd/private")); err != nil {
			return nil, fmt.Errorf("the service manager of user %d does not run: %w", sh.uid, err)
		}
		m.env = append(m.env, "XDG_RUNTIME_DIR="+dir)
	}
	var err error
	if m.run, err = lookPath("systemd-run", sh.path); err != nil {
		return nil, err
	}
	if m.ctl, err = lookPath("systemctl", sh.path); err != nil {
		return nil, err
	}
	out, err := m.output(ctx, m.run, "--version")
	if err != nil {
		return nil, err
	}
	if m.version = parseVersion(out); m.version < systemdCollect {
		return nil, fmt.Errorf("systemd %d is older than %d and would keep units that failed", m.version, systemdCollect)
	}
	return m, nil
}

// parseVersion reads the first line of --version: "systemd 252 (252.38-1)".
func parseVersion(out string) int {
	name, rest, _ := strings.Cut(out, " ")
	number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	n, err := strconv.Atoi(number)
	if name != "systemd" || err != nil {
		return 0
	}
	return n
}

// unit is a transient service. Its properties can be read by every user of the
// host, so it has no secrets: those are in a file that the program reads and
// deletes.
type unit struct {
	name        string
	description string
	argv        []string
	env         []string
	props       []string // NAME=value, beside those of every unit
}

// args are the arguments of systemd-run(1) that start a unit.
//
// The unit has no standard input, as a file for it would have to stay as long as
// the unit, and no limit of its running time, as that would kill whatever runs.
// What the unit leaves is not killed with it (KillMode=process): a program whose
// parent died goes on, and is found again. When it is over nothing is kept of it,
// not even of one that failed (--collect).
func (m *systemd) args(u unit) []string {
	args := []string{"--quiet", "--no-ask-password", "--collect", "--unit=" + u.name, "--description=" + u.description}
	if m.user {
		args = append(args, "--user")
	}
	props := []string{"KillMode=process", "UMask=0077"}
	if m.version >= systemdTypeExec {
		props = append(props, "Type=exec")
	}
	if m.version >= systemdOOMPolicy {
		props = append(props, "OOMPolicy=continue") // the death of one process is not the end of the rest
	}
	for _, p := range append(props, u.props...) {
		args = append(args, "--property="+p)
	}
	for _, e := range u.env {
		args = append(args, "--setenv="+e)
	}
	args = append(args, "--", u.argv[0])
	for _, a := range u.argv[1:] {
		args = append(args, strings.ReplaceAll(a, "$", "$$")) // systemd.service(5), command lines
	}
	return args
}

// start starts a unit. With systemdTypeExec it fails if the program cannot be
// executed.
func (m *systemd) start(ctx context.Context, u unit) error {
	_, err := m.output(ctx, m.run, m.args(u)...)
	return err
}

// unitState is what systemd says of a unit. Of one that it does not know it says
// that it is inactive.
type unitState struct {
	active      string // such as "active", "deactivating", "failed"
	pid         int    // of the main process; 0 if there is none
	description string
}

// over reports whether no process of the unit's own runs.
func (s unitState) over() bool { return s.active == "inactive" || s.active == "failed" }

func (m *systemd) show(ctx context.Context, name string) (unitState, error) {
	out, err := m.control(ctx, "show", "--property=ActiveState,MainPID,Description", "--", name)
	if err != nil {
		return unitState{}, err
	}
	return parseUnit(out), nil
}

func parseUnit(out string) unitState {
	var s unitState
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "ActiveState":
			s.active = value
		case "MainPID":
			s.pid, _ = strconv.Atoi(value)
		case "Description":
			s.description = value
		}
	}
	return s
}

// stop asks a unit to end and waits until it has.
func (m *systemd) stop(ctx context.Context, name string) error {
	_, err := m.control(ctx, "stop", "--", name)
	return err
}

func (m *systemd) kill(ctx context.Context, name string) error {
	_, err := m.control(ctx, "kill", "--signal=KILL", "--", name)
	return err
}

func (m *systemd) control(ctx context.Context, args ...string) (string, error) {
	all := []string{"--no-ask-password", "--no-pager"}
	if m.user {
		all = append(all, "--user")
	}
	return m.output(ctx, m.ctl, append(all, args...)...)
}

func (m *systemd) output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, systemdTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = m.env, "/", time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, tail([]byte(stderr.String()), 300))
	}
	return stdout.String(), nil
}
