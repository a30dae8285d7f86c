package smb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	dcerrors "github.com/oiweiwei/go-msrpc/dcerpc/errors"
	"github.com/oiweiwei/go-msrpc/msrpc/srvs/srvsvc/v3"
	"github.com/roundsman-go/roundsman/transport"
)

// rpc calls f with a connection of MS-RPCE over the named pipe of a service, within the
// login of SMB (MS-RPCE, section 2.1.1.2): it is SMB that authenticates both sides and
// signs, and there is no second login.
func (k *call) rpc(pipe string, f func(ctx context.Context, cc dcerpc.Conn) error) error {
	s, err := k.openPipe(k.c.session, pipe)
	if err != nil {
		return err
	}
	p, err := k.c.newPipe(pipe, newExchange(s))
	if err != nil {
		return err
	}
	defer p.Close()
	// The library takes its context only here and there.
	stop := context.AfterFunc(k.ctx, func() { _ = p.Conn.Close() })
	defer stop()
	ferr := speak(k.ctx, p, replyTime, f)
	if ferr != nil && k.ctx.Err() == nil {
		if why := p.reason(); why != nil {
			return why
		}
	}
	return rpcError(ferr)
}

// speak calls f with a connection of MS-RPCE over conn, of which the library waits for
// each fragment for the time given at most.
func speak(ctx context.Context, conn net.Conn, wait time.Duration, f func(ctx context.Context, cc dcerpc.Conn) error) error {
	// The address is that of nothing: the dialer returns conn.
	cc, err := dcerpc.Dial(ctx, "127.0.0.1", dcerpc.WithEndpoint("ncacn_ip_tcp:[9]"), dcerpc.WithDialer(&once{conn: conn}),
		dcerpc.WithTimeout(wait))
	if err != nil {
		return err
	}
	_, err = guard(func() (any, error) { return nil, f(ctx, careful{cc}) })
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = cc.Close(cctx)
	return err
}

// replyTime is how long a server may take for a reply: the start of a service takes up to
// 30 s, and more while another one starts. A line that is dead is found out sooner.
const replyTime = 5 * time.Minute

// exchange is a pipe that carries requests and their responses (MS-RPCE, section 2.2.2).
// It reads from the server only what a request was made for, so that no read waits
// when the pipe is closed.
type exchange struct {
	stream
	mu     sync.Mutex
	change *sync.Cond
	out    pdus
	in     arriving
	closed bool
}

func newExchange(s stream) *exchange {
	e := &exchange{stream: s}
	e.change = sync.NewCond(&e.mu)
	return e
}

func (e *exchange) Write(b []byte) (int, error) {
	e.mu.Lock()
	e.in.expect(e.out.ended(b), e.out.typ)
	e.change.Broadcast()
	e.mu.Unlock()
	return e.stream.Write(b)
}

func (e *exchange) Read(b []byte) (int, error) {
	e.mu.Lock()
	for e.in.owed <= 0 && !e.closed {
		e.change.Wait()
	}
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return 0, io.EOF
	}
	n, err := e.stream.Read(b)
	if n > 0 {
		e.mu.Lock()
		e.in.ended(b[:n])
		bad := e.in.bad
		e.mu.Unlock()
		if bad != nil {
			return 0, bad
		}
	}
	return n, err
}

func (e *exchange) Close() error {
	e.mu.Lock()
	e.closed = true
	e.change.Broadcast()
	e.mu.Unlock()
	return e.stream.Close()
}

// pdus counts the messages that the library sends.
type pdus struct {
	head []byte
	left int  // bytes of the fragment at hand
	typ  byte // of the last one that was counted
}

// ended says how many messages end in b, the next bytes. Of AUTH3, CANCEL and ORPHANED,
// which have no response, it counts none (C706, section 12.6.4).
func (p *pdus) ended(b []byte) (n int) {
	const header = rpcHeader
	for len(b) > 0 {
		if p.left > 0 {
			m := min(p.left, len(b))
			p.left -= m
			b = b[m:]
			continue
		}
		m := min(header-len(p.head), len(b))
		p.head = append(p.head, b[:m]...)
		b = b[m:]
		if len(p.head) < header {
			return n
		}
		typ, flags := p.head[2], p.head[3]
		size := int(p.head[8]) | int(p.head[9])<<8
		if flags&lastFragment != 0 && typ != pduAuth3 && typ != pduCancel && typ != pduOrphaned {
			n++
			p.typ = typ
		}
		p.left = max(0, size-header)
		p.head = p.head[:0]
	}
	return n
}

// once dials a connection that is open, one time.
type once struct {
	conn net.Conn
	used atomic.Bool
}

func (d *once) DialContext(context.Context, string, string) (net.Conn, error) {
	if d.used.Swap(true) {
		return nil, errors.New("the connection is in use")
	}
	return d.conn, nil
}

// rpcCode is the status of a fault as errors show it.
func rpcCode(status uint32) transport.Code {
	return transport.Code{Space: "rpc", Value: fmt.Sprintf("0x%08X", status)}
}

// rpcError finds the code in an error of the library. That of a fault is never one of an
// operation: a seal has none, and so whoever is on the way could say that a service does
// not exist.
func rpcError(err error) error {
	var te *transport.Error
	var fault *dcerrors.RPCError
	var value *dcerrors.Error
	var nak *dcerpc.BindNak
	switch {
	case err == nil, errors.As(err, &te):
		return err
	case errors.As(err, &fault):
		return faultError(fault.Code, fault.Name)
	case errors.As(err, &value):
		switch code := value.Value.(type) {
		case uint32:
			return faultError(code, "")
		case int32:
			return hresultError(uint32(code))
		}
	case errors.As(err, &nak):
		return &transport.Error{Kind: transport.ErrRejected, Err: nak}
	}
	return &transport.Error{Kind: transport.ErrProtocol, Err: err}
}

// Win32 codes as the status of a fault (MS-RPCE, section 3.1.1.5.5).
const (
	faultAccessDenied = 5
	faultSecurity     = 1825 // RPC_S_SEC_PKG_ERROR
)

func faultError(status uint32, name string) error {
	e := &transport.Error{Kind: transport.ErrRejected, Code: rpcCode(status)}
	switch {
	case status == faultAccessDenied:
		return winError(status)
	case status == faultSecurity:
		e.Kind, e.Hint = transport.ErrAuth, "the host does not accept the login: it may allow no NTLM here"
	case name != "":
		e.Err = errors.New(name)
	}
	return e
}

// shareRoot is the share as the host itself calls it (MS-SRVS, section 3.1.4.10), or
// where the account may not know, as the network calls it. Of ADMIN$ what services need
// is known anyway: the variable is expanded when they start.
func (k *call) shareRoot() (string, error) {
	c := k.c
	select {
	case c.rootTurn <- struct{}{}:
		defer func() { <-c.rootTurn }()
	case <-k.ctx.Done():
		return "", k.ctx.Err()
	}
	if c.root != "" {
		return c.root, nil
	}
	root, err := k.askRoot()
	switch {
	case k.ctx.Err() != nil:
		return "", k.ctx.Err()
	case err != nil || root == "":
		root = `%SystemRoot%`
		if !c.opts.isAdmin() {
			root = `\\` + uncHost(c.host) + `\` + c.opts.Share
		}
	}
	c.root = strings.TrimRight(root, `\`)
	return c.root, nil
}

func (k *call) askRoot() (root string, err error) {
	err = k.rpc("srvsvc", func(ctx context.Context, cc dcerpc.Conn) error {
		cli, err := srvsvc.NewSrvsvcClient(ctx, cc, dcerpc.WithInsecure())
		if err != nil {
			return err
		}
		resp, err := cli.ShareGetInfo(ctx, &srvsvc.ShareGetInfoRequest{NetName: k.c.opts.Share, Level: 2})
		if err != nil {
			return err
		}
		if resp.Info == nil {
			return nil
		}
		if info, ok := resp.Info.GetValue().(*srvsvc.ShareInfo2); ok && info != nil {
			root = info.Path
		}
		return nil
	})
	return root, err
}
