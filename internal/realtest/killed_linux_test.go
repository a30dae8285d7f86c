package realtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const killedVariable = "REALTEST_KILLED"

// TestKilled: of a test process that is killed nothing goes on to run, and the
// next one deletes the namespaces that it could not.
func TestKilled(t *testing.T) {
	killHost(t, "running")
}

// TestKilledBooted is TestKilled for a host whose first process is systemd.
func TestKilledBooted(t *testing.T) {
	killHost(t, "booted")
}

func killHost(t *testing.T, kind string) {
	if os.Getenv(killedVariable) != "" {
		h := NewNet(t).Host(HostConfig{Systemd: os.Getenv(killedVariable) == "booted"})
		fmt.Println("\npid", h.init.Process.Pid, h.sshd)
		time.Sleep(10 * time.Minute)
		return
	}
	NeedRoot(t)
	ip := Need(t, "ip")
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	tmp := t.TempDir() // what a killed process leaves there goes with this test
	cmd.Env = append(os.Environ(), killedVariable+"="+kind, "TMPDIR="+tmp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids, said []string
	for sc := bufio.NewScanner(out); pids == nil && sc.Scan(); {
		said = append(said, sc.Text())
		if rest, ok := strings.CutPrefix(sc.Text(), "pid "); ok {
			pids = strings.Fields(rest)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if len(pids) != 2 {
		t.Fatalf("the host did not come up:\n%s", strings.Join(said, "\n"))
	}
	for _, pid := range pids {
		alive := func() bool {
			status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
			return err == nil && !strings.Contains(string(status), "State:\tZ")
		}
		for deadline := time.Now().Add(30 * time.Second); alive(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %s of the host still runs", pid)
			}
		}
	}
	mine := "rm" + strconv.Itoa(cmd.Process.Pid) + "m"
	names := func() string {
		out, err := exec.Command(ip, "netns", "list").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	n := NewNet(t)
	if got := names(); strings.Contains(got, mine) || !strings.Contains(got, n.NS) {
		t.Fatalf("namespaces after the next test began:\n%s", got)
	} // The last of its processes may take a moment.
	group := filepath.Join(cgroupRoot(), mine+"1h1")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(group); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("control group %s is still there", group)
		}
		sweepGroups()
	}
}
