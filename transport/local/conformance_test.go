package local_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

const allCaps = transport.CapFiles | transport.CapRun | transport.CapTunnelTCP | transport.CapTunnelUnix

// TestConformance runs the suite of package transporttest. What it asks of a line
// does not apply: there is none.
func TestConformance(t *testing.T) {
	const (
		noLine     = "no line leads to the manager's own host: there is none to cut"
		noSilence  = "no line leads to the manager's own host: it cannot fall silent"
		noTrust    = "the manager's own host shows no identity, and a Trust is refused; see TestDialRefuses"
		noPassword = "the manager's own host asks for no credentials, and refuses any; see TestDialRefuses"
		ownTest    = "; see TestPutIsContinued and TestPutAfterKill"
	)
	h := transporttest.Harness{
		Transport: &local.Transport{}, Endpoint: transport.Endpoint{Address: local.Address},
		Caps: allCaps, Dir: tempDir(t), Listen: listener(t),
		Skip: map[string]string{
			"dial/wrong-secret": noPassword, "dial/wrong-trust": noTrust, "dial/empty-trust": noTrust, "dial/first-use": noTrust,
			"dial/stalled": noSilence, "conn/cancel-waiting": noSilence, "conn/close-waiting": noSilence,
			"conn/cut": noLine, "run/cut": noLine, "tunnel-unix/cut": noLine, "tunnel-tcp/cut": noLine,
			"files/resume": noLine + ownTest, "files/resume-over-old": noLine + ownTest, "files/resume-other": noLine + ownTest,
		},
	}
	platform(&h)
	for _, c := range transporttest.Cases(h) {
		t.Run(c.Name, func(t *testing.T) {
			if reason := h.Skip[c.Name]; reason != "" {
				t.Skip(reason)
			}
			require.NoError(t, c.Run(t.Context(), h))
		})
	}
}

// listener listens on this machine, which is the target.
func listener(t *testing.T) func(network string) (net.Listener, string, error) {
	dir := t.TempDir()
	n := 0
	return func(network string) (net.Listener, string, error) {
		addr := "127.0.0.1:0"
		if network == "unix" {
			n++
			addr = filepath.Join(dir, string(rune('a'+n)))
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return nil, "", err
		}
		return l, l.Addr().String(), nil
	}
}
