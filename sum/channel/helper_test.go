package channel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeAgent implements Handler, Blobs and Logs in memory, and counts.
type fakeAgent struct {
	mu      sync.Mutex
	calls   map[string]int
	install *InstallRequest
	jobs    map[string]*JobStatus
	blobs   map[string][]byte
	partial map[string][]byte
	logs    map[string][]byte
	block   chan struct{} // Inventory waits for it, if not nil
	entered chan struct{} // Inventory says that it began, if not nil
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{
		calls: map[string]int{}, jobs: map[string]*JobStatus{}, blobs: map[string][]byte{},
		partial: map[string][]byte{}, logs: map[string][]byte{},
	}
}

func (f *fakeAgent) count(op string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
}

func (f *fakeAgent) called(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *fakeAgent) Inventory(ctx context.Context, r *InventoryRequest) (*InventoryResponse, error) {
	f.count("Inventory")
	if f.entered != nil {
		f.entered <- struct{}{}
	}
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			f.count("InventoryCancelled")
			return nil, ctx.Err()
		}
	}
	yes := true
	out := &InventoryResponse{
		HostName: "web-01", Product: "Debian GNU/Linux", Version: "13", Arch: "amd64", Kernel: "6.12.0",
		AgentTime: time.Unix(1, 0).UTC(), BootID: "b",
		Devices:  []Device{{ID: "nic0", Class: "nic", Name: "<eth&0>", HardwareIDs: []string{"PCI\\VEN_8086", "x"}, Updateable: &yes}},
		Software: []Software{{Name: "hello", Version: "2.10-3", Arch: "amd64", Source: "deb"}},
		Problems: []Problem{{Part: "bmc", Text: "no device"}},
	}
	for _, p := range r.Probes {
		code := len(p.Args)
		out.Results = append(out.Results, ProbeResult{Name: p.Name, ExitCode: &code, Output: fmt.Sprint(p.Args)})
	}
	return out, nil
}

func (f *fakeAgent) Install(_ context.Context, r *InstallRequest) (*JobStatus, error) {
	f.count("Install")
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Component == "panic" {
		panic("canary-in-a-panic")
	}
	f.install = r
	if f.jobs[r.JobID] == nil {
		f.jobs[r.JobID] = &JobStatus{JobID: r.JobID, State: StateAccepted}
	}
	return f.jobs[r.JobID], nil
}

func (f *fakeAgent) Status(_ context.Context, r *StatusRequest) (*JobStatus, error) {
	f.count("Status")
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.jobs[r.JobID]
	if j == nil {
		return nil, &Fault{Code: CodeNotFound, Message: "no job " + r.JobID}
	}
	c := *j
	c.NextLogOffset = r.LogOffset + 3
	c.Log = Base64("\x00\xff\n")
	return &c, nil
}

func (f *fakeAgent) ListJobs(context.Context, *ListJobsRequest) (*ListJobsResponse, error) {
	f.count("ListJobs")
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &ListJobsResponse{}
	for _, j := range f.jobs {
		out.Jobs = append(out.Jobs, *j)
	}
	return out, nil
}

func (f *fakeAgent) Cancel(ctx context.Context, r *CancelRequest) (*JobStatus, error) {
	f.count("Cancel")
	return f.Status(ctx, &StatusRequest{JobID: r.JobID})
}

func (f *fakeAgent) Heartbeat(_ context.Context, r *HeartbeatRequest) (*HeartbeatResponse, error) {
	f.count("Heartbeat")
	return &HeartbeatResponse{AgentTime: time.Now(), LeaseSeconds: r.LeaseSeconds}, nil
}

func (f *fakeAgent) Reboot(context.Context, *RebootRequest) (*RebootResponse, error) {
	f.count("Reboot")
	return nil, &Fault{Code: CodeBusy, Retryable: true, Message: "a job is running"}
}

func (f *fakeAgent) Move(_ context.Context, r *MoveRequest) (*MoveResponse, error) {
	f.count("Move")
	return &MoveResponse{Port: 40000}, nil
}

func (f *fakeAgent) Stop(_ context.Context, r *StopRequest) (*StopResponse, error) {
	f.count("Stop")
	return &StopResponse{Removed: r.Remove, Left: []string{"/var/lib/x/agent.log"}}, nil
}

func (f *fakeAgent) Offset(_ context.Context, sha string, size int64) (int64, error) {
	f.count("Offset")
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.blobs[sha]; ok {
		return int64(len(b)), nil
	}
	return int64(len(f.partial[sha])), nil
}

func (f *fakeAgent) Append(_ context.Context, sha string, size, offset int64, r io.Reader) (int64, error) {
	f.count("Append")
	defer f.count("AppendEnded")
	f.mu.Lock()
	have := f.partial[sha]
	f.mu.Unlock()
	if int64(len(have)) != offset {
		return int64(len(have)), ErrOffset
	}
	var err error
	buf := make([]byte, 32<<10)
	for {
		var n int
		n, err = r.Read(buf)
		f.mu.Lock()
		f.partial[sha] = append(f.partial[sha], buf[:n]...)
		have = f.partial[sha]
		f.mu.Unlock()
		if err != nil {
			break
		}
	}
	if err != io.EOF {
		return int64(len(have)), err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if int64(len(have)) == size {
		delete(f.partial, sha)
		if hexSum(have) != sha {
			return 0, ErrDigest
		}
		f.blobs[sha] = have
	}
	return int64(len(have)), nil
}

func (f *fakeAgent) ReadLogAt(_ context.Context, name string, p []byte, offset int64) (int, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.logs[name]
	if !ok {
		return 0, 0, fs.ErrNotExist
	}
	if offset >= int64(len(b)) {
		return 0, int64(len(b)), io.EOF
	}
	return copy(p, b[offset:]), int64(len(b)), nil
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// rig is a server with a client.
type rig struct {
	t       testing.TB
	agent   *fakeAgent
	manager *ManagerCredentials
	server  *Server
	client  *Client
	network string
	addr    string
	logs    *lockedBuffer
	served  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newRig serves on loopback TCP; adjust may change the server before it starts.
func newRig(t testing.TB, adjust func(*rig)) *rig {
	t.Helper()
	m, a, err := NewIdentity("web-01")
	require.NoError(t, err)
	r := &rig{t: t, agent: newFakeAgent(), manager: m, logs: &lockedBuffer{}, network: "tcp", served: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.server = &Server{Credentials: a, Handler: r.agent, Blobs: r.agent, Logs: r.agent, Logger: log}
	r.client = &Client{Credentials: m, Logger: log, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, r.network, r.addr)
	}}
	if adjust != nil {
		adjust(r)
	}
	r.start("127.0.0.1:0")
	t.Cleanup(func() {
		require.NoError(t, r.client.Close(testContext(t)))
		require.NoError(t, r.server.Close(testContext(t)))
	})
	return r
}

func (r *rig) start(addr string) {
	if r.network == "unix" {
		addr = filepath.Join(r.t.TempDir(), "agent.sock")
	}
	ln, err := net.Listen(r.network, addr)
	require.NoError(r.t, err)
	r.addr = ln.Addr().String()
	srv := r.server
	go func() { r.served <- srv.Serve(context.Background(), ln) }()
}

// restart ends the server and starts another with the same credentials.
func (r *rig) restart() {
	require.NoError(r.t, r.server.Close(testContext(r.t)))
	require.ErrorIs(r.t, <-r.served, ErrClosed)
	r.server = &Server{Credentials: r.server.Credentials, Handler: r.agent, Blobs: r.agent, Logs: r.agent, AllowForeign: r.server.AllowForeign, Logger: r.server.Logger}
	r.start("127.0.0.1:0")
}

// rawConn is an attacker who holds the manager's certificate, or another one.
type rawConn struct {
	t    testing.TB
	conn *tls.Conn
	br   *bufio.Reader
	keys authKeys
}

func (r *rig) dialRaw(creds *ManagerCredentials, adjust func(*tls.Config)) (*rawConn, error) {
	raw, err := r.client.Dial(testContext(r.t))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	cfg := creds.c.clientTLS(creds.c.peerName)
	if adjust != nil {
		adjust(cfg)
	}
	c := &rawConn{t: r.t, conn: tls.Client(raw, cfg)}
	if err := c.conn.Handshake(); err != nil {
		return nil, err
	}
	c.br = bufio.NewReader(c.conn)
	c.keys, err = creds.c.deriveKeys(c.conn.ConnectionState(), false)
	require.NoError(r.t, err)
	return c, nil
}

func (r *rig) mustDialRaw() *rawConn {
	c, err := r.dialRaw(r.manager, nil)
	require.NoError(r.t, err)
	return c
}

// signed builds a request as Client does.
func (c *rawConn) signed(epoch string, seq uint64, method, target string, header http.Header, body []byte) []byte {
	if header == nil {
		header = http.Header{}
	}
	a := auth{epoch: epoch, seq: seq, nonce: randomHex(nonceLen)}
	a.mac = c.keys.macRequest(a, method, target, header, bodyDigest(body))
	header.Set(authHeader, a.String())
	return plain(method, target, header, body)
}

func plain(method, target string, header http.Header, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: agent\r\nContent-Length: %d\r\n", method, target, len(body))
	header.Write(&b)
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// send writes raw bytes and gives the fault code, status and body of the answer.
func (c *rawConn) send(request []byte) (code string, status int, body string) {
	c.t.Helper()
	_, err := c.conn.Write(request)
	require.NoError(c.t, err)
	method, _, _ := bytes.Cut(request, []byte(" "))
	resp, err := http.ReadResponse(c.br, &http.Request{Method: string(method)})
	require.NoError(c.t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return resp.Header.Get(headerFault), resp.StatusCode, string(b)
}

func soapHeader() http.Header { return http.Header{"Content-Type": {soapType}} }

func envelope(t testing.TB, name string, v any) []byte {
	b, err := encodeEnvelope(name, v)
	require.NoError(t, err)
	return b
}
