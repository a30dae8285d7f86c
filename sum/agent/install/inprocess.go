package install

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// inProcess reports whether the agent of the target behind conn is this process.
func (in *Installer) inProcess(conn transport.Conn) bool { return in.InProcess && conn.Path().SameHost }

// launchInProcess makes this process the agent in r.dir.
func (r *run) launchInProcess(ctx context.Context) (*installed, error) {
	client, err := agent.NewInProcess(ctx, agent.InProcessOptions{
		Target: r.opts.Target, Dir: filepath.FromSlash(r.dir), Shim: hasSelf(r.in.source()), Lease: r.opts.Lease, KeepLogs: r.opts.KeepLogs,
	})
	if errors.Is(err, transport.ErrBusy) {
		r.touched = false // what is there is another manager's
	}
	if err != nil {
		return nil, r.fail(nil, err, "")
	}
	return &installed{Client: client, way: &way{run: r}, place: r.place()}, nil
}

// hasSelf reports whether a source is or has a Self that RunAgent gave.
func hasSelf(s Source) bool {
	switch s := s.(type) {
	case Self:
		return s.hooked
	case first:
		return slices.ContainsFunc(s, hasSelf)
	}
	return false
}

// tryName is tryProgram, which does nothing but show that it can be executed.
const tryName = "try.sh"

var tryProgram = []byte("#!/bin/sh\nexit 0\n")

// tryScript finds out whether programs can be executed where jobs will have
// theirs.
func (r *run) tryScript(ctx context.Context) error {
	name := r.name(tryName)
	script := transport.BytesFile(tryName, tryProgram)
	if _, err := transport.Put(ctx, r.conn, name, script, transport.PutOptions{Mode: 0o700}); err != nil {
		return err
	}
	out, exit, err := output(ctx, r.conn, name)
	if err != nil && stops(ctx, err) {
		return err
	}
	if err == nil && exit == (transport.Exit{}) {
		return transport.Remove(ctx, r.conn, name)
	}
	if err != nil {
		return fmt.Errorf("programs cannot be executed there: %w", err)
	}
	return fmt.Errorf("programs cannot be executed there (%v): %.300q", exitCode(exit), out)
}
