package depot_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

func TestMain(m *testing.M) {
	if job := os.Getenv(jobVariable); job != "" {
		serveJob(job)
		return
	}
	goleak.VerifyTestMain(m)
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// content returns n bytes that do not repeat near any block size.
func content(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// logBuffer is a log that tests read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lab is a depot on loopback, and a client.
type lab struct {
	*testing.T
	depot  *depot.Depot
	addr   string
	scheme string
	client *http.Client
	logs   *logBuffer
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return newLabOn(t, ln)
}

func newLabOn(t *testing.T, ln net.Listener) *lab {
	t.Helper()
	return newLabWith(t, ln, depot.Options{}, nil)
}

// newLabWith is for HTTPS if there is a config for the server and a pool of
// certificates for the client.
func newLabWith(t *testing.T, ln net.Listener, opts depot.Options, config *tls.Config, pool ...*x509.Certificate) *lab {
	t.Helper()
	l := &lab{T: t, logs: &logBuffer{}, addr: ln.Addr().String(), scheme: "http"}
	opts.Logger = slog.New(slog.NewTextHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l.depot = depot.New(opts)
	tr := &http.Transport{DisableCompression: true}
	l.client = &http.Client{Transport: tr}
	run := func() error { return l.depot.Serve(ln) }
	if config != nil {
		l.scheme = "https"
		roots := x509.NewCertPool()
		for _, c := range pool {
			roots.AddCert(c)
		}
		tr.TLSClientConfig, tr.ForceAttemptHTTP2 = &tls.Config{RootCAs: roots}, true
		run = func() error { return l.depot.ServeTLS(ln, config) }
	}
	served := goServe(t, run)
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		require.NoError(t, l.depot.Close(context.Background()))
		<-served
	})
	return l
}

// serve runs Serve, which must end without an error.
func serve(t *testing.T, d *depot.Depot, ln net.Listener) <-chan struct{} {
	return goServe(t, func() error { return d.Serve(ln) })
}

func goServe(t *testing.T, run func() error) <-chan struct{} {
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := run(); err != nil {
			t.Errorf("serving: %v", err)
		}
	}()
	return served
}

func (l *lab) offer(f transport.File) *depot.Offer {
	l.Helper()
	o, err := l.depot.Offer(depot.File{File: f, Allow: loopback})
	require.NoError(l, err)
	return o
}

// do makes a request with headers given as name, value, ... and reads the answer.
func (l *lab) do(method, path string, header ...string) (*http.Response, []byte) {
	l.Helper()
	res, body, err := l.try(method, path, header...)
	require.NoError(l, err)
	return res, body
}

func (l *lab) try(method, path string, header ...string) (*http.Response, []byte, error) {
	return l.send(method, path, nil, header...)
}

// send is try with a body.
func (l *lab) send(method, path string, content io.Reader, header ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(l.Context(), method, l.scheme+"://"+l.addr+path, content)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := l.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

// spoofed is a connection whose other end has the address that a test gives it.
type spoofed struct {
	net.Conn
	from net.Addr
}

func (c spoofed) RemoteAddr() net.Addr { return c.from }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// pipes is a listener whose connections are pipes, for tests on a false clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return address("127.0.0.1:80") }

// dial returns the client's end of a connection from an address.
func (p *pipes) dial(from string) net.Conn {
	here, there := net.Pipe()
	p.conns <- spoofed{there, address(from)}
	return here
}
