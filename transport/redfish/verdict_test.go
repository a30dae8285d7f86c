package redfish_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// What is written and waits says what for: the reboot of the host, or the power cycle
// that no reboot stands in for; by what the part is, what the package says, or the target.
func TestStaged(t *testing.T) {
	const reboot, cycle = transport.ActivationReboot, transport.ActivationPowerCycle
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		faults  []redfishtest.FaultKind
		want    transport.Activation
	}{
		{redfishtest.ILO5, "2", nil, reboot},
		{redfishtest.ILO5, "3", nil, cycle},
		// They list at once what does not run yet, and say so.
		{redfishtest.ILO5, "6", []redfishtest.FaultKind{redfishtest.ListsAtOnce, redfishtest.ResetRequired}, reboot},
		{redfishtest.Generic, "BIOS", []redfishtest.FaultKind{redfishtest.ListsAtOnce, redfishtest.ResetRequired}, reboot},
		{redfishtest.Generic, "PSU", []redfishtest.FaultKind{redfishtest.ListsAtOnce, redfishtest.ResetRequired}, cycle},
		{redfishtest.Generic, "PSU", []redfishtest.FaultKind{redfishtest.ResetRequired}, cycle},
		// By the flags of an iLO 4.
		{redfishtest.ILO4, "2", nil, reboot},
		{redfishtest.ILO4, "6", nil, reboot},
		{redfishtest.ILO4, "3", nil, cycle},
	} {
		t.Run(string(c.profile)+"/"+c.id, func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: c.profile})
			for _, k := range c.faults {
				f := srv.Inject(redfishtest.Fault{Kind: k})
				defer func() { require.Positive(t, f.Hits()) }()
			}
			res, err := try(t, srv, c.id, redfish.Options{}, nil)
			require.NoError(t, err)
			require.Equal(t, transport.VerdictStaged, res.Verdict, "%+v", res)
			require.Equal(t, c.want, res.Activation)
		})
	}
}

// Whoever writes a version again gets no proof by the version: the target must have shown
// that it did something.
func TestRewriteWithoutASign(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Version"] = "2.00" })
	taken := s.pusher(0)
	for _, name := range []string{"BMC Firmware", "Adapter"} {
		s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Name"] = name })
		s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Id"], o["@odata.id"] = "X", inventoryPath+"/BMC" })
		ep := s.endpoint()
		ep.Options = hasty()
		p := image("2.00")
		p.Name = name
		res, err := transport.Update(t.Context(), dial(t, ep), p, transport.UpdateOptions{Rewrite: true})
		require.NoError(t, err)
		require.Equal(t, transport.VerdictUnknown, res.Verdict)
		require.Contains(t, res.Text, "no sign of an update")
	}
	require.Equal(t, 2, *taken)
	// A reset is one.
	s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Name"] = "BMC Firmware" })
	s.handle("POST /push", func(_ http.ResponseWriter, r *http.Request) {
		drain(r.Body)
		s.forget()
	})
	p := image("2.00")
	p.Name = "BMC Firmware"
	res, err := transport.Update(t.Context(), dial(t, s.endpoint()), p, transport.UpdateOptions{Rewrite: true})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
}

// A task that is interrupted goes on; one that ends with a warning is judged by the version,
// but on an RMC, where it has failed.
func TestTaskStates(t *testing.T) {
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		fault   redfishtest.FaultKind
		times   int
		want    transport.Verdict
	}{
		{redfishtest.Generic, "NIC", redfishtest.TaskInterrupted, 2, transport.VerdictApplied},
		{redfishtest.Generic, "NIC", redfishtest.TaskWarning, 0, transport.VerdictApplied},
		{redfishtest.Generic, "NIC", redfishtest.TaskCritical, 0, transport.VerdictFailed},
		{redfishtest.RMC, "RMC", redfishtest.TaskWarning, 0, transport.VerdictFailed},
	} {
		t.Run(string(c.profile)+"/"+string(c.fault), func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: c.profile, Pace: 20 * time.Millisecond})
			f := srv.Inject(redfishtest.Fault{Kind: c.fault, Times: c.times})
			res, err := try(t, srv, c.id, redfish.Options{}, nil)
			require.NoError(t, err)
			require.Equal(t, c.want, res.Verdict, "%+v", res)
			require.Positive(t, f.Hits())
		})
	}
}

// The number of a task that a reset has ended is another one's afterwards.
func TestTaskOfAnother(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Pace: 50 * time.Millisecond})
	device := deviceOf(t, srv, "BMC")
	f := srv.Inject(redfishtest.Fault{Kind: redfishtest.TaskNumbersReused})
	hold := srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Complete"})
	var r recorder
	done := make(chan error, 1)
	var res transport.Result
	go func() {
		var err error
		res, err = try(t, srv, "BMC", quick(), func(_ *transport.Payload, o *transport.UpdateOptions) {
			o.Devices, o.Checkpoint = []string{device}, r.keep
		})
		done <- err
	}()
	require.Eventually(t, func() bool { return hold.Hits() > 0 }, 20*time.Second, time.Millisecond)
	hold.Remove()
	require.NoError(t, <-done)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.NoError(t, srv.Idle(t.Context()))
	require.Positive(t, f.Hits())
	// Another's, with its number, fails. Whoever follows ours later does not mind.
	srv.Advance(2 * time.Second) // times are told in seconds
	srv.Inject(redfishtest.Fault{Kind: redfishtest.FlashFails})
	other, err := try(t, srv, "NIC", quick(), nil)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictFailed, other.Verdict)
	last := r.last()
	res, err = try(t, srv, "BMC", quick(), func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices, o.Resume = []string{device}, &last })
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
}

// A target that answers, but not what is asked, ends an update: nobody who asks again
// would learn more.
func TestEndsWhereTheTargetAnswers(t *testing.T) {
	opts := hasty()
	opts.ResetTimeout = 50 * time.Millisecond
	srv := simulator(t, redfishtest.Config{})
	f := srv.Inject(redfishtest.Fault{Kind: redfishtest.RenamesEntry})
	res, err := try(t, srv, "NIC", opts, nil)
	require.NoError(t, err)
	require.Positive(t, f.Hits())
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.Contains(t, res.Text, "any more")
	require.NotContains(t, res.Text, "nothing but errors", "it has answered well")

	s := newService(t, nil)
	s.pusher(0)
	ep := s.endpoint()
	ep.Options = opts
	conn := dial(t, ep)
	reads := 0
	s.handle("GET "+inventoryPath, func(w http.ResponseWriter, _ *http.Request) {
		if reads++; reads > 1 {
			fault(w, http.StatusForbidden, "Base.1.4.InsufficientPrivilege")
			return
		}
		_, _ = w.Write([]byte(`{"Members":[{"@odata.id":"` + inventoryPath + `/BMC"}]}`))
	})
	res, err = transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.Contains(t, res.Text, "InsufficientPrivilege")
	require.Equal(t, "Base.1.4.InsufficientPrivilege", res.Code.Value)
}
