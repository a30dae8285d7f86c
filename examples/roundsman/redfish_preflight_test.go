package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// finding returns the finding of a code, in a direction and at a port where those are given.
func (l *redfishLab) finding(code sum.FindingCode, dir sum.Direction, port int) map[string]any {
	l.t.Helper()
	for _, e := range l.of("finding") {
		if e["code"] == string(code) && (dir == "" || e["direction"] == string(dir)) && (port == 0 || e["port"] == float64(port)) {
			return e
		}
	}
	require.Fail(l.t, fmt.Sprintf("no finding %s %s %d", code, dir, port), l.output)
	return nil
}

// port is that of the simulated target.
func (l *redfishLab) port() int {
	at, err := net.ResolveTCPAddr("tcp", l.srv.Addr())
	require.NoError(l.t, err)
	return at.Port
}

// TestRedfishPreflight tries what may be in the way of a management processor. The port of
// SUM that Redfish does without is tried, and never blocks.
func TestRedfishPreflight(t *testing.T) {
	t.Parallel()
	for kind, tt := range map[sum.Kind]struct {
		cfg   redfishtest.Config
		back  string // the role of the port that it dials on the manager
		ports []int  // beside that of the address
	}{
		sum.ILO:           {redfishtest.Config{Profile: redfishtest.ILO5, IPv6: true}, "port", []int{22, 80}},
		sum.SuperdomeFlex: {redfishtest.Config{Profile: redfishtest.RMC}, "ssl_port", nil},
		sum.Redfish:       {redfishtest.Config{IPv6: true}, "port", nil},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := newRedfishLab(t, kind, tt.cfg)
			back := freeTCPPort(t)
			args := []string{"preflight", "--probe", l.target, "--port", fmt.Sprintf("%s=%d", tt.back, back)}
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Equal(t, "passed", l.finding(sum.FindReached, sum.ToTarget, l.port())["severity"])
			for _, port := range tt.ports {
				tried := false
				for _, e := range l.of("finding") {
					if e["port"] == float64(port) && e["direction"] == string(sum.ToTarget) {
						tried = true
						require.NotEqual(t, "blocks", e["severity"])
						if e["severity"] == "notice" && e["code"] != string(sum.FindService) {
							require.Contains(t, e["text"], "Redfish does without")
							require.Contains(t, e["advice"], "nothing has to be done")
						}
					}
				}
				require.True(t, tried, "port %d\n%s", port, l.output)
			}
			// Nobody can have it dial back: that is said, with the port and who dials whom.
			way := l.finding(sum.FindUntried, sum.ToManager, back)
			require.Equal(t, "notice", way["severity"])
			require.Contains(t, way["text"], fmt.Sprintf("it dials the manager at %s", net.JoinHostPort(hostOf(t, l.srv.Addr()), fmt.Sprint(back))))
			if kind == sum.ILO {
				require.Contains(t, way["advice"], "its own web page updates it: https://"+l.srv.Addr()+"/")
			}

			// Somebody else has the port.
			ln, err := net.Listen("tcp", net.JoinHostPort(hostOf(t, l.srv.Addr()), fmt.Sprint(back)))
			require.NoError(t, err)
			defer ln.Close()
			status := l.run(args...)
			taken := l.finding(sum.FindTaken, sum.ToManager, back)
			if kind == sum.Redfish { // which need not fetch anything
				require.Equal(t, []any{exitFine, "notice"}, []any{status, taken["severity"]}, l.output)
			} else {
				require.Equal(t, []any{exitFailed, "blocks"}, []any{status, taken["severity"]}, l.output)
			}
			require.Zero(t, l.srv.Sessions(), "every session was ended")
		})
	}
}

// TestRedfishPreflightRefused: why nobody gets in is told with direction, port and what to
// do, and by no name of Go.
func TestRedfishPreflightRefused(t *testing.T) {
	t.Parallel()
	l := newRedfishLab(t, sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5})
	pins := l.flags[2]
	right, err := os.ReadFile(pins)
	require.NoError(t, err)
	_, pin, _ := strings.Cut(strings.TrimSpace(string(right)), " ")
	wrong := transport.Fingerprint([]byte("another"))
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("not-the-password\n"), 0o600))
	other, err := net.Listen("tcp", "127.0.0.1:0") // which hangs up
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close() })
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mail.example ESMTP\r\n"))
			_ = c.Close()
		}
	}()
	free := freeTCPPort(t)
	at := func(port int) string { return fmt.Sprintf("ilo://admin@127.0.0.1:%d", port) }
	for name, tt := range map[string]struct {
		target string
		pins   string
		args   []string
		code   sum.FindingCode
		text   string
		advice string
	}{
		"another key":        {pins: l.srv.Addr() + " " + wrong, code: sum.FindIdentity, text: "it showed " + pin, advice: "find out first"},
		"another than --pin": {args: []string{"--pin", wrong}, code: sum.FindIdentity, text: "pin in the fleet file", advice: "find out first"},
		"unknown":            {pins: "# none", code: sum.FindUnknown, text: "it showed " + pin, advice: "--accept-new records the key"},
		"wrong password":     {args: []string{"--password-file", password}, code: sum.FindLogin, text: "check user and password", advice: "may lock the account"},
		"nobody there":       {target: at(free), code: sum.FindRefused, text: "from the manager to", advice: "its own web page updates it: https://127.0.0.1:" + fmt.Sprint(free)},
		"no HTTPS":           {target: at(other.Addr().(*net.TCPAddr).Port), code: sum.FindService, text: "not HTTPS", advice: "check the port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := *l
			own.t = t
			file := filepath.Join(t.TempDir(), "pins")
			if tt.pins == "" {
				tt.pins = string(right)
			}
			require.NoError(t, os.WriteFile(file, []byte(tt.pins+"\n"), 0o600))
			own.flags = []string{"--json", "--pins", file, "--journal", filepath.Join(t.TempDir(), "journal")}
			target := own.target
			if tt.target != "" {
				target = tt.target
			}
			require.Equal(t, exitFailed, own.run(append([]string{"preflight", "--probe", target}, append(tt.args, redfishPorts...)...)...), own.output)
			f := own.finding(tt.code, sum.ToTarget, 0)
			require.Equal(t, "blocks", f["severity"])
			require.Contains(t, f["text"], tt.text)
			require.Contains(t, f["advice"], tt.advice)
			require.NotRegexp(t, goField, own.output)
			require.NotContains(t, own.output, "--known-hosts")
			// The step itself says the same, and which flag helps.
			if tt.code != sum.FindRefused {
				require.Equal(t, exitFailed, own.run(append([]string{"inventory", target}, tt.args...)...), own.output)
				require.Equal(t, string(tt.code), own.of("error")[0]["code"], own.output)
				require.NotRegexp(t, goField, own.output)
				require.NotContains(t, own.output, "--identity")
			}
		})
	}
}

// freeTCPPort is one of the loopback interface that nobody has.
func freeTCPPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func hostOf(t *testing.T, addr string) string {
	t.Helper()
	host, _, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return host
}
