package realtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Reboot takes the power from the host and gives it back: every process is
// killed, nobody on the network hears a last word, /run and /tmp are empty, the
// boot ID is another, and sshd is started with the same key on the same disk. It
// returns when sshd listens. Programs of Command die with the rest. A host with
// HostConfig.Systemd cannot do this.
func (h *Host) Reboot() {
	h.t.Helper()
	theirs, err := os.Readlink(filepath.Join("/proc", h.sshd, "ns", "pid"))
	if err != nil {
		h.t.Fatal(err)
	}
	if ours, err := os.Readlink("/proc/self/ns/pid"); err != nil || ours == theirs {
		h.t.Fatalf("the host has no process namespace of its own (%v)", err)
	}
	before := h.bootID()
	h.Cable(false)
	sign := filepath.Join(h.dir, "reboot")
	write(h.t, sign, "")
	// The signal spares the namespace's first process, and who sends it.
	h.Run("sh", "-c", `[ "$(readlink /proc/self/ns/pid)" = "$1" ] && kill -KILL -1`, "sh", theirs)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(sign); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the host does not come up again\n%s", h.stderr)
		}
	}
	h.findSSHD()
	if h.bootID() == before {
		h.t.Fatal("the boot ID is the same after a reboot")
	}
	h.Cable(true)
}

func (h *Host) bootID() string {
	h.t.Helper()
	return strings.TrimSpace(h.Run("cat", "/proc/sys/kernel/random/boot_id"))
}

// FillDisk leaves no room on the host's disk, without writing to it: the disk
// becomes as small as what is on it.
func (h *Host) FillDisk() {
	h.t.Helper()
	// Again where something was written in between.
	h.disk(`for i in 1 2 3 4 5 6 7 8 9 10; do
		set -- "$1" $(stat -f -c '%S %b %f' "$1")
		mount -o "remount,size=$(( $2 * ($3 - $4) ))" "$1" && exit 0
	done; exit 1`)
}

// FreeDisk makes room again.
func (h *Host) FreeDisk() {
	h.t.Helper()
	h.disk(`mount -o remount,size=50% "$1"`)
}

// disk runs a script among the host's mounts but with the machine's own root
// directory. Its argument is what the host's disk is mounted on.
func (h *Host) disk(script string) {
	h.t.Helper()
	// unshare, which h.init has become, is in the mount namespace itself.
	cmd := exec.Command("nsenter", "-t", strconv.Itoa(h.init.Process.Pid), "-m", "sh", "-c", script, "sh", filepath.Join(h.dir, "fs"))
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("the host's disk: %v\n%s", err, out)
	}
}
