package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// The directory of an agent: which it may be, and how it is made. It is the same on every
// kind of target; what is put there is the business of a [host].

// validID reports whether an ID may name a directory on any target.
func validID(id string) bool {
	if id == "" || len(id) > 128 || id[0] == '.' || id[0] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// validPlace keeps a damaged journal from making us delete anything else.
func validPlace(p agent.Place, id string) bool {
	return p.ID == id && validID(id) && path.IsAbs(p.Dir) && path.Clean(p.Dir) == p.Dir &&
		path.Base(p.Dir) == id && path.Dir(p.Dir) != "/"
}

// findDir puts the binary into the first directory where it can be executed.
func (r *run) findDir(ctx context.Context) error {
	var reasons []error
	todo := "name a directory that may hold programs in the base directories"
	for _, dir := range candidates(r.opts, r.sys) {
		r.dir, r.made, r.touched = dir, nil, false
		err := r.prepare(ctx)
		for tries := 0; tries < 2 && r.cleared(ctx, err); tries++ {
			err = r.prepare(ctx)
		}
		if err == nil {
			return nil
		}
		if stops(ctx, err) {
			return r.undone(ctx, err)
		}
		var denied *agent.Error
		if errors.As(err, &denied) && denied.Kind == agent.ErrPolicy && denied.Hint != "" {
			if len(reasons) == 0 { // of the directory that would be the best
				todo = denied.Hint + "; or " + todo
			}
			denied.Hint = ""
		}
		if why := r.host.why(ctx); why != "" {
			err = fmt.Errorf("%s: %w", why, err)
		}
		if hint := r.undo(ctx); hint != "" {
			err = fmt.Errorf("%w; %s", err, hint)
		}
		r.in.log().DebugContext(ctx, "agent directory will not do", "target", r.opts.Target, "dir", dir, "err", err)
		reasons = append(reasons, fmt.Errorf("%s: %w", dir, err))
	}
	if len(reasons) == 0 {
		reasons = append(reasons, errors.New("no base directory was given"))
	}
	return r.fail(agent.ErrNoDir, errors.Join(reasons...), todo)
}

// stops reports whether an error says nothing about the directory that was
// tried, so that no other one is to be tried.
func stops(ctx context.Context, err error) bool {
	if ctx.Err() != nil || transport.Temporary(err) {
		return true
	}
	for _, kind := range []error{
		transport.ErrClosed, transport.ErrIntegrity, transport.ErrProtocol, transport.ErrAuth, errors.ErrUnsupported,
		agent.ErrQuarantined, errOpened, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// errOpened marks errors of StartOptions.Opened.
var errOpened = errors.New("the place of the agent could not be recorded")

func (r *run) opened(ctx context.Context, p agent.Place) error {
	if r.opts.Opened == nil {
		return nil
	}
	if err := r.opts.Opened(ctx, p); err != nil {
		return r.fail(errOpened, err, "")
	}
	return nil
}

// prepare makes the directory and puts a binary there that can be started.
func (r *run) prepare(ctx context.Context) error {
	if !path.IsAbs(r.dir) || path.Clean(r.dir) != r.dir || path.Dir(r.dir) == "/" {
		return fmt.Errorf("not the clean absolute path of a directory below another: %q", r.dir)
	}
	r.kept = false
	_, err := transport.Stat(ctx, r.conn, r.name(lockName))
	if r.locked = err == nil; err != nil && stops(ctx, err) {
		return err
	}
	missing, err := r.missing(ctx)
	if err != nil {
		return err
	}
	if err := r.opened(ctx, r.place()); err != nil {
		return err
	}
	if len(missing) == 0 {
		fi, err := transport.Stat(ctx, r.conn, r.dir)
		if err != nil {
			return err
		}
		if !fi.IsDir() || fi.Mode.Perm()&0o077 != 0 {
			return fmt.Errorf("it exists and is not a directory for its owner alone: %v", fi.Mode)
		}
	} else if err := transport.Mkdir(ctx, r.conn, r.dir, 0o700); err != nil {
		r.made, r.touched = missing, true
		return err
	}
	if err := r.host.mine(ctx, len(missing) > 0); err != nil {
		if !stops(ctx, err) {
			removeEmpty(ctx, r.conn, missing) // and nothing in it is looked at
		}
		return err
	}
	r.made, r.touched = missing, true
	return r.host.fill(ctx)
}

// missing returns the directories that Mkdir will have to make, deepest last.
func (r *run) missing(ctx context.Context) ([]string, error) {
	var out []string
	for d := r.dir; d != "/"; d = path.Dir(d) {
		_, err := transport.Stat(ctx, r.conn, d)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			if stops(ctx, err) {
				return nil, err
			}
			break // Mkdir will say what is wrong
		}
		out = append([]string{d}, out...)
	}
	return out, nil
}

// existing returns the deepest directory on the way to dir that exists.
func (r *run) existing(ctx context.Context) string {
	for d := r.dir; d != "/"; d = path.Dir(d) {
		if fi, err := transport.Stat(ctx, r.conn, d); err == nil && fi.IsDir() {
			return d
		}
	}
	return "/"
}

// removeEmpty removes directories that a Start made, if they are empty.
func removeEmpty(ctx context.Context, conn transport.Conn, made []string) {
	for i := len(made) - 1; i >= 0; i-- {
		if err := transport.Remove(ctx, conn, made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}
