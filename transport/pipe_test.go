package transport_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

func TestDialCommand(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	ended := make(chan struct{})
	target.OnRun(transporttest.Argv("upper"), func(_ context.Context, p *transporttest.Process) transport.Exit {
		defer close(ended)
		lines := bufio.NewScanner(p.Stdin)
		for lines.Scan() {
			if lines.Text() == "fail" {
				fmt.Fprint(p.Stderr, "\n told to fail \n", strings.Repeat("x", 10_000))
				return transport.Exit{Code: 7}
			}
			fmt.Fprintln(p.Stdout, strings.ToUpper(lines.Text()))
		}
		return transport.Exit{}
	})
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)

	// The context bounds the start only; Close ends the program.
	ctx, cancel := context.WithCancel(t.Context())
	c, err := transport.DialCommand(ctx, conn, transport.Command{Argv: []string{"upper"}})
	require.NoError(t, err)
	cancel()
	_, err = io.WriteString(c, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HELLO\n", line)
	require.NoError(t, c.Close())
	<-ended
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = c.Write(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)

	// A program that ends first says why, and no more of it than a screenful.
	ended = make(chan struct{})
	var stderr strings.Builder
	c, err = transport.DialCommand(t.Context(), conn, transport.Command{Argv: []string{"upper"}, Stderr: &stderr})
	require.NoError(t, err)
	_, err = io.WriteString(c, "fail\n")
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.Equal(t, transport.Code{Space: "exit", Value: "7"}, transport.CodeOf(err))
	require.ErrorContains(t, err, "told to fail")
	require.Less(t, len(err.Error()), 5000)
	require.NoError(t, c.Close())
	require.Equal(t, 10_016, stderr.Len())

	// A lost line is told as such.
	ended = make(chan struct{})
	c, err = transport.DialCommand(t.Context(), conn, transport.Command{Argv: []string{"upper"}})
	require.NoError(t, err)
	target.Cut()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, c.Close())
	require.NoError(t, fake.Close())
}

func TestDialCommandRefuses(t *testing.T) {
	fake, target := transporttest.NewShellServer()
	conn, err := fake.Dial(t.Context(), target.Endpoint())
	require.NoError(t, err)
	for _, cmd := range []transport.Command{{}, {Argv: []string{"x"}, Stdin: strings.NewReader("")}, {Argv: []string{"x"}, Stdout: io.Discard}} {
		_, err := transport.DialCommand(t.Context(), conn, cmd)
		require.ErrorIs(t, err, transport.ErrInvalid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = transport.DialCommand(ctx, conn, transport.Command{Argv: []string{"x"}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []string{"dial"}, fake.Ops(nil), "nothing was sent")
	require.NoError(t, fake.Close())
}
