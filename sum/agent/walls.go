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
	"time"

	"github.com/roundsman-go/roundsman/firewall"
	"github.com/roundsman-go/roundsman/transport"
)

// wallsName is a file that says that an agent of the directory has changed the host's
// firewall.
const wallsName = "firewall"

// walls lets the manager through the firewall of an agent's host. A nil *walls leaves
// that alone.
type walls struct {
	fw   *firewall.Firewall
	from []netip.Prefix
	log  *slog.Logger
}

// openWalls opens no port yet. What an agent that was killed left goes, too.
func openWalls(ctx context.Context, h home, boot Bootstrap, port uint16, log *slog.Logger) (*walls, error) {
	if len(boot.Firewall) == 0 || boot.Network != "tcp" {
		return nil, nil
	}
	if err := os.WriteFile(h.path(wallsName), nil, 0o600); err != nil {
		return nil, err
	}
	return openFirewall(ctx, boot.Firewall, port, log)
}

// openFirewall prepares to let peers through to a port, which the error names.
func openFirewall(ctx context.Context, from []netip.Prefix, port uint16, log *slog.Logger) (*walls, error) {
	w := &walls{from: from, log: log}
	var err error
	var guardian []string // where the rules would outlive this process
	if self, err := os.Executable(); err == nil {
		guardian = []string{self, "guard"}
	}
	w.fw, err = firewall.Open(ctx, firewall.Options{Run: "agent", Logger: log, Rules: []firewall.Rule{w.rule(port)}, Guardian: guardian})
	if err != nil {
		return nil, fmt.Errorf("the manager cannot reach the agent through this host's firewall: %w", err)
	}
	return w, nil
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
		return nil, fmt.Errorf("the manager cannot reach the agent through this host's firewall: %w", err)
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
	if err := w.fw.Close(ctx); err != nil {
		w.log.Error("the firewall keeps something of ours, which soon lets nobody in any more, until the next agent comes", "error", err)
	}
}

// sweepWalls takes away what a killed agent of the directory left in the firewall.
func (h home) sweepWalls() error {
	if _, err := os.Lstat(h.path(wallsName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := firewall.Sweep(ctx, firewall.Options{})
	return err
}

// listenPort is the port of a TCP listener, and 0 of another.
func listenPort(ln net.Listener) uint16 {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return a.AddrPort().Port()
	}
	return 0
}
