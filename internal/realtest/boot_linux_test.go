package realtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machineRunsSystemd is what must not change by booting a host.
func machineRunsSystemd(t *testing.T) bool {
	t.Helper()
	_, err := os.Stat("/run/systemd/system")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// TestBootedHost: systemd runs on such a host, logins are sessions, and the
// machine sees nothing of it.
func TestBootedHost(t *testing.T) {
	before := machineRunsSystemd(t)
	devLog, _ := os.Readlink("/dev/log")
	n := NewNet(t)
	h := n.Host(HostConfig{Systemd: true, Logind: []string{"KillUserProcesses=yes"}})
	ssh := Need(t, "ssh")
	cmd := n.Command(t.Context(), ssh, "-F", "none", "-i", h.Identity, "-o", "UserKnownHostsFile="+h.HostKey,
		"-o", "StrictHostKeyChecking=yes", "root@"+h.Addr,
		"grep ^0:: /proc/self/cgroup; systemd-run --quiet --wait --pipe --collect grep ^0:: /proc/self/cgroup; hostname")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, h.Run("journalctl", "--no-pager", "-n", "100"))
	}
	got := strings.Split(string(out), "\n")
	if len(got) < 3 || !strings.Contains(got[0], "/session-") || !strings.HasPrefix(got[1], "0::/system.slice/run-") || got[2] != "test-host" {
		t.Fatalf("got %q", got)
	}
	if kill := h.Run("busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "KillUserProcesses"); kill != "b true\n" {
		t.Fatalf("logind says %q", kill)
	}
	if err := h.Command(context.Background(), "sh", "-c", "echo 1 >/proc/sys/kernel/printk").Run(); err == nil {
		t.Fatal("the host can change settings of this machine's kernel")
	}
	if machineRunsSystemd(t) != before {
		t.Fatal("the host's systemd shows on this machine")
	}
	if now, _ := os.Readlink("/dev/log"); now != devLog {
		t.Fatalf("/dev/log of this machine became %q", now)
	}
	if name, err := os.Hostname(); err != nil || name == "test-host" {
		t.Fatalf("hostname of this machine: %q, %v", name, err)
	}
}

// TestGroupsAreSwept: what a test process that was killed left is removed by the
// next.
func TestGroupsAreSwept(t *testing.T) {
	NeedRoot(t)
	root := cgroupRoot()
	if root == "" {
		Missing(t, "a control group hierarchy of version 2")
	}
	// No process has the highest number that the kernel gives out (proc(5), pid_max).
	left := filepath.Join(root, "rm4194304m1h1")
	if err := os.MkdirAll(filepath.Join(left, "system.slice", "x.service"), 0o755); err != nil {
		Missing(t, "the right to make control groups: "+err.Error())
	}
	mine := filepath.Join(root, "rm1m1h1") // of a process that lives
	if err := os.MkdirAll(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(mine)
	sweepGroups()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}
