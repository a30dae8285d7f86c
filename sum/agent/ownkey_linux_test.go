package agent_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// ownKeys makes the bootstrap one of fingerprints, and returns the manager's key.
func (h *host) ownKeys() *channel.OwnKey {
	h.t.Helper()
	key, err := channel.NewOwnKey()
	require.NoError(h.t, err)
	h.boot.Nonce, h.boot.Credentials, h.boot.Manager = channel.NewJobID(), nil, key.Fingerprint().String()
	data, err := json.Marshal(h.boot)
	require.NoError(h.t, err)
	require.NotContains(h.t, string(data), "credentials")
	require.NoError(h.t, os.WriteFile(h.path(agent.BootstrapName), data, 0o644))
	return key
}

// pin takes the agent's fingerprint from its ready file.
func (h *host) pin(key *channel.OwnKey) {
	h.t.Helper()
	theirs, err := channel.ParseFingerprint(h.ready.Fingerprint)
	require.NoError(h.t, err)
	h.cred, err = key.Manager(theirs)
	require.NoError(h.t, err)
}

// TestOwnKeys: over SMB others may read what the manager writes, so it is no secret.
func TestOwnKeys(t *testing.T) {
	h := newHost(t)
	key := h.ownKeys()
	code, _, stderr := h.run("start", "-dir", h.dir)
	require.Zero(t, code, stderr)
	h.readReady()
	h.pin(key)
	for _, name := range []string{agent.ReadyName, agent.LogName} {
		require.NotContains(t, readFile(t, h.path(name)), "PRIVATE", name)
	}
	c := h.client()
	j := h.script(c, "echo hello")
	h.install(c, j)
	require.Equal(t, agent.Done, h.until(c, j.ID, final).State)

	// Who has read all that is in the files is neither.
	stranger, err := channel.NewOwnKey()
	require.NoError(t, err)
	theirs, err := channel.ParseFingerprint(h.ready.Fingerprint)
	require.NoError(t, err)
	cred, err := stranger.Manager(theirs)
	require.NoError(t, err)
	_, err = agent.NewClient(t.Context(), agent.ClientOptions{Credentials: cred, Dial: h.dial})
	require.Error(t, err)
	imposter, err := stranger.Agent(key.Fingerprint())
	require.NoError(t, err)
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() {
		served <- (&channel.Server{Credentials: imposter, Handler: struct{ channel.Handler }{}}).Serve(t.Context(), ln)
	}()
	_, err = agent.NewClient(t.Context(), agent.ClientOptions{Credentials: h.cred, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", ln.Addr().String())
	}})
	require.ErrorIs(t, err, channel.ErrTrust)
	require.NoError(t, ln.Close())
	<-served

	_, err = c.Stop(t.Context(), true)
	require.NoError(t, err)
	h.requireOnlyLogs(j.ID)

	// Each agent has a key of its own.
	before := h.ready.Fingerprint
	h.putBinary()
	h.ownKeys()
	code, _, stderr = h.run("start", "-dir", h.dir)
	require.Zero(t, code, stderr)
	h.readReady()
	require.NotEqual(t, before, h.ready.Fingerprint)
}

func TestBootstrapHasOneIdentity(t *testing.T) {
	key, err := channel.NewOwnKey()
	require.NoError(t, err)
	_, theirs, err := channel.NewIdentity("test")
	require.NoError(t, err)
	cred, err := theirs.MarshalBootstrap()
	require.NoError(t, err)
	for name, change := range map[string]func(*agent.Bootstrap){
		"neither":   func(*agent.Bootstrap) {},
		"both":      func(b *agent.Bootstrap) { b.Credentials, b.Manager = cred, key.Fingerprint().String() },
		"short":     func(b *agent.Bootstrap) { b.Manager = key.Fingerprint().String()[:32] },
		"zero":      func(b *agent.Bootstrap) { b.Manager = channel.Fingerprint{}.String() },
		"no keys":   func(b *agent.Bootstrap) { b.Credentials = json.RawMessage(`{}`) },
		"null keys": func(b *agent.Bootstrap) { b.Credentials = json.RawMessage(`null`) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.boot.Nonce = channel.NewJobID()
			change(&h.boot)
			data, err := json.Marshal(h.boot)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(h.path(agent.BootstrapName), data, 0o600))
			code, _, stderr := h.run("serve", "-dir", h.dir)
			require.Equal(t, agent.ExitFailed, code, stderr)
			require.NoFileExists(t, h.path(agent.BootstrapName))
			require.NoFileExists(t, h.path(agent.ReadyName))
		})
	}
}

func TestServiceNames(t *testing.T) {
	const id = "0123456789abcdef"
	require.Equal(t, "roundsman-agent-"+id, agent.ServiceName(id))
	require.Equal(t, "roundsman-remove-"+id, agent.RemoveServiceName(id))
	require.Equal(t, "roundsman-agent-"+id, agent.PipeName(id))
	require.Equal(t, "roundsman-", agent.ServicePrefix)
}
