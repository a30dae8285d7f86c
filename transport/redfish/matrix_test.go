package redfish_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// column is a kind of target, as the table of faults has it.
type column struct {
	name      string
	cfg       redfishtest.Config
	part, bmc string      // entries of its inventory
	writes    int         // entries that the image for them changes
	pull      redfish.Way // the way by which it fetches; "" where that is the first
	tasks     redfish.Way // the way that leaves a task; "" where there is none
	says      map[string]string
	devices   map[string]string // the driver's names of part and bmc
}

// columns are all kinds of targets.
func columns() []column {
	old := redfishtest.ILO5.Firmware()
	old[0].Version = "2.18 Jun 22 2020"
	ilo := map[string]string{"busy": "FirmwareFlashAlreadyInProgress", "download": "UnableToDownloadImage", "signature": "UpdateSignatureValidationFailed"}
	rmc := map[string]string{"busy": "FirmwareUpdateConflictError", "download": "FirmwareUpdateDownloadFailure", "signature": "FirmwareUpdateInternalError"}
	of := func(name string, cfg redfishtest.Config) column {
		return column{name, cfg, "4", "1", 1, redfish.WayAddFromURI, redfish.WaySimpleUpdate, ilo, nil}
	}
	ilo4 := of("ilo4", redfishtest.Config{Profile: redfishtest.ILO4})
	ilo4.pull, ilo4.tasks = "", ""
	old5 := of("ilo5-before-2.30", redfishtest.Config{Profile: redfishtest.ILO5, Firmware: old})
	old5.tasks = ""
	return []column{
		ilo4, old5,
		of("ilo5", redfishtest.Config{Profile: redfishtest.ILO5}),
		of("ilo6", redfishtest.Config{Profile: redfishtest.ILO6}),
		of("ilo7", redfishtest.Config{Profile: redfishtest.ILO7, OtherActions: true}),
		{"rmc", redfishtest.Config{Profile: redfishtest.RMC}, "RMC", "RMC", 3, "", redfish.WayUpdateAll, rmc, nil},
		{"rmc-other-action", redfishtest.Config{Profile: redfishtest.RMC, OtherActions: true, Tasks: redfishtest.TasksNone}, "RMC", "RMC", 3, "", redfish.WayUpdateAll, rmc, nil},
		{"generic", redfishtest.Config{Profile: redfishtest.Generic}, "NIC", "BMC", 1, redfish.WaySimpleUpdate, redfish.WayMultipart,
			map[string]string{"busy": "ResourceInUse", "download": "TransferFailed", "signature": "UpdateSignatureValidationFailed"}, nil},
	}
}

// pushes reports whether images are sent to it, if nothing else is asked for.
func (c column) pushes() bool { return c.pull != "" }

func (c column) ilo() bool {
	return c.cfg.Profile != redfishtest.RMC && c.cfg.Profile != redfishtest.Generic
}

// row is something that goes wrong, and what is made of it.
type row struct {
	name string
	// before are the faults that there are when an update begins, and during those that
	// come when all was sent; cut breaks the line as well, and back ends the fault as soon as
	// the target was missed.
	before, during []redfishtest.Fault
	cut, back      bool
	bmc, pull      bool // what is updated is the service itself; the target fetches
	opts           redfish.Options
	prepare        func(*redfishtest.Server)
	uncounted      bool // the fault does not count, or must not happen
	// not says why there is no such thing with a target, or "".
	not func(column) string
	// The outcome: an error, or a verdict; what it says, by a name in column.says if there
	// is one; and whether it was written.
	err     error
	verdict func(column) transport.Verdict
	says    string
	written bool
	resumes bool // an update that goes on from there comes to a good end
}

func always(v transport.Verdict) func(column) transport.Verdict {
	return func(column) transport.Verdict { return v }
}

func rows() []row {
	type f = redfishtest.Fault
	applied, failed, unknown := always(transport.VerdictApplied), always(transport.VerdictFailed), always(transport.VerdictUnknown)
	get := func(k redfishtest.FaultKind, times int) f { return f{Kind: k, Method: "GET", Times: times} }
	one := func(k redfishtest.FaultKind) []f { return []f{{Kind: k}} }
	notPushed := func(c column) string {
		if !c.pushes() {
			return "nothing is sent to it"
		}
		return ""
	}
	notILO := func(c column) string {
		if !c.ilo() {
			return "it knows nothing of trusted modules"
		}
		return ""
	}
	noQueue := func(c column) string {
		if !c.ilo() || c.cfg.Profile == redfishtest.ILO4 {
			return "it has no update queue"
		}
		return ""
	}
	big := func(k redfishtest.FaultKind) []f { return []f{{Kind: k, Method: "POST", Bytes: 100_000, Times: 1}} }
	return []row{
		{name: "refuses connections", during: one(redfishtest.RefuseConnections), cut: true, back: true, uncounted: true, verdict: applied, written: true},
		{name: "resets connections", during: []f{{Kind: redfishtest.ResetConnections, Times: 3}}, cut: true, verdict: applied, written: true},
		{name: "line reset in the upload", before: big(redfishtest.ResetAt), not: notPushed, err: transport.ErrConnLost, resumes: true},
		{name: "upload stalls", before: big(redfishtest.StallAt), opts: redfish.Options{StallTimeout: 2 * time.Second}, not: notPushed, err: transport.ErrTimeout, resumes: true},
		{name: "slow answers", during: []f{{Kind: redfishtest.Slow, Method: "GET", Delay: 20 * time.Millisecond, Times: 3}}, verdict: applied, written: true},
		{name: "401", during: []f{get(redfishtest.Unauthorized, 1)}, verdict: applied, written: true},
		{name: "401, and no session is left", during: []f{get(redfishtest.Unauthorized, 1), {Kind: redfishtest.SessionLimit, Times: 2}}, verdict: applied, written: true},
		{name: "503 with Retry-After", during: []f{get(redfishtest.Unavailable, 3)}, verdict: applied, written: true},
		{name: "400 that is no JSON", during: []f{get(redfishtest.NotJSON, 3)}, verdict: applied, written: true},
		{name: "308 of a push", before: []f{{Kind: redfishtest.Redirect, Method: "POST", Times: 1}}, not: notPushed, err: transport.ErrProtocol, says: "the service wants it at the other address", resumes: true},
		{name: "308 of a pull", before: []f{{Kind: redfishtest.Redirect, Method: "POST", Times: 1}}, pull: true, verdict: applied, written: true},
		{name: "busy", before: one(redfishtest.Busy), verdict: failed, says: "busy"},
		{name: "stuck queue", prepare: func(s *redfishtest.Server) { s.Enqueue(redfishtest.QueueItem{Name: "another's", State: "Exception"}) },
			not: noQueue, err: transport.ErrBusy, says: "another's"},
		{name: "trusted module", before: one(redfishtest.TPM), not: notILO, verdict: failed, says: "FWFlashTPMOverrideFlagRequired"},
		{name: "bad signature", before: one(redfishtest.BadSignature), verdict: failed, says: "signature"},
		{name: "pull of what is missing", before: one(redfishtest.PullMissing), pull: true, verdict: failed, says: "download"},
		{name: "truncated pull", before: []f{{Kind: redfishtest.PullTruncated, Bytes: 1000}}, pull: true, verdict: failed, says: "download"},
		{name: "slow reset", before: []f{{Kind: redfishtest.SlowReset, Delay: 100 * time.Millisecond}}, bmc: true, verdict: applied, written: true},
		{name: "never returns", before: one(redfishtest.NeverReturns), bmc: true, opts: redfish.Options{ResetTimeout: 200 * time.Millisecond},
			err: transport.ErrConnLost, says: "has not come back", written: true},
		{name: "returns with another certificate", before: one(redfishtest.ReturnsWithNewCert), bmc: true, err: transport.ErrTrust, says: "none of those expected", written: true},
		{name: "complete, and nothing changed", before: one(redfishtest.Complete), opts: redfish.Options{SettleTimeout: 100 * time.Millisecond}, verdict: unknown, says: "but "},
		{name: "completed with a warning", before: one(redfishtest.TaskWarning), not: func(c column) string {
			if c.tasks == "" {
				return "it makes no tasks of updates"
			}
			return ""
		}, verdict: func(c column) transport.Verdict {
			if c.cfg.Profile == redfishtest.RMC {
				return transport.VerdictFailed
			}
			return transport.VerdictApplied
		}, written: true},
		{name: "no Updateable", before: one(redfishtest.NoUpdateable), not: func(c column) string {
			if c.cfg.Profile == redfishtest.ILO4 {
				return "its inventory never has it"
			}
			return ""
		}, verdict: applied, written: true},
		{name: "inventory in pages", before: []f{{Kind: redfishtest.PagedMembers, Bytes: 1}}, verdict: applied, written: true},
		{name: "inventory of references", before: one(redfishtest.StubMembers), not: func(c column) string {
			if c.cfg.Profile != redfishtest.Generic {
				return "its collections are of references anyway"
			}
			return ""
		}, verdict: applied, written: true},
		{name: "one connection at a time", before: one(redfishtest.SingleConnection), uncounted: true, verdict: applied, written: true},
	}
}

// TestFaultsOfEveryProfile is the table of what goes wrong, with every kind of target.
func TestFaultsOfEveryProfile(t *testing.T) {
	all := columns()
	for i := range all {
		srv := simulator(t, all[i].cfg)
		all[i].devices = map[string]string{all[i].part: deviceOf(t, srv, all[i].part), all[i].bmc: deviceOf(t, srv, all[i].bmc)}
	}
	for _, r := range rows() {
		for _, c := range all {
			t.Run(r.name+"/"+c.name, func(t *testing.T) {
				if why := r.none(c); why != "" {
					t.Skip(why)
				}
				t.Parallel()
				r.run(t, c)
			})
		}
	}
}

func (r row) none(c column) string {
	if r.not == nil {
		return ""
	}
	return r.not(c)
}

func (r row) run(t *testing.T, c column) {
	c.cfg.Pace = 4 * time.Millisecond
	c.cfg.Accounts = []redfishtest.Account{{User: "other", Password: "x"}} // for a second page
	srv := simulator(t, c.cfg)
	if r.prepare != nil {
		r.prepare(srv)
	}
	id := c.part
	if r.bmc {
		id = c.bmc
	}
	switch {
	case r.pull:
		r.opts.Way = c.pull
	case slices.ContainsFunc(r.before, func(f redfishtest.Fault) bool { return f.Kind == redfishtest.TaskWarning }):
		r.opts.Way = c.tasks
	}
	r.opts.ImageScheme, r.opts.PollInterval = "http", 5*time.Millisecond
	fw, device := srv.Firmware(id), c.devices[id]
	p := transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("image.bin", "100.1", 50_000)}}
	if r.resumes { // more than the buffers on the way hold
		p.Files = []transport.File{fw.Image("image.bin", "100.1", 16<<20)}
	}
	pub, err := transporttest.NewPublisher("")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	conn := dial(t, endpointOf(srv, r.opts))
	var injected []*redfishtest.Injected
	inject := func(all []redfishtest.Fault) {
		for _, f := range all {
			injected = append(injected, srv.Inject(f))
		}
	}
	t.Cleanup(func() {
		for _, i := range injected {
			i.Remove()
		}
	})
	if r.uncounted { // it sees a connection end a moment after we do
		require.Eventually(t, func() bool { return srv.Connections() <= 1 }, 10*time.Second, time.Millisecond)
	}
	inject(r.before)
	var states recorder
	began, missed := false, false
	opts := transport.UpdateOptions{Devices: []string{device}, Publish: pub.Publish, Checkpoint: func(ctx context.Context, s transport.State) error {
		if s.Phase == "wait" && !began {
			began = true
			inject(r.during)
			if r.cut {
				srv.CloseConnections()
			}
		}
		return states.keep(ctx, s)
	}, Progress: func(p transport.Progress) {
		if p.Phase == "reset" && r.back {
			missed = true
			for _, i := range injected {
				i.Remove()
			}
		}
	}}
	res, err := transport.Update(t.Context(), conn, p, opts)
	says := r.says
	if s := c.says[says]; s != "" {
		says = s
	}
	if r.err != nil {
		require.ErrorIs(t, err, r.err)
		require.ErrorContains(t, err, says)
	} else {
		require.NoError(t, err)
		require.Equal(t, r.verdict(c), res.Verdict, "%+v", res)
		require.Contains(t, res.Code.Value+" "+res.Text, says)
	}
	for _, i := range injected {
		switch {
		case !r.uncounted:
			require.Positive(t, i.Hits(), "the fault has happened")
		case i.Kind == redfishtest.SingleConnection:
			require.Zero(t, i.Hits(), "there is never a second one")
		}
	}
	require.Equal(t, r.back, missed)
	want := 0
	if r.written {
		want = c.writes
	}
	require.Len(t, srv.Flashes(), want)
	if r.resumes {
		last := states.last()
		require.False(t, last.Sent, "a request without its end was none")
		opts.Resume = &last
		for _, i := range injected { // a service that reads nothing does not see the end, either
			i.Remove()
		}
		res, err := transport.Update(t.Context(), dial(t, endpointOf(srv, redfish.Options{})), p, opts)
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		require.Len(t, srv.Flashes(), c.writes)
	}
}
