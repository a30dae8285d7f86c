package redfishtest_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// answers of a service to GET of the update service under a fault.
func TestAnswerFaults(t *testing.T) {
	type F = redfishtest.Fault
	const path = "/redfish/v1/UpdateService"
	for kind, c := range map[redfishtest.FaultKind]struct {
		fault F
		check func(t *testing.T, a answer)
	}{
		redfishtest.Unauthorized: {check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusUnauthorized, a.status)
			require.Equal(t, "NoValidSession", a.id())
		}},
		redfishtest.Unavailable: {fault: F{Delay: 3 * time.Second}, check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusServiceUnavailable, a.status)
			require.Equal(t, "3", a.header.Get("Retry-After"))
		}},
		redfishtest.NotJSON: {check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Nil(t, a.json)
			require.NotEmpty(t, a.body)
		}},
		redfishtest.EmptyError: {check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Empty(t, a.body)
		}},
		redfishtest.Redirect: {check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusPermanentRedirect, a.status)
			require.Equal(t, path+"/", a.header.Get("Location"))
		}},
		redfishtest.RedirectAway: {fault: F{Location: "https://192.0.2.1/x"}, check: func(t *testing.T, a answer) {
			require.Equal(t, "https://192.0.2.1/x", a.header.Get("Location"))
		}},
		redfishtest.Oversized: {fault: F{Bytes: 3 << 20}, check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusOK, a.status)
			require.Len(t, a.body, 3<<20)
			require.NotNil(t, a.json)
		}},
		redfishtest.Deep: {fault: F{Bytes: 9000}, check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusOK, a.status)
			require.Equal(t, 9000, strings.Count(a.body, "{"))
			require.NotNil(t, a.json)
		}},
		redfishtest.Slow: {fault: F{Delay: time.Millisecond}, check: func(t *testing.T, a answer) {
			require.Equal(t, http.StatusOK, a.status)
		}},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
			cl := loggedIn(t, s)
			c.fault.Kind, c.fault.Path, c.fault.Skip, c.fault.Times = kind, strings.ToLower(path), 1, 1
			f := s.Inject(c.fault)
			require.Equal(t, http.StatusOK, cl.get(path).status, "the first goes well")
			require.Equal(t, http.StatusOK, cl.get("/redfish/v1/Systems").status, "others go well")
			c.check(t, cl.get(path))
			require.Equal(t, 1, f.Hits())
			if kind == redfishtest.Unauthorized {
				require.Equal(t, http.StatusUnauthorized, cl.get("/redfish/v1/Systems").status)
				cl.login()
			}
			require.Equal(t, http.StatusOK, cl.get(path).status, "it happens once")
			f.Remove()
			f.Remove()
		})
	}
}

// TestConnectionFaults: who is refused, reset, and let in again.
func TestConnectionFaults(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	fresh := func() error {
		_, err := newClient(t, s).try("GET", "/redfish/v1", nil, nil)
		return err
	}
	require.NoError(t, fresh())
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.RefuseConnections})
	require.ErrorIs(t, fresh(), syscall.ECONNREFUSED)
	f.Remove()
	require.NoError(t, fresh())

	f = s.Inject(redfishtest.Fault{Kind: redfishtest.ResetConnections, Times: 1})
	require.Error(t, fresh())
	require.Equal(t, 1, f.Hits())
	require.NoError(t, fresh())

	s.CloseConnections()
	c := newClient(t, s)
	require.Equal(t, http.StatusOK, c.get("/redfish/v1").status)
	f = s.Inject(redfishtest.Fault{Kind: redfishtest.SingleConnection})
	require.Error(t, fresh())
	require.Equal(t, http.StatusOK, c.get("/redfish/v1").status, "the one that is open works")
	require.Equal(t, 1, f.Hits())
}

// TestBodyFaults: an upload is reset or stalls at a byte.
func TestBodyFaults(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	b := read(t, s.Firmware("NIC").Image("nic.bin", "8.0", 1<<20))
	push := func(body io.Reader) error {
		_, err := c.try("POST", "/redfish/v1/UpdateService/update", body, http.Header{"Content-Type": {"application/octet-stream"}})
		return err
	}
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.ResetAt, Bytes: 500_000, Times: 1})
	require.Error(t, push(bytes.NewReader(b)))
	require.NoError(t, s.Await(t.Context(), func() bool {
		r := s.Requests()
		return r[len(r)-1].Bytes == 500_000
	}))
	require.Equal(t, 1, f.Hits())
	idle(t, s)

	f = s.Inject(redfishtest.Fault{Kind: redfishtest.StallAt, Bytes: 1000})
	done := make(chan error, 1)
	go func() { done <- push(bytes.NewReader(b)) }()
	happened(t, s, f)
	select {
	case err := <-done:
		t.Fatal("it does not stall", err)
	default:
	}
	f.Remove()
	require.NoError(t, <-done)
	idle(t, s)
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
}

// TestUpdateFaults: what each fault makes of a pull of the manager's own firmware.
func TestUpdateFaults(t *testing.T) {
	for _, p := range redfishtest.Profiles() {
		for kind, want := range map[redfishtest.FaultKind]struct {
			fault   redfishtest.Fault
			version string // "" means the old one
			id      string // of the answer
		}{
			redfishtest.Busy:               {fault: redfishtest.Fault{Times: 1}, id: "busy"},
			redfishtest.FirmwareVerifying:  {id: "FirmwareVerificationInProgress"},
			redfishtest.BadSignature:       {},
			redfishtest.FlashFails:         {fault: redfishtest.Fault{MessageID: "FirmwareIncompatibleError"}},
			redfishtest.PullFails:          {},
			redfishtest.NeverPulls:         {fault: redfishtest.Fault{Delay: time.Millisecond}},
			redfishtest.Complete:           {},
			redfishtest.ForgetsStaged:      {},
			redfishtest.TaskWarning:        {version: "9.99"},
			redfishtest.SlowReset:          {fault: redfishtest.Fault{Delay: 50 * time.Millisecond}, version: "9.99"},
			redfishtest.ReturnsWithNewCert: {version: "9.99"},
			redfishtest.ForgetsLocation:    {version: "9.99"},
		} {
			if p == redfishtest.ILO4 && kind == redfishtest.TaskWarning {
				continue // it has no tasks
			}
			t.Run(string(p)+" "+string(kind), func(t *testing.T) {
				t.Parallel()
				s := newServer(t, redfishtest.Config{Profile: p})
				c := loggedIn(t, s)
				fw := s.Inventory()[0]
				before := s.SPKI()
				path, body := updateRequest(p, serveFile(t, fw.Image("x.bin", "9.99", 0)))
				want.fault.Kind = kind
				f := s.Inject(want.fault)
				a := c.do("POST", path, body)
				if want.id == "" {
					require.Less(t, a.status, 300, a.body)
				} else {
					require.GreaterOrEqual(t, a.status, 400, a.body)
					if want.id != "busy" {
						require.Equal(t, want.id, a.id())
					}
				}
				if kind == redfishtest.ForgetsLocation {
					require.Empty(t, a.header.Get("Location"))
				}
				idle(t, s)
				if want.version == "" {
					want.version = fw.Version
				}
				require.Equal(t, want.version, s.Firmware(fw.ID).Version)
				require.Positive(t, f.Hits())
				require.Equal(t, kind == redfishtest.ReturnsWithNewCert, before != s.SPKI())
				if kind == redfishtest.Complete || kind == redfishtest.ForgetsStaged {
					require.Equal(t, 1, s.Resets(), "it resets all the same")
				}
			})
		}
	}
}

// TestNeverReturns: the service is gone until the fault is.
func TestNeverReturns(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	f := s.Inject(redfishtest.Fault{Kind: redfishtest.NeverReturns})
	require.Equal(t, http.StatusOK, c.do("POST", "/redfish/v1/Managers/1/Actions/Manager.Reset/", map[string]any{"ResetType": "GracefulRestart"}).status)
	require.NoError(t, s.Await(t.Context(), func() bool { return s.Resets() == 1 }))
	happened(t, s, f)
	_, err := newClient(t, s).try("GET", "/redfish/v1", nil, nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	f.Remove()
	idle(t, s)
	c.login()
}

// TestMemberFaults: what collections can be like.
func TestMemberFaults(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	c := loggedIn(t, s)
	const inventory = "/redfish/v1/UpdateService/FirmwareInventory/?$expand=."
	members := func(path string) []any {
		a := c.get(path)
		require.Equal(t, http.StatusOK, a.status)
		m, _ := a.json["Members"].([]any)
		return m
	}
	first := func() map[string]any { return members(inventory)[0].(map[string]any) }
	require.Len(t, members(inventory), 7)
	require.Equal(t, true, first()["Updateable"])

	f := s.Inject(redfishtest.Fault{Kind: redfishtest.NoUpdateable})
	require.NotContains(t, first(), "Updateable")
	f.Remove()
	f = s.Inject(redfishtest.Fault{Kind: redfishtest.StubMembers})
	require.Len(t, first(), 1)
	f.Remove()
	f = s.Inject(redfishtest.Fault{Kind: redfishtest.DuplicateMembers})
	require.Len(t, members(inventory), 8)
	f.Remove()
	f = s.Inject(redfishtest.Fault{Kind: redfishtest.BrokenMember})
	require.Equal(t, http.StatusInternalServerError, c.get("/redfish/v1/UpdateService/FirmwareInventory/7/").status)
	require.Equal(t, http.StatusOK, c.get("/redfish/v1/UpdateService/FirmwareInventory/6/").status)
	f.Remove()

	f = s.Inject(redfishtest.Fault{Kind: redfishtest.PagedMembers, Bytes: 3})
	seen := 0
	for path := inventory; path != ""; {
		a := c.get(path)
		require.EqualValues(t, 7, a.json["Members@odata.count"])
		for _, m := range a.json["Members"].([]any) {
			require.Contains(t, m, "Version")
			seen++
		}
		path, _ = a.json["Members@odata.nextLink"].(string)
	}
	require.Equal(t, 7, seen)
	require.Equal(t, 3, f.Hits())
	f.Remove()

	one := s.Inject(redfishtest.Fault{Kind: redfishtest.OneViewManaged})
	accounts := members("/redfish/v1/AccountService/Accounts/?$expand=.")
	require.Equal(t, "_HPOneViewAdmin", accounts[len(accounts)-1].(map[string]any)["UserName"])
	require.Positive(t, one.Hits())
}

// TestResetAnswered: the request counts, its answer is lost.
func TestResetAnswered(t *testing.T) {
	s := newServer(t, redfishtest.Config{})
	c := loggedIn(t, s)
	s.Inject(redfishtest.Fault{Kind: redfishtest.ResetAnswered, Method: "POST", Times: 1})
	path, _ := updateRequest(redfishtest.Generic, "")
	uri := serveFile(t, s.Firmware("NIC").Image("nic.bin", "8.0", 0))
	_, err := c.try("POST", path, strings.NewReader(`{"ImageURI":"`+uri+`"}`), nil)
	require.Error(t, err)
	var timeout interface{ Timeout() bool }
	require.False(t, errors.As(err, &timeout) && timeout.Timeout())
	idle(t, s)
	require.Equal(t, "8.0", s.Firmware("NIC").Version)
	require.Equal(t, 1, s.Count("POST", path))
}
