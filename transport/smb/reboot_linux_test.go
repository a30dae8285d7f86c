package smb_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/rsp/initshutdown/v1"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// initShutdown is the pipe InitShutdown.
type initShutdown struct {
	initshutdown.UnimplementedInitShutdownServer
	code  uint32
	asked func(*initshutdown.BaseInitiateShutdownExRequest)
}

func (s *initShutdown) BaseInitiateShutdownEx(_ context.Context, r *initshutdown.BaseInitiateShutdownExRequest) (*initshutdown.BaseInitiateShutdownExResponse, error) {
	if s.code == 0 {
		s.asked(r)
	}
	return &initshutdown.BaseInitiateShutdownExResponse{Return: s.code}, nil
}

func (s *initShutdown) serve(t *testing.T, srv *smbtest.Server) {
	l, err := srv.Listen("InitShutdown")
	require.NoError(t, err)
	rpc := &rpcServer{ifaces: map[[16]byte]dcerpc.ServerHandle{
		syntax(initshutdown.InitShutdownSyntaxV1_0): initshutdown.NewInitShutdownServerHandle(s)}}
	rpc.serveOn(t, l)
}

// boots gives a server a boot, and another one when it is asked to reboot.
func boots(t *testing.T, srv *smbtest.Server) {
	stat := filepath.Join(srv.Admin(), "bootstat.dat")
	require.NoError(t, os.WriteFile(stat, nil, 0o600))
	booted := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, os.Chtimes(stat, booted, booted))
	(&initShutdown{asked: func(*initshutdown.BaseInitiateShutdownExRequest) {
		booted = booted.Add(time.Hour)
		_ = os.Chtimes(stat, booted, booted)
	}}).serve(t, srv)
}

func TestReboot(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	asked := make(chan *initshutdown.BaseInitiateShutdownExRequest, 1)
	shutdown := &initShutdown{asked: func(r *initshutdown.BaseInitiateShutdownExRequest) { asked <- r }}
	shutdown.serve(t, srv)
	conn := dial(t, endpoint(srv))
	require.True(t, conn.Caps().Has(transport.CapReboot))
	const message = "再起動します 😀"
	require.NoError(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{Message: message, Delay: 90*time.Second + 1}))
	r := <-asked
	require.EqualValues(t, 91, r.Timeout)
	require.EqualValues(t, 1, r.RebootAfterShutdown)
	require.EqualValues(t, 1, r.ForceAppsClosed, "a program that waits for somebody would keep the host from it")
	require.NotZero(t, r.Reason>>31, "planned")
	require.Equal(t, message+"\x00", string(utf16.Decode(r.Message.Buffer)))
	require.EqualValues(t, 2*len(r.Message.Buffer), r.Message.Length)
	require.NoError(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{}))
	r = <-asked
	require.Zero(t, r.Timeout)
	require.Nil(t, r.Message)

	for _, opts := range []transport.RebootOptions{{Delay: -1}, {Delay: 100 * 365 * 24 * time.Hour}, {Message: strings.Repeat("x", 3073)}, {Message: "a\x00b"}} {
		require.ErrorIs(t, transport.Reboot(t.Context(), conn, opts), transport.ErrInvalid)
	}
	shutdown.code = 5
	err := transport.Reboot(t.Context(), conn, transport.RebootOptions{})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "SeRemoteShutdownPrivilege")
	shutdown.code = 1115
	require.ErrorIs(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{}), transport.ErrBusy)
	require.Empty(t, asked)
}
