package sum

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

// server looks at a server from inside.
func (p *preflight) server(ctx context.Context, conn transport.Conn) error {
	cfg := p.n.s.cfg
	if known, err := p.program(ctx, conn); err != nil || !known {
		return err
	}
	look, err := cfg.Installer.Inspect(ctx, conn, agent.InspectOptions{Target: p.n.t.key(), Place: p.place(), BaseDirs: cfg.BaseDirs})
	if err != nil {
		return p.notLooked(ctx, err)
	}
	defer func() {
		cctx, cancel := cleanup(ctx)
		defer cancel()
		_ = look.Close(cctx) // what is left then goes with the connection
	}()
	ictx, cancel := context.WithTimeout(ctx, callLimit)
	facts, err := look.Facts(ictx)
	cancel()
	if err != nil {
		return p.notLooked(ctx, err)
	}
	p.judge(facts)
	if !p.inside && cfg.Generation == Classic && p.n.s.classic != nil && !facts.Agentless && !conn.Path().SameHost {
		p.classicWays(ctx, conn, look)
	}
	return ctx.Err()
}

// AgentBringer is what an Installer, or what wraps one, implements where it brings a program
// to targets, so that Preflight can say beforehand that there is none. One without needs
// none.
type AgentBringer interface {
	// HasAgent returns nil where there is a program for a system, named as Go names it, and
	// else what is wrong: it matches agent.ErrNoBinary where there is none.
	HasAgent(ctx context.Context, goos, goarch string) error
}

var _ AgentBringer = (*install.Installer)(nil)

// program looks whether there is a program that can be a Windows server's agent, since
// that is looked at from outside and so does not take one. It reports whether it is known
// for which processor it has to be.
func (p *preflight) program(ctx context.Context, conn transport.Conn) (bool, error) {
	in, brings := p.n.s.cfg.Installer.(AgentBringer)
	if !brings || p.n.t.Kind != Windows || p.place() != nil {
		return true, nil
	}
	id, err := conn.Identify(ctx)
	if err != nil {
		return true, err
	}
	if id.Arch == "" {
		p.add(Finding{Err: agent.ErrNoBinary}.as(FindBinary, Blocks, "the target does not say for which processor its programs are, and so not for which an agent has to be",
			`that is read from System32\kernel32.dll in its Windows directory, the share ADMIN$: see to it that this login can read that file`))
		return false, nil
	}
	if err := in.HasAgent(ctx, "windows", id.Arch); ctx.Err() != nil {
		return true, ctx.Err()
	} else if err != nil {
		p.add(Finding{Err: err}.as(FindBinary, Blocks, "there is no agent for windows/"+id.Arch+": "+err.Error(), noBinaryAdvice))
	}
	return true, nil
}

const noBinaryAdvice = "give the session an agent for the target's system"

// notLooked says why the target could not be looked at from inside.
func (p *preflight) notLooked(ctx context.Context, err error) error {
	f := Finding{Err: err}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, agent.ErrNoBinary):
		p.add(f.as(FindBinary, Blocks, err.Error(), noBinaryAdvice))
	case errors.Is(err, transport.ErrElevation):
		p.add(f.as(FindRights, Blocks, err.Error(), "let the user become root by sudo, or give its password"))
	case errors.Is(err, errors.ErrUnsupported):
		p.add(f.as(FindUntried, Notice, "the target could not be looked at from inside: "+err.Error(), ""))
	case transport.Temporary(err):
		return err
	default:
		advice := ""
		if p.n.t.Kind == Windows && denied(err) {
			advice = administrator
		}
		p.add(f.as(FindFailed, Blocks, "the target could not be looked at from inside: "+err.Error(), advice))
	}
	return nil
}

// judge makes findings of facts.
func (p *preflight) judge(facts agent.Facts) {
	bad := Notice
	if facts.Dir == "" {
		bad = Blocks
	}
	for _, err := range facts.Unfit {
		f := Finding{Err: err}
		advice := "name a directory that may hold programs (Config.BaseDirs)"
		if p.n.t.Kind == Windows {
			advice = `name a directory below the Windows directory, where administrators alone write (Config.BaseDirs), such as "/roundsman"`
		}
		switch {
		case p.n.t.Kind == Windows && facts.Dir == "" && (denied(err) || errors.Is(err, transport.ErrAuth)):
			// Not the directory: the share, or the services.
			p.add(f.as(FindRights, Blocks, err.Error(), administrator))
		case p.n.t.Kind == Windows && facts.Dir == "" && (errors.Is(err, errors.ErrUnsupported) || errors.Is(err, transport.ErrRejected)):
			p.add(f.as(FindFailed, Blocks, err.Error(), "see whether the services Server (LanmanServer) and Remote Procedure Call (RpcSs) of the target are in order"))
		case errors.Is(err, transport.ErrNoSpace):
			p.add(f.as(FindSpace, bad, fmt.Sprintf("%v, and %d MiB are needed", err, mebibytes(p.room())), "make room there, or "+advice))
		case errors.Is(err, syscall.EROFS):
			p.add(f.as(FindDirectory, bad, err.Error(), "mount it writable, or "+advice))
		case errors.Is(err, agent.ErrNoExec):
			p.add(f.as(FindNoExec, bad, err.Error(), advice+", or work without an agent"))
		case errors.Is(err, agent.ErrPolicy):
			p.add(f.as(FindPolicy, bad, err.Error(), ""))
		default:
			p.add(f.as(FindDirectory, bad, err.Error(), advice))
		}
	}
	if need := p.room(); facts.Dir != "" && facts.Free >= 0 {
		dir := facts.Dir
		if place := p.place(); place != nil {
			dir = place.Dir
		}
		// What was sent before an interruption is not sent again.
		if facts.Free < need-facts.Staged {
			p.add(Finding{Err: transport.ErrNoSpace}.as(FindSpace, Blocks,
				fmt.Sprintf("%v: %d MiB are free in %s, and %d MiB are needed", transport.ErrNoSpace, facts.Free>>20, dir, mebibytes(need-facts.Staged)), "make room there"))
		} else {
			p.add(Finding{}.as(FindSpace, Passed, fmt.Sprintf("%d MiB are free in %s", facts.Free>>20, dir), ""))
		}
	}
	if facts.UID > 0 {
		s, fails := Notice, "what needs root will fail"
		if name := p.needsRoot(); name != "" {
			s, fails = Blocks, "the package "+name+" needs root, and will fail"
		} else if p.opts.Phase == PhaseDeploy {
			fails += ", such as packages (deb, rpm)"
		}
		p.add(Finding{}.as(FindNotRoot, s, fmt.Sprintf("the login is user %d, not root: %s", facts.UID, fails), "log in as root, or use sudo"))
	}
	if skew := facts.Skew.Abs(); facts.Within < 0 {
		text := "the target's clock could not be seen"
		if facts.Free < 0 {
			text = "the target's clock, and how much room it has, could not be seen"
		}
		p.add(Finding{}.as(FindUntried, Notice, text, ""))
	} else if skew > clockTolerance+facts.Within {
		side := "ahead of"
		if facts.Skew < 0 {
			side = "behind"
		}
		p.add(Finding{}.as(FindClock, Notice, fmt.Sprintf("the target's clock is %v %s the manager's", skew.Round(time.Second), side),
			"nothing here depends on it, but what is installed may; set the clock"))
	} else {
		p.add(Finding{}.as(FindClock, Passed, fmt.Sprintf("the clocks of target and manager agree to within %v", (skew+facts.Within).Round(time.Millisecond)), ""))
	}
	if p.inside {
		return
	}
	if err := facts.HoldersErr; err != nil {
		p.add(Finding{Err: err}.as(FindUntried, Notice, "whether another manager works there is not known: "+err.Error(), ""))
		return
	}
	own, left := p.n.placeOf(), p.n.leftAt()
	busy := false
	for _, h := range facts.Holders {
		advice := "wait until that has ended"
		switch {
		case !h.Restart.IsZero():
			advice = "run again after the restart"
		case own != nil && h.Agent == own.ID:
			continue // this session's own
		case left != nil && h.Agent == left.ID:
			advice = "an earlier run with this journal began it, and was killed: finish it by Recover"
		}
		p.add(Finding{Err: agent.ErrHostBusy}.as(FindBusy, Blocks, h.String(), advice))
		busy = true
	}
	switch {
	case busy:
	case facts.UID > 0:
		p.add(Finding{}.as(FindBusy, Passed, "no other manager works there as this user", ""))
	default:
		p.add(Finding{}.as(FindBusy, Passed, "no other manager works there", ""))
	}
}

// place is where an agent of this manager is, or nil: one that a dead run left counts,
// until it is taken over.
func (p *preflight) place() *agent.Place {
	if own := p.n.placeOf(); own != nil {
		return own
	}
	return p.n.leftAt()
}

// needsRoot returns the name of a component that only root can install, or "".
func (p *preflight) needsRoot() string {
	for _, c := range p.opts.Components {
		if c.Profile == agent.ProfileDeb || c.Profile == agent.ProfileRPM {
			return c.Name
		}
	}
	return ""
}

// mebibytes rounds up.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// room is how much the target must have free, in bytes.
func (p *preflight) room() int64 {
	var most int64
	for _, c := range p.opts.Components {
		most = max(most, c.Payload.Size())
	}
	return p.least + most
}

// peerOf is the target's address, as the manager dials it.
func peerOf(conn transport.Conn) netip.Addr { return conn.Path().Remote.Addr().Unmap() }

// denied reports whether err is of missing rights.
func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }
