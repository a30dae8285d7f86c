package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// windowsCheck is an agent.Inspector that looks at a Windows server over its connection,
// and puts nothing there: it reads directories and the marks of who holds the host, and
// asks the service control manager.
type windowsCheck struct {
	*run
	opts agent.InspectOptions
}

func newWindowsCheck(ctx context.Context, r *run, opts agent.InspectOptions) (agent.Inspector, error) {
	k := &windowsCheck{r, opts}
	var err error
	if r.sys, err = probe(ctx, r.conn); err != nil {
		return nil, k.fail(err)
	}
	return k, nil
}

func (k *windowsCheck) fail(err error) error {
	return &agent.Error{Op: "check", Target: k.opts.Target, Err: err}
}

// Facts implements agent.Inspector. Whoever has a mark in a base directory works there if
// its agent runs; else nobody outside can tell whether the mark is a dead one's.
func (k *windowsCheck) Facts(ctx context.Context) (agent.Facts, error) {
	f := agent.Facts{OS: k.sys.goos, Arch: k.sys.goarch, UID: -1, Free: -1, Within: -1}
	_, err := nativePath(ctx, k.conn, "/", "")
	if err == nil && k.opts.Place == nil { // else an agent shows that it may
		err = k.mayStart(ctx)
	}
	if err != nil {
		if lineLost(ctx, err) {
			return agent.Facts{}, k.fail(err)
		}
		f.Unfit, f.HoldersErr = append(f.Unfit, k.fail(err)), k.fail(errors.New("for want of that it was not looked at"))
		return f, nil
	}
	var bases []string
	for _, dir := range candidates(agent.StartOptions{ID: "check", BaseDirs: k.opts.BaseDirs}, k.sys) {
		bases = append(bases, path.Dir(dir))
	}
	if p := k.opts.Place; p != nil {
		bases = []string{path.Dir(p.Dir)}
		staged, err := k.staged(ctx, path.Join(p.Dir, blobsName))
		if err != nil {
			return agent.Facts{}, k.fail(err)
		}
		f.Staged = staged
	}
	for _, base := range bases {
		err := k.usable(ctx, base)
		if err != nil && !lineLost(ctx, err) {
			f.Unfit = append(f.Unfit, fmt.Errorf("%s: %w", base, err))
			continue
		}
		if err == nil {
			f.Dir = base
			if err = k.space(ctx, &f); err == nil {
				err = k.holders(ctx, base, &f)
			}
		}
		if err != nil {
			return agent.Facts{}, k.fail(err)
		}
		break
	}
	return f, nil
}

// ownService is the service by which a Windows server is reached over SMB, so that it is
// there.
const ownService = "LanmanServer"

// checkService is the service that mayStart tries to create.
const checkService = agent.ServicePrefix + "check"

// sweepCheck deletes a checkService that a manager left which was killed before it could.
// One that is alive does not miss it.
func sweepCheck(ctx context.Context, conn transport.Conn) error {
	_, err := transport.QueryService(ctx, conn, checkService)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = removeService(ctx, conn, checkService)
	}
	return err
}

// mayStart asks whether this login may create services, without creating one: that whose
// display name is the name of another service is refused (MS-SCMR, section 3.1.4.12),
// but only after the rights were looked at.
func (k *windowsCheck) mayStart(ctx context.Context) error {
	_, err := transport.QueryService(ctx, k.conn, ownService)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // who may ask that is an administrator
	}
	if err != nil {
		return err
	}
	if err := sweepCheck(ctx, k.conn); err != nil {
		return err
	}
	err = transport.CreateService(ctx, k.conn, transport.ServiceConfig{Name: checkService, DisplayName: ownService, Argv: []string{"nothing"}})
	switch {
	case err == nil:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
		defer cancel()
		return removeService(ctx, k.conn, checkService)
	case errors.Is(err, fs.ErrPermission), lineLost(ctx, err):
		return err
	}
	return nil
}

// space reads how much is free in the base directory, which need not be there yet, and how
// far the clocks are apart, where that can be told.
func (k *windowsCheck) space(ctx context.Context, f *agent.Facts) error {
	dir := f.Dir
	for ; dir != "/"; dir = path.Dir(dir) {
		if _, err := transport.Stat(ctx, k.conn, dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	free, err := transport.Space(ctx, k.conn, dir)
	switch {
	case err == nil:
		f.Free = free
	case lineLost(ctx, err):
		return err
	}
	clock, err := transport.ReadClock(ctx, k.conn)
	switch {
	case err == nil:
		f.Skew, f.Within = clock.Skew, clock.Within
	case lineLost(ctx, err):
		return err
	}
	return nil
}

// usable looks whether a base directory can be one.
func (k *windowsCheck) usable(ctx context.Context, base string) error {
	if !path.IsAbs(base) || path.Clean(base) != base || base == "/" {
		return fmt.Errorf("it is no absolute path of a directory below the share")
	}
	for dir := base; ; dir = path.Dir(dir) {
		fi, err := transport.Stat(ctx, k.conn, dir)
		switch {
		case err == nil && !fi.IsDir():
			return fmt.Errorf("%s is not a directory", dir)
		case err == nil, !errors.Is(err, fs.ErrNotExist), dir == "/":
			return err
		}
	}
}

// staged returns how many bytes of payloads an agent has.
func (k *windowsCheck) staged(ctx context.Context, dir string) (sum int64, err error) {
	entries, err := transport.List(ctx, k.conn, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, e := range entries {
		if e.Mode.IsRegular() {
			sum += e.Size
		}
	}
	return sum, err
}

// maxMark is how much is read of a mark, in bytes.
const maxMark = 64 << 10

// holders reads the marks in a base directory.
func (k *windowsCheck) holders(ctx context.Context, base string, f *agent.Facts) error {
	entries, err := transport.List(ctx, k.conn, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Mode.IsRegular() || !strings.HasPrefix(e.Name, agent.HostLockPrefix) || strings.HasSuffix(e.Name, ".new") {
			continue
		}
		var buf bytes.Buffer
		_, err := transport.Get(ctx, k.conn, path.Join(base, e.Name), &buf, transport.GetOptions{Limit: maxMark})
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil && lineLost(ctx, err) {
			return err
		}
		var h agent.HostHolder
		line, _, _ := bytes.Cut(buf.Bytes(), []byte("\n"))
		if err != nil || json.Unmarshal(line, &h) != nil {
			f.HoldersErr = k.fail(fmt.Errorf("%s cannot be read: %w", e.Name, errors.Join(err, fs.ErrInvalid)))
			continue
		}
		runs := false
		if validID(h.Agent) {
			st, err := transport.QueryService(ctx, k.conn, agent.ServiceName(h.Agent))
			if err != nil && lineLost(ctx, err) {
				return err
			}
			runs = err == nil && st.State == transport.ServiceRunning
		}
		if runs {
			f.Holders = append(f.Holders, h)
		} else if f.HoldersErr == nil && (k.opts.Place == nil || h.Agent != k.opts.Place.ID) {
			f.HoldersErr = k.fail(fmt.Errorf("%v, or was killed: only a program on the target can tell", h))
		}
	}
	return nil
}

func (k *windowsCheck) untried(op string) error {
	return &agent.Error{Op: op, Target: k.opts.Target, Kind: errors.ErrUnsupported, Hint: "without a program on the target nobody there can try"}
}

// Dial implements agent.Inspector. Nobody on the target can.
func (k *windowsCheck) Dial(context.Context, netip.AddrPort) (agent.Reached, error) {
	return agent.Reached{}, k.untried("dial")
}

// Listen implements agent.Inspector. Nobody on the target can.
func (k *windowsCheck) Listen(context.Context, agent.ListenOptions) (agent.Listening, error) {
	return agent.Listening{}, k.untried("listen")
}

// Unlisten implements agent.Inspector.
func (k *windowsCheck) Unlisten(context.Context, agent.Listening) error { return nil }

// Close implements agent.Inspector. There is nothing on the target.
func (k *windowsCheck) Close(context.Context) error { return nil }
