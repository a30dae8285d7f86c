package channel

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/stretchr/testify/require"
)

// TestGSOAP lets gSOAP read the WSDL that a server gives out, compiles the client
// that it generates, and calls the server with it over mutual TLS.
func TestGSOAP(t *testing.T) {
	wsdl2h, soapcpp2, gcc := realtest.Need(t, "wsdl2h"), realtest.Need(t, "soapcpp2"), realtest.Need(t, "gcc")
	for _, header := range []string{"/usr/include/stdsoap2.h", "/usr/include/openssl/ssl.h"} {
		if _, err := os.Stat(header); err != nil {
			realtest.Missing(t, "the header "+header)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	command := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
		return string(out)
	}

	r := newRig(t, func(r *rig) { r.server.AllowForeign = true })
	_, status, served := r.mustDialRaw().send(plain("GET", wsdlPath, nil, nil))
	require.Equal(t, 200, status)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "agent.wsdl"), []byte(served), 0o600))
	source, err := filepath.Abs("testdata/gsoapclient.c")
	require.NoError(t, err)
	command(wsdl2h, "-c", "-o", "agent.h", "agent.wsdl")
	command(soapcpp2, "-c", "-C", "-L", "-2", "-x", "-I/usr/share/gsoap/import", "agent.h")
	command(gcc, "-DWITH_OPENSSL", "-I.", "-o", "client", source, "soapC.c", "soapClient.c", "-lgsoapssl", "-lssl", "-lcrypto", "-lz")

	id := NewJobID()
	_, err = r.client.Install(ctx, &InstallRequest{JobID: id, Component: "x", Args: []string{"x"}})
	require.NoError(t, err)
	own, trusted, err := r.manager.MarshalPEM()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "manager.pem"), own, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), trusted, 0o600))
	out := command("./client", "https://"+r.addr+soapPath, "manager.pem", "ca.pem", id, "00000000000000000000000000000000")
	require.Equal(t, `host web-01
product Debian GNU/Linux
devices 1
device <eth&0>
ids 2
time 1
state 1
log 3 bytes
next 8
fault NotFound retryable 0: no job 00000000000000000000000000000000
stop Unauthorized
`, out)
	require.Zero(t, r.agent.called("Stop"))

	// The same client with another authority's certificate gets nowhere.
	other, _, err := NewIdentity("other")
	require.NoError(t, err)
	own, _, err = other.MarshalPEM()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "manager.pem"), own, 0o600))
	before := r.agent.called("Inventory")
	cmd := exec.CommandContext(ctx, "./client", "https://"+r.addr+soapPath, "manager.pem", "ca.pem", id, id)
	cmd.Dir = dir
	require.Error(t, cmd.Run())
	require.Equal(t, before, r.agent.called("Inventory"))
}
