package firewall_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/firewall/firewalltest"
)

// TestGuard: a guardian does nothing when it is told that all is done, and sweeps
// when the process that started it dies: until that is dead indeed.
func TestGuard(t *testing.T) {
	host := firewalltest.NewHost(t)
	owner := firewall.Owner{Run: "night", PID: 7, Start: "133"}
	o := func() firewall.Options {
		return firewall.Options{Driver: host.Driver(), Guardian: []string{"ignored"}}
	}
	require.NoError(t, firewall.Guard(t.Context(), strings.NewReader("night-7-133\r\ndone\r\n"), o()))
	require.Equal(t, []string{"Close"}, host.Calls())
	require.ErrorIs(t, firewall.Guard(t.Context(), strings.NewReader(""), firewall.Options{}), firewall.ErrInvalid)

	host.SetState(firewall.State{Owners: []firewall.Owner{{Run: "night", PID: 8, Start: "133"}, owner}})
	in, end := io.Pipe()
	guarded := make(chan error)
	go func() { guarded <- firewall.Guard(t.Context(), in, o()) }()
	_, err := io.WriteString(end, owner.String()+"\n")
	require.NoError(t, err)
	require.Len(t, host.Calls(), 1, "while it lives")
	require.NoError(t, end.CloseWithError(errors.New("the pipe has been ended")))
	for deadline := time.Now().Add(30 * time.Second); len(host.Calls()) < 5; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline))
	}
	host.SetState(firewall.State{Owners: []firewall.Owner{{Run: "night", PID: 8, Start: "133"}}})
	require.NoError(t, <-guarded)
	calls := host.Calls()
	require.Equal(t, []string{"Sweep", "State", "Sweep", "State"}, calls[1:5])
	require.Equal(t, []string{"Sweep", "State", "Close"}, calls[len(calls)-3:])

	broken := errors.New("broken")
	host.Fail("Sweep", broken)
	require.ErrorIs(t, firewall.Guard(t.Context(), strings.NewReader("night-7-133\n"), o()), broken)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, end = io.Pipe()
	require.ErrorIs(t, firewall.Guard(ctx, in, firewall.Options{}), context.Canceled)
	require.NoError(t, end.Close())
}
