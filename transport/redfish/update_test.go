package redfish_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// try updates an entry of a simulator's inventory to version 100.1.
func try(t testing.TB, srv *redfishtest.Server, id string, opts redfish.Options, change func(*transport.Payload, *transport.UpdateOptions)) (transport.Result, error) {
	fw := srv.Firmware(id)
	p := transport.Payload{Name: fw.Name, Version: "100.1", Files: []transport.File{fw.Image("image.bin", "100.1", 50_000)}}
	uo := transport.UpdateOptions{Devices: []string{deviceOf(t, srv, id)}}
	if srv.Profile() == redfishtest.ILO4 || srv.Profile() == redfishtest.RMC || opts.Way == redfish.WayAddFromURI || opts.Way == redfish.WaySimpleUpdate {
		pub, err := transporttest.NewPublisher("")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, pub.Close()) })
		uo.Publish = pub.Publish
		opts.ImageScheme = "http"
	}
	if change != nil {
		change(&p, &uo)
	}
	conn := dial(t, endpointOf(srv, opts))
	return transport.Update(t.Context(), conn, p, uo)
}

// TestFaults is what goes wrong with some targets alone, or with some ways;
// TestFaultsOfEveryProfile is the table of the rest.
func TestFaults(t *testing.T) {
	const (
		generic, ilo4, ilo5, rmc = redfishtest.Generic, redfishtest.ILO4, redfishtest.ILO5, redfishtest.RMC
		applied, failed, unknown = transport.VerdictApplied, transport.VerdictFailed, transport.VerdictUnknown
	)
	for _, c := range []struct {
		name    string
		profile redfishtest.Profile
		id      string
		opts    redfish.Options
		fault   redfishtest.Fault
		verdict transport.Verdict
		says    string // in the code or text of the result, or the text of the error
		err     error
		flashes int
	}{
		{"TPM", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.TPM}, failed, "Options.TPMOverride", nil, 0},
		{"TPM, overridden", ilo5, "4", redfish.Options{TPMOverride: true}, redfishtest.Fault{Kind: redfishtest.TPM}, applied, "", nil, 1},
		{"TPM, overridden, pulled", ilo5, "4", redfish.Options{TPMOverride: true, Way: redfish.WayAddFromURI}, redfishtest.Fault{Kind: redfishtest.TPM}, applied, "", nil, 1},
		{"TPM, overridden", ilo4, "1", redfish.Options{TPMOverride: true}, redfishtest.Fault{Kind: redfishtest.TPM}, applied, "", nil, 1},
		{"managed by OneView", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.OneViewManaged}, "", "HPE OneView", transport.ErrRejected, 0},
		{"managed by OneView, ignored", ilo5, "4", redfish.Options{IgnoreQueue: true}, redfishtest.Fault{Kind: redfishtest.OneViewManaged}, applied, "", nil, 1},
		{"flash fails", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.FlashFails}, failed, "FirmwareFlashFailed", nil, 0},
		{"flash fails", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.FlashFails}, failed, "FirmwareFlashFailed", nil, 0},
		{"pull fails", generic, "NIC", redfish.Options{Way: redfish.WaySimpleUpdate}, redfishtest.Fault{Kind: redfishtest.PullFails}, failed, "TransferFailed", nil, 0},
		{"pull fails", rmc, "RMC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.PullFails}, failed, "FirmwareUpdateDownloadFailure", nil, 0},
		{"never pulls", ilo5, "4", redfish.Options{Way: redfish.WayAddFromURI, StallTimeout: time.Second}, redfishtest.Fault{Kind: redfishtest.NeverPulls}, "", "has not fetched", transport.ErrTimeout, 0},
		{"complete, and nothing changed", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.Complete}, unknown, "7.10.64", nil, 0},
		{"complete, and nothing changed", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.Complete}, unknown, "1.0.7", nil, 0},
		{"complete, and nothing changed", ilo5, "1", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.Complete}, unknown, "2.72", nil, 0},
		{"completed with a warning", rmc, "RMC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.TaskWarning}, failed, "FirmwareUpdateConflictError", nil, 3},
		{"task lost", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.TaskLost}, applied, "", nil, 1},
		{"task lost", rmc, "RMC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.TaskLost}, applied, "", nil, 3},
		{"no Location", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.ForgetsLocation}, applied, "", nil, 1},
		{"401 in the middle", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.Unauthorized, Path: "/redfish/v1/TaskService", Skip: 1, Times: 2}, applied, "", nil, 1},
		{"503 in the middle", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.Unavailable, Path: "/redfish/v1/TaskService/Tasks/", Times: 3}, applied, "", nil, 1},
		{"no JSON in the middle", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.NotJSON, Method: "GET", Path: "/redfish/v1/UpdateService", Skip: 20, Times: 3}, applied, "", nil, 1},
		{"push answered by an empty 400", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.EmptyError, Path: "/cgi-bin/uploadFile", Times: 1}, unknown, "whether the request arrived", nil, 0},
		{"answer lost", ilo5, "4", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.ResetAnswered, Path: "/cgi-bin/uploadFile", Times: 1}, applied, "", nil, 1},
		{"answer lost", generic, "NIC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.ResetAnswered, Method: "POST", Path: "/redfish/v1/UpdateService", Times: 1}, applied, "", nil, 1},
		{"answer lost", rmc, "RMC", redfish.Options{}, redfishtest.Fault{Kind: redfishtest.ResetAnswered, Method: "POST", Path: "/redfish/v1/UpdateService", Times: 1}, applied, "", nil, 3},
	} {
		t.Run(string(c.profile)+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: c.profile, Pace: 4 * time.Millisecond})
			device := deviceOf(t, srv, c.id)
			if c.verdict == unknown && c.err == nil {
				c.opts.SettleTimeout = hasty().SettleTimeout
			}
			var injected *redfishtest.Injected
			res, err := try(t, srv, c.id, c.opts, func(_ *transport.Payload, o *transport.UpdateOptions) {
				o.Devices = []string{device}
				injected = srv.Inject(c.fault)
				t.Cleanup(injected.Remove)
			})
			switch {
			case c.opts.TPMOverride:
				require.Zero(t, injected.Hits(), "it is overridden")
			case c.opts.IgnoreQueue && c.fault.Kind == redfishtest.OneViewManaged:
				require.Zero(t, injected.Hits(), "nobody looks")
			case c.fault.Kind == redfishtest.TaskLost: // which does not count everywhere
				require.True(t, slices.ContainsFunc(srv.Requests(), func(r redfishtest.Request) bool {
					return r.Status == http.StatusNotFound && strings.HasPrefix(r.Path, "/redfish/v1/TaskService")
				}))
			default:
				require.Positive(t, injected.Hits(), "the fault has happened")
			}
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, c.says)
			} else {
				require.NoError(t, err)
				require.Equal(t, c.verdict, res.Verdict, "%+v", res)
				require.Contains(t, res.Code.Value+" "+res.Text, c.says)
			}
			require.Len(t, srv.Flashes(), c.flashes)
		})
	}
}

// A package says itself what activates it, and is matched by the identifiers of the
// devices, not by names.
func TestPackage(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	fw := srv.Firmware("6")
	res, err := try(t, srv, "6", redfish.Options{Way: redfish.WayAddFromURI}, func(p *transport.Payload, o *transport.UpdateOptions) {
		p.Name, p.Files = "cp0123", []transport.File{fw.Package("nic.fwpkg", "100.1", 10_000)}
		o.Devices = nil
	})
	require.NoError(t, err)
	require.Equal(t, transport.Result{Verdict: transport.VerdictStaged, Activation: transport.ActivationReboot, Code: res.Code, Text: res.Text}, res)
	require.Equal(t, "6", srv.Flashes()[0].ID)

	// For another device.
	_, err = try(t, srv, "4", redfish.Options{Way: redfish.WayAddFromURI}, func(p *transport.Payload, _ *transport.UpdateOptions) {
		p.Files = []transport.File{fw.Package("nic.fwpkg", "100.1", 10_000)}
	})
	require.ErrorIs(t, err, transport.ErrRejected)
	// The image in it, where the target takes images alone.
	res, err = try(t, srv, "4", redfish.Options{Way: redfish.WaySimpleUpdate}, func(p *transport.Payload, _ *transport.UpdateOptions) {
		p.Files = []transport.File{srv.Firmware("4").Package("pm.fwpkg", "100.1", 10_000)}
	})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
	require.Equal(t, "pm.bin", srv.Flashes()[1].File)
	// What the management processor does not write is not sent to it.
	_, err = try(t, srv, "5", redfish.Options{Way: redfish.WayAddFromURI}, func(p *transport.Payload, _ *transport.UpdateOptions) {
		p.Files = []transport.File{srv.Firmware("5").Package("raid.fwpkg", "100.1", 10_000)}
	})
	require.ErrorContains(t, err, "Uefi or RuntimeAgent")
}

func TestHop(t *testing.T) {
	srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO5})
	fw := srv.Firmware("4")
	img := redfishtest.Image(redfishtest.ImageSpec{Name: "pm.bin", DeviceClass: fw.DeviceClass, Targets: fw.Targets, Version: "100.1", Minimum: "1.0.9"})
	pkg := redfishtest.Package(redfishtest.PackageSpec{Name: "pm.fwpkg", DeviceClass: fw.DeviceClass, Images: []transport.File{img}})
	payload := func(p *transport.Payload, _ *transport.UpdateOptions) { p.Files = []transport.File{pkg} }
	_, err := try(t, srv, "4", redfish.Options{}, payload)
	require.ErrorIs(t, err, transport.ErrRejected)
	require.ErrorContains(t, err, "install 1.0.9")
	require.Zero(t, srv.Count("POST", "/cgi-bin"))
	require.NoError(t, srv.SetFirmware("4", "1.0.9"))
	res, err := try(t, srv, "4", redfish.Options{Way: redfish.WayAddFromURI}, payload)
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict)
}

// Some services answer success to what they cannot write: it is not sent.
func TestWrongForm(t *testing.T) {
	exe := transport.BytesFile("cp0123.exe", append([]byte("MZ"), make([]byte, 1000)...))
	zip := redfishtest.Package(redfishtest.PackageSpec{Images: []transport.File{redfishtest.Image(redfishtest.ImageSpec{Name: "a", Targets: []string{"x"}}), redfishtest.Image(redfishtest.ImageSpec{Name: "b", Targets: []string{"x"}})}})
	for _, c := range []struct {
		profile redfishtest.Profile
		id      string
		way     redfish.Way
		file    transport.File
	}{
		{redfishtest.ILO5, "4", redfish.WaySimpleUpdate, exe},
		{redfishtest.ILO5, "4", redfish.WaySimpleUpdate, zip},
		{redfishtest.ILO5, "4", redfish.WayHPEPush, exe},
		{redfishtest.ILO4, "1", "", exe},
		{redfishtest.RMC, "RMC", "", zip},
	} {
		srv := simulator(t, redfishtest.Config{Profile: c.profile})
		_, err := try(t, srv, c.id, redfish.Options{Way: c.way}, func(p *transport.Payload, _ *transport.UpdateOptions) { p.Files = []transport.File{c.file} })
		require.ErrorIs(t, err, transport.ErrRejected, "%s %s", c.profile, c.way)
		require.Zero(t, srv.Count("POST", "/redfish/v1/UpdateService")+srv.Count("POST", "/redfish/v1/Managers")+srv.Count("POST", "/cgi-bin"))
	}
}

func TestDeviceThatCannotBeRead(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["HttpPushUri"] = "/push" })
	p := transport.Payload{Name: "bmc", Version: "2.00", Files: []transport.File{transport.BytesFile("a.bin", []byte("image"))}}
	conn := dial(t, s.endpoint())
	s.handle("GET "+inventoryPath+"/BMC", func(w http.ResponseWriter, _ *http.Request) {
		fault(w, http.StatusServiceUnavailable, "Base.1.4.ServiceTemporarilyUnavailable")
	})
	_, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{Devices: []string{inventoryPath + "/BMC"}})
	require.ErrorIs(t, err, transport.ErrBusy, "and not that there is no such device")
}

// What the parts of a push are, and their order.
func TestPushParts(t *testing.T) {
	for _, c := range []struct {
		profile redfishtest.Profile
		id, way string
	}{{redfishtest.ILO5, "4", "/cgi-bin/uploadFile"}, {redfishtest.Generic, "NIC", "/redfish/v1/UpdateService/update-multipart"}} {
		srv := simulator(t, redfishtest.Config{Profile: c.profile})
		res, err := try(t, srv, c.id, redfish.Options{}, nil)
		require.NoError(t, err)
		require.Equal(t, transport.VerdictApplied, res.Verdict)
		for _, r := range srv.Requests() {
			if strings.HasPrefix(r.Path, c.way) {
				require.Equal(t, r.Length, r.Bytes)
				require.Positive(t, r.Length, "a length is given")
			}
		}
		require.Equal(t, 1, srv.Count("POST", c.way))
	}
}

// A version counts when it was read three times alike: while a target starts, what it
// says comes and goes.
func TestVersionMustStay(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["HttpPushUri"] = "/push" })
	p := image("2.00")
	ep := s.endpoint()
	ep.Options = hasty()
	conn := dial(t, ep)
	s.handle("POST /push", func(_ http.ResponseWriter, r *http.Request) {
		drain(r.Body)
		reads := 0
		s.handle("GET "+inventoryPath+"/BMC", func(w http.ResponseWriter, _ *http.Request) {
			version := "1.00"
			if reads++; reads <= 2 {
				version = "2.00"
			}
			_ = json.NewEncoder(w).Encode(obj{"@odata.id": inventoryPath + "/BMC", "Id": "BMC", "Name": "BMC Firmware", "Version": version})
		})
	})
	res, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{})
	require.NoError(t, err)
	require.Equal(t, transport.VerdictUnknown, res.Verdict)
	require.Contains(t, res.Text, "1.00")
}

// A file that changes while it is sent is not sent to its end.
func TestFileChanges(t *testing.T) {
	s := newService(t, nil)
	s.edit("/redfish/v1/UpdateService", func(o obj) { o["HttpPushUri"] = "/push" })
	complete := false
	s.handle("POST /push", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		complete = err == nil
	})
	content := make([]byte, 100_000)
	f := transport.BytesFile("a.bin", content)
	conn := dial(t, s.endpoint())
	var last transport.State
	_, err := transport.Update(t.Context(), conn, transport.Payload{Name: "bmc", Version: "2.00", Files: []transport.File{f}},
		transport.UpdateOptions{Checkpoint: func(_ context.Context, st transport.State) error {
			last = st
			content[99_999]++
			return nil
		}})
	require.ErrorIs(t, err, transport.ErrIntegrity)
	require.False(t, last.Sent)
	require.NoError(t, conn.Close(t.Context()))
	s.Close()
	require.False(t, complete)
}
