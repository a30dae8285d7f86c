package agentless

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// checkScript ID DIR... prints what the host is like, as "name value" lines:
//
//	dir FREE REASON  for each base directory: KiB that are free, "?" for unknown, and
//	                 "ok", "read-only MOUNT", or why it will not do in other words
//	holder JSON      what holds the host
//	unknown          it cannot be known what does
//	staged KIB       what agent ID has there of payloads
var checkScript = functions + `
# mounted DIR: prints the mount that it is on, if that is read-only (proc_pid_mounts(5)).
mounted() {
	at= how= dir=$(cd "$1" 2>/dev/null && pwd -P)
	while read -r _ m _ o _; do
		case ${dir%/}/ in "${m%/}"/*) [ ${#m} -lt ${#at} ] || at=$m how=$o;; esac
	done 2>/dev/null </proc/self/mounts
	case ,$how, in *,ro,*) echo "$at";; esac
}
id=$1
shift
for b; do
	case $b in /*) ;; *) echo "dir ? it is no absolute path"; continue;; esac
	e=$b
	while ! [ -e "$e" ] && ! [ -L "$e" ]; do e=${e%/*}; e=${e:-/}; done
	free=$(df -Pk "$e" 2>/dev/null | sed -n '$s/.* [1-9][0-9]*  *[0-9][0-9]*  *\([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')
	why=ok
	[ -w "$e" ] || why="this user may not write to $e"
	ro=$(mounted "$e")
	[ -z "$ro" ] || why="read-only $ro"
	[ -d "$e" ] || why="$e is not a directory"
	echo "dir ${free:-?} $why"
	[ -d "$b" ] || continue
	D=$b/x
	if o=$(hosts ""); then
		printf '%s\n' "$o" | while IFS= read -r f; do
			if [ -n "$f" ]; then echo "holder $(holder "$f")"; fi
		done
	else echo unknown
	fi
	if [ -d "$b/$id/blobs" ]; then
		k=$(du -sk "$b/$id/blobs" 2>/dev/null)
		echo "staged ${k%%[!0-9]*}"
	fi
done
exit 0
`

// Inspect implements agent.Installer. The Inspector puts nothing on the target, and so
// cannot tell who is reached from there: Dial and Listen fail with
// errors.ErrUnsupported.
func (in *Installer) Inspect(ctx context.Context, conn transport.Conn, opts agent.InspectOptions) (agent.Inspector, error) {
	if conn == nil || opts.Target == "" {
		return nil, &agent.Error{Op: "check", Target: opts.Target, Kind: transport.ErrInvalid, Err: errors.New("no connection or no target name")}
	}
	if !conn.Caps().Has(transport.CapRun) {
		return nil, &agent.Error{Op: "check", Target: opts.Target, Kind: errors.ErrUnsupported, Hint: "the connection offers " + conn.Caps().String() + "; this needs run"}
	}
	return &checks{&commands{in: in, conn: conn, target: opts.Target}, opts}, nil
}

type checks struct {
	c    *commands
	opts agent.InspectOptions
}

func (k *checks) Facts(ctx context.Context) (agent.Facts, error) {
	f := agent.Facts{OS: "linux", UID: -1, Free: -1, Agentless: true}
	login, err := k.c.bases(ctx, "check", k.opts.BaseDirs)
	if err != nil {
		return f, err
	}
	f.UID = login.uid
	if f.Skew, f.Within, err = k.skew(ctx); err != nil {
		return f, err
	}
	id := ""
	if p := k.opts.Place; p != nil {
		id = p.ID
	}
	out, err := k.c.script(ctx, "check", nil, checkScript, append([]string{cmp.Or(id, "none")}, login.bases...)...)
	if err != nil {
		return f, err
	}
	err = parseFacts(&f, out, login.bases)
	return f, err
}

// skew compares the clocks. The target's is read in whole seconds.
func (k *checks) skew(ctx context.Context) (skew, within time.Duration, err error) {
	before := time.Now()
	out, err := k.c.script(ctx, "check", nil, "date +%s")
	if err != nil {
		return 0, 0, err
	}
	after := time.Now()
	n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil || n < -1<<40 || n > 1<<40 {
		return 0, 0, &agent.Error{Op: "check", Target: k.c.target, Kind: transport.ErrProtocol, Err: fmt.Errorf("date says %.40q", out)}
	}
	trip := after.Sub(before)
	// Round drops the monotonic reading: a clock may have been set.
	there := time.Unix(n, 0).Add(500 * time.Millisecond)
	return there.Sub(before.Round(0).Add(trip / 2)), trip/2 + 500*time.Millisecond, nil
}

// parseFacts reads what checkScript says of base directories.
func parseFacts(f *agent.Facts, out []byte, dirs []string) error {
	n := 0
	for line := range bytes.Lines(out) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch name {
		case "dir":
			if n >= len(dirs) {
				return &agent.Error{Op: "check", Kind: transport.ErrProtocol, Err: errors.New("it speaks of more directories than it was asked for")}
			}
			free, why, _ := strings.Cut(rest, " ")
			mount, readOnly := strings.CutPrefix(why, "read-only ")
			switch {
			case f.Dir != "":
			case readOnly:
				f.Unfit = append(f.Unfit, fmt.Errorf("%s: %w mounted at %.300q", dirs[n], syscall.EROFS, mount))
			case why != "ok":
				f.Unfit = append(f.Unfit, fmt.Errorf("%s: %.300q", dirs[n], why))
			default:
				f.Dir = dirs[n]
				if kib, err := strconv.ParseInt(free, 10, 64); err == nil && kib >= 0 && kib < 1<<50 {
					f.Free = kib << 10
				}
			}
			n++
		case "holder":
			var h agent.HostHolder
			_ = json.Unmarshal([]byte(rest), &h) // one that says nothing of itself holds the host all the same
			// Two base directories can name the same.
			if !slices.Contains(f.Holders, h) {
				f.Holders = append(f.Holders, h)
			}
		case "staged":
			if kib, err := strconv.ParseInt(rest, 10, 64); err == nil && kib >= 0 && kib < 1<<50 {
				f.Staged += kib << 10
			}
		case "unknown":
			f.HoldersErr = &agent.Error{Op: "check", Kind: transport.ErrRejected, Err: errors.New("not everything that may hold this host can be read")}
		}
	}
	return nil
}

func (k *checks) unsupported(op string) error {
	return &agent.Error{Op: op, Target: k.c.target, Kind: errors.ErrUnsupported, Hint: "without a program on the target nobody there can try"}
}

func (k *checks) Dial(context.Context, netip.AddrPort) (agent.Reached, error) {
	return agent.Reached{}, k.unsupported("dial")
}

func (k *checks) Listen(context.Context, agent.ListenOptions) (agent.Listening, error) {
	return agent.Listening{}, k.unsupported("listen")
}

func (k *checks) Unlisten(context.Context, agent.Listening) error { return nil }

func (k *checks) Close(context.Context) error { return nil }
