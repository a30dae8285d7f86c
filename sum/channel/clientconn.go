package channel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// message is a request before it is bound to a connection.
type message struct {
	op     string
	method string
	target string
	header http.Header
	body   []byte
	// stream replaces body for a piece of a blob, of length bytes. It is read
	// by one goroutine, which has ended when roundTrip returns.
	stream  io.Reader
	length  int64
	started bool          // something of stream was read
	stall   time.Duration // limit between two reads of stream
	abort   func()        // ends a pending read of stream
	limit   int64         // bytes of the answer's body
}

// answer is an authenticated response.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	epoch    string
	reusable bool
}

// errUnsent says that a kept connection failed before a request left.
var errUnsent = errors.New("the connection was dead")

// errHandshakeCut says that the other side hung up without a reason.
var errHandshakeCut = errors.New("the other side hung up")

var errStalled = errors.New("the upload made no progress")

// clientConn is one TLS connection. It is used by one call at a time.
type clientConn struct {
	client *Client
	raw    *countingConn
	tls    *tls.Conn
	br     *bufio.Reader
	quota  *quotaReader
	keys   authKeys
	seq    uint64
	// peeked gets one value when there is something to read, or the connection
	// ended. Between calls it tells that the connection died.
	peeked chan error
	once   sync.Once
}

// countingConn knows whether anything was written. Its Close is the way every
// blocked call is ended, as deadlines may not be supported.
type countingConn struct {
	net.Conn
	written atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// quotaReader bounds what a hostile agent can make us read.
type quotaReader struct {
	r    io.Reader
	left int64
}

func (q *quotaReader) Read(p []byte) (int, error) {
	if q.left <= 0 {
		return 0, ErrTooLarge
	}
	if int64(len(p)) > q.left {
		p = p[:q.left]
	}
	n, err := q.r.Read(p)
	q.left -= int64(n)
	return n, err
}

// dial makes a connection, and keys for it.
func (c *Client) dial(ctx context.Context) (*clientConn, error) {
	raw, err := c.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	k := &clientConn{client: c, raw: &countingConn{Conn: raw}, peeked: make(chan error, 1)}
	creds := c.side()
	name := creds.peerName
	if c.callback != nil {
		name = callbackName(creds.peer)
	}
	k.tls = tls.Client(k.raw, creds.clientTLS(name))
	hctx, cancel := context.WithTimeout(ctx, orDefault(c.HandshakeTimeout, defaultClientHandshake))
	defer cancel()
	if err := k.tls.HandshakeContext(hctx); err != nil {
		k.close()
		var cve *tls.CertificateVerificationError
		switch {
		case errors.As(err, &cve):
			err = &Error{Op: "handshake", Kind: ErrTrust, Err: err}
		case hctx.Err() != nil && ctx.Err() == nil:
			err = errors.New("it took too long") // not the caller's deadline
		case ctx.Err() == nil && !isTLSAlert(err) && (errors.Is(err, io.EOF) || isNetError(err)):
			err = fmt.Errorf("%w: %w", errHandshakeCut, err)
		}
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if k.keys, err = creds.deriveKeys(k.tls.ConnectionState(), c.callback != nil); err != nil {
		k.close()
		return nil, err
	}
	k.quota = &quotaReader{r: k.tls}
	k.br = bufio.NewReaderSize(k.quota, 32<<10)
	k.watch()
	c.logger().Debug("connected to the agent")
	return k, nil
}

// watch begins to wait for input. Between calls only the end of the connection
// can come, or an alert that refuses our certificate: in TLS 1.3 a client has
// finished its handshake before the server has judged it.
func (k *clientConn) watch() {
	k.quota.left = maxHeader + 4<<10
	k.client.calls.Add(1)
	go func() {
		defer k.client.calls.Done()
		_, err := k.br.Peek(1)
		k.peeked <- err
	}()
}

// alive reports whether the connection is still without input.
func (k *clientConn) alive() bool { return len(k.peeked) == 0 }

// close ends the connection. Closing the TLS layer instead would write an
// alert, and could block on a connection without deadlines.
func (k *clientConn) close() { k.once.Do(func() { k.raw.Close() }) }

// roundTrip sends m and reads the answer. sent tells whether any of it may have
// left. On an error the connection is of no more use.
func (k *clientConn) roundTrip(ctx context.Context, m *message, epoch string) (r *answer, sent bool, err error) {
	// Ending the context closes the connection, and nothing else is needed to
	// end everything below.
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		k.close()
		close(aborted)
	})
	defer func() {
		if !stop() {
			<-aborted
			if err == nil {
				r, err = nil, context.Cause(ctx)
			}
		}
	}()

	k.seq++
	a := auth{epoch: epoch, seq: k.seq, nonce: randomHex(nonceLen)}
	digest := bodyOfBlob
	if m.stream == nil {
		digest = bodyDigest(m.body)
	}
	a.mac = k.keys.macRequest(a, m.method, m.target, m.header, digest)
	m.header.Set(authHeader, a.String())

	before := k.raw.written.Load()
	wrote := make(chan error, 1)
	stalled := new(atomic.Bool)
	go func() { wrote <- k.write(m, stalled) }()

	var werr error
	writing := true
	var perr error
	select {
	case werr = <-wrote:
		writing = false
		if werr == nil {
			perr = <-k.peeked
		}
	case perr = <-k.peeked: // the agent refuses before it has read all
	}
	if werr == nil && perr == nil {
		r, err = k.read(m, a)
	}
	if writing {
		werr = k.endWrite(m, wrote, r != nil && r.reusable)
		if r != nil && werr != nil {
			r.reusable = false
		}
	}
	sent = k.raw.written.Load() != before
	switch {
	case r != nil:
		return r, sent, nil
	case err != nil:
		return nil, sent, err
	case stalled.Load():
		return nil, sent, errStalled
	case perr != nil:
		err = perr
	case werr != nil:
		// What the agent said before it hung up explains more. Both ends of a
		// broken connection fail, so this does not wait for long.
		k.close()
		if err = <-k.peeked; err == nil || !isRemoteAlert(err) {
			err = werr
		}
	}
	if !sent {
		err = fmt.Errorf("%w: %w", errUnsent, err)
	}
	return nil, sent, err
}

// endWrite joins the writing of a request that was answered, or whose connection
// failed, before it was reported as written. Where the connection is to be kept,
// the last of it may still go out; but half a request cannot be followed.
func (k *clientConn) endWrite(m *message, wrote <-chan error, keep bool) error {
	if keep {
		patience := time.NewTimer(time.Second)
		defer patience.Stop()
		select {
		case err := <-wrote:
			return err
		case <-patience.C:
		}
	}
	k.close()
	if m.abort != nil {
		m.abort()
	}
	return <-wrote
}

// isTLSAlert reports errors that TLS itself found, on either side.
func isTLSAlert(err error) bool {
	var oe *net.OpError
	return errors.As(err, &oe) && (oe.Op == "remote error" || oe.Op == "local error")
}

func isRemoteAlert(err error) bool {
	var oe *net.OpError
	return errors.As(err, &oe) && oe.Op == "remote error"
}

// write sends the request.
func (k *clientConn) write(m *message, stalled *atomic.Bool) error {
	req := &http.Request{
		Method: m.method,
		URL:    &url.URL{Scheme: "https", Host: agentName, Opaque: m.target},
		Host:   agentName,
		Header: m.header,
	}
	m.header.Set("User-Agent", "") // net/http then sends none
	switch {
	case m.stream != nil:
		var once sync.Once
		timer := time.AfterFunc(m.stall, func() {
			stalled.Store(true)
			k.close()
		})
		defer timer.Stop()
		req.ContentLength = m.length
		req.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
			once.Do(func() { m.started = true })
			timer.Reset(m.stall)
			return m.stream.Read(p)
		}))
		if m.length == 0 {
			req.Body = http.NoBody
		}
	case len(m.body) > 0:
		req.ContentLength = int64(len(m.body))
		req.Body = io.NopCloser(bytes.NewReader(m.body))
	}
	bw := bufio.NewWriterSize(k.tls, 64<<10)
	if err := req.Write(bw); err != nil {
		return err
	}
	return bw.Flush()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// read reads an answer and believes none of it before its MAC was verified.
func (k *clientConn) read(m *message, a auth) (*answer, error) {
	resp, err := http.ReadResponse(k.br, &http.Request{Method: m.method})
	if err != nil {
		if errors.Is(err, ErrTooLarge) {
			return nil, err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isNetError(err) {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		return nil, fmt.Errorf("%w: not an HTTP response", ErrMalformed)
	}
	defer resp.Body.Close()
	k.quota.left = m.limit + maxHeader
	body, err := io.ReadAll(io.LimitReader(resp.Body, m.limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(body)) > m.limit {
		return nil, ErrTooLarge
	}
	headers := resp.Header.Values(authHeader)
	if len(headers) != 1 {
		return nil, fmt.Errorf("%w: the answer is not authenticated (HTTP status %d)", ErrBadMAC, resp.StatusCode)
	}
	got, err := parseAuth(headers[0])
	if err != nil {
		return nil, err
	}
	// The answer belongs to this request: same number, same nonce.
	want := a
	want.epoch = got.epoch
	mac := k.keys.macResponse(want, resp.StatusCode, resp.Header, bodyDigest(body))
	if got.seq != a.seq || got.nonce != a.nonce || !equalMAC(got.mac, mac) {
		return nil, fmt.Errorf("%w: in the answer", ErrBadMAC)
	}
	if got.epoch != a.epoch && resp.Header.Get(headerFault) != CodeEpoch {
		return nil, fmt.Errorf("%w: the answer is of another epoch", ErrBadMAC)
	}
	return &answer{
		status:   resp.StatusCode,
		header:   resp.Header,
		body:     body,
		epoch:    got.epoch,
		reusable: !resp.Close && k.br.Buffered() == 0,
	}, nil
}

func isNetError(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
