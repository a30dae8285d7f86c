package sum

import (
	"context"
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// ReceiveOptions configures Receive.
type ReceiveOptions struct {
	// TLS asks for an https URL.
	TLS bool
	// FixedPort, if not 0, is the only port that the target will use.
	FixedPort uint16
}

// Intake is an inbox that is open for one target, until its Release or the end of
// the session.
type Intake struct {
	*depot.Intake
	// URL is where the target posts; what it appends after a slash is Post.Path.
	URL string
	// Certificate is what the server shows; see [transport.Published].
	Certificate []byte

	closeRule func(context.Context) error
}

// Release closes the inbox, and the firewall behind it. The error is that of the
// firewall: then it may be called again, and the end of the session tries again, too.
// On a context that has ended it still works, for 10 seconds at most. Once it has
// succeeded it does nothing.
func (in *Intake) Release(ctx context.Context) error {
	err := in.closeRule(ctx)
	in.Intake.Release()
	return err
}

// Receive opens an inbox for what a target posts, status and logs, on the ports
// from which payloads are fetched. It connects to the target, if need be, to know
// under which address that sees the manager and who may post. What Allow lists may
// post too. An inbox is not in the journal: for one that a later run is to open at
// the same place the caller gives it a Token and keeps that.
func Receive(ctx context.Context, n *Node, box depot.Inbox, opts ReceiveOptions) (*Intake, error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("receive", box.Name, err)
	}
	defer end()
	var path transport.Path
	err = n.withConn(ctx, func(_ context.Context, conn transport.Conn) error {
		path = conn.Path()
		return nil
	})
	if err != nil {
		return nil, n.fail("receive", box.Name, err)
	}
	in, err := n.s.publish.receive(ctx, n.t, path, box, opts)
	return in, n.fail("receive", box.Name, err)
}

// receive opens an inbox for the target behind path, and the firewall for it.
func (p *publisher) receive(ctx context.Context, t Target, path transport.Path, box depot.Inbox, opts ReceiveOptions) (*Intake, error) {
	s, err := p.serve(ctx, t, path, opts.TLS, opts.FixedPort, 0, box.Allow...)
	if err != nil {
		return nil, err
	}
	box.Allow = s.allow
	closeRule, err := p.walls.allow(ctx, s.port, s.allow)
	if err != nil {
		return nil, err
	}
	in, err := p.depot.Receive(box)
	if err != nil {
		return nil, errors.Join(err, closeRule(ctx))
	}
	return &Intake{Intake: in, URL: s.base + in.Path, Certificate: s.certificate, closeRule: closeRule}, nil
}

// inboxes are those that a driver has opened for one update.
type inboxes struct{ open []func(context.Context) error }

// receive is UpdateOptions.Receive.
func (i *inboxes) receive(ctx context.Context, p *publisher, t Target, path transport.Path, r transport.ReceiveRequest) (transport.Receiving, error) {
	if r.Handle == nil {
		return transport.Receiving{}, &Error{Step: "receive", Err: fmt.Errorf("%w: nobody takes the posts", transport.ErrInvalid)}
	}
	in, err := p.receive(ctx, t, path, depot.Inbox{
		Name: "events of " + t.key(), MaxBytes: r.MaxBytes,
		Handle: func(ctx context.Context, post depot.Post) error { return r.Handle(ctx, post.Body) },
	}, ReceiveOptions{TLS: r.TLS})
	if err != nil {
		return transport.Receiving{}, &Error{Step: "receive", Err: err}
	}
	i.open = append(i.open, in.Release)
	return transport.Receiving{URL: in.URL, Certificate: in.Certificate, Release: in.Release}, nil
}

// release closes those that the driver has left open. What a target then posts meets
// the answer that strangers get.
func (i *inboxes) release(ctx context.Context) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	return released(ctx, i.open)
}
