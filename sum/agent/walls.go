package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/transport"
)

// wallsMark is a file that says that programs of ours have changed the host's
// firewall: agents, whatever their directories are, and those that look at a target
// before. Each has it locked (flock), together with the others, until it has taken
// back what it did, and the last one deletes it. So what killed ones left is there
// where the file is and nobody has it locked. It ends with the host's run, as rules do.
func wallsMark() string { return filepath.Join(volatileDir(), "roundsman-agent-firewall") }

// walls lets the manager through the firewall of an agent's host. A nil *walls leaves
// that alone.
type walls struct {
	fw   *firewall.Firewall
	from []netip.Prefix
	log  *slog.Logger
	mark *os.File
}

// openWalls opens no port yet. What an agent that was killed left goes, too.
func openWalls(ctx context.Context, boot Bootstrap, port uint16, log *slog.Logger) (*walls, error) {
	if len(boot.Firewall) == 0 || boot.Network != "tcp" {
		return nil, nil
	}
	return openFirewall(ctx, boot.Firewall, port, log)
}

// openFirewall prepares to let peers through to a port, which the error names.
func openFirewall(ctx context.Context, from []netip.Prefix, port uint16, log *slog.Logger) (*walls, error) {
	w := &walls{from: from, log: log}
	var guardian []string // where the rules would outlive this process
	if self, err := os.Executable(); err == nil {
		guardian = []string{self, "guard"}
	}
	var err error
	w.fw, err = firewall.Open(ctx, firewall.Options{Run: "agent", Logger: log, Rules: []firewall.Rule{w.rule(port)}, Guardian: guardian})
	if err == nil { // before the first change
		if w.mark, err = markWalls(ctx, wallsMark()); err != nil {
			w.close(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFirewall, err)
	}
	return w, nil
}

// markWalls makes or finds the mark of changes of the firewall, and locks it.
func markWalls(ctx context.Context, name string) (*os.File, error) {
	if !supported {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime+time.Second)
	defer cancel()
	for {
		mark, err := shareFile(name)
		if mark != nil || err != nil {
			return mark, err
		}
		select { // somebody sweeps
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is locked: %w", name, ctx.Err())
		}
	}
}

// unmarkWalls gives the mark up. Where all was taken back that was done under it, and
// nobody else has it, it is deleted; who waits for it meanwhile makes a new one.
func unmarkWalls(mark *os.File, all bool) {
	if mark == nil {
		return
	}
	if all && tryLock(mark) {
		_ = os.Remove(mark.Name())
	}
	_ = mark.Close()
}

func (w *walls) rule(port uint16) firewall.Rule {
	return firewall.Rule{Network: "tcp", Port: port, From: w.from}
}

// allow lets the manager through to a port until release is called.
func (w *walls) allow(ctx context.Context, port uint16) (release func(), err error) {
	if w == nil {
		return nil, nil
	}
	lease, err := w.fw.Allow(ctx, w.rule(port))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFirewall, err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), transport.CloseGrace)
		defer cancel()
		if err := lease.Close(ctx); err != nil {
			w.log.Error("the firewall keeps a port open until the agent ends", "port", port, "error", err)
		}
	}, nil
}

func (w *walls) close(ctx context.Context) {
	if w == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
	defer cancel()
	err := w.fw.Close(ctx)
	unmarkWalls(w.mark, err == nil)
	if err != nil {
		w.log.Error("the firewall keeps something of ours, which soon lets nobody in any more, until the next agent comes", "error", err)
	}
}

// sweepTime is how long sweeping the firewall may take.
const sweepTime = 10 * time.Second

// sweepWalls takes away what killed ones left in the firewall. Where others live that
// have changed it, it goes with the last of them; rules of firewalld go at their own
// time then.
func sweepWalls(ctx context.Context) error {
	mark, err := lockFile(wallsMark(), false)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		return nil // nothing to sweep, or nobody who may
	case mark == nil:
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	_, err = firewall.Sweep(ctx, firewall.Options{})
	unmarkWalls(mark, err == nil)
	return err
}

// listenPort is the port of a TCP listener, and 0 of another.
func listenPort(ln net.Listener) uint16 {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return a.AddrPort().Port()
	}
	return 0
}
