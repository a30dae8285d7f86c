package smb_test

import (
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// TestConformance runs the suite of package transporttest against a real smbd that signs,
// and one that encrypts.
func TestConformance(t *testing.T) {
	for name, cfg := range map[string]smbtest.Config{"signing": {}, "encryption": {Encryption: true}} {
		t.Run(name, func(t *testing.T) { conformance(t, harness(t, serve(t, cfg))) })
	}
}

func conformance(t *testing.T, h transporttest.Harness) {
	for _, c := range transporttest.Cases(h) {
		t.Run(c.Name, func(t *testing.T) {
			if reason := h.Skip[c.Name]; reason != "" {
				t.Skip(reason)
			}
			require.NoError(t, c.Run(t.Context(), h))
		})
	}
}

// serve starts a server.
func serve(t testing.TB, cfg smbtest.Config) *smbtest.Server {
	realtest.NeedRoot(t)
	realtest.Need(t, "smbd")
	srv, err := smbtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv
}

func endpoint(srv *smbtest.Server) transport.Endpoint {
	return transport.Endpoint{Address: srv.Addr(), Credentials: transport.Credentials{
		User: srv.User(), Domain: srv.Domain(), Password: transport.NewSecret(srv.Password())}}
}

func harness(t *testing.T, srv *smbtest.Server) transporttest.Harness {
	require.NoError(t, os.MkdirAll(filepath.Join(srv.Admin(), "Temp"), 0o755))
	boots(t, srv)
	const noKey = "a server shows no key over SMB; see TestDialRefuses"
	ep := endpoint(srv)
	wrong := ep
	wrong.Credentials.Password = transport.NewSecret("battery staple")
	return transporttest.Harness{
		Transport: &smb.Transport{}, Endpoint: ep, WrongSecret: &wrong,
		Caps: transport.CapFiles | transport.CapServices | transport.CapTunnelPipe | transport.CapReboot | transport.CapSpace | transport.CapClock,
		Dir:  "Temp", Requests: srv.Requests, Cut: srv.CloseConnections,
		Names: []string{"two words", "'quote'", "`backquote`", "$HOME", "-rf", "--", "[a-z]", "a;b&c", "(paren){brace}", "~", "#hash", "%41",
			"größe-日本語", ".hidden", "..twodots", "!x", "a,b=c+d"},
		Listen: func(string) (net.Listener, string, error) {
			name := "roundsman-" + strings.ToLower(path.Base(t.Name()))
			l, err := srv.Listen(name)
			return l, name, err
		},
		Service: transport.ServiceConfig{Name: "roundsman-conformance", DisplayName: "Conformance", Argv: []string{`C:\Windows\x y.exe`, "serve"}},
		Stall: func() func() {
			srv.Stall(true)
			return func() { srv.Stall(false) }
		},
		Skip: map[string]string{
			"dial/wrong-trust": noKey, "dial/empty-trust": noKey, "dial/first-use": noKey,
			"files/mode": "Windows has no permission bits; see TestReadOnly",
		},
	}
}
