package redfish_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

const tasksPath = "/redfish/v1/TaskService/Tasks"

// A request that may have been lost is made again where the target is known to have no
// trace of it, and never where it only may have none.
func TestAgain(t *testing.T) {
	task := func(id, start, request string) obj {
		o := obj{"@odata.id": tasksPath + "/" + id, "Id": id, "Name": "Task", "TaskState": "Completed", "TaskStatus": "OK", "StartTime": start}
		if request != "" {
			o["Payload"] = obj{"TargetUri": request}
		}
		return o
	}
	const day = "2026-01-01T00:00:00Z"
	for name, c := range map[string]struct {
		request string // that the task of an earlier update names
		since   func(s *service)
		again   bool
	}{
		"nothing new":               {"/push", func(*service) {}, true},
		"no task is of an update":   {"", func(*service) {}, false},
		"a task of another request": {"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", func(*service) {}, false},
		"it was reset": {"/push", func(s *service) {
			s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"] = "2026-01-02T00:00:00Z" })
		}, false},
		"a new task on another page": {"/push", func(s *service) { s.set(tasksPath+"/2", task("2", day, "")); page(s, "2") }, false},
		"a page is missing":          {"/push", func(s *service) { page(s, "") }, false},
		"the old task is gone":       {"/push", func(s *service) { s.collection(tasksPath) }, false},
		"the old task is unreadable": {"/push", func(s *service) { s.set(tasksPath+"/1", nil) }, false},
		"the old task is not told": {"/push", func(s *service) {
			s.handle("GET "+tasksPath+"/1", func(w http.ResponseWriter, _ *http.Request) { fault(w, 500, "Base.1.4.InternalError") })
		}, false},
		"its number is another's": {"/push", func(s *service) { s.set(tasksPath+"/1", task("1", "2026-01-03T00:00:00Z", "/push")) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			s.edit("/redfish/v1", func(o obj) { o["TaskService"] = ref("/redfish/v1/TaskService") })
			s.set("/redfish/v1/TaskService", obj{"Tasks": ref(tasksPath)})
			s.collection(tasksPath, tasksPath+"/1")
			s.set(tasksPath+"/1", task("1", day, c.request))
			s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"] = day })
			taken := s.pusher(1)
			var r recorder
			ep := s.endpoint()
			ep.Options = hasty()
			conn := dial(t, ep)
			res, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Checkpoint: r.keep})
			require.NoError(t, err)
			require.Equal(t, transport.VerdictUnknown, res.Verdict)
			require.Zero(t, *taken)
			c.since(s)
			res, err = transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Checkpoint: r.keep, Resume: r.sent(t)})
			require.NoError(t, err)
			if !c.again {
				require.Equal(t, transport.VerdictUnknown, res.Verdict)
				require.Contains(t, res.Text, "whether the request arrived is not known")
				require.Equal(t, 1, s.seen("POST /push"))
				return
			}
			require.Equal(t, transport.VerdictApplied, res.Verdict)
			require.Equal(t, 2, s.seen("POST /push"))
			require.Equal(t, 1, *taken)
		})
	}
}

// page gives the list of tasks a second page, with a task on it or missing.
func page(s *service, id string) {
	next := tasksPath + "/page2"
	s.edit(tasksPath, func(o obj) { o["Members@odata.nextLink"] = next })
	if id != "" {
		s.set(next, obj{"@odata.id": next, "Members": []any{ref(tasksPath + "/" + id)}})
	}
}

// States of others, and broken ones, are refused.
func TestResumeUnknownState(t *testing.T) {
	s := newService(t, nil)
	taken := s.pusher(0)
	var r recorder
	conn := dial(t, s.endpoint())
	_, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Checkpoint: r.keep})
	require.NoError(t, err)
	for _, change := range []func(*transport.State){
		func(s *transport.State) { s.Driver = "another" },
		func(s *transport.State) { s.Version++ },
		func(s *transport.State) { s.Phase = "dancing" },
		func(s *transport.State) { s.Data = json.RawMessage(`"not an object"`) },
		func(s *transport.State) { s.Data = json.RawMessage(`{}`) },
	} {
		st := r.last()
		change(&st)
		_, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Resume: &st})
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorIs(t, transport.Undo(t.Context(), conn, st), transport.ErrInvalid)
	}
	_, err = transport.Update(t.Context(), conn, image("3.00"), transport.UpdateOptions{Resume: r.sent(t)})
	require.ErrorIs(t, err, transport.ErrInvalid, "of another payload")
	require.Equal(t, 1, *taken)
}

// A push to an iLO whose manager died with the last byte is followed by its mark, under
// whichever name that goes; an iLO that does not show it gets the image once all the same.
func TestPushOnceToILO(t *testing.T) {
	for name, c := range map[string]struct {
		mark  redfishtest.Mark
		fault redfishtest.FaultKind
		want  transport.Verdict
	}{
		"documented":         {redfishtest.MarkUploadCurrentEtag, "", transport.VerdictStaged},
		"HPE's client":       {redfishtest.MarkETag, "", transport.VerdictStaged},
		"never shown":        {"", redfishtest.MarkHidden, transport.VerdictUnknown},
		"cleared in the end": {"", redfishtest.MarkCleared, transport.VerdictUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5, Mark: c.mark, LastResetTime: true})
			if c.fault != "" {
				f := srv.Inject(redfishtest.Fault{Kind: c.fault})
				defer func() { require.Positive(t, f.Hits()) }()
			}
			var r recorder
			_, err := try(t, srv, "2", hasty(), func(_ *transport.Payload, o *transport.UpdateOptions) { o.Checkpoint = r.keep })
			require.NoError(t, err)
			require.NoError(t, srv.Idle(t.Context()))
			require.Len(t, srv.Flashes(), 1)
			if c.fault != "" {
				srv.LeaveState("Idle", "") // much later
			}
			res, err := try(t, srv, "2", hasty(), func(_ *transport.Payload, o *transport.UpdateOptions) { o.Resume = r.sent(t) })
			require.NoError(t, err)
			require.Equal(t, c.want, res.Verdict, "%+v", res)
			require.Len(t, srv.Flashes(), 1, "written once")
		})
	}
}

// An iLO that has ended something since has done so by some upload, whatever mark it shows.
func TestStateSinceThen(t *testing.T) {
	s := newService(t, nil)
	taken := s.pusher(1)
	s.asILO(obj{"State": "Idle", "UploadCurrentEtag": "another's"})
	s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"] = "2026-01-01T00:00:00Z" })
	var r recorder
	ep := s.endpoint()
	ep.Options = hasty()
	conn := dial(t, ep)
	_, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Checkpoint: r.keep})
	require.NoError(t, err)
	s.asILO(obj{"State": "Complete", "UploadCurrentEtag": "another's", "Result": obj{"MessageId": "iLO.2.34.Success"}})
	res, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Resume: r.sent(t)})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.Zero(t, *taken)
}

// An iLO that shows the mark of an earlier upload, before and after, has not got ours;
// unless it was seen at work since.
func TestMarkOfAnother(t *testing.T) {
	for _, works := range []bool{false, true} {
		s := newService(t, nil)
		taken := s.pusher(1)
		s.asILO(obj{"State": "Idle", "UploadCurrentEtag": "another's"})
		s.edit("/redfish/v1/Managers/1", func(o obj) { o["LastResetTime"] = "2026-01-01T00:00:00Z" })
		var r recorder
		ep := s.endpoint()
		ep.Options = hasty()
		conn := dial(t, ep)
		_, err := transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Checkpoint: r.keep})
		require.NoError(t, err)
		resume := r.sent(t)
		if works {
			s.asILO(obj{"State": "Updating", "UploadCurrentEtag": "another's"})
		}
		again := recorder{states: []transport.State{*resume}}
		died := errors.New("the manager died")
		opts := transport.UpdateOptions{Resume: resume, Checkpoint: func(ctx context.Context, st transport.State) error {
			_ = again.keep(ctx, st)
			if works { // it is over when another manager goes on
				s.asILO(obj{"State": "Idle", "UploadCurrentEtag": "another's"})
				return died
			}
			return nil
		}}
		res, err := transport.Update(t.Context(), conn, image("2.00"), opts)
		if works {
			require.ErrorIs(t, err, died, "that it was at work is kept")
			last := again.last()
			res, err = transport.Update(t.Context(), conn, image("2.00"), transport.UpdateOptions{Resume: &last})
			require.NoError(t, err)
			require.Equal(t, transport.VerdictUnknown, res.Verdict)
			require.Zero(t, *taken)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Equal(t, 1, *taken)
	}
}

// breaking is a file that cannot be read to its end.
type breaking struct {
	io.ReadSeekCloser
	left int
	at   func() // called when it breaks
}

var errBroken = errors.New("the disk is broken")

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.ReadSeekCloser.Read(p)
	if b.left -= n; b.left < 0 {
		b.at()
		return 0, errBroken
	}
	return n, err
}

// A manager that dies in the middle of an upload has sent nothing, and does it again.
func TestKilledInTheUpload(t *testing.T) {
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		way     redfish.Way
	}{{redfishtest.ILO5, "4", redfish.WayHPEPush}, {redfishtest.Generic, "NIC", redfish.WayMultipart}, {redfishtest.Generic, "NIC", redfish.WayHTTPPush}, {redfishtest.ILO5, "4", redfish.WayQueue}} {
		t.Run(string(c.way), func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: c.profile})
			var states recorder
			var killed transport.State // what is kept when the manager dies
			big := func(p *transport.Payload, o *transport.UpdateOptions) {
				p.Files = []transport.File{srv.Firmware(c.id).Image("image.bin", "100.1", 16<<20)}
				o.Checkpoint = states.keep
			}
			opts := quick()
			opts.Way = c.way
			_, err := try(t, srv, c.id, opts, func(p *transport.Payload, o *transport.UpdateOptions) {
				big(p, o)
				open, opened := p.Files[0].Open, 0
				p.Files[0].Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
					r, err := open(ctx)
					if opened++; err == nil && opened > 2 { // to verify it, to look at it, to send it
						r = &breaking{ReadSeekCloser: r, left: 4 << 20, at: func() { killed = states.last() }}
					}
					return r, err
				}
			})
			require.ErrorIs(t, err, errBroken)
			require.False(t, killed.Sent)
			res, err := try(t, srv, c.id, opts, func(p *transport.Payload, o *transport.UpdateOptions) { big(p, o); o.Resume = &killed })
			require.NoError(t, err)
			require.Equal(t, transport.VerdictApplied, res.Verdict)
			require.Len(t, srv.Flashes(), 1)
		})
	}
}

// What an earlier update has left in the state of the service is not taken for an answer,
// however long the service takes to begin.
func TestStaleState(t *testing.T) {
	for _, c := range []struct {
		profile  redfishtest.Profile
		id       string
		way      redfish.Way
		state    string
		verdict  transport.Verdict
		flashing redfishtest.FaultKind
	}{
		{redfishtest.ILO5, "2", redfish.WayAddFromURI, "Complete", transport.VerdictStaged, ""},
		{redfishtest.ILO5, "2", redfish.WayAddFromURI, "Error", transport.VerdictStaged, ""},
		{redfishtest.ILO5, "2", redfish.WayHPEPush, "Complete", transport.VerdictStaged, ""},
		{redfishtest.ILO5, "2", redfish.WayHPEPush, "Error", transport.VerdictStaged, ""},
		{redfishtest.ILO5, "4", redfish.WaySimpleUpdate, "Error", transport.VerdictApplied, ""},
		{redfishtest.ILO5, "2", redfish.WayHPEPush, "Error", transport.VerdictFailed, redfishtest.FlashFails},
		{redfishtest.ILO4, "2", redfish.WayInstallFromURI, "Complete", transport.VerdictStaged, ""},
		{redfishtest.ILO4, "2", redfish.WayInstallFromURI, "Error", transport.VerdictStaged, ""},
	} {
		t.Run(string(c.profile)+"/"+string(c.way)+"/"+c.state+"/"+string(c.verdict), func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: c.profile, Tasks: redfishtest.TasksNone, Pace: 50 * time.Millisecond})
			id := "FirmwareFlashFailed"
			if c.state == "Complete" {
				id = "Success"
			}
			device := deviceOf(t, srv, c.id)
			srv.LeaveState(c.state, id)
			f := srv.Inject(redfishtest.Fault{Kind: redfishtest.StateLags, Delay: 100 * time.Millisecond})
			if c.flashing != "" {
				srv.Inject(redfishtest.Fault{Kind: c.flashing})
			}
			opts := quick()
			opts.Way = c.way
			res, err := try(t, srv, c.id, opts, func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices = []string{device} })
			require.NoError(t, err)
			require.Positive(t, f.Hits())
			require.Equal(t, c.verdict, res.Verdict, "%+v", res)
			if c.verdict != transport.VerdictFailed {
				require.Len(t, srv.Flashes(), 1, "nothing is claimed before it was written")
			}
		})
	}
}

// What an answer says that is none of the service, or of a service that broke, says nothing
// of the request.
func TestAmbiguousAnswers(t *testing.T) {
	const path = "/redfish/v1/UpdateService/"
	for _, status := range []int{500, 502, 504, 408} {
		for _, done := range []bool{true, false} {
			srv := simulator(t, redfishtest.Config{})
			device := deviceOf(t, srv, "NIC")
			fault := redfishtest.Fault{Kind: redfishtest.Refuses, Status: status, Method: "POST", Path: path, Times: 1}
			want, opts := transport.VerdictUnknown, hasty()
			if done {
				fault.Kind, want, opts = redfishtest.AnswersOtherwise, transport.VerdictApplied, quick()
			}
			f := srv.Inject(fault)
			res, err := try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices = []string{device} })
			require.NoError(t, err)
			require.Equal(t, 1, f.Hits())
			require.Equal(t, want, res.Verdict, "%d: %+v", status, res)
			if !done {
				require.Contains(t, res.Text, http.StatusText(status))
			}
		}
	}
}

// Who is asked to come again has changed nothing, and may.
func TestBusyAnswer(t *testing.T) {
	for _, status := range []int{503, 429} {
		srv := simulator(t, redfishtest.Config{})
		device := deviceOf(t, srv, "NIC")
		f := srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Status: status, MessageID: "ServiceTemporarilyUnavailable", Method: "POST", Path: "/redfish/v1/UpdateService/", Times: 1})
		var r recorder
		on := func(_ *transport.Payload, o *transport.UpdateOptions) {
			o.Checkpoint, o.Devices = r.keep, []string{device}
		}
		_, err := try(t, srv, "NIC", quick(), on)
		require.ErrorIs(t, err, transport.ErrBusy)
		require.Equal(t, 1, f.Hits())
		require.False(t, r.last().Sent)
		last := r.last()
		res, err := try(t, srv, "NIC", quick(), func(p *transport.Payload, o *transport.UpdateOptions) { on(p, o); o.Resume = &last })
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Len(t, srv.Flashes(), 1)
	}
}

// An answer that comes before the end of a push is an answer; one that redirects it says
// where to, and nothing was done.
func TestPushTurnedAway(t *testing.T) {
	const path = "/redfish/v1/UpdateService/update"
	for _, c := range []struct {
		fault redfishtest.Fault
		kind  error
		says  string
	}{
		{redfishtest.Fault{Kind: redfishtest.EarlyAnswer, Bytes: 100_000, Method: "POST", Path: path}, nil, "413"},
		{redfishtest.Fault{Kind: redfishtest.EarlyAnswer, Status: 502, Bytes: 100_000, Method: "POST", Path: path}, nil, "502"},
		{redfishtest.Fault{Kind: redfishtest.Redirect, Method: "POST", Path: path}, transport.ErrProtocol, "the service wants it at the other address"},
		{redfishtest.Fault{Kind: redfishtest.RedirectAway, Location: "https://192.0.2.1/x", Method: "POST", Path: path}, transport.ErrProtocol, "192.0.2.1"},
	} {
		srv := simulator(t, redfishtest.Config{})
		device := deviceOf(t, srv, "NIC")
		f := srv.Inject(c.fault)
		var r recorder
		res, err := try(t, srv, "NIC", quick(), func(p *transport.Payload, o *transport.UpdateOptions) {
			p.Files = []transport.File{srv.Firmware("NIC").Image("image.bin", "100.1", 8<<20)}
			o.Checkpoint, o.Devices = r.keep, []string{device}
		})
		if c.kind != nil {
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.says)
		} else {
			require.NoError(t, err)
			require.Equal(t, transport.VerdictFailed, res.Verdict)
			require.Contains(t, res.Text, c.says)
		}
		require.Positive(t, f.Hits())
		require.False(t, r.last().Sent)
		require.Empty(t, srv.Flashes())
	}
}
