package redfish_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// TestConformance runs the suite of package transporttest against the simulator: by push
// and by pull, for parts that take effect at once, with a reset of the service, and with
// a reboot of the host. What is the same for every profile and way is tried with one.
func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name    string
		profile redfishtest.Profile
		device  string // of the inventory of the simulator
		opts    redfish.Options
		pkg     bool
		unsure  bool
	}{
		{"generic/multipart", redfishtest.Generic, "NIC", redfish.Options{Way: redfish.WayMultipart}, false, false},
		{"generic/reset", redfishtest.Generic, "BMC", redfish.Options{}, false, false},
		{"generic/simple-update", redfishtest.Generic, "NIC", redfish.Options{Way: redfish.WaySimpleUpdate}, false, false},
		{"ilo5/push", redfishtest.ILO5, "1", redfish.Options{Way: redfish.WayHPEPush}, false, true},
		{"ilo5/staged", redfishtest.ILO5, "2", redfish.Options{}, false, true},
		{"ilo5/queue", redfishtest.ILO5, "4", redfish.Options{Way: redfish.WayQueue}, true, false},
		{"ilo5/install-set", redfishtest.ILO5, "4", redfish.Options{Way: redfish.WayInstallSet}, false, false},
		{"ilo5/add-from-uri", redfishtest.ILO5, "4", redfish.Options{Way: redfish.WayAddFromURI}, true, false},
		{"ilo6/push", redfishtest.ILO6, "4", redfish.Options{}, false, true},
		{"ilo4/install-from-uri", redfishtest.ILO4, "1", redfish.Options{}, false, true},
		{"rmc/update-all", redfishtest.RMC, "RMC", redfish.Options{ImageScheme: "http"}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "generic/multipart" { // which counts goroutines
				t.Parallel()
			}
			srv := simulator(t, redfishtest.Config{Profile: c.profile, Pace: time.Millisecond, LastResetTime: true, TaskPayload: true})
			// In some cases nothing comes, and what waits for that is not to keep the others from
			// their work.
			c.opts.SettleTimeout, c.opts.PollInterval = time.Second, 20*time.Millisecond
			h := harness(t, srv, c.device, c.opts, c.pkg)
			if c.name != "generic/multipart" {
				h.Transport = node{h.Transport}
			}
			if c.unsure {
				h.Skip["update/unknown-state"] = "it wants the request to be made after all that may have been made already; nothing proves here that it was not"
			}
			for _, tc := range transporttest.Cases(h) {
				if group, _, _ := strings.Cut(tc.Name, "/"); c.name != "generic/multipart" && group != "update" && group != "undo" && group != "inventory" && group != "harness" {
					continue
				}
				t.Run(tc.Name, func(t *testing.T) {
					if reason := h.Skip[tc.Name]; reason != "" {
						t.Skip(reason)
					}
					require.NoError(t, tc.Run(t.Context(), h))
				})
			}
		})
	}
}

func simulator(t testing.TB, cfg redfishtest.Config) *redfishtest.Server {
	srv, err := redfishtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv
}

// endpointOf leads to a simulator.
func endpointOf(srv *redfishtest.Server, opts redfish.Options) transport.Endpoint {
	short := quick()
	if opts.PollInterval == 0 {
		opts.PollInterval = short.PollInterval
	}
	if opts.SettleTimeout == 0 {
		opts.SettleTimeout = short.SettleTimeout
	}
	if opts.ResetTimeout == 0 {
		opts.ResetTimeout = short.ResetTimeout
	}
	return transport.Endpoint{Address: srv.Addr(), Options: opts,
		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
		Trust:       transport.Trust{SPKI: [][sha256.Size]byte{srv.SPKI()}}}
}

// cable is what connections to a simulator go over.
type cable struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	still chan struct{} // nil: it moves
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = true
	return &wire{Conn: conn, c: c}, nil
}

// cut breaks what is open.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	clear(c.conns)
}

// stall stops what comes in.
func (c *cable) stall() func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	still := make(chan struct{})
	c.still = still
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.still = nil
		close(still)
	}
}

type wire struct {
	net.Conn
	c    *cable
	once sync.Once
	gone chan struct{}
	mu   sync.Mutex
}

func (w *wire) done() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone == nil {
		w.gone = make(chan struct{})
	}
	return w.gone
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.c.mu.Lock()
	still := w.c.still
	w.c.mu.Unlock()
	if still != nil {
		select {
		case <-still:
		case <-w.done():
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (w *wire) Close() error {
	gone := w.done()
	w.once.Do(func() { close(gone) })
	w.c.mu.Lock()
	delete(w.c.conns, w.Conn)
	w.c.mu.Unlock()
	return w.Conn.Close()
}

// deviceOf is the driver's name for an entry of a simulator's inventory.
func deviceOf(t testing.TB, srv *redfishtest.Server, id string) string {
	conn := dial(t, endpointOf(srv, redfish.Options{}))
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	for _, d := range inv.Devices {
		if d.Name == srv.Firmware(id).Name {
			return d.ID
		}
	}
	require.Fail(t, "no such device", "%s among %+v", id, inv.Devices)
	return ""
}

func harness(t *testing.T, srv *redfishtest.Server, id string, opts redfish.Options, pkg bool) transporttest.Harness {
	c := &cable{conns: map[net.Conn]bool{}}
	ep := endpointOf(srv, opts)
	secret, trust := ep, ep
	secret.Credentials.Password = transport.NewSecret("battery staple")
	trust.Trust = transport.Trust{SPKI: [][sha256.Size]byte{{1}}}
	pull := opts.Way == redfish.WaySimpleUpdate || opts.Way == redfish.WayAddFromURI || srv.Profile() == redfishtest.ILO4 || srv.Profile() == redfishtest.RMC
	n := 0
	fw := srv.Firmware(id)
	return transporttest.Harness{
		// The cases dial while a service resets, too.
		Transport: transport.Retry(&redfish.Transport{DialContext: c.dial}, transport.RetryOptions{Tries: 100, Base: time.Millisecond, Max: 20 * time.Millisecond}),
		Endpoint:  ep, WrongSecret: &secret, WrongTrust: &trust, Patience: time.Minute,
		Caps: transport.CapInventory | transport.CapUpdate | transport.CapUndo | transport.CapReboot, Cut: c.cut, Stall: c.stall,
		Requests: func() int64 { return int64(srv.Total()) },
		Skip:     map[string]string{"reboot/boot-id": "it wants a message to be shown, which no service does; see TestReboot"},
		Updates: &transporttest.Updates{
			Leftovers: func() []string {
				left := srv.Components()
				for _, i := range srv.Queue() {
					left = append(left, i.Name)
				}
				return append(left, srv.InstallSets()...)
			},
			Device: deviceOf(t, srv, id), Pull: pull,
			Applied: func() int { // of the entries that one image is for, the first counts
				all := 0
				for _, f := range srv.Flashes() {
					if f.ID == id {
						all++
					}
				}
				return all
			},
			Next: func() transport.Payload {
				n++
				version := fmt.Sprintf("100.%d", n)
				file := fw.Image("image.bin", version, 100_000)
				if pkg {
					file = fw.Package("image.fwpkg", version, 100_000)
				}
				return transport.Payload{Name: fw.Name, Version: version, Files: []transport.File{file}}
			},
			Activate: func(a transport.Activation) error {
				return srv.Reboot(t.Context(), a == transport.ActivationPowerCycle)
			},
		},
	}
}

// node dials as the node of a session does: where the line broke, it dials again and has
// the update go on from its last state. A service that resets itself may do so between
// the dial and the call.
type node struct{ transport.Transport }

func (n node) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := n.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return &nodeConn{Forward: transport.Forward{Conn: conn}, t: n.Transport, ep: ep}, nil
}

type nodeConn struct {
	transport.Forward
	t  transport.Transport
	ep transport.Endpoint
}

func (c *nodeConn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (transport.Result, error) {
	keep := opts.Checkpoint
	if keep != nil {
		opts.Checkpoint = func(ctx context.Context, s transport.State) error {
			err := keep(ctx, s)
			if err == nil {
				opts.Resume = &s
			}
			return err
		}
	}
	res, err := c.Forward.Update(ctx, p, opts)
	for range 10 {
		if !errors.Is(err, transport.ErrConnLost) {
			break
		}
		conn, derr := c.t.Dial(ctx, c.ep)
		if derr != nil {
			return res, derr
		}
		res, err = transport.Update(ctx, conn, p, opts)
		err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return res, err
}
