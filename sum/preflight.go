package sum

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

// PreflightOptions configures Preflight. The zero value looks at everything that a
// deployment needs.
type PreflightOptions struct {
	// Phase is what is to follow; "" is both, an inventory and then a deployment.
	Phase Phase
	// Use names the options in use: what they need is looked at as well, such as port
	// 80 for an OA that fetches; see MatrixOptions. With UseWMI and PhaseInventory it is
	// what an inventory by WMI takes, which brings no agent to a Windows server: nothing
	// that one would need is looked at.
	Use []PortOption
	// Components are what is to be deployed, if that is known: the target must have
	// room for the largest.
	Components []*component.Component
	// Patience is how long the manager tries to reach a port; 0 is 5 seconds. How long
	// it tries to log in is its transport's to say.
	Patience time.Duration
	// DialContext dials the target's ports, beside the connection that its transport
	// makes; nil is net.Dialer's. In the generation Classic the agent's are dialled from
	// the ports that the table has.
	DialContext transport.DialFunc
}

const (
	preflightPatience = 5 * time.Second
	agentRoom         = 32 << 20 // bytes that an agent, its logs and what a package unpacks need at least
	clockTolerance    = 5 * time.Minute
)

// ErrPreflight: what was found before anything was changed would make the work fail.
// The error is a *PreflightError.
var ErrPreflight = errors.New("the target is not fit for what is to be done")

// ErrNoPassword: a target cannot be logged in to without a password, and the caller has
// given none. A Config.Resolve, or a Transport of it, returns it before it dials.
var ErrNoPassword = errors.New("no password was given")

// PreflightError has the findings that block.
type PreflightError struct{ Findings []Finding }

func (e *PreflightError) Error() string {
	said := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		said[i] = f.String()
	}
	return ErrPreflight.Error() + ": " + strings.Join(said, "; ")
}

// Unwrap returns ErrPreflight and what the findings were found by.
func (e *PreflightError) Unwrap() []error {
	out := []error{ErrPreflight}
	for _, f := range e.Findings {
		if f.Err != nil {
			out = append(out, f.Err)
		}
	}
	return out
}

// Preflight looks at a target before anything is changed there: who reaches whom, on
// each port that Matrix has for it, in both directions where somebody on the target
// can try; whether it is who it should be and lets the manager in; what rights, room
// and time it has; and whether another manager is at work. It says what it found, and
// what to do.
//
// On the target it needs a program, the one file of a temporary directory. Both go
// before Preflight returns, and with the connection if that breaks. (Of dead holders of
// the host it deletes the marks, as whoever looks at those does, and what killed
// programs of ours left in its firewall.) It opens ports of its own on the manager for
// a moment, and on the target in the generation Classic; and with Config.OpenFirewall
// those in the firewalls. What dead runs of the journal left stays theirs, see
// Session.TakeOver; a job of theirs that runs still is FindBusy.
//
// A device cannot be asked to dial: the ways back from one are untried, and only
// the manager's side of them is looked at. Where the manager has several ports for one
// of them it needs any, and what is taken of them is a Notice; a device that fetches from
// port 80 and no other needs that.
//
// It fails only where ctx ends or the session is closed: everything else is a Finding.
func Preflight(ctx context.Context, n *Node, opts PreflightOptions) ([]Finding, error) {
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("preflight", "", err)
	}
	defer end()
	p := newPreflight(n, opts)
	if err := p.run(ctx); err != nil {
		return p.findings, n.fail("preflight", "", err)
	}
	return p.findings, nil
}

// Blocking returns the findings that would make work fail.
func Blocking(findings []Finding) []Finding {
	var out []Finding
	for _, f := range findings {
		if f.Severity == Blocks {
			out = append(out, f)
		}
	}
	return out
}

// preflight is one run of Preflight.
type preflight struct {
	n        *Node
	opts     PreflightOptions
	phase    Phase // of the flows: as the caller gave it
	findings []Finding
	flows    []Flow
	least    int64 // bytes that are needed beside the largest payload
	inside   bool  // only what the target is like, and not who else works there
}

func newPreflight(n *Node, opts PreflightOptions) *preflight {
	phase := opts.Phase
	if opts.Phase == "" {
		opts.Phase = PhaseDeploy
	}
	if opts.Patience <= 0 {
		opts.Patience = preflightPatience
	}
	if opts.DialContext == nil {
		opts.DialContext = (&net.Dialer{}).DialContext
	}
	return &preflight{n: n, opts: opts, phase: phase, least: agentRoom}
}

func (p *preflight) add(f Finding) { p.findings = append(p.findings, p.orElse(f)) }

func (p *preflight) run(ctx context.Context) error {
	cfg := p.n.s.cfg
	var err error
	p.flows, err = Matrix([]Target{p.n.t}, MatrixOptions{Phase: p.phase, Generation: cfg.Generation, Classic: cfg.Classic, Ports: cfg.Ports, HTTPRole: cfg.HTTPRole, Use: p.opts.Use})
	if err != nil {
		p.add(Finding{Err: err}.as(FindFailed, Blocks, err.Error(), ""))
		return ctx.Err()
	}
	in, err := p.connect(ctx)
	if !in {
		if err == nil {
			p.managerPorts(ctx, nil)
			err = ctx.Err()
		}
		return err
	}
	before := len(p.findings)
	err = p.n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		p.findings = p.findings[:before] // the line may have been lost
		p.others(ctx, conn)
		if p.n.t.Kind.IsServer() && !p.byWMI() {
			if err := p.server(ctx, conn); err != nil {
				return err
			}
		}
		p.managerPorts(ctx, conn)
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		p.add(Finding{Err: err}.as(FindFailed, Blocks, "the target could not be looked at: "+err.Error(), ""))
		err = nil
	}
	return err
}

// byWMI reports whether all that is to follow is an inventory without an agent.
func (p *preflight) byWMI() bool {
	return p.n.t.Kind == Windows && p.opts.Phase == PhaseInventory && slices.Contains(p.opts.Use, UseWMI)
}

// connect logs in, and reports whether it could.
func (p *preflight) connect(ctx context.Context) (bool, error) {
	var path transport.Path
	err := p.n.withConn(ctx, func(ctx context.Context, c transport.Conn) error {
		_, err := c.Identify(ctx)
		path = c.Path()
		return err
	})
	switch {
	case err == nil && p.n.t.Kind == Local:
		return true, nil
	case err == nil:
		host, port := p.address()
		if r := path.Remote; r.IsValid() {
			host, port = r.Addr().String(), r.Port()
		}
		f := toPort(port, net.JoinHostPort(host, strconv.Itoa(int(port))))
		p.add(f.as(FindReached, Passed, "the target answers on TCP port "+strconv.Itoa(int(port))+" and lets the manager in", ""))
		return true, nil
	case ctx.Err() != nil || errors.Is(err, ErrClosed):
		return false, err
	}
	p.add(p.notIn(ctx, err))
	return false, nil
}

// address is how the target is dialled, unless Config.Resolve says otherwise.
func (p *preflight) address() (host string, port uint16) {
	host, port, err := transport.Endpoint{Address: p.n.t.Address}.HostPort(dialled(p.n.t.Kind))
	if err != nil {
		return p.n.t.Address, dialled(p.n.t.Kind)
	}
	return host, port
}

// dialledAt returns what a dial that failed with err was for, as the transport says it,
// or "", and whether that was not the target but something on the way to it.
func dialledAt(err error) (address string, onTheWay bool) {
	n := 0
	for err != nil {
		var te *transport.Error
		if !errors.As(err, &te) {
			break
		}
		if te.Target != "" {
			n++
			onTheWay = n > 1 && te.Target != address
			address = te.Target
		}
		err = te.Err
	}
	return address, onTheWay
}

// notIn says why the manager could not log in.
func (p *preflight) notIn(ctx context.Context, err error) Finding {
	host, port := p.address()
	at, onTheWay := dialledAt(err)
	if h, n, perr := (transport.Endpoint{Address: at}).HostPort(port); at != "" && perr == nil {
		host, port = h, n
	}
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	f := toPort(port, addr)
	f.Err = err
	var dns *net.DNSError
	onWindows := p.n.t.Kind == Windows
	switch how := agent.HowReached(err); {
	case errors.Is(err, ErrNoPassword):
		return Finding{Err: err}.as(FindNoPassword, Blocks, err.Error(), "give the password; nothing was dialled")
	case errors.Is(err, transport.ErrTrust) && onWindows:
		return f.as(FindIdentity, Blocks, err.Error(), "find out first whether another server answers at this address")
	case errors.Is(err, transport.ErrUnknownIdentity):
		return f.as(FindUnknown, Blocks, err.Error(), "compare its fingerprint with the one that its console shows, and record it if it is right")
	case errors.Is(err, transport.ErrTrust):
		return f.as(FindIdentity, Blocks, err.Error(), "find out first whether the target was installed anew, or somebody else answers; only then replace what is recorded")
	case errors.Is(err, transport.ErrElevation) && onWindows:
		return f.as(FindRights, Blocks, err.Error(), administrator)
	case errors.Is(err, transport.ErrElevation):
		return f.as(FindRights, Blocks, err.Error(), "let the user become root by sudo, or give its password")
	case errors.Is(err, transport.ErrAuth) && onWindows:
		return f.as(FindLogin, Blocks, err.Error(), "check user, domain and password; it was tried once only, as more may lock the account")
	case errors.Is(err, transport.ErrAuth) && !p.n.t.Kind.IsServer():
		return f.as(FindLogin, Blocks, err.Error(), "check user and password; it was tried once only, as more may lock the account")
	case errors.Is(err, transport.ErrAuth):
		return f.as(FindLogin, Blocks, err.Error(), "check user, keys and password; it was tried once only, as more may lock the account")
	case errors.Is(err, ErrInvalid), errors.Is(err, transport.ErrInvalid):
		return Finding{Err: err}.as(FindInvalid, Blocks, err.Error(), "correct how the target is given, or what it is to be reached with")
	case errors.Is(err, transport.ErrProtocol), errors.Is(err, transport.ErrRejected):
		return f.as(FindService, Blocks, err.Error(), "check the port of the address")
	case errors.Is(err, errors.ErrUnsupported):
		// Without a driver; what can be tried without one is.
		p.ports(ctx, host, true)
		return Finding{Err: err}.as(FindUnsupported, Blocks, err.Error(), "")
	case errors.As(err, &dns) && dns.IsNotFound:
		return f.as(FindNoName, Blocks, err.Error(), "give the address, or have the name served")
	case errors.As(err, &dns):
		return f.as(FindFailed, Blocks, err.Error(), "check the name servers of this host")
	case how == agent.ReachedRefused && onWindows && hungUp(err):
		return f.as(FindService, Blocks, err.Error(), "check the port of the address, and what listens there")
	case how == agent.ReachedRefused, how == agent.ReachedNoRoute, how == agent.ReachedForbids:
		return f.reached(how, err.Error(), Blocks)
	case errors.Is(err, transport.ErrUnreachable), errors.Is(err, transport.ErrTimeout), how == agent.ReachedNothing:
		// Nobody there, or somebody who takes connections and says nothing, or something
		// else? Past a jump host nobody is seen from here.
		if !onTheWay && agent.HowReached(p.tryPort(ctx, addr)) == agent.ReachedPeer {
			if code := ConnectCode(err, p.n.t.Kind); code == FindTimeout {
				return f.as(code, Blocks, err.Error(), "see why it takes so long there, or give it longer; else something else may listen there")
			}
			return f.as(FindService, Blocks, err.Error(), "check what listens there, and what it has to do")
		}
		if how == agent.ReachedNothing || errors.Is(err, transport.ErrTimeout) {
			return f.reached(agent.ReachedNothing, err.Error(), Blocks)
		}
	}
	switch {
	case onWindows && errors.Is(err, fs.ErrPermission):
		return f.as(FindRights, Blocks, err.Error(), administrator)
	case onWindows && errors.Is(err, fs.ErrNotExist):
		return f.as(FindFailed, Blocks, err.Error(), "share ADMIN$ again (the value AutoShareServer, and file sharing)")
	}
	return f.as(ConnectCode(err, p.n.t.Kind), Blocks, err.Error(), "")
}

// administrator is what to do where a login at a Windows server may not do enough.
const administrator = "log in as an administrator of the target, to whom its share ADMIN$ and its services are open"

// dial dials an address of the target, and gives up after Patience, as what is then
// read and written does.
func (p *preflight) dial(ctx context.Context, by transport.DialFunc, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Patience)
	defer cancel()
	c, err := by(ctx, "tcp", addr)
	if err == nil {
		deadline, _ := ctx.Deadline()
		_ = c.SetDeadline(deadline)
	}
	return c, err
}

// tryPort dials a port and hangs up.
func (p *preflight) tryPort(ctx context.Context, addr string) error {
	c, err := p.dial(ctx, p.opts.DialContext, addr)
	if err == nil {
		err = c.Close()
	}
	return err
}

// others dials the ports of the target beside that of the connection.
func (p *preflight) others(ctx context.Context, conn transport.Conn) {
	host := ""
	var used []uint16
	if r := conn.Path().Remote; r.IsValid() {
		host, used = r.Addr().Unmap().String(), []uint16{r.Port()}
	}
	_, main := p.address()
	p.ports(ctx, host, false, append(used, main)...)
}

// ports dials the ports of the target at host, which is "" where only a connection
// leads to it. all says that there is no other way to see it.
func (p *preflight) ports(ctx context.Context, host string, all bool, used ...uint16) {
	name, _ := p.address()
	for _, flow := range p.flows {
		behind := flow.To.Host != name // a host that a vCenter has
		switch {
		case ctx.Err() != nil:
			return
		case flow.Direction == ToTarget && flow.Option == UseWMI && flow.First != flow.Last:
			p.add(Finding{Direction: ToTarget, Protocol: flow.Protocol}.as(FindUntried, Notice,
				fmt.Sprintf("port 135 names one of the ports %s as it is asked: %s", flow.Ports(), flow.Purpose), ""))
			continue
		case flow.Direction != ToTarget || flow.First != flow.Last || flow.SourceFirst != 0:
			continue // the last are for the agent: see way
		case !behind && slices.Contains(used, flow.First):
			continue // the connection's
		}
		f := Finding{Direction: ToTarget, Protocol: flow.Protocol, Port: flow.First}
		// Where the target is there by another port, whether this one is needed too is for
		// the driver to say.
		bad := Notice
		if all && flow.Need == Required || flow.Option == UseWMI { // whose caller says that it is used
			bad = Blocks
		}
		at := host
		if behind {
			at = flow.To.Host
		}
		switch {
		case flow.Protocol != "tcp":
			p.add(f.as(FindUntried, Notice, "UDP answers nobody who asks only whether it is open: "+flow.Purpose, ""))
		case host == "":
			p.add(f.as(FindUntried, Notice, "the connection goes another way, as over a jump host: "+flow.Purpose, ""))
		case behind && !inDNS(at):
			p.add(f.as(FindUntried, Notice, fmt.Sprintf("%s has this port, and its address is not known: %s", at, flow.Purpose), ""))
		default:
			f.Addr = net.JoinHostPort(at, strconv.Itoa(int(flow.First)))
			err := p.service(ctx, f.Addr, flow.First)
			var dns *net.DNSError
			switch {
			case errors.Is(err, errService):
				p.add(f.as(FindService, bad, err.Error(), "check what listens there; the port is for: "+flow.Purpose))
			case behind && errors.As(err, &dns):
				f.Err = err
				p.add(f.as(FindUntried, Notice, err.Error(), ""))
			default:
				f = f.reached(agent.HowReached(err), "", bad)
				if !all && p.n.t.Kind == ILO && f.Severity == Notice {
					f.Text += ": " + flow.Purpose
					f.Advice = "nothing has to be done for what is done by Redfish, as all is that this program does with an iLO"
				}
				p.add(f)
			}
		}
	}
}

var errService = errors.New("something else answers")

// service dials a port whose protocol is known, and says whether that is spoken.
func (p *preflight) service(ctx context.Context, addr string, port uint16) error {
	c, err := p.dial(ctx, p.opts.DialContext, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	want, asked := "", ""
	switch port {
	case 22:
		want = "SSH-"
	case 80:
		want, asked = "HTTP/", "HEAD / HTTP/1.0\r\n\r\n"
	case 443, 5989:
		// Whether the certificate is good is the driver's to judge.
		err := tls.Client(c, &tls.Config{ServerName: "target.invalid", MinVersion: tls.VersionTLS10}).HandshakeContext(ctx)
		var record tls.RecordHeaderError
		if errors.As(err, &record) {
			return fmt.Errorf("%w: it does not speak TLS: %w", errService, err)
		}
		return nil // other errors are of TLS, or of a device that is slow with it
	default:
		return nil
	}
	if _, err := c.Write([]byte(asked)); err != nil {
		return fmt.Errorf("%w: %w", errService, err)
	}
	got, err := bufio.NewReader(c).Peek(len(want))
	switch {
	case string(got) == want:
	case len(got) == 0:
		return fmt.Errorf("%w: it took the connection and said nothing (%w)", errService, err)
	default:
		return fmt.Errorf("%w: it said %.40q", errService, got)
	}
	return nil
}

// fit is what of Preflight a deployment does before its first change: what is wrong
// with a target that has an agent by now. What comes to light at the first use of a
// port, before anything is changed, is left to that.
func (n *Node) fit(ctx context.Context, comps []*component.Component, opts DeployOptions) error {
	if opts.NoPreflight || !n.t.Kind.IsServer() || len(comps) == 0 {
		return nil
	}
	p := newPreflight(n, PreflightOptions{Components: comps})
	p.least = 1 << 20 // the agent is there
	p.inside = true   // the ports are in use; who holds the host is seen as a job begins
	err := n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		p.findings = nil
		return p.server(ctx, conn)
	})
	if err != nil {
		return err
	}
	for _, f := range p.findings {
		if f.Severity == Notice && f.Code != FindUntried {
			opts.event(n, "", "preflight", func(e *Event) { e.Text = f.String() })
		}
	}
	if bad := Blocking(p.findings); len(bad) > 0 {
		return &PreflightError{bad}
	}
	return nil
}

// ahead returns the components of a plan that are still to be installed.
func (n *Node) ahead(plan TargetPlan, planned map[string]*component.Component, recovered []Outcome) []*component.Component {
	var out []*component.Component
	for _, it := range plan.Items {
		if _, done := n.settled(it, recovered); !done {
			out = append(out, planned[it.Digest])
		}
	}
	return out
}
