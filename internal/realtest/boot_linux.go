package realtest

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bootScript goes on in the init of a host, until systemd takes its place. What
// systemd could reach of this machine is its own: devices, which are made anew,
// and control groups, of which it sees only those below the host's. The kernel's
// settings and the devices' in sysfs are for reading. Of this machine's services
// none is started.
const bootScript = `
mount -t sysfs -o ro sys "$R/sys"
mount --bind "$R/proc/sys" "$R/proc/sys"
mount -o remount,bind,ro "$R/proc/sys"
[ ! -e "$R/proc/sysrq-trigger" ] || mount --bind /dev/null "$R/proc/sysrq-trigger"
mount -t tmpfs -o mode=755 dev "$R/dev"
for d in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  set -- $d
  mknod -m 666 "$R/dev/$1" c "$2" "$3"
done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 pts "$R/dev/pts"
mount -t tmpfs shm "$R/dev/shm"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
rm -rf "$R"/etc/systemd/system "$R"/etc/systemd/user "$R/var/lib/systemd" "$R/var/log/journal" "$R/etc/systemd/logind.conf.d"
mkdir -p "$R/etc/systemd/system" "$R/etc/systemd/user" "$R/var/lib/systemd" "$R/etc/systemd/logind.conf.d"
cp "$DIR/logind.conf" "$R/etc/systemd/logind.conf.d/test.conf"
cp "$DIR/test.target" "$DIR/test-sshd.service" "$R/etc/systemd/system/"
for u in $MASKED; do ln -s /dev/null "$R/etc/systemd/system/$u"; done
: >"$R/etc/fstab"
echo test-host >"$R/etc/hostname"
rm -f "$R/etc/machine-id"
echo 0123456789abcdef0123456789abcdef >"$R/etc/machine-id"
export R
exec unshare --cgroup bash -c 'set -e
mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
echo ready
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=roundsman-test \
  chroot "$R" /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=false'
`

// masked are units that would change or slow down more than a host needs.
const masked = "systemd-udevd.service systemd-udev-trigger.service systemd-udev-settle.service " +
	"systemd-journald-audit.socket systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-sysctl.service systemd-modules-load.service " +
	"systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-random-seed.service " +
	"systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-hwdb-update.service ldconfig.service " +
	"kmod-static-nodes.service systemd-remount-fs.service systemd-sysusers.service systemd-journal-flush.service " +
	"systemd-journal-catalog-update.service systemd-update-done.service " +
	"dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount " +
	"sys-fs-fuse-connections.mount getty.target remote-fs.target"

const bootTarget = `[Unit]
Requires=basic.target
Wants=dbus.service systemd-logind.service systemd-user-sessions.service test-sshd.service
After=basic.target
AllowIsolate=yes
`

const bootSSHD = `[Unit]
After=systemd-user-sessions.service systemd-logind.service
[Service]
ExecStart=/usr/sbin/sshd -D -e -f /etc/rmtest/sshd_config
RuntimeDirectory=sshd
KillMode=process
`

// prepareBoot writes what bootScript needs and returns its environment.
func (h *Host) prepareBoot(cfg HostConfig) []string {
	t := h.t
	t.Helper()
	for _, p := range []string{"/lib/systemd/systemd", "/lib/systemd/systemd-logind", "/usr/bin/dbus-daemon", "/usr/bin/systemd-run"} {
		if _, err := os.Stat(p); err != nil {
			Missing(t, "the program "+p+" (apt: systemd, dbus, libpam-systemd)")
		}
	}
	write(t, filepath.Join(h.dir, "boot"), bootScript)
	write(t, filepath.Join(h.dir, "test.target"), bootTarget)
	write(t, filepath.Join(h.dir, "test-sshd.service"), bootSSHD)
	write(t, filepath.Join(h.dir, "logind.conf"), strings.Join(append([]string{"[Login]"}, cfg.Logind...), "\n")+"\n")
	root := cgroupRoot()
	if root == "" {
		Missing(t, "a control group hierarchy of version 2, which systemd needs in a container")
	}
	h.cgroup = filepath.Join(root, h.ns)
	if err := os.Mkdir(h.cgroup, 0o755); err != nil {
		Missing(t, "the right to make control groups: "+err.Error())
	}
	t.Cleanup(func() { // after the cleanup that ends the host's processes
		deadline := time.Now().Add(30 * time.Second)
		for !removeGroup(h.cgroup) {
			if time.Now().After(deadline) {
				t.Errorf("control group %s cannot be removed", h.cgroup)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return []string{"BOOT=" + filepath.Join(h.dir, "boot"), "CGROUP=" + h.cgroup, "MASKED=" + masked}
}

// cgroupRoot is where the hierarchy of version 2 is mounted, or "".
func cgroupRoot() string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

// removeGroup removes an empty control group and those below it.
func removeGroup(dir string) bool {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return true
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroup(filepath.Join(dir, e.Name()))
		}
	}
	err = os.Remove(dir)
	return err == nil || os.IsNotExist(err)
}

// sweepGroups removes the control groups of test processes that were killed.
func sweepGroups() {
	root := cgroupRoot()
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() && ownerGone(e.Name()) {
			removeGroup(filepath.Join(root, e.Name()))
		}
	}
}
