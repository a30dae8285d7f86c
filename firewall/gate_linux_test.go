package firewall

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOldKernel: one without tables that have owners is told from other errors.
func TestOldKernel(t *testing.T) {
	for _, errno := range []error{unix.EINVAL, unix.EOPNOTSUPP} {
		err := wrap("allow", nil, ownerError("t", errno))
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorIs(t, err, errno)
		require.ErrorContains(t, err, "Linux 5.12")
	}
	require.NotErrorIs(t, ownerError("t", unix.ENOBUFS), errors.ErrUnsupported)
	require.NoError(t, ownerError("t", nil))
	require.ErrorIs(t, asSystem(unix.EPROTONOSUPPORT, nil), errors.ErrUnsupported, "no nftables at all")
}

func TestNoRights(t *testing.T) {
	err := wrap("open", nil, asSystem(unix.EPERM, nil))
	require.ErrorIs(t, err, ErrPermission)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorContains(t, err, "(run as root)", "one capability does not do: files in /proc and /run are root's")
	require.Equal(t, unix.EIO, asSystem(unix.EIO, nil))
}

func TestOwner(t *testing.T) {
	o, err := self("a.b_c")
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), o.PID)
	require.Regexp(t, `^[0-9]+\.[0-9a-f]{8}-`, o.Start)
	again, ok := parseOwner(o.String())
	require.True(t, ok)
	require.Equal(t, o, again)
	for _, bad := range []string{"", "a-b", "a-b-c", "a-0-c", "a-1-", "a b-1-c"} {
		_, ok := parseOwner(bad)
		require.False(t, ok, bad)
	}
	long := Owner{Run: "12345678901234567890123456789012", PID: 4194304, Start: "1234567890." + "01234567-0123-0123-0123-0123456789ab"}
	require.Less(t, len(gatePrefix+long.String()), 128, "nft takes no longer comment")
}

// TestOwnerUnknown: rules of firewalld do not say whose they were.
func TestOwnerUnknown(t *testing.T) {
	require.Equal(t, "unknown", Owner{}.String())
	require.Equal(t, "unknown", leftover(Firewalld, "rule", "").Owner.String())
	o := Owner{Run: "r", PID: 7, Start: "8.x"}
	require.Equal(t, "r-7-8.x", o.String())
}
