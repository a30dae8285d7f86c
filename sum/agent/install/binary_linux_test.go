package install_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// content reads a file of a source.
func content(t *testing.T, f transport.File) []byte {
	t.Helper()
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

// TestBinaryHoldsNoSecret searches the strings of the agent's program, as whoever
// steals it would: for keys, for secrets of the process that had it built, and for
// what tells of the machine where that was. What is put on a target is that program
// and no other, whatever the session.
func TestBinaryHoldsNoSecret(t *testing.T) {
	const secret = "canary-4b1d0f6a"
	for _, name := range []string{"ROUNDSMAN_PASSWORD", "ROUNDSMAN_SUDO_PASSWORD", "RM_TOKEN"} {
		t.Setenv(name, secret)
	}
	in := &install.Installer{Source: &install.GoBuild{CacheDir: t.TempDir()}}
	f, err := in.Source.Open(t.Context(), "linux", goArch(t))
	require.NoError(t, err)
	program := content(t, f)
	module := strings.TrimSpace(goOutput(t, "list", "-m", "-f", "{{.Dir}}"))
	secrets := []string{secret, module, goOutput(t, "env", "GOMODCACHE"), goOutput(t, "env", "GOCACHE")}
	if host, err := os.Hostname(); err == nil && len(host) > 7 {
		secrets = append(secrets, host)
	}
	key := regexp.MustCompile(`-----BEGIN [A-Z ]*(PRIVATE KEY|CERTIFICATE)-----\\?n?\s*[A-Za-z0-9+/=]{16}`)
	strangers := func(program []byte) (found []string) {
		for _, s := range secrets {
			if s = strings.TrimSpace(s); bytes.Contains(program, []byte(s)) {
				found = append(found, s)
			}
		}
		for _, k := range key.FindAll(program, -1) {
			found = append(found, string(k))
		}
		return found
	}
	require.Empty(t, strangers(program))
	require.True(t, bytes.Contains(program, []byte("-----BEGIN ")), "what is searched for has this form there")
	// It would be found.
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.Contains(t, strangers(self), secret)
	require.NotEmpty(t, strangers(append(slices.Clone(program), "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIyVc0mIn8k="...)))

	var digests []string
	for range 2 {
		l := newLab(t, sshtest.Config{})
		a, err := in.Start(t.Context(), l.dial(), l.opts())
		require.NoError(t, err)
		sent, err := os.ReadFile(filepath.Join(l.dir(), agent.BinaryName))
		require.NoError(t, err)
		digests = append(digests, transport.BytesFile("", sent).Digest())
		_, err = a.Remove(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, []string{f.Digest(), f.Digest()}, digests)
}

// TestBuildsAreReproducible builds the agent in two directories of different names.
// That the compiler's own cache makes no difference is TestGoBuildIsDeterministic.
func TestBuildsAreReproducible(t *testing.T) {
	t.Parallel()
	module := strings.TrimSpace(goOutput(t, "list", "-m", "-f", "{{.Dir}}"))
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "another directory", "b")
	copySource(t, first, module)
	copySource(t, second, first) // not the checkout, where somebody may be at work
	digests := map[string]bool{}
	for _, dir := range []string{first, second} {
		f, err := (&install.GoBuild{Dir: dir, CacheDir: t.TempDir()}).Open(t.Context(), "linux", "arm64")
		require.NoError(t, err)
		require.False(t, bytes.Contains(content(t, f), []byte(dir)), dir)
		digests[f.Digest()] = true
	}
	require.Len(t, digests, 1)
}

// copySource copies what a module is built from.
func copySource(t *testing.T, to, from string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case strings.HasSuffix(name, "_test.go") || !slices.Contains([]string{".go", ".mod", ".sum", ".wsdl"}, filepath.Ext(name)):
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	}))
}

func goOutput(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func goArch(t *testing.T) string { return goOutput(t, "env", "GOARCH") }
