package realtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Net is a network of the test's own: the manager's network namespace, and
// one for each host, joined by pairs of virtual Ethernet devices. The machine's
// own network and firewall are not touched.
type Net struct {
	t     testing.TB
	NS    string // the manager's namespace
	hosts int
}

var nets atomic.Int32

// NewNet makes a network. It needs root and iproute2, and goes with the test.
func NewNet(t testing.TB) *Net {
	t.Helper()
	NeedRoot(t)
	ip := Need(t, "ip")
	n := &Net{t: t, NS: fmt.Sprintf("rm%dm%d", os.Getpid(), nets.Add(1))}
	sweepNets(ip)
	sweepGroups()
	run(t, ip, "netns", "add", n.NS)
	t.Cleanup(func() { run(t, ip, "netns", "del", n.NS) })
	run(t, ip, "-n", n.NS, "link", "set", "lo", "up")
	return n
}

var netName = regexp.MustCompile(`^rm([0-9]+)m[0-9]+(h[0-9]+)?$`)

// sweepNets deletes the namespaces of test processes that were killed before
// they could. What ran in them was killed with them; see startTied.
func sweepNets(ip string) {
	out, err := exec.Command(ip, "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if ownerGone(name) {
			_ = exec.Command(ip, "netns", "del", name).Run() // another test may have been faster
		}
	}
}

// ownerGone reports whether something is named as a test process names what it
// makes, and that process has ended.
func ownerGone(name string) bool {
	m := netName.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[1])
	return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// startTied starts a program that the kernel kills when this process ends, in
// whatever way. The signal is sent when the thread ends that started the program
// (PR_SET_PDEATHSIG, prctl(2)), so a thread is kept for it until release is
// called, after the program's end.
func startTied(cmd *exec.Cmd) (release func(), err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, over, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-over
		}
	}()
	if err := <-started; err != nil {
		<-ended
		return nil, err
	}
	return func() {
		close(over)
		<-ended
	}, nil
}

// Command is a program in the manager's namespace.
func (n *Net) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.NS, name}, args...)...)
}

// A Host is a Linux server made of namespaces: network, processes and mounts are
// its own, and its file system is a copy-on-write view of this machine's, so
// that packages can really be installed on it. Its firewall lets in nothing but
// port 22 and lets out nothing but answers. A real OpenSSH server runs on it.
type Host struct {
	t        testing.TB
	ns       string
	ip       string
	link     string // the manager's end of the wire
	manager  string // its namespace
	Addr     string // IPv4
	Addr6    string
	Identity string // file of a private key that root accepts
	HostKey  string // file in known_hosts form
	dir      string
	init     *exec.Cmd
	sshd     string // pid, as seen from outside
	cgroup   string // the directory of its control group, if it was booted
	stderr   *bytes.Buffer
}

// HostConfig says what is special about a host.
type HostConfig struct {
	SSHD []string // lines for sshd_config
	// Systemd boots the host: systemd is its first process, and logins are
	// sessions of logind.
	Systemd bool
	Logind  []string // lines for logind.conf, with Systemd
}

const hostFirewall = `
table inet only22 {
  chain in  { type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    icmp type echo-request accept
    meta l4proto ipv6-icmp accept
    tcp dport 22 accept
  }
  chain out { type filter hook output priority 0; policy drop;
    oif lo accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
  }
}
`

// The init of a host: sets the file system up, starts sshd, and reaps orphans. A
// file "reboot" beside it makes it start the host again; see Host.Reboot.
const hostInit = `
set -e
start() {
	cat /proc/sys/kernel/random/uuid >"$DIR/fs/boot_id"
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot "$R" "$SSHD" -D -e -f /etc/rmtest/sshd_config &
}
mount --make-rprivate /
mount -t tmpfs none "$DIR/fs"
mkdir "$DIR/fs/up" "$DIR/fs/work" "$DIR/fs/root"
R="$DIR/fs/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/fs/up,workdir=$DIR/fs/work" "$R"
mount -t proc proc "$R/proc"
: >"$DIR/fs/boot_id"
[ -n "$BOOT" ] || mount --bind "$DIR/fs/boot_id" "$R/proc/sys/kernel/random/boot_id"
[ -n "$BOOT" ] || mount --rbind /dev "$R/dev"
[ -n "$BOOT" ] || mount -t sysfs sys "$R/sys" 2>/dev/null || true
mount -t tmpfs run "$R/run"
mount -t tmpfs tmp "$R/tmp"
# A home of its own: start-up files of this machine's root must not run on the
# host, and what changes below an overlay while it is mounted is undefined.
mount -t tmpfs -o mode=700 home "$R/root"
mkdir -p "$R/run/sshd" "$R/etc/rmtest" "$R/root/.ssh"
chmod 700 "$R/root/.ssh"
cp "$DIR/key.pub" "$R/root/.ssh/authorized_keys"
cp "$DIR/host" "$DIR/host.pub" "$R/etc/rmtest/"
cp "$DIR/sshd_config" "$R/etc/rmtest/"
chown -R 0:0 "$R/root/.ssh" "$R/etc/rmtest"
chmod 600 "$R/etc/rmtest/host" "$R/root/.ssh/authorized_keys"
rm -rf "$R/var/lib/roundsman" "$R/opt/roundsman"
nft -f "$DIR/firewall"
[ -z "$BOOT" ] || . "$BOOT"
start
echo ready
while :; do
	wait -n || sleep 0.2
	if [ -e "$DIR/reboot" ]; then
		find "$R/run" "$R/tmp" -mindepth 1 -delete
		mkdir "$R/run/sshd"
		start
		rm "$DIR/reboot"
	fi
done
`

// Host adds a host to the network and waits until its sshd answers.
func (n *Net) Host(cfg HostConfig) *Host {
	t := n.t
	t.Helper()
	sshd, keygen := Need(t, "sshd"), Need(t, "ssh-keygen")
	for _, p := range []string{"nft", "unshare", "nsenter", "chroot", "ss"} {
		Need(t, p)
	}
	n.hosts++
	h := &Host{
		t: t, ip: Need(t, "ip"), manager: n.NS,
		ns:   fmt.Sprintf("%sh%d", n.NS, n.hosts),
		link: fmt.Sprintf("v%d", n.hosts),
		Addr: fmt.Sprintf("192.0.2.%d", 4*n.hosts+2), Addr6: fmt.Sprintf("2001:db8:%d::2", n.hosts),
		dir: t.TempDir(), stderr: &bytes.Buffer{},
	}
	if err := os.Mkdir(filepath.Join(h.dir, "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.Identity, h.HostKey = filepath.Join(h.dir, "key"), filepath.Join(h.dir, "known_hosts")
	run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", h.Identity)
	run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(h.dir, "host"))
	pub, err := os.ReadFile(filepath.Join(h.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, h.HostKey, h.Addr+" "+string(pub)+h.Addr6+" "+string(pub))
	write(t, filepath.Join(h.dir, "firewall"), hostFirewall)
	var boot []string // environment
	if cfg.Systemd {
		cfg.SSHD = append([]string{"UsePAM yes"}, cfg.SSHD...) // the first line counts
		boot = h.prepareBoot(cfg)
	}
	write(t, filepath.Join(h.dir, "sshd_config"), strings.Join(append([]string{
		"Port 22", "HostKey /etc/rmtest/host", "PasswordAuthentication no", "PermitRootLogin yes",
		"PidFile none", "Subsystem sftp internal-sftp",
	}, append(cfg.SSHD, "UsePAM no")...), "\n")+"\n")

	run(t, h.ip, "netns", "add", h.ns)
	t.Cleanup(func() { run(t, h.ip, "netns", "del", h.ns) })
	run(t, h.ip, "-n", n.NS, "link", "add", h.link, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	gw, gw6 := fmt.Sprintf("192.0.2.%d", 4*n.hosts+1), fmt.Sprintf("2001:db8:%d::1", n.hosts)
	run(t, h.ip, "-n", n.NS, "addr", "add", gw+"/30", "dev", h.link)
	run(t, h.ip, "-n", n.NS, "addr", "add", gw6+"/64", "dev", h.link, "nodad")
	run(t, h.ip, "-n", n.NS, "link", "set", h.link, "up")
	run(t, h.ip, "-n", h.ns, "addr", "add", h.Addr+"/30", "dev", "eth0")
	run(t, h.ip, "-n", h.ns, "addr", "add", h.Addr6+"/64", "dev", "eth0", "nodad")
	run(t, h.ip, "-n", h.ns, "link", "set", "lo", "up")
	run(t, h.ip, "-n", h.ns, "link", "set", "eth0", "up")

	// The control group first: "ip netns exec" hides /sys/fs/cgroup.
	h.init = exec.Command("sh", "-c", `[ -z "$CGROUP" ] || echo 0 >"$CGROUP/cgroup.procs" && exec "$@"`, "sh",
		h.ip, "netns", "exec", h.ns, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "bash", "-c", hostInit)
	h.init.Env = append(append(os.Environ(), "DIR="+h.dir, "SSHD="+sshd, "BOOT=", "CGROUP="), boot...)
	h.init.Stderr = h.stderr
	out, err := h.init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	release, err := startTied(h.init)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.init.Process.Kill() // --kill-child takes the whole process namespace along
		_ = h.init.Wait()
		release()
		if t.Failed() {
			t.Logf("host %s:\n%s", h.ns, h.stderr)
		}
	})
	line := make([]byte, 6)
	if _, err := out.Read(line); err != nil {
		_ = h.init.Wait()
		t.Fatalf("the host did not come up: %v\n%s", err, h.stderr)
	}
	h.findSSHD()
	return h
}

// findSSHD waits until sshd listens and finds its process.
func (h *Host) findSSHD() {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command(h.ip, "netns", "exec", h.ns, "ss", "-Htlnp", "sport = :22").Output()
		if err != nil {
			continue
		}
		if _, after, ok := strings.Cut(string(out), "pid="); ok {
			pid, _, _ := strings.Cut(after, ",")
			if _, err := strconv.Atoi(pid); err == nil {
				h.sshd = pid
				return
			}
		}
	}
	h.t.Fatalf("sshd does not listen\n%s", h.stderr)
}

// Command is a program on the host, started there as root by other means than SSH.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", h.sshd, "-m", "-p", "-n", "-r", "-w", name}, args...)...)
}

// Run runs a program on the host and returns what it printed; it must succeed.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	cmd := h.Command(context.Background(), name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("on the host: %s %q: %v\n%s%s", name, args, err, out, &errs)
	}
	return string(out)
}

// Processes returns the command lines of the host's processes.
func (h *Host) Processes() []string {
	h.t.Helper()
	return lines(h.Run("ps", "-eo", "args=", "-ww"))
}

// Listeners returns the listening TCP and Unix sockets of the host's namespace
// that have a port or a path.
func (h *Host) Listeners() []string {
	h.t.Helper()
	return lines(h.Run("ss", "-Htlnp"))
}

// Cable connects the host to the manager, or pulls the cable.
func (h *Host) Cable(in bool) {
	h.t.Helper()
	state := "down"
	if in {
		state = "up"
	}
	run(h.t, h.ip, "-n", h.manager, "link", "set", h.link, state)
}

func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
