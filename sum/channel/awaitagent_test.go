package channel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAwaitAgent: an agent that makes its key only when it starts is expected before, and
// nobody else gets in, neither before nor after its key is known.
func TestAwaitAgent(t *testing.T) {
	r, ctx := newCallbackRig(t), testContext(t)
	key, err := NewOwnKey()
	require.NoError(t, err)
	m := key.AwaitAgent()
	h := &fakeManager{}
	_, err = r.callbacks.Add("win-01", m, h)
	require.NoError(t, err)
	own, err := NewOwnKey()
	require.NoError(t, err)
	other, err := NewOwnKey()
	require.NoError(t, err)
	contact := func(k *OwnKey) error {
		creds, err := k.Agent(m.Fingerprint())
		require.NoError(t, err)
		_, err = r.client(creds).Contact(ctx, nil)
		return err
	}
	require.Error(t, contact(own), "its key is not known yet")
	require.Error(t, contact(other))
	require.Contains(t, r.logs.String(), "is not known yet")
	_, err = m.MarshalBootstrap()
	require.ErrorIs(t, err, ErrTrust, "it would trust nobody")
	require.Zero(t, m.Peer())

	require.ErrorIs(t, m.Pin(Fingerprint{}), ErrTrust)
	require.ErrorIs(t, m.Pin(key.Fingerprint()), ErrTrust)
	require.NoError(t, m.Pin(own.Fingerprint()))
	require.NoError(t, m.Pin(own.Fingerprint()))
	require.ErrorIs(t, m.Pin(other.Fingerprint()), ErrTrust, "once")
	require.Equal(t, own.Fingerprint(), m.Peer())
	require.NoError(t, contact(own))
	require.Error(t, contact(other))

	// Those that knew from the beginning keep whom they trust.
	known, err := key.Manager(own.Fingerprint())
	require.NoError(t, err)
	require.NoError(t, known.Pin(own.Fingerprint()))
	require.ErrorIs(t, known.Pin(other.Fingerprint()), ErrTrust)
	data, err := m.MarshalBootstrap()
	require.NoError(t, err)
	again, err := ParseManagerBootstrap(data)
	require.NoError(t, err)
	require.Equal(t, own.Fingerprint(), again.Peer())
}
