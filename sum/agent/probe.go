package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
)

const (
	maxProbes       = 256
	probeTimeout    = 30 * time.Second
	maxProbeTimeout = 10 * time.Minute
	maxProbeOutput  = 16 << 10 // bytes
	probesAtOnce    = 4
)

// Inventory implements channel.Handler. The channel lets probes through only
// with message authentication.
func (s *service) Inventory(ctx context.Context, r *channel.InventoryRequest) (*channel.InventoryResponse, error) {
	s.lease.renew()
	if len(r.Probes) > maxProbes {
		return nil, fault(channel.CodeBadRequest, "%d probes are more than %d", len(r.Probes), maxProbes)
	}
	results := make([]channel.ProbeResult, len(r.Probes))
	problems := make([]channel.Problem, len(r.Probes))
	var all sync.WaitGroup
	places := make(chan struct{}, probesAtOnce)
	for i, p := range r.Probes {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			results[i], problems[i] = s.probe(ctx, p)
		})
	}
	inv := s.collect(ctx)
	all.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	resp := inventoryToWire(inv)
	if !r.Deep {
		resp.Software = nil
	}
	resp.Results = results
	for _, p := range problems {
		if p.Text != "" {
			resp.Problems = append(resp.Problems, p)
		}
	}
	s.lease.renew()
	return resp, nil
}

// probe runs a program without a shell. A problem is what keeps the question of
// whether the program's subject is installed from being answered.
func (s *service) probe(ctx context.Context, p channel.Probe) (channel.ProbeResult, channel.Problem) {
	res := channel.ProbeResult{Name: p.Name}
	problem := func(format string, args ...any) (channel.ProbeResult, channel.Problem) {
		return res, channel.Problem{Part: ProbePart(p.Name), Text: fmt.Sprintf(format, args...)}
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return problem("it has no command")
	}
	prog, err := lookPath(p.Args[0], s.search)
	if err != nil {
		return res, channel.Problem{} // not installed
	}
	limit := time.Duration(p.TimeoutSeconds) * time.Second
	if limit == 0 {
		limit = probeTimeout
	}
	limit = min(limit, maxProbeTimeout)
	out, exit, err := runLimited(ctx, prog, p.Args, limit, maxProbeOutput)
	res.Output, res.Truncated = strings.ToValidUTF8(string(printed(out.head)), "\uFFFD"), out.dropped
	// What XML cannot carry.
	res.Output = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return '\uFFFD'
		}
		return r
	}, res.Output)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return problem("%q did not end within %v", prog, limit)
	case ctx.Err() != nil:
		return res, channel.Problem{}
	case err != nil && errors.Is(err, fs.ErrNotExist):
		return res, channel.Problem{}
	case err != nil:
		return problem("%v", err)
	case exit < 0:
		return problem("%q was ended by a signal", prog)
	}
	res.ExitCode = &exit
	return res, channel.Problem{}
}

// firstLine is the first line with something on it, trimmed.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// headWriter keeps the first bytes.
type headWriter struct {
	head    []byte
	left    int
	dropped bool
}

func (w *headWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.head = append(w.head, p[:n]...)
	w.left -= n
	w.dropped = w.dropped || n < len(p)
	return len(p), nil
}

var _ io.Writer = (*headWriter)(nil)

// runLimited runs a program with the agent's plain environment under a limit of
// time and output, and ends its whole process group when the time is over. The
// exit code is -1 where a signal ended it.
func runLimited(ctx context.Context, prog string, args []string, limit time.Duration, maxBytes int) (*headWriter, int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &headWriter{left: maxBytes}
	cmd := exec.CommandContext(ctx, prog)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = args, baseEnv(), rootDir(), out, out
	ownGroup(cmd)
	cmd.WaitDelay = drainTime
	err := runInGroup(cmd)
	if ctx.Err() != nil {
		return out, -1, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return out, -1, err
	}
	code, _ := exitOf(cmd.ProcessState)
	return out, code, nil
}
