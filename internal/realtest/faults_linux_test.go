package realtest

import (
	"context"
	"strings"
	"testing"
)

// TestReboot: what ran is gone, what was on the disk is not, and sshd is the same.
func TestReboot(t *testing.T) {
	n := NewNet(t)
	h := n.Host(HostConfig{})
	ssh := Need(t, "ssh")
	h.Run("sh", "-c", "echo kept >/var/lib/kept; echo lost >/run/lost; echo lost >/tmp/lost; setsid sleep 600 >/dev/null 2>&1 &")
	if !strings.Contains(strings.Join(h.Processes(), "\n"), "sleep 600") {
		t.Fatal("the program to be killed does not run")
	}
	for range 2 {
		h.Reboot()
		if p := strings.Join(h.Processes(), "\n"); strings.Contains(p, "sleep 600") {
			t.Fatalf("a program outlived the reboot:\n%s", p)
		}
		if got := h.Run("sh", "-c", "cat /var/lib/kept /run/lost /tmp/lost 2>/dev/null || :"); got != "kept\n" {
			t.Fatalf("files after the reboot: %q", got)
		}
		out, err := n.Command(t.Context(), ssh, "-F", "none", "-i", h.Identity, "-o", "UserKnownHostsFile="+h.HostKey,
			"-o", "StrictHostKeyChecking=yes", "root@"+h.Addr, "cat /proc/sys/kernel/random/boot_id").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != h.bootID() {
			t.Fatalf("ssh after the reboot: %v\n%s", err, out)
		}
	}
}

// TestDisk: a full disk takes no more, and a freed one does.
func TestDisk(t *testing.T) {
	h := NewNet(t).Host(HostConfig{})
	write := func() error {
		return h.Command(context.Background(), "sh", "-c", "dd if=/dev/zero of=/var/lib/big bs=64k count=16 2>/dev/null").Run()
	}
	for range 2 {
		if err := write(); err != nil {
			t.Fatalf("there should be room: %v", err)
		}
		h.Run("rm", "/var/lib/big")
		h.FillDisk()
		if write() == nil {
			t.Fatal("a full disk takes a megabyte")
		}
		h.FreeDisk()
	}
}
