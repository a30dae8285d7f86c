package smb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

var setup = transport.ServiceConfig{Name: "roundsman-setup", DisplayName: "Setup", Argv: []string{`C:\Windows\Temp\a b.exe`, "serve", "-name", `say "hi"`}}

// What a service is started as, and what starting it may end with.
func TestServices(t *testing.T) {
	t.Parallel()
	began := make(chan []string, 10)
	services := &smbtest.Services{Run: func(_ string, argv []string) (func(), error) {
		began <- argv
		return nil, nil
	}}
	srv := serve(t, smbtest.Config{Services: services})
	ep := endpoint(srv)
	ep.Options = smb.Options{StopTimeout: 200 * time.Millisecond}
	conn := dial(t, ep)
	ctx := t.Context()
	require.NoError(t, transport.CreateService(ctx, conn, setup))
	require.NoError(t, transport.StartService(ctx, conn, setup.Name, "one", "two words"))
	require.Equal(t, setup.Argv, <-began)
	svc, ok := services.Lookup(setup.Name)
	require.True(t, ok)
	require.Equal(t, `"C:\Windows\Temp\a b.exe" serve -name "say \"hi\""`, svc.Command)
	require.Empty(t, svc.Account, "LocalSystem")
	require.True(t, slices.Contains(svc.Args, "two words"))
	st, err := transport.QueryService(ctx, conn, setup.Name)
	require.NoError(t, err)
	require.Equal(t, transport.ServiceStatus{State: transport.ServiceRunning, PID: svc.PID}, st)

	code := func(err error, kind error, value string) {
		t.Helper()
		require.ErrorIs(t, err, kind)
		require.Equal(t, transport.Code{Space: "win32", Value: value}, transport.CodeOf(err))
		require.Greater(t, len(err.Error()), 40+len(setup.Name), "it says what it means")
	}
	code(transport.StartService(ctx, conn, setup.Name), transport.ErrBusy, "1056")
	code(transport.CreateService(ctx, conn, setup), fs.ErrExist, "1073")
	services.SetFaults(smbtest.Faults{HoldStop: true})
	err = transport.StopService(ctx, conn, setup.Name)
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.ErrorContains(t, err, "stopping")
	services.SetFaults(smbtest.Faults{})
	require.NoError(t, transport.StopService(ctx, conn, setup.Name))
	require.NoError(t, transport.StopService(ctx, conn, setup.Name), "it has stopped already")

	services.SetFaults(smbtest.Faults{StartError: smbtest.ErrStartTimeout})
	code(transport.StartService(ctx, conn, setup.Name), transport.ErrTimeout, "1053")
	for refusal, says := range map[smbtest.Win32]string{ // of scanners, policies and the like
		225: "virus scanner", 226: "virus scanner", 577: "signatures", 740: "LocalSystem", 1260: "AppLocker", 4550: "WDAC", 4551: "WDAC",
	} {
		services.SetFaults(smbtest.Faults{StartError: refusal})
		err := transport.StartService(ctx, conn, setup.Name)
		code(err, transport.ErrRejected, fmt.Sprint(uint32(refusal)))
		require.ErrorContains(t, err, says)
		require.False(t, transport.Temporary(err))
	}
	services.SetFaults(smbtest.Faults{StartError: 5})
	err = transport.StartService(ctx, conn, setup.Name)
	code(err, fs.ErrPermission, "5")
	require.ErrorContains(t, err, "security software")
	require.NotContains(t, err.Error(), "LocalAccountTokenFilterPolicy", "the right to start it was there")
	services.SetFaults(smbtest.Faults{ExitCode: smbtest.ErrProcessAborted})
	require.NoError(t, transport.StartService(ctx, conn, setup.Name))
	st, err = transport.QueryService(ctx, conn, setup.Name)
	require.NoError(t, err)
	require.Equal(t, transport.ServiceStatus{State: transport.ServiceStopped, Exit: transport.Code{Space: "win32", Value: "1067"}}, st)

	services.SetFaults(smbtest.Faults{CreateDenied: true})
	other := setup
	other.Name = "roundsman-other"
	err = transport.CreateService(ctx, conn, other)
	code(err, fs.ErrPermission, "5")
	require.ErrorContains(t, err, "LocalAccountTokenFilterPolicy")
	services.SetFaults(smbtest.Faults{Denied: true})
	code(transport.StartService(ctx, conn, setup.Name), fs.ErrPermission, "5")
	_, err = transport.QueryService(ctx, conn, setup.Name)
	code(err, fs.ErrPermission, "5")
	services.SetFaults(smbtest.Faults{})

	require.NoError(t, transport.DeleteService(ctx, conn, setup.Name))
	require.Empty(t, services.List())
	_, err = transport.QueryService(ctx, conn, setup.Name)
	code(err, fs.ErrNotExist, "1060")
	for _, bad := range []string{"", `a\b`, "a/b"} {
		require.ErrorIs(t, transport.DeleteService(ctx, conn, bad), transport.ErrInvalid, bad)
	}
	for _, bad := range []string{"a b", "a,b"} { // there are such, but nobody may make one
		other.Name = bad
		require.ErrorIs(t, transport.CreateService(ctx, conn, other), transport.ErrInvalid, bad)
		require.ErrorIs(t, transport.DeleteService(ctx, conn, bad), fs.ErrNotExist, bad)
	}
	other.Name, other.Argv = "roundsman-other", []string{"x", "%TEMP%"}
	require.ErrorIs(t, transport.CreateService(ctx, conn, other), transport.ErrInvalid, "it would be expanded")
	require.Eventually(t, func() bool { return services.Handles() == 0 }, 10*time.Second, 10*time.Millisecond)
}

// A service that others have open goes when they close it, and until then nobody can
// make another one of its name.
func TestServiceMarkedForDeletion(t *testing.T) {
	t.Parallel()
	services := new(smbtest.Services)
	srv := serve(t, smbtest.Config{Services: services})
	conn := dial(t, endpoint(srv))
	ctx := t.Context()
	require.NoError(t, transport.CreateService(ctx, conn, setup))
	require.NoError(t, transport.StartService(ctx, conn, setup.Name))
	require.NoError(t, transport.DeleteService(ctx, conn, setup.Name), "it goes when it stops")
	require.NoError(t, transport.DeleteService(ctx, conn, setup.Name), "as was asked")
	err := transport.CreateService(ctx, conn, setup)
	require.ErrorIs(t, err, transport.ErrBusy)
	require.Equal(t, "1072", transport.CodeOf(err).Value)
	require.NoError(t, transport.StopService(ctx, conn, setup.Name))
	require.Eventually(t, func() bool { return len(services.List()) == 0 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, transport.CreateService(ctx, conn, setup))
}

// A call that is given up leaves no handle, which would keep a service alive.
func TestServiceCallGivenUp(t *testing.T) {
	t.Parallel()
	services := new(smbtest.Services)
	srv := serve(t, smbtest.Config{Services: services})
	conn := dial(t, endpoint(srv))
	require.NoError(t, transport.CreateService(t.Context(), conn, setup))
	require.NoError(t, transport.StartService(t.Context(), conn, setup.Name))
	services.SetFaults(smbtest.Faults{HoldStop: true})
	ended, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := transport.StopService(ended, conn, setup.Name)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, errors.Is(err, transport.ErrConnLost))
	require.Eventually(t, func() bool { return services.Handles() == 0 }, 10*time.Second, 10*time.Millisecond)
	_, err = transport.QueryService(t.Context(), conn, setup.Name)
	require.NoError(t, err, "the connection is well")
}
