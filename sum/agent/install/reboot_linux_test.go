package install_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// TestRebootMessage: what a manager says about a restart arrives at shutdown(8) byte
// for byte, as one argument, through a real sshd, with an agent and without. Who is
// logged in then reads it: see TestDeployNspawn.
func TestRebootMessage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	n := realtest.NewNet(t)
	h := &booted{Host: n.Host(realtest.HostConfig{}), t: t, ns: n.NS}
	h.Run("sh", "-ec", `rm -f /sbin/shutdown /usr/sbin/shutdown
printf '#!/bin/sh\nprintf "%%s\\0" "$0" "$@" >/run/shutdown.new && mv /run/shutdown.new /run/shutdown\n' >/usr/sbin/shutdown
chmod 755 /usr/sbin/shutdown`)
	for name, in := range map[string]*install.Installer{
		"agent": installer(), "agentless": {Agentless: true},
	} {
		t.Run(name, func(t *testing.T) {
			opts := bootOpts()
			opts.ID += "-" + name
			a, err := in.Start(t.Context(), h.dial("root"), opts)
			require.NoError(t, err)
			defer func() { _ = a.Close(context.WithoutCancel(t.Context())) }()
			for message, want := range map[string]string{
				"ファームウェア更新のため、１０分後に再起動します。保存してください ☃":                         "ファームウェア更新のため、１０分後に再起動します。保存してください ☃",
				"  $(id) `id` 'x' \"y\" \\n ; & | > /etc/passwd * {dir} %s  ": "$(id) `id` 'x' \"y\" \\n ; & | > /etc/passwd * {dir} %s",
				"が and が": "が and が", // composed and not
				"二\n行":    "二 行",
				"-c":      " -c",
				"":        "",
			} {
				h.Run("rm", "-f", "/run/shutdown")
				require.NoError(t, a.Reboot(t.Context(), transport.RebootOptions{Message: message, Delay: 9*time.Minute + time.Second}))
				argv := []string{"/usr/sbin/shutdown", "-r", "+10"}
				if want != "" {
					argv = append(argv, want)
				}
				require.Equal(t, strings.Join(argv, "\x00")+"\x00", h.Run("cat", "/run/shutdown"))
			}
			_, err = a.Remove(t.Context())
			require.NoError(t, err)
		})
	}
}
