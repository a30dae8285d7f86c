package install

import (
	"bytes"
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

// windowsBase is the base directory on Windows: within the share ADMIN$, which is the
// Windows directory, where administrators alone write.
const windowsBase = "/roundsman"

// isWindows reports whether a target has services, as Windows does, in place of a shell.
func isWindows(conn transport.Conn) bool {
	caps := conn.Caps()
	return !caps.Has(transport.CapRun) && caps.Has(transport.CapFiles|transport.CapServices|transport.CapTunnelPipe)
}

// windowsSystem is what must be known of a Windows server, by what its connection says.
func windowsSystem(id transport.Identity) (system, error) {
	s := system{goos: "windows", goarch: id.Arch, uid: -1}
	if s.goarch == "" {
		return s, &transport.Error{Op: "probe", Kind: errors.ErrUnsupported, Err: errors.New("the target does not say for which processor its programs are"),
			Hint: `that is read from System32\kernel32.dll in the Windows directory, the share ADMIN$, where it is missing or cannot be read`}
	}
	return s, nil
}

// windows is a target on which nothing can be run but as a service: the agent is one,
// named after its ID. The way to such a target proves who sends, and is not always
// secret: so the manager and the agent each make a key that never leaves them, and tell
// the other its fingerprint there.
type windows struct{ *run }

// look asks for the service, too: a login without an administrator's rights is refused.
func (w windows) look(ctx context.Context) (system, error) {
	s, err := probe(ctx, w.conn)
	if err != nil {
		return s, err
	}
	if _, err := nativePath(ctx, w.conn, "/", ""); err != nil {
		return s, err
	}
	if _, err = transport.QueryService(ctx, w.conn, agent.ServiceName(w.opts.ID)); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// mine refuses a directory of another purpose. Who could put something into it is an
// administrator.
func (w windows) mine(ctx context.Context, made bool) error {
	if made {
		return nil
	}
	d, err := readDir(ctx, w.conn, w.dir)
	if err != nil {
		return err
	}
	if len(d.Rest)+len(d.Logs) > 0 && !d.ours() {
		return errors.New("it exists and holds what is no agent's")
	}
	return nil
}

// fill stops an earlier agent with this ID and puts the program there. Jobs of that one go
// on, and their shims run its program, which the driver puts aside for ours. Where that
// cannot be, as a virus scanner has it open, it stays and is the agent once more.
func (w windows) fill(ctx context.Context) error {
	if err := sweepCheck(ctx, w.conn); err != nil {
		return err
	}
	if err := removeService(ctx, w.conn, agent.ServiceName(w.opts.ID)); err != nil {
		return err
	}
	native, err := w.putProgram(ctx)
	if err != nil {
		if w.keeps(ctx, err) {
			w.in.log().WarnContext(ctx, "an earlier agent's program stays as long as its jobs are there", "target", w.opts.Target, "dir", w.dir, "err", err)
			return nil
		}
		return err
	}
	return w.vanished(ctx, native)
}

// keeps reports whether the program that is there does, since it could not be replaced:
// another one than ours is better than none, where without one nobody would learn what
// came of a job.
func (w windows) keeps(ctx context.Context, err error) bool {
	if lineLost(ctx, err) || errors.Is(err, transport.ErrIntegrity) {
		return false
	}
	d, err := readDir(ctx, w.conn, w.dir)
	return err == nil && d.Binary && len(d.Jobs) > 0
}

func (w windows) why(context.Context) string { return "" }

// putProgram sends the program, unless the very same is there, and returns its native
// path.
func (w windows) putProgram(ctx context.Context) (native string, err error) {
	native, err = nativePath(ctx, w.conn, w.dir, agent.WindowsBinaryName)
	if err != nil {
		return "", err
	}
	start := time.Now()
	res, err := transport.Put(ctx, w.conn, w.name(agent.WindowsBinaryName), w.bin, transport.PutOptions{Mode: 0o700})
	switch {
	case err == nil:
	case isQuarantine(err), errors.Is(err, fs.ErrNotExist) && !stops(ctx, err):
		return "", w.quarantined(err, native) // between writing and reading back
	default:
		return "", err
	}
	w.kept = res.Sent == 0
	w.in.log().DebugContext(ctx, "agent copied", "target", w.opts.Target, "file", native, "sent", res.Sent, "kept", res.Kept, "took", time.Since(start))
	return native, nil
}

// nativePath is the path of a file in a directory of the target, as the target says it:
// what a service is told, and so nothing that depends on an environment.
func nativePath(ctx context.Context, conn transport.Conn, dir, name string) (string, error) {
	fi, err := transport.Stat(ctx, conn, dir)
	if err == nil && (fi.Native == "" || strings.Contains(fi.Native, "%")) {
		err = &transport.Error{Op: "stat", Path: dir, Kind: errors.ErrUnsupported, Err: fmt.Errorf("the target does not say what it calls this directory itself (%q)", fi.Native),
			Hint: "tell the driver which directory of the target the share is (smb.Options.ShareRoot)"}
	}
	if name == "" {
		return fi.Native, err
	}
	return fi.Native + `\` + name, err
}

// codeVirus are the codes with which Windows refuses what its virus scanner has found
// (MS-ERREF): ERROR_VIRUS_INFECTED, ERROR_VIRUS_DELETED, STATUS_VIRUS_INFECTED and
// STATUS_VIRUS_DELETED.
var codeVirus = []transport.Code{
	{Space: "win32", Value: "225"}, {Space: "win32", Value: "226"},
	{Space: "ntstatus", Value: "0xC0000906"}, {Space: "ntstatus", Value: "0xC0000907"},
}

func isQuarantine(err error) bool { return hasCode(err, codeVirus) }

func hasCode(err error, codes []transport.Code) bool {
	have := transport.CodeOf(err)
	for _, c := range codes {
		if have == c {
			return true
		}
	}
	return false
}

func (w windows) quarantined(err error, native string) error {
	return &agent.Error{Op: "start", Target: w.opts.Target, Kind: agent.ErrQuarantined, Code: transport.CodeOf(err), Err: err,
		Hint: "let the virus scanner of the target except " + native}
}

// vanished returns an error if the program, which had arrived, is gone.
func (w windows) vanished(ctx context.Context, native string) error {
	_, err := transport.Stat(ctx, w.conn, w.name(agent.WindowsBinaryName))
	switch {
	case errors.Is(err, fs.ErrNotExist), isQuarantine(err):
		return w.quarantined(err, native)
	case err != nil && stops(ctx, err):
		return err
	}
	return nil
}

// launch makes the agent a service, starts it and connects to it.
func (w windows) launch(ctx context.Context) (*installed, error) {
	way := &way{run: w.run}
	a, err := w.start(ctx, way)
	if err != nil {
		way.close()
		return nil, err
	}
	return a, nil
}

func (w windows) start(ctx context.Context, way *way) (*installed, error) {
	fail := func(err error) (*installed, error) {
		var known *agent.Error
		if errors.As(err, &known) {
			return nil, err
		}
		return nil, w.fail(nil, err, "")
	}
	key, err := channel.NewOwnKey()
	if err != nil {
		return fail(err)
	}
	native, err := nativePath(ctx, w.conn, w.dir, "")
	if err != nil {
		return fail(err)
	}
	manager := key.AwaitAgent() // whose key only ready.json tells
	if err := way.receive(ctx, manager); err != nil {
		return fail(err)
	}
	boot := agent.Bootstrap{Nonce: channel.NewJobID(), Manager: key.Fingerprint().String()}
	if err := way.putBootstrap(ctx, boot); err != nil {
		return nil, err
	}
	service := agent.ServiceName(w.opts.ID)
	program := native + `\` + agent.WindowsBinaryName
	if err := createService(ctx, w.conn, transport.ServiceConfig{
		Name: service, DisplayName: "Roundsman agent " + w.opts.ID,
		Argv: []string{program, "serve", "-dir", native, "-service", service},
	}); err != nil {
		return fail(err)
	}
	log, err := w.logSize(ctx)
	if err != nil {
		return fail(err)
	}
	if err := transport.StartService(ctx, w.conn, service); err != nil {
		return fail(w.notStarted(ctx, err, program))
	}
	ready, err := w.awaitReady(ctx, service, boot.Nonce, program, log)
	if err != nil {
		return fail(err)
	}
	theirs, err := channel.ParseFingerprint(ready.Fingerprint)
	if err == nil {
		err = manager.Pin(theirs)
	}
	if err != nil {
		return nil, w.fail(agent.ErrStart, fmt.Errorf("%s: the agent's key: %w", agent.ReadyName, err), "")
	}
	a, err := way.connect(ctx, manager, ready)
	if err != nil {
		return nil, w.died(ctx, err, service, log)
	}
	return a, nil
}

// died adds to the error of a connection to an agent that it had begun and has ended. Its
// log begins at an offset.
func (w windows) died(ctx context.Context, err error, service string, log int64) error {
	st, serr := transport.QueryService(ctx, w.conn, service)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		return w.withLastWords(ctx, err, "the agent had begun, and its service is gone", w.served(ctx, log))
	case serr == nil && st.State == transport.ServiceStopped:
		return w.withLastWords(ctx, err, fmt.Sprintf("the agent had begun, and its service has ended (%v)", st.Exit), w.served(ctx, log))
	}
	return err
}

// codePolicy are the codes with which Windows refuses to execute what nobody has allowed
// (MS-ERREF; winerror.h): ERROR_INVALID_IMAGE_HASH, ERROR_ACCESS_DISABLED_BY_POLICY,
// ERROR_DRIVER_BLOCKED and ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION.
var codePolicy = []transport.Code{
	{Space: "win32", Value: "577"}, {Space: "win32", Value: "1260"}, {Space: "win32", Value: "1275"}, {Space: "win32", Value: "4550"}, {Space: "win32", Value: "4551"},
}

// notStarted explains why the service control manager did not start the agent.
func (w windows) notStarted(ctx context.Context, err error, program string) error {
	if lineLost(ctx, err) {
		return err
	}
	if isQuarantine(err) {
		return w.quarantined(err, program)
	}
	if gone := w.vanished(ctx, program); gone != nil {
		return gone
	}
	e := &agent.Error{Op: "start", Target: w.opts.Target, Kind: agent.ErrStart, Code: transport.CodeOf(err), Err: err}
	var denied *transport.Error
	switch {
	case hasCode(err, codePolicy):
		e.Kind = agent.ErrPolicy
		e.Hint = "an administrator of the target must allow " + program + " with the SHA-256 " + w.bin.Digest()
	case e.Code == codeDenied && errors.As(err, &denied):
		plain := *denied
		plain.Hint = "" // what the driver knows is about logins
		e.Err = &plain
		e.Hint = "this login may create services, so it is the program that is denied: let what protects the target, such as a virus scanner, except " + program
	}
	return e
}

// codeDenied is ERROR_ACCESS_DENIED (MS-ERREF).
var codeDenied = transport.Code{Space: "win32", Value: "5"}

// lineLost reports whether an error is of the line or of the caller, and not what the
// target says of a service.
func lineLost(ctx context.Context, err error) bool {
	for _, kind := range []error{transport.ErrConnLost, transport.ErrClosed, transport.ErrUnreachable, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return ctx.Err() != nil
}

// readyTime is how long an agent may take from the start of its service until it
// listens: one with the same ID may have to be waited for, and a virus scanner.
const readyTime = 90 * time.Second

// awaitReady waits until the agent that was started with nonce listens.
func (w windows) awaitReady(ctx context.Context, service, nonce, program string, log int64) (agent.Ready, error) {
	end := time.Now().Add(readyTime)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		st, serr := transport.QueryService(ctx, w.conn, service)
		ready, err := w.readReady(ctx, nonce) // after it: what has just ended may have listened
		switch {
		case err == nil:
			return ready, nil
		case lineLost(ctx, err):
			return ready, err
		case serr != nil && lineLost(ctx, serr):
			return ready, serr
		case errors.Is(err, errNotReady), errors.Is(err, transport.ErrBusy), errors.Is(err, fs.ErrPermission): // it is being replaced
		default:
			return ready, w.fail(agent.ErrStart, fmt.Errorf("%s: %w", agent.ReadyName, err), "")
		}
		switch {
		case errors.Is(serr, fs.ErrNotExist):
			return ready, w.ended(ctx, transport.Code{}, "somebody deleted the service", program, log)
		case serr != nil:
			return ready, serr
		case st.State == transport.ServiceStopped:
			return ready, w.ended(ctx, st.Exit, "the service ended at once", program, log)
		case time.Now().After(end):
			return ready, w.ended(ctx, transport.Code{}, fmt.Sprintf("the service is %s, and did not listen within %v", st.State, readyTime), program, log)
		}
		if err := sleep(ctx, pause); err != nil {
			return ready, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errNotReady: the agent that was started has said nothing yet.
var errNotReady = errors.New("it is not ready")

func (w windows) readReady(ctx context.Context, nonce string) (agent.Ready, error) {
	var buf bytes.Buffer
	_, err := transport.Get(ctx, w.conn, w.name(agent.ReadyName), &buf, transport.GetOptions{Limit: maxReady})
	if errors.Is(err, fs.ErrNotExist) {
		return agent.Ready{}, errNotReady
	}
	if err != nil {
		return agent.Ready{}, err
	}
	ready, err := parseReady(buf.Bytes(), nonce)
	switch {
	case err != nil && ready.Nonce != nonce: // an earlier one's
		return ready, errNotReady
	case err == nil && ready.Network != "pipe" && ready.Network != "tcp":
		err = fmt.Errorf("the agent listens on %.20q: want a pipe or a TCP port", ready.Network)
	}
	return ready, err
}

// ended explains the end of a service that was to be the agent, from what it wrote after
// the first log bytes of its log.
func (w windows) ended(ctx context.Context, exit transport.Code, what, program string, log int64) error {
	if gone := w.vanished(ctx, program); gone != nil {
		return gone
	}
	e := &agent.Error{Op: "start", Target: w.opts.Target, Kind: agent.ErrStart, Code: exit, Err: errors.New(what)}
	if said := w.since(ctx, log); said != "" {
		e.Err = fmt.Errorf("%w: %s", e.Err, said)
	}
	if native, err := nativePath(ctx, w.conn, w.dir, ""); err == nil {
		e.Hint = w.seeLog(native + `\` + agent.LogName)
		if exit == serviceCode(agent.ExitNoSpace) {
			e.Err = fmt.Errorf("%w: %w", transport.ErrNoSpace, e.Err)
			e.Hint = "make room on the disk of " + native
		}
	}
	return e
}

// serviceCode is a service's own exit code.
func serviceCode(code int) transport.Code {
	return transport.Code{Space: "service", Value: fmt.Sprint(code)}
}
