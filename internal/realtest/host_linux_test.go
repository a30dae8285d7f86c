package realtest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestHost shows that a host is what it claims to be: reachable on port 22 and
// on no other, with a file system and processes of its own.
func TestHost(t *testing.T) {
	n := NewNet(t)
	h := n.Host(HostConfig{})
	ssh := Need(t, "ssh")
	for _, addr := range []string{h.Addr, h.Addr6} {
		cmd := n.Command(t.Context(), ssh, "-F", "none", "-i", h.Identity, "-o", "UserKnownHostsFile="+h.HostKey,
			"-o", "StrictHostKeyChecking=yes", "root@"+addr, "touch /var/lib/made-by-host; id -u")
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "0" {
			t.Fatalf("ssh to %s: %v\n%s", addr, err, out)
		}
	}
	h.Run("test", "-e", "/var/lib/made-by-host")
	if err := n.Command(context.Background(), "test", "-e", "/var/lib/made-by-host").Run(); err == nil {
		t.Fatal("the host's file system is the machine's own")
	}
	for _, p := range h.Processes() {
		if strings.Contains(p, "realtest.test") {
			t.Fatalf("the host sees the machine's processes: %s", p)
		}
	}
	// Something listens on another port of the host; the firewall must hide it.
	server := h.Command(t.Context(), Need(t, "perl"), "-MIO::Socket::INET", "-e",
		`my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 1, ReuseAddr => 1) or die; sleep 600`)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(strings.Join(h.Listeners(), "\n"), ":8080") {
		if time.Now().After(deadline) {
			t.Fatal("the server on port 8080 did not come up")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := n.Command(t.Context(), "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+h.Addr+"/8080").Run(); err == nil {
		t.Fatal("port 8080 of the host is open")
	}
}
