package transport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

func TestErrorText(t *testing.T) {
	err := &transport.Error{Op: "put", Target: "db1:22", Path: "/tmp/x", Kind: transport.ErrNoSpace,
		Code: transport.Code{Space: "sftp", Value: "14"}, Err: errors.New("disk full"), Hint: "free some"}
	require.EqualError(t, err, "put /tmp/x on db1:22: no space left on target (sftp 14): disk full; free some")
	require.EqualError(t, &transport.Error{Op: "dial"}, "dial")
}

func TestErrorIs(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("wrapped: %w", &transport.Error{Op: "stat", Kind: fs.ErrNotExist, Err: cause})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, err, cause)
	require.NotErrorIs(t, err, fs.ErrExist)
	require.True(t, transport.IsNotExist(err))
	require.False(t, transport.IsNotExist(nil))
}

func TestCodeOf(t *testing.T) {
	inner := &transport.Error{Op: "b", Code: transport.Code{Space: "http", Value: "412"}}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("x"), ""},
		{&transport.Error{Op: "a"}, ""},
		{inner, "http 412"},
		{&transport.Error{Op: "a", Err: fmt.Errorf("w: %w", inner)}, "http 412"},
		{&transport.Error{Op: "a", Code: transport.Code{Space: "exit", Value: "1"}, Err: inner}, "exit 1"},
		{errors.Join(errors.New("x"), &transport.Error{Op: "a"}, inner), "http 412"}, // the first of a tree
		{&transport.Error{Op: "a", Err: fmt.Errorf("%w: %w", &transport.Error{Op: "c"}, inner)}, "http 412"},
	} {
		require.Equal(t, tt.want, transport.CodeOf(tt.err).String())
	}
}

func TestTemporary(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{transport.ErrBusy, true}, {transport.ErrConnLost, true}, {transport.ErrTimeout, true}, {transport.ErrUnreachable, true},
		{transport.ErrAuth, false}, {transport.ErrTrust, false}, {transport.ErrRejected, false}, {transport.ErrIntegrity, false},
		{context.Canceled, false},
		{&transport.Error{Kind: context.Canceled, Err: transport.ErrConnLost}, false},
		{&transport.Error{Kind: transport.ErrBusy}, true},
		{&transport.Error{Kind: transport.ErrUnreachable, Err: &net.DNSError{IsNotFound: true}}, false},
		{&transport.Error{Kind: transport.ErrUnreachable, Err: &net.DNSError{IsTimeout: true}}, true},
	} {
		require.Equal(t, tt.want, transport.Temporary(tt.err), "%v", tt.err)
	}
}

func TestContextError(t *testing.T) {
	lost := errors.New("use of closed network connection")
	require.NoError(t, transport.ContextError(t.Context(), "run", "db1", nil))
	require.Equal(t, lost, transport.ContextError(t.Context(), "run", "db1", lost))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := transport.ContextError(ctx, "run", "db1", lost)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, lost)
	require.EqualError(t, err, "run on db1: context canceled: use of closed network connection")
	require.Equal(t, err, transport.ContextError(ctx, "run", "db1", err), "marked already")

	// A cause is shown beside the context's own error, never instead of it.
	cause := errors.New("the operator pressed stop")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(cause)
	for _, err := range []error{lost, cause} {
		err = transport.ContextError(ctx, "run", "db1", err)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, cause)
	}
}

func TestSecretNeverShows(t *testing.T) {
	const canary = "canary-3f9a"
	s := transport.NewSecret(canary)
	type holder struct {
		Open   transport.Endpoint
		hidden transport.Endpoint // package fmt asks no methods of unexported fields
	}
	ep := transport.Endpoint{Address: "db1", Credentials: transport.Credentials{User: "ops", Password: s}}
	h := holder{ep, ep}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "endpoint", ep.Credentials)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "endpoint", ep, "holder", h)
	data, err := json.Marshal(ep.Credentials)
	require.NoError(t, err)
	text, err := s.MarshalText()
	require.NoError(t, err)
	for _, out := range []string{
		fmt.Sprint(s), fmt.Sprintf("%s %v %+v %#v %q %x %d", s, s, s, s, s, s, s), fmt.Sprintf("%v %+v %#v", h, h, h),
		fmt.Sprintf("%v %+v %#v", &h, &h, &h), log.String(), string(data), string(text), s.String(), s.GoString(),
	} {
		require.NotContains(t, out, canary)
		require.NotContains(t, out, fmt.Sprintf("%x", canary))
	}
	require.Equal(t, canary, s.Reveal())
	require.False(t, s.IsZero())
	require.True(t, transport.Secret{}.IsZero())
	require.True(t, transport.NewSecret("").IsZero())
	require.Empty(t, transport.Secret{}.Reveal())
}
