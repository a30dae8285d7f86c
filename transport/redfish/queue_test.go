package redfish_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// byHost makes the payload of try a package for the RAID controller, which the firmware of
// the host applies.
func byHost(srv *redfishtest.Server, version string) func(*transport.Payload, *transport.UpdateOptions) {
	return func(p *transport.Payload, _ *transport.UpdateOptions) {
		p.Version, p.Files = version, []transport.File{srv.Firmware("5").Package("raid.fwpkg", version, 10_000)}
	}
}

// What the management processor cannot write waits in its queue for the next start of the
// host; what is over there is removed, by whoever comes next at the latest.
func TestQueueOfTheHost(t *testing.T) {
	for _, p := range []redfishtest.Profile{redfishtest.ILO5, redfishtest.ILO7} {
		srv := simulator(t, redfishtest.Config{Profile: p})
		for _, version := range []string{"100.1", "100.2"} {
			opts := quick()
			opts.IgnoreQueue = p == redfishtest.ILO7 // which leaves tasks there as Pending
			if version == "100.2" && p == redfishtest.ILO7 {
				break
			}
			res, err := try(t, srv, "5", opts, byHost(srv, version))
			require.NoError(t, err)
			require.Equal(t, transport.VerdictStaged, res.Verdict, "%+v", res)
			require.Equal(t, transport.ActivationReboot, res.Activation)
			require.Contains(t, res.Text, "waits in the update queue")
			require.Len(t, srv.Queue(), 1)
			require.Equal(t, []string{"Uefi"}, srv.Queue()[0].UpdatableBy)
			require.NoError(t, transport.Reboot(t.Context(), dial(t, endpointOf(srv, opts)), transport.RebootOptions{}))
			require.NoError(t, srv.Await(t.Context(), func() bool { return srv.Firmware("5").Version == version }))
			require.NoError(t, srv.Idle(t.Context()))
		}
	}
}

// The queue is left as it was: when the update is over, has failed, or is given up, and by
// Undo after a manager that died.
func TestQueueIsLeftClean(t *testing.T) {
	clean := func(srv *redfishtest.Server) {
		require.Empty(t, srv.Queue())
		require.Empty(t, srv.InstallSets())
		require.Empty(t, srv.Components())
	}
	for _, way := range []redfish.Way{redfish.WayQueue, redfish.WayInstallSet} {
		opts := quick()
		opts.Way = way
		srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
		res, err := try(t, srv, "4", opts, nil)
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		clean(srv)

		f := srv.Inject(redfishtest.Fault{Kind: redfishtest.QueueItemFails, Times: 1})
		res, err = try(t, srv, "2", opts, nil)
		require.NoError(t, err)
		require.Equal(t, 1, f.Hits())
		require.Equal(t, transport.VerdictFailed, res.Verdict)
		require.Contains(t, res.Code.Value, "FirmwareFlashFailed")
		clean(srv)

		// Given up before it begins: the BMC has something else to do first.
		srv.Enqueue(redfishtest.QueueItem{Name: "another's", Command: "Wait", State: "InProgress"})
		ctx, cancel := context.WithCancel(t.Context())
		var r recorder
		ignoring := opts
		ignoring.IgnoreQueue = true
		fw := srv.Firmware("2")
		p := transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("rom.bin", "100.1", 10_000)}}
		conn := dial(t, endpointOf(srv, ignoring))
		done := make(chan error, 1)
		go func() {
			_, err := transport.Update(ctx, conn, p, transport.UpdateOptions{Checkpoint: r.keep, Devices: []string{"System ROM @ System Board"}})
			done <- err
		}()
		require.NoError(t, srv.Await(t.Context(), func() bool { return len(srv.Queue()) == 2 }))
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Len(t, srv.Queue(), 1)
		require.Empty(t, srv.Components())
		require.Empty(t, srv.InstallSets())
		require.Equal(t, "begin", r.last().Phase)

		// A manager that dies when the task is there.
		died := errors.New("the manager died")
		_, err = transport.Update(t.Context(), conn, p, transport.UpdateOptions{Devices: []string{"System ROM @ System Board"}, Checkpoint: func(ctx context.Context, s transport.State) error {
			if s.Phase == "wait" {
				return died
			}
			return r.keep(ctx, s)
		}})
		require.ErrorIs(t, err, died)
		require.Len(t, srv.Queue(), 2)
		require.Len(t, srv.Components(), 1)
		require.NoError(t, transport.Undo(t.Context(), conn, r.last()))
		require.Len(t, srv.Queue(), 1)
		require.Empty(t, srv.Components())
		require.Empty(t, srv.InstallSets())
		require.Len(t, srv.Flashes(), 1)
	}
}

// A component that was there before stays, and the recovery set is for those who ask.
func TestRepository(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5, Accounts: []redfishtest.Account{{User: "op", Password: "pw", Role: redfishtest.NoRecovery}}})
	opts := quick()
	opts.Way = redfish.WayQueue
	opts.RecoverySet = true
	res, err := try(t, srv, "4", opts, nil)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Equal(t, []string{"image.bin"}, srv.Components())
	opts.RecoverySet = false
	res, err = try(t, srv, "2", opts, nil)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictStaged, res.Verdict)
	require.Equal(t, []string{"image.bin"}, srv.Components(), "it was there before")

	ep := endpointOf(srv, redfish.Options{RecoverySet: true})
	ep.Credentials = transport.Credentials{User: "op", Password: transport.NewSecret("pw")}
	fw := srv.Firmware("1")
	res, err = transport.Update(t.Context(), dial(t, ep), transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("ilo.bin", "100.1", 10_000)}}, transport.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictFailed, res.Verdict)
	require.Contains(t, res.Text, "privilege")
}

// A task that does not begin ends the update, and is taken out.
func TestQueueThatIsStuck(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	srv.Enqueue(redfishtest.QueueItem{Name: "another's", State: "Exception"})
	opts := quick()
	opts.Way, opts.UpdateStall, opts.IgnoreQueue = redfish.WayQueue, 200*time.Millisecond, true
	_, err := try(t, srv, "4", opts, nil)
	require.ErrorIs(t, err, transport.ErrTimeout)
	require.Len(t, srv.Queue(), 1)
	require.Empty(t, srv.Components())
	require.Empty(t, srv.Flashes())
}
