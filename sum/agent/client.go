package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// ClientOptions are the options of NewClient.
type ClientOptions struct {
	// Target is the target's name, for errors.
	Target string
	// Credentials are the manager's half of the agent's identity.
	Credentials *channel.ManagerCredentials
	// Dial opens a connection to the agent's socket. Closing the connection must
	// end its pending reads and writes.
	Dial func(ctx context.Context) (net.Conn, error)
	// Epoch is Ready.Epoch, or empty for any.
	Epoch string
	// Logger gets lost heartbeats and connections. Nil discards them.
	Logger *slog.Logger
}

// Client does Ops over the channel, or if [NewInProcess] made it, in this process.
// Over the channel it renews the agent's lease in the background while it is open.
// It is safe for concurrent use.
type Client struct {
	target string
	ch     caller
	log    *slog.Logger

	cancel context.CancelFunc
	beats  sync.WaitGroup
}

var _ Ops = (*Client)(nil)

// NewClient connects to an agent and speaks to it once. The caller closes the
// client; an error leaves nothing open.
func NewClient(ctx context.Context, opts ClientOptions) (*Client, error) {
	c := &Client{
		target: opts.Target, log: opts.Logger,
		ch: &channel.Client{Credentials: opts.Credentials, Dial: opts.Dial, Epoch: opts.Epoch, Logger: opts.Logger},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	hb, err := c.ch.Heartbeat(ctx, &channel.HeartbeatRequest{})
	if err != nil {
		c.ch.Close(ctx)
		return nil, c.wrap("connect", err)
	}
	bctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.beats.Go(func() { c.beat(bctx, time.Duration(hb.LeaseSeconds)*time.Second) })
	return c, nil
}

// beat renews the lease three times in its length, and tries more often while
// that fails.
func (c *Client) beat(ctx context.Context, lease time.Duration) {
	lost := false
	for {
		wait := lease / 3
		if lost {
			wait = lease / 12
		}
		select {
		case <-time.After(max(wait, 100*time.Millisecond)):
		case <-ctx.Done():
			return
		}
		bctx, cancel := context.WithTimeout(ctx, min(max(lease/3, time.Second), time.Minute))
		hb, err := c.ch.Heartbeat(bctx, &channel.HeartbeatRequest{})
		cancel()
		switch {
		case err == nil:
			lease, lost = time.Duration(hb.LeaseSeconds)*time.Second, false
			c.log.Debug("lease renewed", "target", c.target, "lease", lease)
		case ctx.Err() == nil && !lost:
			lost = true
			c.log.Warn("no heartbeat: the agent cannot be reached", "target", c.target, "error", err)
		}
	}
}

// Move asks the agent to listen on another port, which it returns, and with done,
// over that, to listen there alone; see channel.MoveRequest. It fails with
// errors.ErrUnsupported where the agent does not listen on TCP.
func (c *Client) Move(ctx context.Context, done bool) (port uint16, err error) {
	resp, err := c.ch.Move(ctx, &channel.MoveRequest{Done: done})
	if err == nil && (resp.Port == 0 || resp.Port > 65535) {
		err = &transport.Error{Op: "move", Kind: transport.ErrProtocol, Err: fmt.Errorf("port %d", resp.Port)}
	}
	if err != nil {
		return 0, c.wrap("move", err)
	}
	return uint16(resp.Port), nil
}

// Close ends calls in progress and the connection, and leaves the agent to its
// lease. Closing twice is no error.
func (c *Client) Close(ctx context.Context) error {
	c.cancel()
	err := c.ch.Close(ctx)
	c.beats.Wait()
	return c.wrap("close", err)
}

// Inventory implements [Ops]. Taken is the manager's clock when the answer came.
func (c *Client) Inventory(ctx context.Context, req InventoryRequest) (*transport.Inventory, error) {
	r := &channel.InventoryRequest{Deep: true}
	for _, p := range req.Probes {
		r.Probes = append(r.Probes, channel.Probe{Name: p.Name, Args: p.Argv, TimeoutSeconds: seconds(p.Timeout)})
	}
	resp, err := c.ch.Inventory(ctx, r)
	if err != nil {
		return nil, c.wrap("inventory", err)
	}
	inv := inventoryFromWire(resp)
	inv.Taken = time.Now()
	return inv, nil
}

// Stage implements [Ops]. After an error that says that the line was lost, a
// further call, also of another Client, sends only what is missing.
func (c *Client) Stage(ctx context.Context, f transport.File, progress func(done int64)) (transport.PutResult, error) {
	if err := f.Check(); err != nil {
		return transport.PutResult{}, c.wrap("stage", err)
	}
	digest := f.Digest()
	res := transport.PutResult{Info: transport.FileInfo{Name: digest, Size: f.Size, Mode: 0o400}}
	kept := int64(-1)
	err := c.ch.PutBlob(ctx, digest, f.Size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		src, err := f.Open(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := src.Seek(offset, io.SeekStart); err != nil {
			src.Close()
			return nil, err
		}
		return src, nil
	}, func(done int64) {
		if kept < 0 {
			kept = done
		}
		res.Sent = done - kept
		if progress != nil {
			progress(done)
		}
	})
	res.Kept = max(kept, 0)
	return res, c.wrap("stage", err)
}

// Install implements [Ops].
func (c *Client) Install(ctx context.Context, job Job) (Status, error) {
	resp, err := c.ch.Install(ctx, jobToWire(job))
	if err != nil {
		return Status{}, c.wrap("install", err)
	}
	return c.status("install", resp, job.ID, 0)
}

// Status implements [Ops]. One call gives at most 256 KiB of the log: there is
// more as long as Log is not empty.
func (c *Client) Status(ctx context.Context, id string, logOffset int64) (Status, error) {
	resp, err := c.ch.Status(ctx, &channel.StatusRequest{JobID: id, LogOffset: logOffset})
	if err != nil {
		return Status{}, c.wrap("status", err)
	}
	return c.status("status", resp, id, logOffset)
}

// Cancel implements [Ops].
func (c *Client) Cancel(ctx context.Context, id string) (Status, error) {
	resp, err := c.ch.Cancel(ctx, &channel.CancelRequest{JobID: id})
	if err != nil {
		return Status{}, c.wrap("cancel", err)
	}
	return c.status("cancel", resp, id, 0)
}

func (c *Client) status(op string, s *channel.JobStatus, id string, offset int64) (Status, error) {
	if err := checkStatus(s, id, offset); err != nil {
		return Status{}, c.wrap(op, err)
	}
	return statusFromWire(s), nil
}

// json reads a small log that is JSON.
func (c *Client) json(ctx context.Context, name string, v any) error {
	var buf bytes.Buffer
	if _, err := c.ch.CopyLog(ctx, name, 0, &limitedBuffer{&buf}); err != nil {
		return err
	}
	if err := json.Unmarshal(buf.Bytes(), v); err != nil {
		return &transport.Error{Op: "read", Path: name, Kind: transport.ErrProtocol, Err: errors.New("not the JSON that it should be")}
	}
	return nil
}

// limitedBuffer keeps a hostile target from filling the manager's memory.
type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > 16*maxFile {
		return 0, transport.ErrProtocol
	}
	return b.Buffer.Write(p)
}

// Jobs implements [Ops]. They come oldest first.
func (c *Client) Jobs(ctx context.Context) ([]Status, error) {
	resp, err := c.ch.ListJobs(ctx, &channel.ListJobsRequest{})
	if err != nil {
		return nil, c.wrap("jobs", err)
	}
	out := make([]Status, 0, len(resp.Jobs))
	for i := range resp.Jobs {
		st, err := c.status("jobs", &resp.Jobs[i], "", 0)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// Logs implements [Ops].
func (c *Client) Logs(ctx context.Context) ([]transport.FileInfo, error) {
	var x logIndex
	if err := c.json(ctx, indexName, &x); err != nil {
		return nil, c.wrap("logs", err)
	}
	out := make([]transport.FileInfo, 0, len(x.Logs))
	for _, l := range x.Logs {
		if !channel.ValidLogName(l.Name) {
			return nil, c.wrap("logs", &transport.Error{Op: "read", Path: indexName, Kind: transport.ErrProtocol,
				Err: fmt.Errorf("%.200q is not the name of a log", l.Name)})
		}
		out = append(out, transport.FileInfo{
			Name: l.Name, Native: l.Path, Size: l.Size, Mode: fs.FileMode(l.Mode).Perm(), ModTime: l.ModTime,
		})
	}
	return out, nil
}

// Log implements [Ops]. It copies what is there when it comes to the end. A log
// that does not exist is fs.ErrNotExist.
func (c *Client) Log(ctx context.Context, name string, w io.Writer) error {
	_, err := c.ch.CopyLog(ctx, name, 0, w)
	return c.wrap("log", err)
}

// Reboot implements [Ops]. It fails with ErrJobRunning while a job runs and with
// fs.ErrPermission where the agent's user may not restart the host. The delay is
// rounded up to whole minutes.
func (c *Client) Reboot(ctx context.Context, opts transport.RebootOptions) error {
	_, err := c.ch.Reboot(ctx, &channel.RebootRequest{Message: rebootMessage(opts.Message), DelaySeconds: seconds(opts.Delay)})
	return c.wrap("reboot", err)
}

// Stop implements [Ops]. With remove it fails with ErrJobRunning while a job runs.
func (c *Client) Stop(ctx context.Context, remove bool) ([]string, error) {
	resp, err := c.ch.Stop(ctx, &channel.StopRequest{Remove: remove})
	if err != nil {
		return nil, c.wrap("stop", err)
	}
	return resp.Left, nil
}

// wrap makes an *Error of any error, and gives it its class.
func (c *Client) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Target: c.target, Err: err}
	var f *channel.Fault
	if errors.As(err, &f) {
		e.Code = transport.Code{Space: "agent", Value: f.Code}
		if e.Kind = kindOfFault(op, f.Code); e.Kind == ErrHostBusy {
			e.Hint = hostBusyHint
		}
		return e
	}
	for _, k := range []struct{ is, kind error }{
		{channel.ErrTrust, transport.ErrTrust},
		{channel.ErrAuth, transport.ErrAuth},
		{channel.ErrClosed, transport.ErrClosed},
		{channel.ErrLost, transport.ErrConnLost},
		{channel.ErrEpoch, transport.ErrConnLost}, // another agent than before answers
		{channel.ErrMalformed, transport.ErrProtocol},
		{channel.ErrTooLarge, transport.ErrProtocol},
		{channel.ErrBadMAC, transport.ErrProtocol},
	} {
		if errors.Is(err, k.is) {
			e.Kind = k.kind
			break
		}
	}
	return e
}

func kindOfFault(op, code string) error {
	switch code {
	case channel.CodeNotFound:
		if op == "status" || op == "cancel" {
			return ErrNoJob
		}
		return fs.ErrNotExist
	case channel.CodeConflict:
		return ErrJobConflict
	case codeNoRecords:
		return ErrNoRecords
	case codeJobRunning:
		return ErrJobRunning
	case CodeHostBusy:
		return ErrHostBusy
	case codeNoSpace:
		return transport.ErrNoSpace
	case channel.CodeDigest:
		return transport.ErrIntegrity
	case channel.CodeBusy:
		return transport.ErrBusy
	case channel.CodeRefused:
		if op == "reboot" {
			return fs.ErrPermission
		}
		return transport.ErrRejected
	case channel.CodeUnsupported:
		return errors.ErrUnsupported
	case channel.CodeBadRequest:
		return transport.ErrInvalid
	case channel.CodeUnauthorized:
		return transport.ErrAuth
	case channel.CodeOffset:
		return transport.ErrBusy // someone else uploads the same file
	case channel.CodeEpoch, channel.CodeReplay, channel.CodeBadMAC:
		return transport.ErrConnLost
	}
	return transport.ErrRejected
}
