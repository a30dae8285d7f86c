package local_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
)

func TestDialRefuses(t *testing.T) {
	const canary = "correct horse"
	for what, ep := range map[string]transport.Endpoint{
		"a name that may lead elsewhere": {Address: "localhost"},
		"an address":                     {Address: "127.0.0.1"},
		"another scheme":                 {Address: "local:"},
		"an object":                      {Object: "bay-1"},
		"a user":                         {Credentials: transport.Credentials{User: "root"}},
		"a domain":                       {Credentials: transport.Credentials{Domain: "EXAMPLE"}},
		"a password":                     {Credentials: transport.Credentials{Password: transport.NewSecret(canary)}},
		"a key":                          {Trust: transport.Trust{HostKeys: []string{"ssh-ed25519 AAAA"}}},
		"options":                        {Options: struct{}{}},
	} {
		conn, err := (&local.Transport{}).Dial(t.Context(), ep)
		require.ErrorIs(t, err, transport.ErrInvalid, what)
		require.Nil(t, conn, what)
		require.NotContains(t, err.Error(), canary)
		var te *transport.Error
		require.True(t, errors.As(err, &te))
		require.NotEmpty(t, te.Hint, "what to do about it")
	}
	for _, address := range []string{"", local.Address} {
		conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{Address: address})
		require.NoError(t, err)
		require.Equal(t, transport.Path{SameHost: true}, conn.Path())
		require.NoError(t, conn.Close(t.Context()))
	}
}

// TestCloseEndsCalls: Close ends what runs and waits for it.
func TestCloseEndsCalls(t *testing.T) {
	conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	began, done := make(chan struct{}), make(chan error, 1)
	data := content(1 << 20)
	f := transport.BytesFile("f", data)
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		return pausing("f", data, 1<<19, func() {
			close(began)
			<-ctx.Done()
		}).Open(ctx)
	}
	go func() {
		_, err := transport.Put(context.Background(), conn, tempDir(t)+"/f", f, transport.PutOptions{})
		done <- err
	}()
	<-began
	require.NoError(t, conn.Close(t.Context()))
	require.ErrorIs(t, <-done, transport.ErrClosed)
}

// TestCallOutlivesWhatHangs: a call returns with its context also where
// something below it does not, and Close still waits for that.
func TestCallOutlivesWhatHangs(t *testing.T) {
	conn, err := (&local.Transport{}).Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	name := tempDir(t) + "/f"
	hangs := pausing("f", content(1<<20), 1<<19, func() {
		cancel()
		<-release
	})
	_, err = transport.Put(ctx, conn, name, hangs, transport.PutOptions{})
	require.ErrorIs(t, err, context.Canceled)
	closed := make(chan error, 1)
	go func() { closed <- conn.Close(t.Context()) }()
	<-conn.(interface{ Ended() <-chan struct{} }).Ended()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	default:
	}
	close(release)
	require.NoError(t, <-closed)
	require.NoFileExists(t, onDisk(name))
}
