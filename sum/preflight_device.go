package sum

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// deviceWay is one way from a device to the manager.
type deviceWay struct {
	// flows are the ports that serve it, one of which the manager takes.
	flows []Flow
	// fixed is the port that the device knows and no other, or 0.
	fixed uint16
}

// need is what a missing port is.
func (w deviceWay) need() Severity {
	if f := w.flows[0]; f.Need == Required || f.Option == UseOAFetch {
		return Blocks
	}
	return Notice
}

// ports names all of them.
func (w deviceWay) ports() string {
	out := make([]string, len(w.flows))
	for i, f := range w.flows {
		out[i] = f.Ports()
	}
	return strings.Join(out, ", ")
}

// choice reports whether the manager can take another port than the first.
func (w deviceWay) choice() bool {
	return len(w.flows) > 1 || w.flows[0].First != w.flows[0].Last || w.flows[0].Open
}

// deviceWays returns the ways back: each row of a port that the device insists on, and
// those of one role of the manager together.
func (p *preflight) deviceWays() []deviceWay {
	var out []deviceWay
	for _, f := range p.flows {
		if f.Direction != ToManager {
			continue
		}
		if (f.Kind == OA || f.Kind == Integrity) && f.First == 80 && f.Last == 80 {
			out = append(out, deviceWay{[]Flow{f}, 80})
			continue
		}
		i := slices.IndexFunc(out, func(w deviceWay) bool { return w.fixed == 0 && w.flows[0].Role == f.Role })
		if i < 0 {
			out = append(out, deviceWay{flows: []Flow{f}})
			continue
		}
		out[i].flows = append(out[i].flows, f)
	}
	return out
}

// managerPorts looks at the manager's side of the ways back from a device. conn is nil
// where there is no connection.
func (p *preflight) managerPorts(ctx context.Context, conn transport.Conn) {
	if p.n.t.Kind.IsServer() {
		for _, f := range p.flows {
			if f.Direction == ToManager && f.Option != "" {
				p.add(backPort(f.First, "").as(FindUntried, Notice, "another program on this host has it: "+f.Purpose, ""))
			}
		}
		return
	}
	var seen []uint16
	for _, w := range p.deviceWays() {
		if ctx.Err() != nil {
			return
		}
		if port := p.listens(ctx, w); port != 0 && conn != nil && !slices.Contains(seen, port) {
			seen = append(seen, port)
			p.lets(ctx, w, port, conn)
		}
	}
}

// listens returns the port that would serve a way, or 0. It says which cannot be had.
func (p *preflight) listens(ctx context.Context, w deviceWay) uint16 {
	pub, role := p.n.s.publish, w.flows[0].Role
	taken := func(port uint16, err error, bad Severity, advice string) {
		code := FindTaken
		if denied(err) {
			code = FindDenied
		}
		f := backPort(port, "")
		f.Err = err
		p.add(f.as(code, bad, err.Error(), advice))
	}
	first := w.flows[0].First
	want := w.fixed
	if !w.choice() {
		want = first
	}
	port, err := pub.canListen(ctx, role, want)
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		advice := ""
		if w.choice() {
			advice = "free one of the ports " + w.ports()
		}
		taken(first, err, w.need(), advice)
		return 0
	}
	if !w.choice() {
		return port
	}
	for _, preferred := range pub.ports.Policy(role).Prefer {
		if preferred == port {
			break
		}
		if _, err := pub.canListen(ctx, role, preferred); err != nil {
			taken(preferred, err, Notice, fmt.Sprintf("port %d serves in its place", port))
		}
	}
	return port
}

// lets says whether a device gets to a port of the manager, as far as this host knows.
func (p *preflight) lets(ctx context.Context, w deviceWay, port uint16, conn transport.Conn) {
	pub := p.n.s.publish
	f := backPort(port, "")
	path, err := wayBack(pub.cfg, p.n.t, conn.Path())
	if err == nil {
		err = needsZone(path.SeenAs)
	}
	if err != nil {
		f.Err = err
		p.add(f.as(FindUntried, Notice, err.Error(), ""))
		return
	}
	f.Addr = hostPort(path.SeenAs.WithZone(""), port)
	others := ""
	if w.choice() {
		others = ", or at another of the ports " + w.ports() + " where that is taken by then"
	}
	if pub.walls != nil {
		release, err := pub.walls.allow(ctx, port, path.CallbackFrom)
		if err != nil {
			f.Err = err
			p.add(f.as(FindFirewall, w.need(), err.Error(), ""))
			return
		}
		cctx, cancel := cleanup(ctx)
		_ = release(cctx)
		cancel()
		p.filters(ctx, pub.walls)
	} else if text, open := leftAlone(ctx, port, path.CallbackFrom); text != "" {
		if w.choice() {
			open += "; the same goes for each of the ports " + w.ports()
		}
		p.add(f.as(FindFirewall, Notice, text, open))
	}
	purpose := strings.TrimSuffix(w.flows[0].Purpose, ifFree)
	p.add(f.as(FindUntried, Notice, fmt.Sprintf("nobody can try for the device: it dials the manager at %s%s (%s)", f.Addr, others, purpose),
		"let it through on every firewall in between"))
}

// filters says which filters of the manager's host may drop what comes in, whatever is
// opened.
func (p *preflight) filters(ctx context.Context, w *walls) {
	for _, b := range w.blocks(ctx) {
		f := Finding{Direction: ToManager}.as(FindFirewall, Notice, fmt.Sprintf("a filter of this host may drop what targets send, whatever is opened for them: %s (%s)", b.Where, b.Why),
			"let the ports of the manager through there by hand")
		if !slices.ContainsFunc(p.findings, func(o Finding) bool { return o.Text == f.Text }) {
			p.add(f)
		}
	}
}

// orElse adds to the advice of a finding how the target is updated without the way that
// it is about, where that may be closed for good.
func (p *preflight) orElse(f Finding) Finding {
	closed := f.Direction != "" && (f.Severity == Blocks || f.Code == FindUntried && !p.n.t.Kind.IsServer())
	switch f.Code {
	case FindUnsupported:
		closed = true
	case FindIdentity, FindUnknown, FindLogin, FindRights, FindNoName: // it is open
		closed = false
	}
	without := ""
	switch p.n.t.Kind {
	case OA, ILO, VC:
		without = "its own web page updates it: " + p.web()
	case Windows, Linux:
		without = "run this program on the server itself, which needs no port (as the target local:)"
	}
	if !closed || without == "" {
		return f
	}
	if f.Advice != "" {
		f.Advice += "; "
	}
	if f.Code != FindUnsupported {
		f.Advice += "where that cannot be, "
	}
	f.Advice += without
	return f
}

// web is the address of a device's own web page. Of a device that is dialled there the
// port is known, if it is not the usual one.
func (p *preflight) web() string {
	host, port := p.address()
	switch {
	case dialled(p.n.t.Kind) == 443 && port != 443:
		host = net.JoinHostPort(host, strconv.Itoa(int(port)))
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return (&url.URL{Scheme: "https", Host: host, Path: "/"}).String()
}
