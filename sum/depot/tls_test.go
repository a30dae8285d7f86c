package depot_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

func newTLSLab(t *testing.T) *lab {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cert, err := depot.NewCertificate("127.0.0.1")
	require.NoError(t, err)
	return newLabWith(t, ln, depot.Options{}, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, cert.Leaf)
}

func TestCertificate(t *testing.T) {
	cert, err := depot.NewCertificate("manager.example", "192.0.2.1", "fe80::1%eth0", "::ffff:198.51.100.7")
	require.NoError(t, err)
	require.False(t, cert.Leaf.IsCA, "who trusts it trusts nothing else")
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	for _, host := range []string{"manager.example", "192.0.2.1", "fe80::1", "198.51.100.7"} {
		for _, clock := range []int{1970, 2000, 2026, 2049} {
			_, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool, CurrentTime: time.Date(clock, 6, 1, 0, 0, 0, 0, time.UTC)})
			require.NoError(t, err, "%s in %d", host, clock)
		}
	}
	require.Error(t, cert.Leaf.VerifyHostname("192.0.2.2"))
	require.Equal(t, "manager.example", cert.Leaf.Subject.CommonName)
	other, err := depot.NewCertificate("manager.example")
	require.NoError(t, err)
	require.NotEqual(t, cert.Leaf.SerialNumber, other.Leaf.SerialNumber)
	require.NotEqual(t, cert.Leaf.RawSubjectPublicKeyInfo, other.Leaf.RawSubjectPublicKeyInfo)

	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"http://x"}, {"10.0.0.1:80"}, {"ü"}} {
		_, err := depot.NewCertificate(hosts...)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", hosts)
		var de *depot.Error
		require.ErrorAs(t, err, &de)
	}
}

// TestHTTPS fetches with Go's client, which would like to speak HTTP/2.
func TestHTTPS(t *testing.T) {
	want := content(1_000_003)
	onDisk, filename := diskFile(t, "a.bin", want)
	for name, f := range map[string]transport.File{"memory": transport.BytesFile("a.bin", want), "disk": onDisk} {
		t.Run(name, func(t *testing.T) {
			l := newTLSLab(t)
			o := l.offer(f)
			res, body := l.do("GET", o.Path)
			require.Equal(t, 200, res.StatusCode)
			require.Equal(t, 1, res.ProtoMajor)
			require.Equal(t, "http/1.1", res.TLS.NegotiatedProtocol)
			require.EqualValues(t, len(want), res.ContentLength)
			require.True(t, bytes.Equal(want, body))
			require.EqualValues(t, len(want), o.Sent())
			res, body = l.do("GET", o.Path, "Range", "bytes=1000-")
			require.Equal(t, 206, res.StatusCode)
			require.True(t, bytes.Equal(want[1000:], body))
			res, body = l.do("HEAD", o.Path)
			require.Equal(t, `"`+f.Digest()+`"`, res.Header.Get("ETag"))
			require.Empty(t, body)
			require.EqualValues(t, 2*len(want)-1000, o.Sent())
			_, err := o.Release(t.Context())
			require.NoError(t, err)
		})
	}
	t.Run("changed", func(t *testing.T) {
		l := newTLSLab(t)
		o := l.offer(onDisk)
		require.NoError(t, os.Truncate(filename, 500_000))
		res, _ := l.do("GET", o.Path)
		require.Equal(t, 500, res.StatusCode)
		require.NoError(t, l.depot.Close(t.Context()))
		_, err := o.Release(t.Context())
		require.ErrorIs(t, err, depot.ErrChanged)
	})
}

// TestHTTPSCurl: a client that others wrote trusts the certificate when told to,
// and only then.
func TestHTTPSCurl(t *testing.T) {
	curl := realtest.Need(t, "curl")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, certFile, keyFile := certificateFiles(t)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	l := newLabWith(t, ln, depot.Options{}, &tls.Config{Certificates: []tls.Certificate{cert}})
	want := content(3_000_000)
	f, _ := diskFile(t, "a.bin", want)
	o := l.offer(f)
	out := filepath.Join(t.TempDir(), "out")
	url := "https://" + l.addr + o.Path
	for _, args := range [][]string{
		{"--cacert", certFile, "--http2"},
		{"--cacert", certFile, "--tls-max", "1.2"},
		{"--cacert", certFile, "--http1.0"},
	} {
		args = append(args, "--noproxy", "*", "-sS", "--fail", "-o", out, url)
		said, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
		require.NoError(t, err, string(said))
		got, err := os.ReadFile(out)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), args)
	}
	for _, args := range [][]string{{}, {"--cacert", certFile, "--tls-max", "1.1"}} {
		args = append(args, "--noproxy", "*", "-sS", url)
		require.Error(t, exec.CommandContext(t.Context(), curl, args...).Run(), args)
	}
	require.Eventually(t, func() bool { return bytes.Contains([]byte(l.logs.String()), []byte("TLS handshake error")) }, patience, tick)
	require.NotContains(t, l.logs.String(), "level=WARN", "what strangers do to a handshake is no news")
	require.EqualValues(t, 3*len(want), o.Sent())
}

// TestOldClient: one that has heard neither of ECDSA nor of TLS 1.3 is served, and
// is shown the certificate that it was told to trust.
func TestOldClient(t *testing.T) {
	l := newTLSLab(t)
	o := l.offer(transport.BytesFile("a", []byte("content")))
	config := l.client.Transport.(*http.Transport).TLSClientConfig
	config.MaxVersion = tls.VersionTLS12
	config.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
	config.CurvePreferences = []tls.CurveID{tls.CurveP256}
	res, body := l.do("GET", o.Path)
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "content", string(body))
}

// TestNoHTTP2: a configuration that is chosen for the client offers none either.
func TestNoHTTP2(t *testing.T) {
	cert, err := depot.NewCertificate("127.0.0.1")
	require.NoError(t, err)
	own := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := newLabWith(t, ln, depot.Options{}, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return own, nil }}, cert.Leaf)
	o := l.offer(transport.BytesFile("a", []byte("content")))
	res, body := l.do("GET", o.Path)
	require.Equal(t, "content", string(body))
	require.Equal(t, 1, res.ProtoMajor)
	require.Equal(t, "http/1.1", res.TLS.NegotiatedProtocol)
	require.Equal(t, []string{"h2"}, own.NextProtos, "it is the caller's")
}

// TestHTTPSPlain: who speaks plain HTTP to the port for HTTPS is told so.
func TestHTTPSPlain(t *testing.T) {
	l := newTLSLab(t)
	o := l.offer(transport.BytesFile("a", []byte("a")))
	c, err := net.Dial("tcp", l.addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET "+o.Path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	require.Equal(t, 400, res.StatusCode)
	_, _ = io.Copy(io.Discard, res.Body)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.Zero(t, o.Sent())
}

// TestHandshakeIsBounded is on a false clock.
func TestHandshakeIsBounded(t *testing.T) {
	cert, err := depot.NewCertificate("x")
	require.NoError(t, err)
	for name, hello := range map[string]string{"silent": "", "half a record": "\x16\x03\x01\x02\x00"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := depot.New(depot.Options{})
				ln := newPipes()
				served := goServe(t, func() error { return d.ServeTLS(ln, &tls.Config{Certificates: []tls.Certificate{cert}}) })
				c := ln.dial("127.0.0.1:999")
				defer c.Close()
				start := time.Now()
				_, err := io.WriteString(c, hello)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, c)
				require.NoError(t, err)
				require.Equal(t, 10*time.Second, time.Since(start))
				require.NoError(t, d.Close(t.Context()))
				<-served
			})
		})
	}
}

func TestServeTLSRefuses(t *testing.T) {
	d := depot.New(depot.Options{})
	for _, config := range []*tls.Config{nil, {}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		err = d.ServeTLS(ln, config)
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = ln.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
	require.NoError(t, d.Close(t.Context()))
}

// TestBothSchemes serves one offer over both, and closes both.
func TestBothSchemes(t *testing.T) {
	l := newTLSLab(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := serve(t, l.depot, ln)
	o := l.offer(transport.BytesFile("a", []byte("content")))
	_, body := l.do("GET", o.Path)
	require.Equal(t, "content", string(body))
	var got bytes.Buffer
	n, err := fetch(ln.Addr().String(), o.Path, nil, &got, make([]byte, 100))
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
	require.EqualValues(t, 14, o.Sent())
	require.NoError(t, l.depot.Close(t.Context()))
	<-served
	_, err = net.Dial("tcp", l.addr)
	require.Error(t, err, fmt.Sprint("still listens on ", l.addr))
}
