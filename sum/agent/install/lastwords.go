package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// maxTail is how much of the agent's log an error has, in bytes.
const maxTail = 2000

// logSize is the size of the agent's log.
func (r *run) logSize(ctx context.Context) (int64, error) {
	fi, err := transport.Stat(ctx, r.conn, r.name(agent.LogName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return fi.Size, err
}

// since returns the last of what was written to the log after an offset, or why it cannot
// be read.
func (r *run) since(ctx context.Context, offset int64) string {
	said, err := r.logTail(ctx, offset)
	if err != nil {
		return err.Error()
	}
	return said
}

func (r *run) logTail(ctx context.Context, offset int64) (string, error) {
	size, err := r.logSize(ctx)
	if err != nil || size == 0 {
		return "", nil
	}
	if size < offset {
		offset = 0 // it was shortened
	}
	offset = max(offset, size-maxTail)
	var tail bytes.Buffer
	_, err = transport.Get(ctx, r.conn, r.name(agent.LogName), &tail, transport.GetOptions{Offset: offset, Limit: maxTail})
	return string(bytes.TrimSpace(tail.Bytes())), err
}

// withLastWords adds to the error of a connection to an agent that had said that it is
// ready what became of it and what it wrote, which may be gone when the caller looks.
func (r *run) withLastWords(ctx context.Context, err error, became, said string) error {
	var known *agent.Error
	if !errors.As(err, &known) {
		return err
	}
	if said != "" {
		became += ": " + said
	}
	e := *known
	if e.Err == nil {
		e.Err = errors.New(became)
	} else {
		e.Err = fmt.Errorf("%w; %s", e.Err, became)
	}
	if e.Hint == "" {
		e.Hint = r.seeLog(r.nativeLog(ctx))
	}
	return &e
}

// served returns what an agent wrote to its log after it had begun to serve, as far as that
// can be read. The offset is where the log ended before it was started: what is before
// that is an earlier one's.
func (r *run) served(ctx context.Context, offset int64) string {
	said, err := r.logTail(ctx, offset)
	if err != nil {
		return ""
	}
	i := strings.LastIndex(said, `msg="agent serves"`)
	if i < 0 {
		return said // it wrote so much since, or had said in ready.json alone that it serves
	}
	_, said, _ = strings.Cut(said[i:], "\n")
	return said
}

// nativeLog is what the target calls the agent's log.
func (r *run) nativeLog(ctx context.Context) string {
	name := r.name(agent.LogName)
	if fi, err := transport.Stat(ctx, r.conn, name); err == nil && fi.Native != "" {
		return fi.Native
	}
	return name
}
