package redfish_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

const eventsPath = "/redfish/v1/EventService/SSE"

// Where the service sends events the driver looks when there are some, and does not wait
// for the time of its next look. A second connection is what that takes.
func TestEvents(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Pace: 20 * time.Millisecond})
	device := deviceOf(t, srv, "NIC")
	opts := quick()
	opts.Connections, opts.PollInterval = 2, time.Hour
	hold := srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
	conn := dial(t, endpointOf(srv, opts))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fw := srv.Firmware("NIC")
		p := transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("nic.bin", "100.1", 10_000)}}
		_, _ = transport.Update(ctx, conn, p, transport.UpdateOptions{Devices: []string{device}})
	}()
	looks := func() int { return srv.Count("GET", "/redfish/v1/TaskService/Tasks/1") }
	require.Eventually(t, func() bool { return srv.Count("GET", eventsPath) == 1 && looks() == 1 }, 20*time.Second, time.Millisecond)
	hold.Remove()
	require.Eventually(t, func() bool { return looks() > 1 }, 20*time.Second, time.Millisecond)
	cancel()
	<-done
}

// Without events, and with one connection, an update is what it was.
func TestNoEvents(t *testing.T) {
	for _, c := range []struct {
		connections int
		fault       redfishtest.FaultKind
	}{{1, redfishtest.EmptyError}, {2, redfishtest.EmptyError}, {2, redfishtest.Unavailable}} {
		srv := simulator(t, redfishtest.Config{})
		device := deviceOf(t, srv, "NIC")
		srv.Inject(redfishtest.Fault{Kind: c.fault, Path: eventsPath})
		opts := quick()
		opts.Connections = c.connections
		res, err := try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices = []string{device} })
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Equal(t, c.connections > 1, srv.Count("GET", eventsPath) > 0)
	}
}

// However much is posted, and by whom, the reads of the version that count are as far apart
// as those without events: what comes and goes meanwhile is outlived.
func TestEventsDoNotHurryTheVerdict(t *testing.T) {
	t.Parallel()
	w := newWatched(t, redfishtest.Config{Pace: time.Millisecond}, "NIC", redfish.WaySimpleUpdate)
	w.opts.PollInterval = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	receive := w.uo.Receive
	w.uo.Receive = func(rctx context.Context, r transport.ReceiveRequest) (transport.Receiving, error) {
		go func() {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-tick.C:
					_ = r.Handle(ctx, strings.NewReader(`{"Events":[{"MessageId":"ResourceEvent.1.0.ResourceChanged"}]}`))
				case <-ctx.Done():
					tick.Stop()
					return
				}
			}
		}()
		return receive(rctx, r)
	}
	var reads atomic.Int32
	w.uo.Progress = func(p transport.Progress) {
		if p.Phase == "verify" {
			if reads.Add(1) == 4 { // three would do
				cancel()
			}
		}
	}
	res, err := w.run(t, ctx)
	require.ErrorIs(t, err, context.Canceled, "%+v", res)
	require.EqualValues(t, 4, reads.Load())
}
