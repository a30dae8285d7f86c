package sum

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
// agent to run, and starts none. Agents that ran no job and had nothing to warn of
// have left no logs, and those older than Config.KeepLogs may be gone.
func Logs(ctx context.Context, n *Node, dir string) ([]string, error) {
	var out []string
	ctx, end, err := n.begin(ctx)
	if err != nil {
		return nil, n.fail("logs", "", err)
	}
	defer end()
	err = n.withConn(ctx, func(ctx context.Context, conn transport.Conn) error {
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

// fileName makes one harmless path element of any text; different texts make
// different names. It is percent-encoding, but for letters, digits and "-_.@".
func fileName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && i > 0 && i < len(s)-1, c == '-', c == '_', c == '@', c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	switch {
	case name == "":
		return "%"
	case len(name) <= maxFileName:
		return name
	}
	sum := sha256.Sum256([]byte(s))
	return name[:maxFileName-17] + "-" + hex.EncodeToString(sum[:8])
}

// maxFileName keeps names within what every file system takes, and the paths
// that are made of them within what Windows does.
const maxFileName = 100
