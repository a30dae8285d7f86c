package redfish_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
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

// A task of an earlier update that waits for the host keeps the management processor from
// nothing, and the same component out.
func TestQueueThatWaitsForTheHost(t *testing.T) {
	t.Parallel()
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	res, err := try(t, srv, "5", quick(), byHost(srv, "100.1"))
	require.NoError(t, err)
	require.Equal(t, transport.VerdictStaged, res.Verdict)
	res, err = try(t, srv, "4", quick(), nil)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	_, err = try(t, srv, "5", quick(), byHost(srv, "100.2"))
	require.ErrorIs(t, err, transport.ErrBusy)
	require.ErrorContains(t, err, "restart the host")
	opts := quick()
	opts.Way = redfish.WayQueue // behind what waits, it would wait, too
	_, err = try(t, srv, "2", opts, nil)
	require.ErrorIs(t, err, transport.ErrBusy)
	require.Len(t, srv.Queue(), 1)
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
		require.NotContains(t, string(r.last().Data), `"own"`, "a component of that name is somebody else's from now on")

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

// A manager that dies when its component is sent, and not listed yet: whoever undoes that,
// or goes on, waits until it is.
func TestQueueOfUploadThatArrivesLater(t *testing.T) {
	for _, undo := range []bool{true, false} {
		srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
		hold := srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Writing"})
		opts := quick()
		opts.Way = redfish.WayQueue
		fw := srv.Firmware("4")
		p := transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("image.bin", "100.1", 10_000)}}
		uo := transport.UpdateOptions{Devices: []string{deviceOf(t, srv, "4")}}
		var r recorder
		first := uo
		first.Checkpoint = r.keep
		dying := dial(t, endpointOf(srv, opts))
		done := make(chan error, 1)
		go func() {
			_, err := transport.Update(t.Context(), dying, p, first)
			done <- err
		}()
		require.NoError(t, srv.Await(t.Context(), func() bool { return srv.State() == "Writing" && hold.Hits() > 0 }))
		require.NoError(t, dying.Close(t.Context()))
		require.ErrorIs(t, <-done, transport.ErrClosed)
		require.Empty(t, srv.Components())

		conn := dial(t, endpointOf(srv, opts))
		looks := func() (n int) {
			for _, q := range srv.Requests() {
				if q.Method == "GET" && strings.TrimSuffix(strings.ToLower(q.Path), "/") == "/redfish/v1/updateservice" {
					n++
				}
			}
			return n
		}
		before, looked := looks(), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(looked)
			_ = srv.Await(ctx, func() bool { return looks() > before+3 })
			hold.Remove()
		}()
		if undo {
			require.NoError(t, transport.Undo(t.Context(), conn, r.last()))
		} else {
			state := r.last()
			uo.Resume = &state
			res, err := transport.Update(t.Context(), conn, p, uo)
			require.NoError(t, err)
			require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
		}
		cancel()
		<-looked
		require.NoError(t, srv.Idle(t.Context()))
		require.Empty(t, srv.Components())
		require.Empty(t, srv.Queue())
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

// A manager that dies with the request for the task: where somebody has taken the task out
// of the queue since, nobody can tell that it never was there, and nothing is written twice.
func TestQueueIsEmptied(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   redfishtest.Config
		id    string
		state string // that the update service is in later
	}{
		"its state tells of it":             {redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true}, "2", ""},
		"it may have been reset":            {redfishtest.Config{Profile: redfishtest.ILO5}, "2", ""},
		"it has forgotten all, by a reset":  {redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true}, "2", "Idle"},
		"its state is that of the upload":   {redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true}, "2", "unmarked"},
		"the task was one of the host's":    {redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true}, "5", ""},
		"another task holds that component": {redfishtest.Config{Profile: redfishtest.ILO5, LastResetTime: true}, "2", "same"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, c.cfg)
			if c.state == "unmarked" {
				hidden := srv.Inject(redfishtest.Fault{Kind: redfishtest.MarkHidden})
				defer func() { require.Positive(t, hidden.Hits()) }()
			}
			died := errors.New("the manager died")
			opts := hasty()
			opts.Way, opts.IgnoreQueue = redfish.WayQueue, true
			var r recorder
			change := func(p *transport.Payload, o *transport.UpdateOptions) {
				if c.id == "5" {
					byHost(srv, "100.1")(p, o)
				}
			}
			never := c.state == "same" // the request has not arrived at all
			if never {
				srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "POST", Path: queuePath, Status: 500, Times: 1})
			}
			_, err := try(t, srv, c.id, opts, func(p *transport.Payload, o *transport.UpdateOptions) {
				change(p, o)
				o.Checkpoint = func(ctx context.Context, s transport.State) error {
					if s.Phase == "wait" {
						return died
					}
					return r.keep(ctx, s)
				}
			})
			if never {
				require.NoError(t, err)
				srv.Enqueue(redfishtest.QueueItem{Name: "a name that it gives", Filename: "image.bin", State: "Exception"})
			} else {
				require.ErrorIs(t, err, died)
			}
			require.NoError(t, srv.Idle(t.Context()))
			flashes := len(srv.Flashes())
			require.Equal(t, !never && c.id != "5", flashes == 1)
			if !never {
				emptyQueue(t, srv)
			}
			if c.state == "Idle" {
				require.NoError(t, srv.Reset(t.Context()))
			}
			res, err := try(t, srv, c.id, opts, func(p *transport.Payload, o *transport.UpdateOptions) {
				change(p, o)
				o.Resume, o.Checkpoint = r.sent(t), r.keep
			})
			require.NoError(t, err)
			require.Equal(t, transport.VerdictUnknown, res.Verdict, "%+v", res)
			require.Contains(t, res.Text, "whether the request arrived is not known")
			require.NoError(t, srv.Idle(t.Context()))
			require.Len(t, srv.Flashes(), flashes)
			require.Equal(t, 1, srv.Count("POST", queuePath))
		})
	}
}

// What cannot be taken back keeps nothing else from it: a task that is being carried out not
// the install set, and a refusal not the subscription.
func TestUndoGoesOn(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	hold := srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
	died := errors.New("the manager died")
	opts := quick()
	opts.Way = redfish.WayInstallSet
	var r recorder
	_, err := try(t, srv, "4", opts, func(_ *transport.Payload, o *transport.UpdateOptions) {
		o.Checkpoint = func(ctx context.Context, s transport.State) error {
			if s.Phase == "wait" {
				return died
			}
			return r.keep(ctx, s)
		}
	})
	require.ErrorIs(t, err, died)
	require.NoError(t, srv.Await(t.Context(), func() bool { return hold.Hits() > 0 }))
	require.Len(t, srv.InstallSets(), 1)
	conn := dial(t, endpointOf(srv, opts))
	require.ErrorIs(t, transport.Undo(t.Context(), conn, r.last()), transport.ErrBusy)
	require.Empty(t, srv.InstallSets())
	require.Len(t, srv.Queue(), 1)
	hold.Remove()
	require.NoError(t, srv.Idle(t.Context()))
	require.NoError(t, transport.Undo(t.Context(), conn, r.last()))
	require.Empty(t, srv.Queue())
	require.Empty(t, srv.Components())

	w := newWatched(t, redfishtest.Config{PushTargets: true}, "NIC", redfish.WayHTTPPush)
	w.opts.Events = redfish.EventsAlways
	_, err = w.run(t, t.Context())
	require.NoError(t, err)
	state := w.subscribed(t)
	for _, s := range w.states.states {
		if strings.Contains(string(s.Data), `"aimed":true`) {
			state = &s
		}
	}
	var left struct {
		Events  string
		Targets []string
	}
	require.NoError(t, json.Unmarshal(state.Data, &left))
	require.NotEmpty(t, left.Events)
	w.srv.SetPushTargets(left.Targets, true)
	subscribeTo(t, w.srv, w.box.srv.URL+"/", left.Events)
	w.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "PATCH", Status: 403})
	require.Equal(t, transport.Code{Space: "http", Value: "403"}, transport.CodeOf(transport.Undo(t.Context(), dial(t, endpointOf(w.srv, w.opts)), *state)))
	w.clean(t)
}

const queuePath = "/redfish/v1/UpdateService/UpdateTaskQueue"

// emptyQueue removes the tasks of the queue, as others do by hand.
func emptyQueue(t testing.TB, srv *redfishtest.Server) {
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	ask := func(method, path string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL()+path, nil)
		require.NoError(t, err)
		req.SetBasicAuth(srv.User(), srv.Password())
		resp, err := c.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return b
	}
	var list struct {
		Members []struct {
			ID string `json:"@odata.id"`
		}
	}
	require.NoError(t, json.Unmarshal(ask(http.MethodGet, queuePath+"/"), &list))
	require.NotEmpty(t, list.Members)
	for _, m := range list.Members {
		ask(http.MethodDelete, m.ID)
	}
	require.Empty(t, srv.Queue())
}
