package depot_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// jobVariable makes the test binary a depot, so that a test can tell what the
// depot does, and what it costs, from what the clients do.
const jobVariable = "DEPOT_TEST_JOB"

type job struct {
	File      string // of the payload
	Cert, Key string // PEM files, for HTTPS
}

// serveJob serves until standard input ends, as it does when the test process is
// gone, in whatever way.
func serveJob(text string) {
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	var j job
	check(json.Unmarshal([]byte(text), &j))
	info, err := os.Stat(j.File)
	check(err)
	// No digest: nobody looks at it, and it would count as the depot's work.
	f := transport.File{Name: filepath.Base(j.File), Size: info.Size(), Open: func(context.Context) (io.ReadSeekCloser, error) { return os.Open(j.File) }}
	d := depot.New(depot.Options{})
	o, err := d.Offer(depot.File{File: f, Allow: loopback})
	check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	served := make(chan error, 1)
	if j.Cert == "" {
		go func() { served <- d.Serve(ln) }()
	} else {
		cert, err := tls.LoadX509KeyPair(j.Cert, j.Key)
		check(err)
		go func() { served <- d.ServeTLS(ln, &tls.Config{Certificates: []tls.Certificate{cert}}) }()
	}
	fmt.Printf("%s %s\n", ln.Addr(), o.Path)
	_, _ = io.Copy(io.Discard, os.Stdin)
	check(d.Close(context.Background()))
	check(<-served)
}

// startJob starts the test binary as a depot, under a program if one is given,
// and returns its process and where it serves.
func startJob(t testing.TB, j job, under ...string) (cmd *exec.Cmd, addr, path string, stop func()) {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	args := append(under, os.Args[0])
	cmd = exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			require.NoError(t, in.Close())
			require.NoError(t, cmd.Wait())
		}
	}
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(line, &addr, &path)
	require.NoError(t, err)
	return cmd, addr, path, stop
}

// certificateFiles makes a certificate for loopback, and its PEM files.
func certificateFiles(t testing.TB) (pool *x509.CertPool, cert, key string) {
	t.Helper()
	c, err := depot.NewCertificate("127.0.0.1", "localhost")
	require.NoError(t, err)
	pool = x509.NewCertPool()
	pool.AddCert(c.Leaf)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, typ string, b []byte) string {
		name = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}), 0o600))
		return name
	}
	return pool, write("cert.pem", "CERTIFICATE", c.Certificate[0]), write("key.pem", "PRIVATE KEY", der)
}

// fetch asks for a file over a connection of its own, with TLS if there is a
// config for it, and copies its content to w through buf.
func fetch(addr, path string, config *tls.Config, w io.Writer, buf []byte) (int64, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if config != nil {
		c = tls.Client(c, config)
	}
	return fetchOver(c, path, w, buf)
}

// errLater: the server says that the client is to come again.
var errLater = errors.New("try again later")

// fetchOver asks for a path and copies the content through buf.
func fetchOver(c net.Conn, path string, w io.Writer, buf []byte) (int64, error) {
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "" {
		return 0, errLater
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", res.Status)
	}
	early, err := r.Peek(r.Buffered())
	if err != nil {
		return 0, err
	}
	n, err := w.Write(early)
	if err != nil {
		return int64(n), err
	}
	// Around bufio, so that a client costs as little as it can.
	m, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(c, res.ContentLength-int64(n))}, buf)
	if got := int64(n) + m; err == nil && got != res.ContentLength {
		err = fmt.Errorf("%d bytes of %d", got, res.ContentLength)
	}
	return int64(n) + m, err
}
