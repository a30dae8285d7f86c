package install_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// nspawnRoot names a directory with a Debian or the like to boot, such as debootstrap
// makes it, with systemd and openssh-server. Without it a copy-on-write view of this
// machine is booted. Neither is changed.
const nspawnRoot = "ROUNDSMAN_NSPAWN_ROOT"

// nspawnScript runs systemd-nspawn, which sees no other processes and control groups
// than its own. It ends with nspawnLacks where the machine does not let it: mount what
// it needs, or boot a systemd that has nothing to do but to power off. What fails after
// that is ours.
const nspawnScript = `
set -e
lacks() { echo "$*" >&2; exit 99; }
nspawn() {
	systemd-nspawn --quiet --directory="$R" --boot --register=no --keep-unit --console=read-only \
		--network-namespace-path="$DIR/fs/netns" --hostname=nspawn-host "$@" </dev/null
}
mount --make-rprivate / || lacks no mount namespace
mount -t tmpfs fs "$DIR/fs" || lacks no tmpfs
mkdir "$DIR/fs/up" "$DIR/fs/work" "$DIR/fs/root"
R="$DIR/fs/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DIR/fs/up,workdir=$DIR/fs/work" "$R" || lacks no overlay
mount -t cgroup2 cgroup2 /sys/fs/cgroup || lacks no control groups
: >"$DIR/fs/netns"
mount --bind "/run/netns/$NS" "$DIR/fs/netns" || lacks no network namespace
mount -t tmpfs run /run || lacks no tmpfs
: >"$R/etc/fstab"
timeout 30 bash -c "R='$R'; $(declare -f nspawn); nspawn systemd.unit=poweroff.target" || lacks it does not boot: $?
mount -t tmpfs -o mode=700 home "$R/root"
rm -rf "$R/etc/systemd/system" "$R/etc/systemd/user" "$R/var/lib/systemd" "$R/var/log/journal" "$R/var/lib/roundsman" "$R/opt/roundsman"
mkdir -p "$R/etc/systemd/system/multi-user.target.wants" "$R/etc/systemd/user" "$R/var/lib/systemd" "$R/etc/ssh"
mkdir -m 700 "$R/root/.ssh"
ln -s /lib/systemd/system/ssh.service "$R/etc/systemd/system/multi-user.target.wants/"
echo nspawn-host >"$R/etc/hostname"
rm -f "$R/etc/machine-id"
echo 0123456789abcdef0123456789abcdef >"$R/etc/machine-id"
cp "$DIR/sshd_config" "$DIR/host" "$R/etc/ssh/"
cp "$DIR/key.pub" "$R/root/.ssh/authorized_keys"
chown -R 0:0 "$R/root/.ssh" "$R/etc/ssh"
chmod 600 "$R/etc/ssh/host" "$R/root/.ssh/authorized_keys"
while :; do
	status=0
	nspawn || status=$?
	[ $status = 133 ] || exit $status # which asks to be started again: the container restarts
done
`

const nspawnLacks = 99

// container is a server that systemd-nspawn has booted, with a real sshd.
type container struct {
	t   *testing.T
	ns  string
	dir string
	out *lockedOutput
}

type lockedOutput struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *lockedOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *lockedOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ToValidUTF8(o.b.String(), "\uFFFD")
}

// noNspawn ends the test on a machine that does not let systemd-nspawn boot. That is
// the machine's, so it is no failure even where real counterparts are required; but
// nobody shall miss it.
func noNspawn(t *testing.T, why string) {
	t.Helper()
	why = "systemd-nspawn boots nothing on this machine: " + why
	fmt.Fprintf(os.Stderr, "\n*** %s: NOT RUN: %s\n\n", t.Name(), why)
	t.Log(why)
	t.Skip("not run: " + why)
}

// spawn boots a container.
func spawn(t *testing.T) *container {
	t.Helper()
	if testing.Short() {
		t.Skip("not run with -short: it boots a container")
	}
	n := realtest.NewNet(t)
	for _, p := range []string{"systemd-nspawn", "unshare", "bash", "sshd", "ssh", "ssh-keygen", "dpkg-deb"} {
		realtest.Need(t, p)
	}
	c := &container{t: t, ns: n.NS, dir: t.TempDir(), out: &lockedOutput{}}
	require.NoError(t, os.Mkdir(filepath.Join(c.dir, "fs"), 0o700))
	for _, name := range []string{"key", "host"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(c.dir, name)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "sshd_config"), []byte("HostKey /etc/ssh/host\nPermitRootLogin yes\n"+
		"PasswordAuthentication no\nUsePAM yes\nPrintMotd no\nSubsystem sftp internal-sftp\n"), 0o600))
	group := ""
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			group = filepath.Join(f[1], n.NS) // what a killed test leaves of that name is swept by realtest
			break
		}
	}
	if group == "" {
		noNspawn(t, "there is no control group hierarchy of version 2")
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		noNspawn(t, err.Error())
	}
	t.Cleanup(func() { // after the end of all processes
		require.Eventually(t, func() bool { return removeTree(group) }, patience, 20*time.Millisecond, "control group %s stays", group)
	})
	lower := os.Getenv(nspawnRoot)
	if lower == "" {
		lower = "/"
	}
	cmd := exec.Command("sh", "-c", `echo 0 >"$CGROUP/cgroup.procs" && exec "$@"`, "sh",
		"unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "bash", "-c", nspawnScript)
	cmd.Env = append(os.Environ(), "DIR="+c.dir, "LOWER="+lower, "NS="+n.NS, "CGROUP="+group)
	cmd.Stdout, cmd.Stderr = c.out, c.out
	ended := startTied(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", c.out)
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if conn, err := c.dial(); err == nil {
			require.NoError(t, conn.Close(t.Context()))
			return c
		}
		select {
		case <-ended:
			if cmd.ProcessState.ExitCode() == nspawnLacks {
				noNspawn(t, c.out.String())
			}
			t.Fatalf("the container has ended: %v", cmd.ProcessState)
		default:
		}
		require.True(t, time.Now().Before(deadline), "it does not come up")
	}
}

// removeTree removes an empty control group and those below it.
func removeTree(dir string) bool {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	err := os.Remove(dir)
	return err == nil || os.IsNotExist(err)
}

// startTied starts a program that ends with the test, also with one that is killed:
// PR_SET_PDEATHSIG, prctl(2), which goes by the thread.
func startTied(t *testing.T, cmd *exec.Cmd) (ended <-chan struct{}) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, over := make(chan error), make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-over
	})
	return over
}

func (c *container) dial() (transport.Conn, error) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(c.dir, name))
		require.NoError(c.t, err)
		return data
	}
	key, err := xssh.ParsePrivateKey(read("key"))
	require.NoError(c.t, err)
	return (&ssh.Transport{DialContext: dialIn(c.ns)}).Dial(c.t.Context(), transport.Endpoint{
		Address: "127.0.0.1", Credentials: transport.Credentials{User: "root"},
		Trust: transport.Trust{HostKeys: []string{string(read("host.pub"))}}, Options: ssh.Options{Signers: []xssh.Signer{key}},
	})
}

// run runs a program there, which must succeed.
func (c *container) run(conn transport.Conn, argv ...string) string {
	c.t.Helper()
	var out, errs bytes.Buffer
	exit, err := transport.Run(c.t.Context(), conn, transport.Command{Argv: argv, Stdout: &out, Stderr: &errs})
	require.NoError(c.t, err)
	require.Zero(c.t, exit.Code, "%q: %s%s", argv, &out, &errs)
	return strings.TrimSpace(out.String())
}

// debFile builds a package that says something when it is configured.
func debFile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "DEBIAN"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte("Package: rmhello\nVersion: 2.10-3\nArchitecture: all\n"+
		"Maintainer: roundsman tests <tests@example.com>\nDescription: a package that a test builds\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "DEBIAN/postinst"), []byte("#!/bin/sh\ngrep ^0:: /proc/self/cgroup\n"), 0o755))
	file := filepath.Join(t.TempDir(), "rmhello.deb")
	out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

// TestDeployNspawn installs a package on a server that is booted as servers are: with
// all of its own services, by systemd-nspawn. Then it is restarted, and whoever is
// logged in reads why.
func TestDeployNspawn(t *testing.T) {
	t.Parallel()
	c := spawn(t)
	conn, err := c.dial()
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	require.Equal(t, "systemd-nspawn", c.run(conn, "systemd-detect-virt"))
	require.Equal(t, "systemd", c.run(conn, "cat", "/proc/1/comm"))
	before, err := conn.Identify(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, before.BootID)

	a, err := installer().Start(t.Context(), conn, bootOpts())
	require.NoError(t, err)
	defer func() { _ = a.Close(context.WithoutCancel(t.Context())) }()
	require.Equal(t, "active", c.run(conn, "systemctl", "is-active", agent.UnitName("m1-db1")))
	inv, err := a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	require.Equal(t, "nspawn-host", inv.Identity.Name)
	require.Equal(t, before.BootID, inv.Identity.BootID)

	f, err := transport.DiskFile(t.Context(), "rmhello.deb", debFile(t))
	require.NoError(t, err)
	_, err = a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	job := agent.Job{
		ID: channel.NewJobID(), Component: "rmhello", Version: "2.10-3", Profile: agent.ProfileDeb,
		Files: []agent.JobFile{{Name: f.Name, SHA256: f.Digest(), Size: f.Size}}, Argv: []string{"dpkg", "-i", "{dir}/rmhello.deb"},
	}
	_, err = a.Install(t.Context(), job)
	require.NoError(t, err)
	s, log := finish(t, a, job.ID)
	require.Equal(t, transport.VerdictApplied, s.Result.Verdict, "%s", log)
	require.Contains(t, log, "0::/system.slice/"+agent.JobUnitName("m1-db1", job.ID), "it runs in a unit of its own")
	require.Equal(t, "2.10-3", c.run(conn, "dpkg-query", "-W", "-f", "${Version}", "rmhello"))
	inv, err = a.Inventory(t.Context(), agent.InventoryRequest{})
	require.NoError(t, err)
	require.Contains(t, inv.Software, transport.Software{Name: "rmhello", Version: "2.10-3", Arch: "all", Source: "dpkg"})

	// The restart is announced, in these words and no others.
	const message = "ファームウェア更新のため再起動します ☃ $(id) 'x'"
	terminal := c.watchTerminal()
	require.NoError(t, a.Reboot(t.Context(), transport.RebootOptions{Message: message, Delay: 10 * time.Minute}))
	require.Contains(t, c.run(conn, "busctl", "--json=short", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1",
		"org.freedesktop.login1.Manager", "WallMessage"), `"data":"`+message+`"`)
	require.Eventually(t, func() bool { return strings.Contains(terminal.String(), message) }, patience, 50*time.Millisecond,
		"nobody reads it: %s", terminal)

	if err := a.Reboot(t.Context(), transport.RebootOptions{Message: message}); err != nil {
		require.ErrorIs(t, err, transport.ErrConnLost, "it may go down before it has answered")
	}
	var after transport.Identity
	require.Eventually(t, func() bool {
		again, err := c.dial()
		if err != nil {
			return false
		}
		if after, err = again.Identify(t.Context()); err != nil || after.BootID == before.BootID {
			_ = again.Close(t.Context())
			return false
		}
		conn = again
		return true
	}, patience, 200*time.Millisecond, "it does not come back with another boot id")
	require.NotEmpty(t, after.BootID)
	_ = a.Close(t.Context())

	// What is left of the agent, which did not outlive that, is known and goes.
	a, err = installer().Start(t.Context(), conn, bootOpts())
	require.NoError(t, err)
	s, err = a.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Done, s.State)
	require.Equal(t, before.BootID, s.BootID)
	left, err := a.Remove(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 3)
	require.Eventually(t, func() bool {
		return c.run(conn, "sh", "-c", "systemctl list-units --all --plain --no-legend 'roundsman-*'; pgrep -f '[r]oundsman-agent serve' || true") == ""
	}, patience, 100*time.Millisecond)
	require.Equal(t, strings.Join(sorted(left), "\n"), strings.Join(sorted(strings.Fields(c.run(conn, "find", "/var/lib/roundsman", "!", "-type", "d"))), "\n"))
}

// watchTerminal logs in by a terminal and returns what is shown there.
func (c *container) watchTerminal() *lockedOutput {
	c.t.Helper()
	known := filepath.Join(c.dir, "known")
	host, err := os.ReadFile(filepath.Join(c.dir, "host.pub"))
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(known, append([]byte("127.0.0.1 "), host...), 0o600))
	cmd := exec.Command("ip", "netns", "exec", c.ns, "ssh", "-tt", "-F", "none", "-i", filepath.Join(c.dir, "key"),
		"-o", "UserKnownHostsFile="+known, "-o", "StrictHostKeyChecking=yes", "root@127.0.0.1", "echo here; sleep 600")
	out := &lockedOutput{}
	cmd.Stdout, cmd.Stderr = out, out
	startTied(c.t, cmd)
	require.Eventually(c.t, func() bool { return strings.Contains(out.String(), "here") }, patience, 50*time.Millisecond, "no login: %s", out)
	return out
}
