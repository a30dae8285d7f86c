package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRealReboot: the message arrives as it was given, and the restart is proven. The
// host has no init that could restart it: what shutdown(8) would do, the test does.
func TestRealReboot(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"agent": nil, "agentless": {"--agentless"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			m.host.Run("sh", "-c", `rm -f /usr/sbin/shutdown /sbin/shutdown
				printf '%s\n' '#!/bin/sh' 'printf "%s\n" "$@" >/var/lib/shutdown.new' 'mv /var/lib/shutdown.new /var/lib/shutdown.args' >/usr/sbin/shutdown
				chmod 755 /usr/sbin/shutdown`)
			before := strings.TrimSpace(m.host.Run("cat", "/proc/sys/kernel/random/boot_id"))
			const message = "ファームウェア更新のため再起動します $(id)"
			type result struct {
				status int
				list   []map[string]any
			}
			done := make(chan result, 1)
			cmd := append([]string{"reboot", m.target(), "--message", message}, flags...)
			go func() {
				status, list := m.run(cmd...)
				done <- result{status, list}
			}()
			require.Eventually(t, func() bool {
				return m.host.Run("sh", "-c", "cat /var/lib/shutdown.args 2>/dev/null || :") != ""
			}, 2*time.Minute, 100*time.Millisecond)
			require.Equal(t, "-r\n+0\n"+message+"\n", m.host.Run("cat", "/var/lib/shutdown.args"))
			m.host.Reboot()
			r := <-done
			require.Equal(t, 0, r.status)
			for _, e := range r.list {
				if e["event"] == "rebooted" {
					require.NotEqual(t, before, e["boot_id"])
					require.Equal(t, strings.TrimSpace(m.host.Run("cat", "/proc/sys/kernel/random/boot_id")), e["boot_id"])
					m.clean()
					return
				}
			}
			require.Fail(t, "no event says that it has restarted")
		})
	}
}
