package smb

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// hung is a client whose host does not answer.
type hung struct{ gives chan struct{} }

func (h hung) mount(string) (volume, error) {
	<-h.gives
	return nil, errors.New("the network path was not found")
}

func (hung) hangUp(error)  {}
func (hung) logoff() error { return nil }

// What waits for a host that does not answer ends with its context all the same.
func TestMountHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hung{gives: make(chan struct{})}
		c := newConn("db1", Options{}, h, nil)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errConnect)
		defer cancel()
		require.ErrorIs(t, c.mount(ctx), errConnect)
		close(h.gives)
		require.ErrorContains(t, c.mount(t.Context()), "network path")
		require.NoError(t, c.Close(t.Context()))
		require.ErrorIs(t, c.mount(t.Context()), transport.ErrClosed)
	})
}

func (h hung) openPipe(string) (stream, error) {
	<-h.gives
	return nil, errors.New("no pipe")
}

// nothing is a share without files.
type nothing struct{ volume }

func (nothing) stat(string) (os.FileInfo, error) { return nil, nil }
func (nothing) open(name string) (file, error)   { return nil, fs.ErrNotExist }
func (nothing) close() error                     { return nil }

// A service that does not answer does not keep an inventory from ending.
func TestInventoryHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hung{gives: make(chan struct{})}
		c := newConn("db1", Options{WMI: true}, h, nothing{})
		inv, err := c.Inventory(t.Context())
		require.ErrorIs(t, err, errors.ErrUnsupported, "there is no account for WMI")
		require.Len(t, inv.Problems, 1)
		require.Equal(t, "programs", inv.Problems[0].Part)
		require.Contains(t, inv.Problems[0].Text, transport.ErrTimeout.Error())
		close(h.gives)
		require.NoError(t, c.Close(t.Context()))
	})
}

func TestImpersonates(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"winreg", "WinReg", "initshutdown"} {
		require.True(t, impersonates(name), name)
	}
	for _, name := range []string{"svcctl", "srvsvc", `roundsman\agent`} {
		require.False(t, impersonates(name), name)
	}
}
