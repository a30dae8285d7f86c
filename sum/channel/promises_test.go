package channel

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// TestClocksWrongByDecades: an identity that was made by a manager whose clock is
// right is of use where it is the year 2000, and 230 years later. The clock of a
// synctest bubble begins in 2000.
func TestClocksWrongByDecades(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	om, oa := ownKeys(t)
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, 2000, time.Now().UTC().Year())
		for _, wait := range []time.Duration{0, 30 * 365 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
			time.Sleep(wait)
			for _, pair := range []struct {
				m *ManagerCredentials
				a *AgentCredentials
			}{{m, a}, {om, oa}} {
				l := newPipeListener(false)
				s := &Server{Credentials: pair.a, Handler: newFakeAgent()}
				c := &Client{Credentials: pair.m, Dial: l.dial}
				go s.Serve(context.Background(), l)
				hb, err := c.Heartbeat(t.Context(), nil)
				require.NoError(t, err, time.Now())
				require.WithinDuration(t, time.Now(), hb.AgentTime, time.Minute, "the agent's clock is told, not judged")
				require.NoError(t, c.Close(t.Context()))
				require.NoError(t, s.Close(t.Context()))
			}
		}
		require.Equal(t, 2229, time.Now().UTC().Year())
	})
}

// TestSilentPeerHasTwoSeconds: so long waits a server that was told nothing else for
// a handshake that does not come, or stops.
func TestSilentPeerHasTwoSeconds(t *testing.T) {
	for name, say := range map[string]string{"nothing": "", "half a record": "\x16\x03\x01\x02\x00\x01"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, err := NewIdentity("n")
				require.NoError(t, err)
				l := newPipeListener(false)
				s := &Server{Credentials: a, Handler: newFakeAgent()}
				go s.Serve(context.Background(), l)
				began := time.Now()
				c, err := l.dial(t.Context())
				require.NoError(t, err)
				_, err = io.WriteString(c, say)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, c)
				// It lingers for at most half a second, so that the refusal arrives.
				require.GreaterOrEqual(t, time.Since(began), 2*time.Second)
				require.LessOrEqual(t, time.Since(began), 2500*time.Millisecond)
				require.NoError(t, s.Close(t.Context()))
			})
		})
	}
}

// TestFloodFromManyAddresses holds silent connections from 64 addresses, four from
// each, which is what one may have, while the manager comes anew again and again.
func TestFloodFromManyAddresses(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.HandshakeTimeout = time.Hour }) // no help from the clock
	var idle []net.Conn
	for i := range 256 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/4))}}
		c, err := d.DialContext(testContext(t), "tcp4", r.addr)
		if err != nil && i == 0 {
			realtest.Missing(t, fmt.Sprintf("a second loopback address (%v)", err))
		}
		require.NoError(t, err)
		defer c.Close()
		idle = append(idle, c)
		if i%32 == 31 {
			c := &Client{Credentials: r.manager, Dial: r.client.Dial}
			_, err = c.Heartbeat(testContext(t), nil)
			require.NoError(t, err, "after %d", i+1)
			require.NoError(t, c.Close(testContext(t)))
		}
	}
	// All but 32 were put out, the oldest first.
	for i, c := range idle[:len(idle)-defaultMaxPending-8] {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
		_, err := c.Read(make([]byte, 1))
		require.False(t, isTimeout(err), "connection %d is still held", i)
	}
}

// faulty answers every Status with a fault.
type faulty struct {
	*fakeAgent
	err error
}

func (f *faulty) Status(context.Context, *StatusRequest) (*JobStatus, error) { return nil, f.err }

// TestFaultsHaveTwoStatuses: SOAP clients parse faults that come with HTTP 400 or 500,
// and no others; so there are no others, whatever is wrong.
func TestFaultsHaveTwoStatuses(t *testing.T) {
	h := &faulty{}
	r := newRig(t, func(r *rig) { h.fakeAgent, r.server.Handler = r.agent, h })
	c, seq := r.mustDialRaw(), uint64(0)
	check := func(what string, status int, body string) string {
		t.Helper()
		require.Contains(t, []int{400, 500}, status, what)
		name, err := scanEnvelope([]byte(body), func(n xml.Name) *schema {
			if n == (xml.Name{Space: soapNS, Local: "Fault"}) {
				return faultSchema()
			}
			return nil
		})
		require.NoError(t, err, "%s: %s", what, body)
		require.Equal(t, "Fault", name.Local)
		var f soapFault
		require.NoError(t, decodeBody([]byte(body), &f))
		require.NotNil(t, f.Detail, what)
		require.Equal(t, status == 500, f.Code.Value != "env:Sender", "%s: %d with %s", what, status, f.Code.Value)
		return f.Detail.AgentFault.Code
	}
	status := func(err error) (string, int, string) {
		h.err = err
		seq++
		return c.send(c.signed(r.server.Epoch(), seq, "POST", soapPath, soapHeader(), envelope(t, "Status", &StatusRequest{JobID: NewJobID()})))
	}
	for _, code := range []string{
		CodeReplay, CodeBadMAC, CodeEpoch, CodeUnauthorized, CodeBadRequest, CodeTooLarge, CodeNotFound, CodeDigest, CodeOffset,
		CodeConflict, CodeBusy, CodeRefused, CodeUnsupported, CodeCancelled, CodeInternal, "SomethingNew",
	} {
		for _, again := range []bool{false, true} {
			_, got, body := status(&Fault{Code: code, Retryable: again, Message: "m"})
			require.Equal(t, code, check(code, got, body))
		}
	}
	for want, err := range map[string]error{
		CodeInternal: errors.New("anything"), CodeNotFound: fs.ErrNotExist, CodeUnsupported: errors.ErrUnsupported, CodeCancelled: context.Canceled,
	} {
		_, got, body := status(fmt.Errorf("wrapped: %w", err))
		require.Equal(t, want, check(err.Error(), got, body))
	}
	// What is wrong before an operation is found.
	raw := func(what string, request []byte) {
		_, got, body := r.mustDialRaw().send(request)
		check(what, got, body)
	}
	body := envelope(t, "Heartbeat", &HeartbeatRequest{})
	raw("no authentication", plain("POST", soapPath, soapHeader(), body))
	raw("bad header", plain("POST", soapPath, http.Header{authHeader: {"x"}, "Content-Type": {soapType}}, body))
	d := r.mustDialRaw()
	request := d.signed(r.server.Epoch(), 1, "POST", soapPath, soapHeader(), body)
	_, got, text := d.send(bytes.Replace(request, []byte("Heartbeat"), []byte("Heartbeet"), 1))
	require.Equal(t, CodeBadMAC, check("bad MAC", got, text))
	for what, request := range map[string]func(c *rawConn) []byte{
		"other epoch": func(c *rawConn) []byte {
			return c.signed(randomHex(epochLen), 1, "POST", soapPath, soapHeader(), body)
		},
		"no SOAP": func(c *rawConn) []byte {
			return c.signed(r.server.Epoch(), 1, "POST", soapPath, soapHeader(), []byte("{}"))
		},
		"method": func(c *rawConn) []byte { return c.signed(r.server.Epoch(), 1, "GET", soapPath, soapHeader(), nil) },
		"parameter": func(c *rawConn) []byte {
			return c.signed(r.server.Epoch(), 1, "POST", soapPath+"?x", soapHeader(), body)
		},
		"text/xml": func(c *rawConn) []byte {
			return c.signed(r.server.Epoch(), 1, "POST", soapPath, http.Header{"Content-Type": {"text/xml"}}, body)
		},
	} {
		c := r.mustDialRaw()
		_, got, text := c.send(request(c))
		check(what, got, text)
	}
}

// TestHandshake: what is agreed on is the newest that there is, and a key exchange
// that a later quantum computer does not break.
func TestHandshake(t *testing.T) {
	r := newRig(t, nil)
	cs := r.mustDialRaw().conn.ConnectionState()
	require.EqualValues(t, tls.VersionTLS13, cs.Version)
	require.Equal(t, tls.X25519MLKEM768, cs.CurveID)
	require.Equal(t, "http/1.1", cs.NegotiatedProtocol)
	require.Len(t, cs.PeerCertificates, 1)
}

// TestBootstrapHoldsOwnKeyAlone: neither side is given the other's key, nor anybody
// that of the authority.
func TestBootstrapHoldsOwnKeyAlone(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	keys := map[string]bool{}
	for _, marshal := range []func() ([]byte, error){m.MarshalBootstrap, a.MarshalBootstrap} {
		data, err := marshal()
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(data), "BEGIN PRIVATE KEY"))
		require.Equal(t, 1, strings.Count(string(data), "END PRIVATE KEY"))
		require.Equal(t, 1, strings.Count(string(data), "PRIVATE KEY-----\\n\""), "nothing is behind it")
		var b bootstrap
		require.NoError(t, json.Unmarshal(data, &b))
		keys[b.Key] = true
		_, err = tls.X509KeyPair([]byte(b.CA), []byte(b.Key))
		require.Error(t, err, "it is not the authority's")
	}
	require.Len(t, keys, 2)
}

// TestFileNamesOnWindows: what Windows would take for a device or for another file.
func TestFileNamesOnWindows(t *testing.T) {
	for _, bad := range []string{"nul ", "a/nul", "a/nul /b", "aux .txt", "x.", "x. ", "x /y", "com1..log", "lpt9"} {
		require.False(t, validFileName(bad), bad)
	}
	for _, good := range []string{"a b.txt", "null", "x.y.z", ".hidden", "a/com10"} {
		require.True(t, validFileName(good), good)
	}
}

// FuzzNames: no name that is accepted leads out of a directory, or is something else
// than a file there.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "../a", "a/../../b", "/a", `a\..\b`, "C:a", "a/./b", "a//b", "nul", "a\x00b", "..", ".", "", "a/NUL.txt", "x.log", "a..b",
		strings.Repeat("0", jobIDLen), strings.Repeat("a", sha256Len), strings.Repeat("A", sha256Len)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		flat := ValidJobID(s) || ValidSHA256(s) || ValidLogName(s)
		if !flat && !validFileName(s) {
			return
		}
		if flat && strings.ContainsAny(s, "/\\:\x00 \n") || s == "" || s == "." {
			t.Fatalf("accepted %q", s)
		}
		if joined := path.Join("/base/dir", s); joined != "/base/dir/"+s || !filepath.IsLocal(s) {
			t.Fatalf("accepted %q, which is %s", s, joined)
		}
		if strings.ContainsAny(s, "\\:\x00") {
			t.Fatalf("accepted %q", s)
		}
	})
}
