package sum

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// portTaken says of an agent that cannot be reached at another port than the first
// one who has that: a firewall that knows the first alone is then not what is to be
// changed. It returns other errors as they are.
func (n *Node) portTaken(ctx context.Context, conn transport.Conn, err error) error {
	place := n.placeOf()
	var te *transport.Error
	if place == nil || !errors.As(err, &te) || !errors.Is(te.Kind, transport.ErrUnreachable) {
		return err
	}
	mine := tcpPort(place.Addr)
	// One that is far away was asked for.
	if mine <= agent.DefaultPort || mine > agent.DefaultPort+maxHolders || tcpPort(te.Path) != mine || ctx.Err() != nil {
		return err
	}
	why := "the target does not answer there"
	if te.Err != nil {
		why = te.Err.Error()
	}
	text := fmt.Sprintf("TCP port %d of the target is taken%s. So the new agent listens on %d, where the manager does not reach it (%s): "+
		"let one manager at a time work on a target whose firewalls know port %[1]d alone",
		agent.DefaultPort, holder(ctx, conn, *place, n.t.Kind == Windows), mine, why)
	return &brief{text, err}
}

// tcpPort returns the port of an address, or 0.
func tcpPort(addr string) uint16 {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0
	}
	return ap.Port()
}

const (
	// holderLimit bounds the search for whoever has a port, and maxHolders how many
	// directories it looks into.
	holderLimit = 15 * time.Second
	maxHolders  = 256
	maxReady    = 64 << 10 // bytes
)

// holder says which agent beside the one at mine has the first port, as text behind
// "is taken".
func holder(ctx context.Context, conn transport.Conn, mine agent.Place, windows bool) string {
	who := "ss -ltnp"
	if windows {
		who = "netstat -ano"
	}
	unknown := ", and not by an agent below " + path.Dir(mine.Dir) + " (" + who + " on the target says by what)"
	ctx, cancel := context.WithTimeout(ctx, holderLimit)
	defer cancel()
	base := path.Dir(mine.Dir)
	entries, err := transport.List(ctx, conn, base)
	if err != nil {
		return unknown
	}
	for i, e := range entries {
		id := path.Base(e.Name)
		if i >= maxHolders {
			break
		}
		if id == mine.ID || strings.Trim(id, "0123456789abcdef") != "" {
			continue // ours, or no agent's
		}
		var buf bytes.Buffer
		var ready agent.Ready
		dir := path.Join(base, id)
		if _, err := transport.Get(ctx, conn, path.Join(dir, agent.ReadyName), &buf, transport.GetOptions{Limit: maxReady}); err != nil ||
			json.Unmarshal(buf.Bytes(), &ready) != nil || ready.Network != "tcp" || tcpPort(ready.Addr) != agent.DefaultPort {
			continue
		}
		var st transport.ServiceStatus
		if windows {
			st, err = transport.QueryService(ctx, conn, agent.ServiceName(id))
		} else {
			_, err = transport.Stat(ctx, conn, "/proc/"+strconv.Itoa(ready.PID))
		}
		if errors.Is(err, fs.ErrNotExist) || st.State == transport.ServiceStopped {
			continue // it died, and its directory stayed
		}
		// One that stands in this manager's own journal would have been taken over.
		return fmt.Sprintf(" by the agent in %.200s (process %d), of another manager or of a killed run that has another journal: "+
			"it leaves when that has ended, or with its lease", strings.ToValidUTF8(dir, "?"), ready.PID)
	}
	return unknown
}
