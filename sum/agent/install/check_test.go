package install

import (
	"bufio"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// TestListenTo: what the script says, and what it must not.
func TestListenTo(t *testing.T) {
	listen := func(said string) (*check, error) {
		k := &check{run: &run{conn: noFiles{}}, bases: []string{"/a", "/b"}, dir: -1}
		return k, k.listenTo(context.Background(), bufio.NewReaderSize(strings.NewReader(said), maxSaid))
	}
	k, err := listen("unfit 0 space 7 KiB are free in /\nready 1\n{}")
	require.NoError(t, err)
	require.Equal(t, 1, k.dir)
	require.Len(t, k.unfit, 1)
	require.ErrorIs(t, k.unfit[0], transport.ErrNoSpace)
	require.ErrorContains(t, k.unfit[0], "/a: ")
	k, err = listen("unfit 0 exec 1 /a/x\nunfit 1 write no\x1b[31m\nnone\n")
	require.NoError(t, err)
	require.Equal(t, -1, k.dir)
	require.Len(t, k.unfit, 2)
	k, err = listen("unfit 0 exec 126 /a/x\npolicy 0 access=yes\npolicy 0 fapolicyd=running\nready 1\n")
	require.NoError(t, err)
	require.Equal(t, 1, k.dir)
	require.Len(t, k.unfit, 1, "why not in the first is said though there is a second")
	require.ErrorIs(t, k.unfit[0], agent.ErrPolicy)
	for _, bad := range []string{"", "ready 2\n", "ready -1\n", "ready x\n", "hello\n", strings.Repeat("x", 2*maxSaid), strings.Repeat("policy 0 x\n", 2*maxSaidLines)} {
		_, err := listen(bad)
		require.Error(t, err, "%.20q", bad)
	}
}

// noFiles is a connection on which nothing can be asked.
type noFiles struct{ transport.Conn }

func (noFiles) Caps() transport.Caps { return 0 }

func FuzzListenTo(f *testing.F) {
	f.Add("unfit 0 space 7 KiB are free in /\npolicy 0 access=yes\nready 1\n")
	f.Add("unfit 0 exec 126 /a/x\npolicy 0 enforce=1\nready 1\n")
	f.Add("unfit 1 unsafe everybody\nunfit 0 exec 2 x\nnone\n")
	f.Fuzz(func(t *testing.T, said string) {
		k := &check{run: &run{conn: noFiles{}}, bases: []string{"/a", "/b"}, dir: -1}
		err := k.listenTo(context.Background(), bufio.NewReaderSize(strings.NewReader(said), maxSaid))
		require.True(t, k.dir >= -1 && k.dir < 2)
		if k.dir >= 0 {
			require.NoError(t, err)
		}
		require.LessOrEqual(t, len(k.unfit), 2)
	})
}
