package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// unix is a target with a POSIX shell, over SSH, or the manager's own host: the agent is
// tried and started by running it.
type unix struct{ *run }

func (u unix) look(ctx context.Context) (system, error) { return probe(ctx, u.conn) }

// mine refuses a directory in which another user could exchange what is executed.
func (u unix) mine(ctx context.Context, _ bool) error { return owned(ctx, u.conn, u.dir) }

// fill makes the directories within, and puts the program there and tries it.
func (u unix) fill(ctx context.Context) error {
	for _, d := range []string{u.name(blobsName), u.name(jobsName)} {
		if err := transport.Mkdir(ctx, u.conn, d, 0o700); err != nil {
			return err
		}
	}
	if u.in.inProcess(u.conn) {
		return u.tryScript(ctx)
	}
	if err := u.putBinary(ctx); err != nil {
		return err
	}
	return u.tryBinary(ctx)
}

func (u unix) why(ctx context.Context) string { return explain(ctx, u.conn, u.existing(ctx)) }

// launch starts the agent that is in r.dir and connects to it.
func (u unix) launch(ctx context.Context) (*installed, error) {
	if u.in.inProcess(u.conn) {
		return u.launchInProcess(ctx)
	}
	manager, theirs, err := channel.NewIdentity(u.opts.Target)
	if err != nil {
		return nil, u.fail(nil, err, "")
	}
	way := &way{run: u.run}
	a, err := way.start(ctx, manager, theirs)
	if err != nil {
		way.close()
		return nil, err
	}
	return a, nil
}

// putBinary sends the binary unless the very same is there.
func (u unix) putBinary(ctx context.Context) error {
	name := u.name(agent.BinaryName)
	if fi, err := transport.Stat(ctx, u.conn, name); err == nil && fi.Size == u.bin.Size && fi.Mode.Perm()&0o700 == 0o700 {
		out, exit, err := output(ctx, u.conn, "sha256sum", name)
		if err != nil && stops(ctx, err) {
			return err
		}
		if sum, _, _ := strings.Cut(string(out), " "); err == nil && exit.Code == 0 && sum == u.bin.Digest() {
			u.kept = true
			return nil
		}
	}
	start := time.Now()
	res, err := transport.Put(ctx, u.conn, name, u.bin, transport.PutOptions{Mode: 0o700})
	if err != nil {
		return err
	}
	u.in.log().DebugContext(ctx, "agent copied", "target", u.opts.Target, "file", name, "sent", res.Sent, "kept", res.Kept, "took", time.Since(start))
	return nil
}

// tryBinary executes the binary where it is.
func (u unix) tryBinary(ctx context.Context) error {
	why := u.execute(ctx)
	if !isRefusal(why) {
		return why
	}
	name := u.name(agent.BinaryName)
	err := u.refused(ctx, name, why, true)
	if err != nil {
		return err
	}
	if why = u.execute(ctx); !isRefusal(why) {
		return why
	}
	return u.refused(ctx, name, why, false)
}

// isRefusal reports whether a program that is there was not executed: a POSIX
// shell says so by the status 126.
func isRefusal(err error) bool {
	return errors.Is(err, fs.ErrPermission) || transport.CodeOf(err) == transport.Code{Space: "exit", Value: "126"}
}

// execute asks the binary for its version.
func (u unix) execute(ctx context.Context) error {
	name := u.name(agent.BinaryName)
	out, exit, err := output(ctx, u.conn, name, "version")
	if err != nil && stops(ctx, err) {
		return err
	}
	want := u.sys.goos + "/" + u.sys.goarch
	if err == nil && exit.Code == 0 && strings.HasPrefix(string(out), agent.BinaryName+" ") && strings.HasSuffix(strings.TrimSpace(string(out)), " "+want) {
		return nil
	}
	if gone := u.vanished(ctx); gone != nil {
		return gone
	}
	if err != nil {
		return fmt.Errorf("the agent cannot be executed: %w", err)
	}
	return &transport.Error{Op: "execute", Path: name, Code: exitCode(exit), Err: fmt.Errorf("%.300q", out)}
}

// vanished returns an error if the binary, which had arrived, is gone.
func (r *run) vanished(ctx context.Context) error {
	if _, err := transport.Stat(ctx, r.conn, r.name(agent.BinaryName)); errors.Is(err, fs.ErrNotExist) {
		return r.fail(agent.ErrQuarantined, err, "let the virus scanner of the target except "+r.dir)
	}
	return nil
}
