package sum

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/transport"
)

type policies = map[portalloc.Role]portalloc.Policy

// freePorts returns n ports that were free a moment ago, apart from TestPorts.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var out []uint16
	for tries := 0; len(out) < n; tries++ {
		require.Less(t, tries, 1000, "no free ports")
		port := 31001 + rand.IntN(1700)
		ln, err := net.Listen("tcp", fmt.Sprint(":", port))
		if err == nil {
			defer ln.Close()
			out = append(out, uint16(port))
		}
	}
	return out
}

// occupy is another program that has the port.
func occupy(t *testing.T, port uint16) {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprint(":", port))
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
}

func portOf(t *testing.T, pub transport.Published) uint16 {
	t.Helper()
	u, err := url.Parse(pub.URL)
	require.NoError(t, err)
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	require.NoError(t, err)
	return uint16(n)
}

// TestPublishRole: which role gives the port, and for whom none does.
func TestPublishRole(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    Config
		secure bool
		fixed  uint16
		want   portalloc.Role // 0: unsupported
	}{
		{"any", Config{}, false, 0, portalloc.Port},
		{"any, TLS", Config{}, true, 0, portalloc.SSLPort},
		{"any, of the web server", Config{HTTPRole: portalloc.HTTP}, false, 0, portalloc.HTTP},
		{"any, TLS beside the web server", Config{HTTPRole: portalloc.HTTP}, true, 0, portalloc.SSLPort},
		{"the setting", Config{}, false, 63001, portalloc.Port},
		{"the setting beside the web server", Config{HTTPRole: portalloc.HTTP}, false, 63001, portalloc.Port},
		{"the setting, TLS", Config{}, true, 63002, portalloc.SSLPort},
		{"80", Config{}, false, 80, portalloc.HTTP},
		{"80 is the setting", Config{Ports: policies{portalloc.Port: portalloc.Fixed(80)}}, false, 80, portalloc.Port},
		{"443 is the setting", Config{Ports: policies{portalloc.SSLPort: portalloc.Fixed(443)}}, true, 443, portalloc.SSLPort},
		{"second choice", Config{Ports: policies{portalloc.Port: {Prefer: []uint16{8080, 8081}}}}, false, 8081, portalloc.Port},
		{"443", Config{}, true, 443, 0},
		{"80, TLS", Config{}, true, 80, 0},
		{"80 is none of the settings", Config{Ports: policies{portalloc.HTTP: portalloc.Fixed(8080)}}, false, 80, 0},
	} {
		role, err := testPublisher(t, withPorts(tt.cfg)).role(tt.secure, tt.fixed)
		if tt.want == 0 {
			require.ErrorIs(t, err, errors.ErrUnsupported, tt.name)
			continue
		}
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.want, role, tt.name)
	}
	for _, cfg := range []Config{{HTTPRole: portalloc.SSLPort}, {Ports: policies{portalloc.Port: portalloc.Fixed(63002)}}} {
		_, err := newPublisher(cfg)
		require.ErrorIs(t, err, ErrInvalid)
	}
}

// withPorts keeps testPublisher from changing the ports.
func withPorts(cfg Config) Config {
	if cfg.Ports == nil {
		cfg.Ports = policies{}
	}
	return cfg
}

// TestPublishFixedPort: who fetches from one port gets that one or an error, also
// where the role has others, or another open already.
func TestPublishFixedPort(t *testing.T) {
	free := freePorts(t, 4)
	busy, other := free[0], free[1]
	occupy(t, busy)
	f := transport.BytesFile("fw.bin", []byte("firmware"))
	for name, policy := range map[string]portalloc.Policy{
		"range":  {Prefer: []uint16{busy}, First: 20480, Last: 29999, Random: true},
		"choice": {Prefer: []uint16{busy, other}},
		"fixed":  portalloc.Fixed(busy),
	} {
		for _, role := range []portalloc.Role{portalloc.Port, portalloc.HTTP} {
			t.Run(fmt.Sprint(name, " ", role), func(t *testing.T) {
				p := testPublisher(t, Config{Ports: policies{role: policy}, HTTPRole: role})
				for range 2 { // before and after another port of the role is open
					pub, _, err := p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{File: f, FixedPort: busy}, offerRecord{})
					require.ErrorIs(t, err, portalloc.ErrBusy, pub.URL)
					if name == "fixed" {
						break
					}
					plain, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
					require.NotEqual(t, busy, portOf(t, plain))
				}
			})
		}
	}
	// It is opened beside the one that the policy gave, and then serves all who ask.
	wanted := free[2]
	p := testPublisher(t, Config{Ports: policies{portalloc.Port: {Prefer: []uint16{free[3], wanted}}}})
	plain, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
	require.Equal(t, free[3], portOf(t, plain))
	for range 2 {
		pub, where := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{FixedPort: wanted})
		require.Equal(t, wanted, portOf(t, pub))
		require.Equal(t, wanted, where.Port)
		for _, u := range []string{pub.URL, plain.URL} {
			status, _ := fetchBy(t, client(t, "127.0.0.1"), u)
			require.Equal(t, 200, status)
		}
	}
	require.Len(t, p.open, 2)
}

// TestPublishResumedPort: what an earlier run offered is offered where it was, also
// where this one has offered something elsewhere already.
func TestPublishResumedPort(t *testing.T) {
	free := freePorts(t, 3)
	p := testPublisher(t, Config{Ports: policies{portalloc.Port: TestPorts, portalloc.SSLPort: portalloc.Fixed(free[1])}})
	f := transport.BytesFile("fw.bin", []byte("firmware"))
	resume := func(port uint16) uint16 {
		t.Helper()
		old := offerRecord{strings.Repeat("A", 23) + string(rune('A'+port%26)), port}
		pub, where, err := p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{File: f, Key: "old"}, old)
		require.NoError(t, err)
		require.Contains(t, pub.URL, old.Token)
		require.Equal(t, where.Port, portOf(t, pub))
		status, _ := fetchBy(t, client(t, "127.0.0.1"), pub.URL)
		require.Equal(t, 200, status)
		_, err = pub.Release(t.Context())
		require.NoError(t, err)
		return where.Port
	}
	first, where := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{Key: "new"})
	require.Equal(t, free[0], resume(free[0]))
	require.Equal(t, free[0], resume(free[0]))
	require.Equal(t, where.Port, resume(where.Port))

	// Where that cannot be had, what is open serves.
	occupy(t, free[2])
	require.Equal(t, where.Port, resume(free[2]))
	require.Equal(t, where.Port, resume(free[1]), "the port of another role")
	next, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
	require.Equal(t, portOf(t, first), portOf(t, next))
	require.Len(t, p.open, 2)
}

// TestPublishWebServer: 80 if it is free, else another of the range and neither
// port nor ssl_port.
func TestPublishWebServer(t *testing.T) {
	free := freePorts(t, 1)
	var first uint16 // of four in a row
	require.Eventually(t, func() bool {
		first = freePorts(t, 1)[0]
		if first <= free[0] && free[0] <= first+3 {
			return false
		}
		for i := range uint16(4) {
			ln, err := net.Listen("tcp", fmt.Sprint(":", first+i))
			if err != nil {
				return false
			}
			ln.Close()
		}
		return true
	}, time.Minute, time.Millisecond)
	cfg := Config{HTTPRole: portalloc.HTTP, Ports: policies{
		portalloc.HTTP: {Prefer: free, First: first, Last: first + 3, Random: true},
		portalloc.Port: portalloc.Fixed(first + 1), portalloc.SSLPort: portalloc.Fixed(first + 2),
	}}
	p := testPublisher(t, cfg)
	pub, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
	require.Equal(t, free[0], portOf(t, pub))
	require.NoError(t, p.close(t.Context()))
	occupy(t, free[0])
	for range 20 {
		p := testPublisher(t, cfg)
		pub, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
		require.True(t, slices.Contains([]uint16{first, first + 3}, portOf(t, pub)), "%s", pub.URL)
		require.NoError(t, p.close(context.Background()))
	}
}

// TestPublishWhilePortOpens: a port that takes time to open holds up only those who
// want it, and those no longer than their context.
func TestPublishWhilePortOpens(t *testing.T) {
	p := testPublisher(t, Config{})
	pub, _ := p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{TLS: true})
	require.NoError(t, p.turn.take(t.Context())) // somebody opens a port
	soon, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	f := transport.BytesFile("fw.bin", []byte("firmware"))
	_, _, err := p.offer(soon, Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{File: f, TLS: true}, offerRecord{})
	require.NoError(t, err, "the port is open already")
	status, _ := fetchBy(t, client(t, "127.0.0.1", pub.Certificate), pub.URL)
	require.Equal(t, 200, status)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, r := range []transport.PublishRequest{{}, {TLS: true}} {
		wg.Go(func() {
			r.File = f
			_, _, err := p.offer(ctx, Target{}, fromLoopback("192.0.2.1"), r, offerRecord{})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("offered while somebody else had the turn: %v", err)
			}
		})
	}
	cancel()
	wg.Wait()
	p.turn.give()
	p.offered(t, fromLoopback("127.0.0.1"), transport.PublishRequest{})
	require.NoError(t, p.close(t.Context()))
	_, _, err = p.offer(t.Context(), Target{}, fromLoopback("127.0.0.1"), transport.PublishRequest{File: f}, offerRecord{})
	require.ErrorIs(t, err, ErrClosed)
}
