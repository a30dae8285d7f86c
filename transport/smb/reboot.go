package smb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/rsp"
	"github.com/oiweiwei/go-msrpc/msrpc/rsp/initshutdown/v1"
	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of InitiateSystemShutdownEx, and the reason that is noted in the event log of
// the host: planned, to install an application (MS-RSP, section 2.3).
const (
	maxRebootDelay   = 10 * 365 * 24 * time.Hour
	maxRebootMessage = 3072 // characters
	rebootReason     = 0x80000000 | 0x00040000 | 0x00000002
)

// Reboot implements transport.Rebooter (MS-RSP, BaseInitiateShutdownEx over the pipe
// InitShutdown). Programs that do not end are ended. The message is shown while the
// delay lasts, in whatever language; without a delay nobody sees it.
func (c *conn) Reboot(ctx context.Context, opts transport.RebootOptions) error {
	k, err := c.begin(ctx, "reboot", "")
	if err != nil {
		return err
	}
	defer k.end()
	message := utf16.Encode([]rune(opts.Message))
	switch {
	case opts.Delay < 0 || opts.Delay > maxRebootDelay:
		return k.invalid("want a delay of 0 to 10 years")
	case len(message) > maxRebootMessage:
		return k.invalid(fmt.Sprintf("the message has %d characters, and Windows shows %d", len(message), maxRebootMessage))
	}
	for _, u := range message {
		if u == 0 {
			return k.invalid("a message with a NUL in it")
		}
	}
	_, err = work(k, func() (struct{}, error) {
		err := k.rpc("InitShutdown", func(ctx context.Context, cc dcerpc.Conn) error {
			cli, err := initshutdown.NewInitShutdownClient(ctx, cc, dcerpc.WithInsecure())
			if err != nil {
				return err
			}
			req := &initshutdown.BaseInitiateShutdownExRequest{
				Timeout: uint32((opts.Delay + time.Second - 1) / time.Second), ForceAppsClosed: 1, RebootAfterShutdown: 1, Reason: rebootReason,
			}
			if len(message) > 0 {
				n := uint16(2 * (len(message) + 1))
				req.Message = &rsp.UnicodeString{Length: n, MaximumLength: n, Buffer: append(message, 0)}
			}
			resp, err := cli.BaseInitiateShutdownEx(ctx, req)
			if err != nil && resp != nil && resp.Return != 0 {
				return winError(resp.Return)
			}
			return err
		})
		if te := new(transport.Error); errors.As(err, &te) && errors.Is(err, fs.ErrPermission) {
			own := *te
			own.Hint = "the account needs the right to shut the host down from a remote system (SeRemoteShutdownPrivilege), which administrators have; " + hintFilter
			return struct{}{}, &own
		}
		return struct{}{}, err
	})
	return err
}
