package redfish_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// A reboot is asked for as the service allows it, and what it cannot do is refused.
func TestReboot(t *testing.T) {
	const system, action = "/redfish/v1/Systems/1", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"
	s := newService(t, nil)
	var asked []string
	s.handle("POST "+action, func(_ http.ResponseWriter, r *http.Request) {
		var in struct{ ResetType string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		asked = append(asked, in.ResetType)
	})
	reset := func(power string, want string, allowed ...string) error {
		s.edit(system, func(o obj) {
			o["PowerState"] = power
			o["Actions"] = obj{"#ComputerSystem.Reset": obj{"target": action, "ResetType@Redfish.AllowableValues": allowed}}
		})
		ep := s.endpoint()
		opts := quick()
		opts.ResetType = want
		ep.Options = opts
		return transport.Reboot(t.Context(), dial(t, ep), transport.RebootOptions{})
	}
	require.NoError(t, reset("On", "", "ForceRestart", "GracefulRestart"))
	require.NoError(t, reset("On", "", "ForceRestart"))
	require.NoError(t, reset("Off", "", "On", "ForceRestart"))
	require.NoError(t, reset("On", "PowerCycle", "On", "PowerCycle"))
	require.Equal(t, []string{"GracefulRestart", "ForceRestart", "On", "PowerCycle"}, asked)
	err := reset("On", "", "Nmi")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "Nmi")

	// What it allows it may tell elsewhere.
	s.set("/redfish/v1/Systems/1/ResetActionInfo", obj{"Parameters": []obj{{"Name": "ResetType", "AllowableValues": []string{"PushPowerButton", "ForceRestart"}}}})
	s.edit(system, func(o obj) {
		o["Actions"] = obj{"#ComputerSystem.Reset": obj{"target": action, "@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetActionInfo"}}
	})
	conn := dial(t, s.endpoint())
	require.NoError(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{}))
	require.Equal(t, "ForceRestart", asked[4])
	for _, c := range []struct {
		opts transport.RebootOptions
		kind error
		says string
	}{
		{transport.RebootOptions{Message: "再起動します"}, errors.ErrUnsupported, "shows no message"},
		{transport.RebootOptions{Delay: time.Minute}, errors.ErrUnsupported, "at once"},
		{transport.RebootOptions{Delay: -1}, transport.ErrInvalid, "negative"},
	} {
		err := transport.Reboot(t.Context(), conn, c.opts)
		require.ErrorIs(t, err, c.kind)
		require.ErrorContains(t, err, c.says)
	}
	s.collection("/redfish/v1/Systems", system, system)
	require.ErrorIs(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{}), errors.ErrUnsupported, "which of them?")
	require.Len(t, asked, 5)
}

// What is staged takes effect by the restart that it waits for.
func TestRebootActivates(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	for id, kind := range map[string]string{"2": "", "3": "PowerCycle"} {
		res, err := try(t, srv, id, redfish.Options{}, nil)
		require.NoError(t, err)
		require.Equal(t, transport.VerdictStaged, res.Verdict)
		conn := dial(t, endpointOf(srv, redfish.Options{ResetType: kind}))
		require.NoError(t, transport.Reboot(t.Context(), conn, transport.RebootOptions{}))
		require.NoError(t, srv.Await(t.Context(), func() bool { return srv.Firmware(id).Version == "100.1" }))
		require.NoError(t, srv.Idle(t.Context()))
	}
}
