package transport_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestLogRecords: one record a call, at debug or, for a failure, at warn, and no
// secret in any.
func TestLogRecords(t *testing.T) {
	const canary = "canary-77c1"
	fake, target := transporttest.NewShellServer()
	target.OnRun(transporttest.Argv("set-password", "*"), transporttest.Answer(canary, canary, 0))
	target.SetPassword(transport.NewSecret(canary))
	var log bytes.Buffer
	tr := transport.Log(fake, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	conn, err := tr.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	var out bytes.Buffer
	_, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"set-password", canary}, Env: []string{"PW=" + canary},
		Stdin: strings.NewReader(canary), Stdout: &out, Stderr: &out})
	require.NoError(t, err)
	require.Equal(t, canary+canary, out.String())
	_, err = transport.Put(t.Context(), conn, "/tmp/x", transport.BytesFile("x", []byte(canary)), transport.PutOptions{})
	require.NoError(t, err)
	_, err = transport.Stat(t.Context(), conn, "/missing")
	require.Error(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NotContains(t, log.String(), canary)

	type record struct {
		Level, Msg, Target, Path, Program, Err, User string
		Args, Size                                   int
	}
	var got []record
	for line := range strings.Lines(log.String()) {
		var r record
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		require.Equal(t, target.Address(), r.Target)
		r.Target = ""
		got = append(got, r)
	}
	require.Len(t, got, 5)
	require.Equal(t, record{Level: "DEBUG", Msg: "dial", User: "admin"}, got[0])
	require.Equal(t, record{Level: "DEBUG", Msg: "run", Program: "set-password", Args: 1}, got[1])
	require.Equal(t, record{Level: "DEBUG", Msg: "put", Path: "/tmp/x", Size: len(canary)}, got[2])
	require.Equal(t, "WARN", got[3].Level)
	require.Contains(t, got[3].Err, "does not exist")
	require.Equal(t, record{Level: "DEBUG", Msg: "close"}, got[4])
	require.NoError(t, fake.Close())
}

func TestLogChildren(t *testing.T) {
	fake, login, _ := transporttest.NewHostGroup(3)
	var log bytes.Buffer
	tr := transport.Log(fake, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	conn, err := tr.Dial(t.Context(), login.Endpoint())
	require.NoError(t, err)
	for _, err := range transport.Children(t.Context(), conn) {
		require.NoError(t, err)
	}
	require.Contains(t, log.String(), "msg=children target=vcenter.example count=3")
	require.NoError(t, fake.Close())
}
