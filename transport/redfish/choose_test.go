package redfish_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// twins is an iLO 5 with two equal cards of the given versions.
func twins(t testing.TB, versions ...string) *redfishtest.Server {
	fw := redfishtest.ILO5.Firmware()
	card := fw[3]
	card.Name = "Card"
	for i, v := range versions {
		card.ID, card.Version = []string{"8", "9"}[i], v
		fw = append(fw, card)
	}
	return simulator(t, redfishtest.Config{Profile: redfishtest.ILO5, Firmware: append(fw[:3:3], fw[4:]...)})
}

// A card that is newer, or that nobody has named, is not changed along with its equal: the
// target is told which one is meant, or nothing is sent.
func TestBystanders(t *testing.T) {
	const first, second = "Card @ System Board", "Card @ System Board #2"
	for name, c := range map[string]struct {
		versions  [2]string
		devices   []string
		push      bool
		downgrade bool
		flashes   []string
		says      string
	}{
		"one is newer":                   {[2]string{"2.0", "3.0"}, nil, false, false, []string{"8"}, ""},
		"one is newer, push":             {[2]string{"2.0", "3.0"}, nil, true, false, nil, "newer version 3.0"},
		"one is newer, downgrade":        {[2]string{"2.0", "3.0"}, nil, true, true, []string{"8", "9"}, ""},
		"one is named":                   {[2]string{"2.0", "2.0"}, []string{second}, false, false, []string{"9"}, ""},
		"one is named, push":             {[2]string{"2.0", "2.0"}, []string{second}, true, false, nil, "name it as well"},
		"the other has it already, push": {[2]string{"2.0", "2.5"}, []string{first}, true, false, []string{"8", "9"}, ""},
		"both are old":                   {[2]string{"2.0", "2.0"}, nil, true, false, []string{"8", "9"}, ""},
		"both are named":                 {[2]string{"2.0", "2.2"}, []string{first, second}, true, false, []string{"8", "9"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := twins(t, c.versions[0], c.versions[1])
			pub, err := transporttest.NewPublisher("")
			require.NoError(t, err)
			defer pub.Close()
			opts := transport.UpdateOptions{Devices: c.devices, Downgrade: c.downgrade}
			if !c.push {
				opts.Publish = pub.Publish
			}
			p := transport.Payload{Name: "cp1", Version: "2.5", Files: []transport.File{srv.Firmware("8").Package("card.fwpkg", "2.5", 10_000)}}
			way := redfish.WayAuto
			if c.push {
				way = redfish.WayHPEPush
			}
			conn := dial(t, endpointOf(srv, redfish.Options{Way: way}))
			res, err := transport.Update(t.Context(), conn, p, opts)
			var flashed []string
			for _, f := range srv.Flashes() {
				flashed = append(flashed, f.ID)
			}
			require.Equal(t, c.flashes, flashed)
			if c.says != "" {
				require.ErrorIs(t, err, transport.ErrRejected)
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, transport.VerdictApplied, res.Verdict)
		})
	}
}

// A push that names no devices goes where the image decides: whoever names some gets
// another way, or has said so; and where the service can be told, it is, and told when it
// is over.
func TestPushForSomeDevices(t *testing.T) {
	const bmc = inventoryPath + "/BMC"
	s := newService(t, nil)
	taken := s.pusher(0)
	_, err := transport.Update(t.Context(), dial(t, s.endpoint()), image("2.00"), transport.UpdateOptions{Devices: []string{bmc}})
	require.ErrorIs(t, err, transport.ErrRejected)
	require.ErrorContains(t, err, "Options.Way")
	require.Zero(t, *taken)
	ep := s.endpoint()
	opts := quick()
	opts.Way = redfish.WayHTTPPush
	ep.Options = opts
	res, err := transport.Update(t.Context(), dial(t, ep), image("2.00"), transport.UpdateOptions{Devices: []string{bmc}})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)

	srv := simulator(t, redfishtest.Config{PushTargets: true})
	srv.SetPushTargets(nil, true)
	_, err = try(t, srv, "NIC", opts, nil)
	require.ErrorIs(t, err, transport.ErrBusy, "somebody else's turn")
	srv.SetPushTargets(nil, false)
	var r recorder
	seen := []string{}
	res, err = try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) {
		o.Checkpoint = r.keep
		o.Progress = func(transport.Progress) {
			if uris, busy := srv.PushTargets(); busy && len(seen) == 0 {
				seen = uris
			}
		}
	})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Equal(t, []string{inventoryPath + "/NIC"}, seen)
	uris, busy := srv.PushTargets()
	require.Empty(t, uris)
	require.False(t, busy)
	// A manager that dies leaves them, and Undo takes them back.
	srv.SetPushTargets([]string{inventoryPath + "/NIC"}, true)
	require.NoError(t, transport.Undo(t.Context(), dial(t, endpointOf(srv, opts)), *r.sent(t)))
	_, busy = srv.PushTargets()
	require.False(t, busy)
}

// What a way does not carry, or a file is not for, is refused before anything is sent, and
// says what there is instead.
func TestRefusedBefore(t *testing.T) {
	class := func(p *transport.Payload, srv *redfishtest.Server) {
		fw := srv.Firmware("4")
		fw.DeviceClass = "00000000-0000-0000-0000-000000000000"
		p.Files = []transport.File{fw.Package("pm.fwpkg", "100.1", 10_000)}
	}
	signature := func(p *transport.Payload, _ *redfishtest.Server) {
		p.Files = append(p.Files, transport.BytesFile("image.compsig", []byte("signature")))
	}
	other := func(p *transport.Payload, srv *redfishtest.Server) {
		p.Files = []transport.File{srv.Firmware("4").Package("pm.fwpkg", "7.7", 10_000)}
	}
	nothing := func(*transport.Payload, *redfishtest.Server) {}
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		opts    redfish.Options
		change  func(*transport.Payload, *redfishtest.Server)
		devices []string
		kind    error
		says    string
	}{
		{redfishtest.ILO5, "4", redfish.Options{Way: redfish.WayAddFromURI}, signature, nil, transport.ErrRejected, "does not carry"},
		{redfishtest.ILO5, "4", redfish.Options{Way: redfish.WaySimpleUpdate}, signature, nil, transport.ErrRejected, "does not carry"},
		{redfishtest.Generic, "NIC", redfish.Options{}, signature, nil, transport.ErrRejected, "does not carry"},
		{redfishtest.ILO5, "4", redfish.Options{}, class, nil, transport.ErrRejected, "another class"},
		{redfishtest.ILO5, "4", redfish.Options{}, class, []string{}, transport.ErrRejected, "fits no device"},
		{redfishtest.ILO5, "4", redfish.Options{}, other, nil, transport.ErrRejected, "holds version 7.7"},
		{redfishtest.ILO5, "4", redfish.Options{Way: redfish.WaySimpleUpdate, TPMOverride: true}, nothing, nil, transport.ErrRejected, "Options.TPMOverride"},
		{redfishtest.ILO5, "4", redfish.Options{Way: redfish.WayMultipart}, nothing, nil, errors.ErrUnsupported, "it has hpe-push, add-from-uri, simple-update, queue"},
		{redfishtest.ILO5, "4", redfish.Options{}, nothing, []string{"No such"}, transport.ErrInvalid, `"iLO 5 @ System Board"`},
	} {
		srv := simulator(t, redfishtest.Config{Profile: c.profile})
		_, err := try(t, srv, c.id, c.opts, func(p *transport.Payload, o *transport.UpdateOptions) {
			c.change(p, srv)
			if c.devices != nil {
				o.Devices = c.devices
			}
		})
		require.ErrorIs(t, err, c.kind, c.says)
		require.ErrorContains(t, err, c.says)
		for _, r := range srv.Requests() {
			if r.Method == "POST" {
				require.Contains(t, r.Path, "/Sessions", "%s", c.says)
			}
		}
	}
}

// A task that failed blocks all behind it, and one that waits comes first. One that cannot
// be read may be such a one.
func TestQueueOfOthers(t *testing.T) {
	const queue = "/redfish/v1/UpdateService/UpdateTaskQueue"
	for _, c := range []struct {
		item   func(s *service)
		says   string
		ignore bool
	}{
		{func(s *service) {
			s.set(queue+"/1", obj{"@odata.id": "x", "Id": "1", "Name": "of an operator", "State": "Exception"})
		}, "of an operator", false},
		{func(s *service) {
			s.set(queue+"/1", obj{"@odata.id": "x", "Id": "1", "Name": "of an operator", "State": "Pending"})
		}, "of an operator", false},
		{func(s *service) { s.set(queue+"/1", []int{1}) }, "cannot be read", false},
		{func(*service) {}, "cannot be read", false},
		{func(s *service) {
			s.handle("GET "+queue, func(w http.ResponseWriter, _ *http.Request) { fault(w, 403, "Base.1.4.InsufficientPrivilege") })
		}, "cannot be read", false},
		{func(*service) {}, "", true},
		{func(s *service) {
			s.set(queue+"/1", obj{"@odata.id": "x", "Id": "1", "Name": "of an operator", "State": "Complete"})
		}, "", false},
	} {
		s := newService(t, nil)
		taken := s.pusher(0)
		s.asILO(obj{"State": "Idle", "UpdateTaskQueue": ref(queue)})
		s.collection(queue, queue+"/1")
		c.item(s)
		ep := s.endpoint()
		opts := quick()
		opts.IgnoreQueue = c.ignore
		ep.Options = opts
		_, err := transport.Update(t.Context(), dial(t, ep), image("2.00"), transport.UpdateOptions{})
		if c.says == "" {
			require.NoError(t, err)
			require.Equal(t, 1, *taken)
			continue
		}
		require.ErrorIs(t, err, transport.ErrBusy)
		require.ErrorContains(t, err, c.says)
		require.Zero(t, *taken)
	}
}

// A card that only the adapters of the chassis list is updated like any other.
func TestCardThatIsNoFirmwareEntry(t *testing.T) {
	fw := redfishtest.Generic.Firmware()
	card := fw[2]
	card.ID, card.Name, card.Version, card.Adapter = "Slot4", "Card in slot 4", "5.1", true
	srv := simulator(t, redfishtest.Config{Firmware: append(fw[:2:2], card)})
	conn := dial(t, endpointOf(srv, redfish.Options{}))
	id := ""
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	for _, d := range inv.Devices {
		if d.Name == card.Name {
			require.Empty(t, id, "it is listed once")
			id = d.ID
		}
	}
	res, err := transport.Update(t.Context(), conn, transport.Payload{Name: "card", Version: "100.1", Files: []transport.File{card.Image("card.bin", "100.1", 10_000)}},
		transport.UpdateOptions{Devices: []string{id}})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
}

// A service that answers when all is done may take as long as an update takes.
func TestSynchronousPull(t *testing.T) {
	srv := simulator(t, redfishtest.Config{})
	device := deviceOf(t, srv, "NIC")
	f := srv.Inject(redfishtest.Fault{Kind: redfishtest.SynchronousPull})
	hold := srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Updating"})
	opts := quick()
	opts.Way, opts.StallTimeout = redfish.WaySimpleUpdate, time.Second
	stop := time.AfterFunc(2*opts.StallTimeout, hold.Remove)
	defer stop.Stop()
	var log strings.Builder
	res, err := try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices, o.Log = []string{device}, &log })
	require.NoError(t, err)
	require.Positive(t, f.Hits())
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.NotContains(t, res.Text, "not known")
	require.NotContains(t, log.String(), "lost")
}

// What is made elsewhere than a task is no monitor, and a time to apply is told to those
// who know it.
func TestAnswersAndParameters(t *testing.T) {
	srv := simulator(t, redfishtest.Config{NoApplyTime: true})
	res, err := try(t, srv, "NIC", redfish.Options{}, nil)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)

	srv = simulator(t, redfishtest.Config{})
	device := deviceOf(t, srv, "NIC")
	srv.Inject(redfishtest.Fault{Kind: redfishtest.Complete})
	f := srv.Inject(redfishtest.Fault{Kind: redfishtest.AnswersOtherwise, Status: 201, Location: "/redfish/v1/Systems/system", Method: "POST", Path: "/redfish/v1/UpdateService"})
	res, err = try(t, srv, "NIC", hasty(), func(_ *transport.Payload, o *transport.UpdateOptions) { o.Devices = []string{device} })
	require.NoError(t, err)
	require.Positive(t, f.Hits())
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.NotContains(t, res.Text, "succeeded")
}

// HttpPushUriTargets that another manager has set since a manager died are his: his push
// goes there, and no other.
func TestPushTargetsOfAnother(t *testing.T) {
	opts := quick()
	opts.Way = redfish.WayHTTPPush
	theirs := []string{inventoryPath + "/BMC"}
	same := func(srv *redfishtest.Server) {
		uris, busy := srv.PushTargets()
		require.True(t, busy)
		require.Equal(t, theirs, uris)
	}
	srv := simulator(t, redfishtest.Config{PushTargets: true})
	died := errors.New("the manager died")
	var r recorder
	_, err := try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) {
		o.Checkpoint = func(ctx context.Context, s transport.State) error {
			_ = r.keep(ctx, s)
			if strings.Contains(string(s.Data), `"aimed":true`) {
				return died
			}
			return nil
		}
	})
	require.ErrorIs(t, err, died)
	srv.SetPushTargets(theirs, true)
	state := r.last()
	on := func(_ *transport.Payload, o *transport.UpdateOptions) { o.Resume, o.Checkpoint = &state, r.keep }
	_, err = try(t, srv, "NIC", opts, on)
	require.ErrorIs(t, err, transport.ErrBusy)
	same(srv)
	require.NoError(t, transport.Undo(t.Context(), dial(t, endpointOf(srv, opts)), state))
	same(srv)
	// So are they after the push.
	srv.SetPushTargets(nil, false)
	res, err := try(t, srv, "NIC", opts, func(p *transport.Payload, o *transport.UpdateOptions) {
		on(p, o)
		o.Checkpoint = func(_ context.Context, s transport.State) error {
			if s.Phase == "wait" {
				srv.SetPushTargets(theirs, true)
			}
			return nil
		}
	})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	same(srv)
	require.Len(t, srv.Flashes(), 1)
}

// An update that came to its end has come to it, whatever cannot be tidied up then: the
// result says what.
func TestTidyingUpFails(t *testing.T) {
	for _, c := range []struct {
		cfg   redfishtest.Config
		id    string
		way   redfish.Way
		fault redfishtest.Fault
	}{
		{redfishtest.Config{PushTargets: true}, "NIC", redfish.WayHTTPPush, redfishtest.Fault{Kind: redfishtest.Refuses, Method: "PATCH", Skip: 1, Status: 403}},
		{redfishtest.Config{Profile: redfishtest.ILO5}, "4", redfish.WayQueue, redfishtest.Fault{Kind: redfishtest.Refuses, Method: "DELETE", Path: queuePath, Status: 403}},
	} {
		srv := simulator(t, c.cfg)
		f := srv.Inject(c.fault)
		opts := quick()
		opts.Way = c.way
		res, err := try(t, srv, c.id, opts, nil)
		require.NoError(t, err)
		require.Positive(t, f.Hits())
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Contains(t, res.Text, "not all could be tidied up: ")
		require.Contains(t, res.Text, "403")
		require.Len(t, srv.Flashes(), 1)
	}
	srv := simulator(t, redfishtest.Config{})
	opts := quick()
	opts.Way = redfish.WaySimpleUpdate
	res, err := try(t, srv, "NIC", opts, func(_ *transport.Payload, o *transport.UpdateOptions) {
		publish := o.Publish
		o.Publish = func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
			p, err := publish(ctx, r)
			release := p.Release
			p.Release = func(ctx context.Context) (int64, error) {
				n, err := release(ctx)
				return n, errors.Join(err, errors.New("the port stays open"))
			}
			return p, err
		}
	})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Contains(t, res.Text, "the port stays open")
}
