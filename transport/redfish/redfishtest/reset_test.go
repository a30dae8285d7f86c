package redfishtest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestReset: a flash that is under way when the service resets is not written.
func TestReset(t *testing.T) {
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Pace: 50 * time.Millisecond})
	c := loggedIn(t, s)
	path, body := updateRequest(redfishtest.ILO5, serveFile(t, s.Firmware("4").Image("x.bin", "9", 0)))
	require.Equal(t, http.StatusAccepted, c.do("POST", path, body).status)
	require.NoError(t, s.Await(t.Context(), func() bool { state, _ := c.state(); return state == "Updating" }))
	require.Equal(t, "FirmwareFlashAlreadyInProgress", c.do("POST", path, body).id())
	require.Equal(t, "FirmwareFlashAlreadyInProgress", c.do("POST", "/redfish/v1/Managers/1/Actions/Manager.Reset", map[string]any{}).id())
	addr := s.Addr()
	require.NoError(t, s.Reset(t.Context()))
	require.Equal(t, addr, s.Addr())
	idle(t, s)
	require.Equal(t, "1.0.7", s.Firmware("4").Version)
	require.Empty(t, s.Flashes())
	c.login()
	state, _ := c.state()
	require.Equal(t, "Idle", state)
}

// TestClose: nothing stays of a server, whatever it is doing.
func TestClose(t *testing.T) {
	for name, during := range map[string]func(s *redfishtest.Server, c *client){
		"idle": func(*redfishtest.Server, *client) {},
		"upload": func(s *redfishtest.Server, c *client) {
			f := s.Inject(redfishtest.Fault{Kind: redfishtest.StallAt, Bytes: 10})
			go func() { // ends with the connection
				_, _ = c.try("POST", "/redfish/v1/UpdateService/update", strings.NewReader(strings.Repeat("x", 1<<20)), http.Header{"Content-Type": {"application/octet-stream"}})
			}()
			happened(c.t, s, f)
		},
		"pull": func(s *redfishtest.Server, c *client) {
			f := s.Inject(redfishtest.Fault{Kind: redfishtest.NeverPulls})
			path, body := updateRequest(redfishtest.Generic, "http://127.0.0.1:9/x")
			c.do("POST", path, body)
			happened(c.t, s, f)
		},
		"reset": func(s *redfishtest.Server, c *client) {
			s.Inject(redfishtest.Fault{Kind: redfishtest.NeverReturns})
			ctx, cancel := context.WithTimeout(c.t.Context(), 50*time.Millisecond)
			defer cancel()
			require.ErrorIs(c.t, s.Reset(ctx), context.DeadlineExceeded)
		},
		"subscription": func(s *redfishtest.Server, c *client) {
			require.Equal(c.t, http.StatusCreated, c.do("POST", "/redfish/v1/EventService/Subscriptions", map[string]any{"Destination": "http://127.0.0.1:9/"}).status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			s, err := redfishtest.NewServer(redfishtest.Config{})
			require.NoError(t, err)
			c := loggedIn(t, s)
			during(s, c)
			addr := s.Addr()
			require.NoError(t, s.Close())
			require.NoError(t, s.Close())
			ln, err := net.Listen("tcp", addr) // the port is free
			require.NoError(t, err)
			require.NoError(t, ln.Close())
			require.Error(t, s.Idle(t.Context()))
			c.http.CloseIdleConnections()
		})
	}
}

// TestMany: servers in one process do not get into each other's way, and keep
// their ports.
func TestMany(t *testing.T) {
	const n = 30
	servers := make([]*redfishtest.Server, n)
	for i := range servers {
		servers[i] = newServer(t, redfishtest.Config{Profile: redfishtest.Profiles()[i%6]})
	}
	done := make(chan error, n)
	for _, s := range servers {
		addr := s.Addr()
		go func() {
			for range 5 {
				if err := s.Reset(t.Context()); err != nil {
					done <- err
					return
				}
				if _, err := newClient(t, s).try("GET", "/redfish/v1/", nil, nil); err != nil || s.Addr() != addr {
					done <- fmt.Errorf("%s, %s: %w", addr, s.Addr(), err)
					return
				}
			}
			done <- nil
		}()
	}
	for range n {
		require.NoError(t, <-done)
	}
}
