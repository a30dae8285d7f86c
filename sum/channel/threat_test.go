package channel

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReplayIsRefused(t *testing.T) {
	r := newRig(t, nil)
	body := envelope(t, "Heartbeat", &HeartbeatRequest{})
	c := r.mustDialRaw()
	captured := c.signed(r.server.Epoch(), 1, "POST", soapPath, soapHeader(), body)
	code, status, _ := c.send(captured)
	require.Equal(t, 200, status, code)
	require.Equal(t, 1, r.agent.called("Heartbeat"))

	code, status, _ = c.send(captured)
	require.Equal(t, CodeReplay, code, "same connection")
	require.Equal(t, 400, status)
	require.ErrorIs(t, &Fault{Code: code}, ErrReplay)

	code, _, _ = r.mustDialRaw().send(captured)
	require.Equal(t, CodeBadMAC, code, "new connection")
	require.ErrorIs(t, &Fault{Code: code}, ErrBadMAC)

	r.restart()
	code, _, _ = r.mustDialRaw().send(captured)
	require.Equal(t, CodeEpoch, code, "restarted server")
	require.ErrorIs(t, &Fault{Code: code}, ErrEpoch)
	require.Equal(t, 1, r.agent.called("Heartbeat"), "none of them was executed")
}

func TestTamperedRequestsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	c := r.mustDialRaw()
	body := envelope(t, "Stop", &StopRequest{Remove: false})
	seq := uint64(0)
	sign := func(h http.Header) []byte {
		seq++
		return c.signed(r.server.Epoch(), seq, "POST", soapPath, h, body)
	}
	for name, change := range map[string][2]string{
		"body":         {"</Stop>", "<!--></Stop>"},
		"method":       {"POST /soap", "PUT /soap"},
		"target":       {"POST /soap", "POST /soap?x"},
		"other route":  {"POST /soap", "POST /blobs/"},
		"content type": {"charset=utf-8", "charset=UTF-8"},
		"new header":   {"Host: agent", "Host: agent\r\nUpload-Length: 1"},
	} {
		request := sign(soapHeader())
		changed := bytes.Replace(request, []byte(change[0]), []byte(change[1]), 1)
		require.NotEqual(t, request, changed, name)
		// The length is what an attacker would correct too.
		_, b, _ := bytes.Cut(changed, []byte("\r\n\r\n"))
		changed = bytes.Replace(changed, []byte("Content-Length: "+strconv.Itoa(len(body))), []byte("Content-Length: "+strconv.Itoa(len(b))), 1)
		code, _, _ := c.send(changed)
		require.Equal(t, CodeBadMAC, code, name)
	}
	// A forged number does not move the window: the true one still passes.
	forged := bytes.Replace(sign(soapHeader()), []byte(",s="), []byte(",s=9"), 1)
	code, _, _ := c.send(forged)
	require.Equal(t, CodeBadMAC, code)
	code, status, _ := c.send(sign(soapHeader()))
	require.Equal(t, 200, status, code)
	require.Equal(t, 1, r.agent.called("Stop"))
}

func TestTamperedUploadIsRefused(t *testing.T) {
	r := newRig(t, nil)
	blob := []byte("payload")
	target := blobPath + hexSum(blob)
	put := func(from, to string) string {
		c := r.mustDialRaw()
		h := http.Header{headerContentRange: {"bytes 0-6/7"}, "Content-Type": {blobType}}
		a := auth{epoch: r.server.Epoch(), seq: 1, nonce: randomHex(nonceLen)}
		a.mac = c.keys.macRequest(a, "PUT", target, h, bodyOfBlob)
		h.Set(authHeader, a.String())
		code, status, _ := c.send(bytes.Replace(plain("PUT", target, h, blob), []byte(from), []byte(to), 1))
		if status == 200 {
			return "ok"
		}
		code, _, _ = strings.Cut(code, ";")
		return code
	}
	require.Equal(t, CodeBadMAC, put("bytes 0-6/7", "bytes 0-6/9"))
	require.Equal(t, CodeBadMAC, put(target, blobPath+hexSum([]byte("other"))))
	require.Equal(t, CodeDigest, put("payload", "pAyload"), "the content is bound by the digest in the target")
	require.Empty(t, r.agent.blobs)
	require.Equal(t, "ok", put("", ""))
	require.Equal(t, blob, r.agent.blobs[hexSum(blob)])
}

func TestEveryRouteIsGated(t *testing.T) {
	r := newRig(t, nil)
	body := envelope(t, "Inventory", &InventoryRequest{})
	for _, route := range []struct{ method, target string }{
		{"POST", "/soap"}, {"GET", "/soap"}, {"POST", "/soap?wsdl"}, {"HEAD", "/soap?wsdl"}, {"GET", "/soap?wsdl&x"}, {"HEAD", "/blobs/" + hexSum(nil)},
		{"PUT", "/blobs/" + hexSum(nil)}, {"GET", "/logs/agent.log"}, {"GET", "/"}, {"OPTIONS", "*"}, {"DELETE", "/soap"}, {"GET", "//soap?wsdl"},
		{"GET", "/debug/pprof/"}, {"POST", "https://agent/soap"}, {"GET", "https://agent/soap?wsdl"},
	} {
		c := r.mustDialRaw()
		code, status, _ := c.send(plain(route.method, route.target, soapHeader(), body))
		require.Equal(t, CodeUnauthorized, code, route)
		require.GreaterOrEqual(t, status, 400)
	}
	require.Empty(t, r.agent.calls)
	code, status, text := r.mustDialRaw().send(plain("GET", "/soap?WSDL", nil, nil))
	require.Equal(t, 200, status, code)
	require.Contains(t, text, `location="https://agent/soap"`)
	require.ErrorIs(t, &Fault{Code: CodeUnauthorized}, ErrAuth)
}

// TestForgedAnswers shows that a client believes nothing but authenticated
// answers to its own request.
func TestForgedAnswers(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	epoch := randomHex(epochLen)
	ok := envelope(t, "HeartbeatResponse", &HeartbeatResponse{Epoch: epoch, AgentTime: time.Now()})
	for name, test := range map[string]struct {
		change func(a *auth, h http.Header, body *[]byte)
		want   error
	}{
		"genuine":             {func(*auth, http.Header, *[]byte) {}, nil},
		"body":                {func(_ *auth, _ http.Header, b *[]byte) { *b = bytes.Replace(*b, []byte(epoch), []byte("x"), 1) }, ErrBadMAC},
		"fault header":        {func(_ *auth, h http.Header, _ *[]byte) { h.Set(headerFault, CodeEpoch) }, ErrBadMAC},
		"other number":        {func(a *auth, _ http.Header, _ *[]byte) { a.seq++ }, ErrBadMAC},
		"other nonce":         {func(a *auth, _ http.Header, _ *[]byte) { a.nonce = randomHex(nonceLen) }, ErrBadMAC},
		"other epoch":         {func(a *auth, _ http.Header, _ *[]byte) { a.epoch = randomHex(epochLen) }, ErrBadMAC},
		"other epoch, signed": {func(*auth, http.Header, *[]byte) {}, ErrBadMAC},
		"no MAC":              {func(a *auth, _ http.Header, _ *[]byte) { a.mac = "" }, ErrMalformed},
		"twice":               {func(_ *auth, h http.Header, _ *[]byte) { h.Add(authHeader, "x") }, ErrBadMAC},
		"giant":               {func(_ *auth, _ http.Header, b *[]byte) { *b = make([]byte, maxResponse+1) }, ErrTooLarge},
		"giant headers":       {func(_ *auth, h http.Header, _ *[]byte) { h.Set("X", strings.Repeat("x", 1<<20)) }, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			l := newPipeListener(false)
			c := &Client{Credentials: m, Dial: l.dial, Epoch: epoch}
			go func() {
				raw, err := l.Accept()
				if err != nil {
					return
				}
				defer raw.Close()
				conn := tls.Server(raw, a.c.serverTLS())
				if conn.Handshake() != nil {
					return
				}
				keys, _ := a.c.deriveKeys(conn.ConnectionState(), false)
				br := bufio.NewReader(conn)
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
				got, _ := parseAuth(req.Header.Get(authHeader))
				if name == "other epoch, signed" {
					got.epoch = randomHex(epochLen)
				}
				h := soapHeader()
				got.mac = keys.macResponse(got, 200, h, bodyDigest(ok))
				body := ok
				test.change(&got, h, &body)
				h.Add(authHeader, got.String())
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n")
				h.Write(conn)
				io.WriteString(conn, "\r\n")
				conn.Write(body)
				io.Copy(io.Discard, conn)
			}()
			_, err := c.Heartbeat(testContext(t), nil)
			if test.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, test.want)
			}
			require.NoError(t, c.Close(testContext(t)))
			l.Close()
		})
	}
}

// TestOtherSecret: the same certificates are not enough.
func TestOtherSecret(t *testing.T) {
	r := newRig(t, func(r *rig) {
		c := *r.manager.c
		c.secret = bytes.Repeat([]byte{1}, secretLen)
		r.client.Credentials = &ManagerCredentials{&c}
	})
	_, err := r.client.Heartbeat(testContext(t), nil)
	require.ErrorIs(t, err, ErrBadMAC, "the answer that names the epoch")
	c := &Client{Credentials: r.client.Credentials, Dial: r.client.Dial, Epoch: r.server.Epoch()}
	_, err = c.Heartbeat(testContext(t), nil)
	require.ErrorIs(t, err, ErrBadMAC, "the request itself")
	require.NoError(t, c.Close(testContext(t)))
	require.Zero(t, r.agent.called("Heartbeat"))
}

func TestForeignClients(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.AllowForeign = true })
	id := NewJobID()
	_, err := r.client.Install(testContext(t), &InstallRequest{JobID: id, Args: []string{"x"}})
	require.NoError(t, err)
	foreign := func(op string, v any) (string, int, string) {
		return r.mustDialRaw().send(plain("POST", soapPath, soapHeader(), envelope(t, op, v)))
	}
	code, status, _ := foreign("Inventory", &InventoryRequest{Deep: true})
	require.Equal(t, 200, status, code)
	_, status, _ = foreign("Status", &StatusRequest{JobID: id})
	require.Equal(t, 200, status)
	before := len(r.agent.calls)
	code, status, body := foreign("Inventory", &InventoryRequest{Probes: []Probe{{Name: "x", Args: []string{"/bin/sh"}}}})
	require.Equal(t, CodeUnauthorized, code)
	require.Equal(t, 400, status)
	require.Contains(t, body, "<Code>Unauthorized</Code>")
	for op, v := range map[string]any{
		"Install": &InstallRequest{JobID: id, Args: []string{"x"}}, "Cancel": &CancelRequest{JobID: id}, "Stop": &StopRequest{},
		"Reboot": &RebootRequest{}, "Heartbeat": &HeartbeatRequest{}, "ListJobs": &ListJobsRequest{},
	} {
		code, _, _ := foreign(op, v)
		require.Equal(t, CodeUnauthorized, code, op)
	}
	for _, target := range []string{blobPath + hexSum(nil), logPath + "agent.log"} {
		code, _, _ := r.mustDialRaw().send(plain("GET", target, nil, nil))
		require.Equal(t, CodeUnauthorized, code, target)
	}
	// A header that is there must be right: no falling back to none.
	h := soapHeader()
	h.Set(authHeader, "v0")
	code, _, _ = r.mustDialRaw().send(plain("POST", soapPath, h, envelope(t, "Inventory", &InventoryRequest{})))
	require.Equal(t, CodeBadRequest, code)
	require.Len(t, r.agent.calls, before)
	// But the certificate is always needed.
	c, err := r.dialRaw(r.manager, func(c *tls.Config) { c.GetClientCertificate = nil })
	if err == nil {
		_, err = c.br.ReadByte()
	}
	require.Error(t, err)
	require.True(t, isRemoteAlert(err))
}

// TestNothingSecretIsLogged greps everything that was logged at debug level.
func TestNothingSecretIsLogged(t *testing.T) {
	const canary = "canary-5c1f"
	r := newRig(t, nil)
	ctx := testContext(t)
	_, err := r.client.Install(ctx, &InstallRequest{
		JobID: NewJobID(), Component: canary, Args: []string{canary}, Env: []string{"X=" + canary}})
	require.NoError(t, err)
	_, err = r.client.Reboot(ctx, &RebootRequest{Message: canary})
	require.Error(t, err)
	_, _, err = r.client.ReadLog(ctx, canary, 0)
	require.ErrorIs(t, err, ErrNotFound)
	c := r.mustDialRaw()
	h := soapHeader()
	h.Set("Authorization", canary)
	c.send(plain("POST", soapPath, h, []byte(canary)))
	c.send(c.signed(r.server.Epoch(), 1, "POST", soapPath, soapHeader(), []byte("<"+canary+"/>")))
	logs := r.logs.String()
	require.Contains(t, logs, "op=Install", "there is a log to look at")
	require.NotContains(t, logs, canary)
	require.NotContains(t, logs, "PRIVATE")
	require.NotContains(t, logs, authVersion+" e=")
}

func TestNotServedByServe(t *testing.T) {
	_, a, err := NewIdentity("n")
	require.NoError(t, err)
	agent := newFakeAgent()
	s := &Server{Credentials: a, Handler: agent, AllowForeign: true}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	hs := &http.Server{Handler: s}
	go hs.Serve(l)
	defer hs.Close()
	resp, err := http.Get("http://" + l.Addr().String() + "/soap?wsdl")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}
