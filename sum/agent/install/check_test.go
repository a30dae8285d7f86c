package install

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

// TestListenTo: what the script says, and what it must not.
func TestListenTo(t *testing.T) {
	listen := func(said string) (*check, error) {
		k := &check{run: &run{}, bases: []string{"/a", "/b"}, dir: -1}
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
	for _, bad := range []string{"", "ready 2\n", "ready -1\n", "ready x\n", "hello\n", strings.Repeat("x", 2*maxSaid), strings.Repeat("policy 0 x\n", 2*maxSaidLines)} {
		_, err := listen(bad)
		require.Error(t, err, "%.20q", bad)
	}
}

func FuzzListenTo(f *testing.F) {
	f.Add("unfit 0 space 7 KiB are free in /\npolicy 0 access=yes\nready 1\n")
	f.Add("unfit 0 exec 126 /a/x\npolicy 0 enforce=1\nready 1\n")
	f.Add("unfit 1 unsafe everybody\nunfit 0 exec 2 x\nnone\n")
	f.Fuzz(func(t *testing.T, said string) {
		if strings.Contains(said, "126") && strings.Contains(said, "none") { // then it asks the target why
			return
		}
		k := &check{run: &run{}, bases: []string{"/a", "/b"}, dir: -1}
		err := k.listenTo(context.Background(), bufio.NewReaderSize(strings.NewReader(said), maxSaid))
		require.True(t, k.dir >= -1 && k.dir < 2)
		if k.dir >= 0 {
			require.NoError(t, err)
		}
		require.False(t, errors.Is(err, context.Canceled))
	})
}
