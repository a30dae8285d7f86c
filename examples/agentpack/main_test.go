package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

func writeKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return name
}

// TestPack builds the agents, checks them as an installer does, and has the command
// line carry them.
func TestPack(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it builds the agent and the command line")
	}
	dir := t.TempDir()
	var out bytes.Buffer
	require.NoError(t, pack(t.Context(), []string{"-o", dir, "-key", writeKey(t)}, &out))
	digests := map[string]string{} // by name
	for line := range strings.Lines(out.String()) {
		digest, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		digests[name] = digest
		fi, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Less(t, fi.Size(), int64(12<<20), name)
	}
	names := slices.Sorted(maps.Keys(digests))
	require.Equal(t, []string{"agent-linux-amd64", "agent-linux-arm64", "agent-windows-amd64"}, names)
	digest := digests["agent-linux-"+runtime.GOARCH]
	require.NotEmpty(t, digest, "not packed by default")

	fsys := os.DirFS(dir)
	key, err := install.ReadPublicKey(fsys)
	require.NoError(t, err)
	f, err := install.FS(fsys, key).Open(t.Context(), "linux", runtime.GOARCH)
	require.NoError(t, err)
	require.Equal(t, digest, f.Digest())
	f, err = install.FS(fsys, key).Open(t.Context(), "windows", "amd64")
	require.NoError(t, err)
	require.Equal(t, digests["agent-windows-amd64"], f.Digest())
	key[0] ^= 1
	_, err = install.FS(fsys, key).Open(t.Context(), "linux", runtime.GOARCH)
	require.ErrorIs(t, err, transport.ErrTrust)

	// The go command takes the files for those of the package.
	into, err := filepath.Abs("../roundsman/agents")
	require.NoError(t, err)
	overlay := map[string]map[string]string{"Replace": {}}
	for _, file := range append(names, install.ManifestName, install.SignatureName, install.PublicKeyName) {
		overlay["Replace"][filepath.Join(into, file)] = filepath.Join(dir, file)
	}
	data, err := json.Marshal(overlay)
	require.NoError(t, err)
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, data, 0o600))
	cmd := exec.Command("go", "test", "-tags", "agents", "-overlay", overlayFile, "-run", "^TestEmbedded$", "-v", "../roundsman")
	cmd.Env = append(os.Environ(), "AGENTPACK_DIGEST="+digest)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Contains(t, string(said), "--- PASS: TestEmbedded")
}

func TestBadUse(t *testing.T) {
	key := writeKey(t)
	other := filepath.Join(t.TempDir(), "other.pem")
	require.NoError(t, os.WriteFile(other, []byte("no key"), 0o600))
	for _, args := range [][]string{
		nil, {"-o", t.TempDir()}, {"-key", key}, {"-o", t.TempDir(), "-key", key, "more"}, {"-o", t.TempDir(), "-key", other},
		{"-o", t.TempDir(), "-key", key + ".missing"}, {"-o", t.TempDir(), "-key", key, "-platforms", "linux"},
	} {
		require.Error(t, pack(t.Context(), args, &bytes.Buffer{}), args)
	}
}
