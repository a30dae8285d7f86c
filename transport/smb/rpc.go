package smb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
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
	p, err := k.dialPipe(pipe)
	if err != nil {
		return err
	}
	defer p.Close()
	// The library takes its context only here and there.
	stop := context.AfterFunc(k.ctx, func() { _ = p.Conn.Close() })
	defer stop()
	// The address is that of nothing: the dialer returns the pipe.
	cc, err := dcerpc.Dial(k.ctx, "127.0.0.1", dcerpc.WithEndpoint("ncacn_ip_tcp:[9]"), dcerpc.WithDialer(&onePipe{conn: p}))
	if err != nil {
		return rpcError(err)
	}
	ferr := f(k.ctx, cc)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), time.Second)
	defer cancel()
	_ = cc.Close(ctx)
	if ferr != nil && k.ctx.Err() == nil {
		if why := p.reason(); why != nil {
			return why
		}
	}
	return rpcError(ferr)
}

// onePipe dials a pipe that is open, once.
type onePipe struct {
	conn *pipe
	used atomic.Bool
}

func (d *onePipe) DialContext(context.Context, string, string) (net.Conn, error) {
	if d.used.Swap(true) {
		return nil, errors.New("the pipe is in use")
	}
	return d.conn, nil
}

// rpcError finds the code in an error of the library.
func rpcError(err error) error {
	var te *transport.Error
	var fault *dcerrors.RPCError
	var value *dcerrors.Error
	switch {
	case err == nil, errors.As(err, &te):
		return err
	case errors.As(err, &fault):
		e := &transport.Error{Kind: transport.ErrRejected, Code: transport.Code{Space: "rpc", Value: fmt.Sprintf("0x%08X", fault.Code)}, Err: errors.New(fault.Name)}
		if fault.Code == 5 { // ERROR_ACCESS_DENIED as the status of a fault
			e = winError(5)
		}
		return e
	case errors.As(err, &value):
		if code, ok := value.Value.(uint32); ok {
			return winError(code)
		}
	}
	return &transport.Error{Kind: transport.ErrProtocol, Err: err}
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
