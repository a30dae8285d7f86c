package sum

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

// Logs is a step: it copies the log files that agents left on a server into a
// directory of the manager and returns their paths there. Each target has a
// directory of its own below dir, and each agent one below that. It needs no
// agent to run, and starts none.
func Logs(ctx context.Context, n *Node, dir string) ([]string, error) {
	var out []string
	err := n.WithConn(ctx, func(ctx context.Context, conn transport.Conn) error {
		out = out[:0]
		places, err := install.Find(ctx, conn, n.s.cfg.BaseDirs)
		if err != nil {
			return err
		}
		for _, p := range places {
			into := filepath.Join(dir, fileName(n.t.key()), fileName(p.ID))
			files, err := fetchLogs(ctx, conn, p, into)
			out = append(out, files...)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, n.fail("logs", "", err)
}

// fetchLogs copies the logs of one agent. Names come from the target: they are
// made harmless, and nothing is followed that is in the way.
func fetchLogs(ctx context.Context, conn transport.Conn, p agent.Place, into string) ([]string, error) {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var out []string
	err = install.Logs(ctx, conn, p, func(name string) (io.WriteCloser, error) {
		local := fileName(name)
		f, err := root.OpenFile(local, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		out = append(out, filepath.Join(into, local))
		return f, nil
	})
	return out, err
}

// fileName makes one harmless path element of any text.
func fileName(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '.' && b.Len() > 0, r == '-', r == '_', r == '@', r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			b.WriteRune(r)
		case r == '/' || r == ':':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "%%%X", r)
		}
	}
	if b.Len() == 0 {
		return "_"
	}
	return b.String()
}
