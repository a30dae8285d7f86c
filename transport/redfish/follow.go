package redfish

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// status is what the target says of an update.
type status struct {
	running bool
	claim   bool // it says that it succeeded
	failed  bool
	phase   string
	percent float64
	code    transport.Code
	text    string
	wait    time.Duration // how long it asks to be left alone
	staged  transport.Activation
}

// equalReads is how often a version must read the same before it counts: while a target
// starts, what it says of its parts comes and goes.
const equalReads = 3

// follow waits for the end of an update, and reads the versions.
func (u *update) follow(o *offers) (transport.Result, error) {
	w := &watch{update: u, offers: o, sign: time.Now(), seen: time.Now()}
	o.watch(u.ctx, u.s.opts.StallTimeout)
	for {
		res, done, err := w.look()
		if err != nil || done {
			return res, err
		}
		if err := u.pause(max(u.s.opts.PollInterval, w.wait)); err != nil {
			return res, err
		}
	}
}

// pause waits between two looks.
func (u *update) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-u.ctx.Done():
		return u.s.fail(u.ctx, request{op: "update", path: u.payload.Name}, u.ctx.Err())
	case <-u.s.ctx.Done():
		return u.s.fail(u.s.ctx, request{op: "update", path: u.payload.Name}, u.s.ctx.Err())
	}
}

// watch is the wait for one update.
type watch struct {
	*update
	offers  *offers
	sign    time.Time // of the last progress
	seen    time.Time // of the last answer
	last    string    // progress, to tell whether there is any
	busy    bool      // the target was seen at work
	gone    bool      // it was away, and may have reset
	logins  int       // when the wait began
	ended   time.Time // since when it says nothing of an update any more
	claim   status    // the last that said that it ended
	reads   int       // equal reads of the versions
	read    string    // what was read last
	refused int       // logins
	wait    time.Duration
}

// look looks once.
func (w *watch) look() (res transport.Result, done bool, err error) {
	w.wait = 0
	select {
	case err := <-w.offers.late:
		return res, false, w.fail(transport.ErrTimeout, err, "the target has not fetched the image; it may still do so")
	default:
	}
	now := time.Now()
	st, err := w.status()
	if err == nil && !st.running && !st.failed {
		res, done, err = w.versions(st, now)
		if done {
			return res, true, nil
		}
	}
	if err != nil {
		return res, false, w.away(err, now)
	}
	w.seen, w.refused = now, 0
	w.wait = min(st.wait, w.s.opts.ResetTimeout)
	w.log(st.text)
	switch {
	case st.failed && !w.unsure:
		return transport.Result{Verdict: transport.VerdictFailed, Code: st.code, Text: st.text}, true, nil
	case st.failed:
		return transport.Result{Code: st.code, Text: "whether the request arrived is not known; the target says of its last update: " + st.text}, true, nil
	case st.running:
		w.busy, w.ended = true, time.Time{}
		w.reads = 0
		if p := fmt.Sprint(st.phase, st.percent); p != w.last {
			w.last, w.sign = p, now
		}
		w.progress(st.phase, int64(st.percent), 100, st.text)
		if now.Sub(w.sign) > w.s.opts.UpdateStall {
			return res, false, w.fail(transport.ErrTimeout, fmt.Errorf("no progress for %v (%s)", w.s.opts.UpdateStall, st.phase), "the target may still be at it: look at its own log")
		}
	}
	return res, false, nil
}

// away judges a look that failed. While a target resets, nothing that it says or does
// not say is news.
func (w *watch) away(err error, now time.Time) error {
	if cerr := w.ctx.Err(); cerr != nil || errors.Is(err, transport.ErrClosed) || errors.Is(err, transport.ErrTrust) {
		return err
	}
	if errors.Is(err, transport.ErrAuth) {
		// Some let nobody in while they start; but no account is to be locked.
		if w.refused++; w.refused > 3 {
			return err
		}
	}
	w.gone, w.reads = true, 0
	w.ended = time.Time{}
	if now.Sub(w.seen) > w.s.opts.ResetTimeout {
		return w.fail(transport.ErrConnLost, err, fmt.Sprintf("the target has not come back for %v", w.s.opts.ResetTimeout))
	}
	w.progress("reset", 0, 0, "")
	return nil
}

// versions reads the versions, when the target is at work no more.
func (w *watch) versions(st status, now time.Time) (res transport.Result, done bool, err error) {
	if w.ended.IsZero() {
		w.ended = now
	}
	if st.claim {
		w.claim = st
	}
	have, err := w.installed()
	if err != nil {
		return res, false, err
	}
	if read := strings.Join(have, "\x00"); read != w.read {
		w.read, w.reads = read, 0
	}
	w.reads++
	w.progress("verify", 0, 0, "")
	if w.reads < equalReads {
		return res, false, nil
	}
	fresh, old := true, false
	var missing []string
	for i, s := range w.data.Subjects {
		if !same(have[i], w.data.Version) {
			fresh = false
			missing = append(missing, fmt.Sprintf("%s has %s", s.ID, have[i]))
		}
		old = old || s.From == have[i] || same(s.From, have[i])
	}
	settled := now.Sub(w.ended) > w.s.opts.SettleTimeout
	text := w.claim.text
	switch {
	case fresh && w.data.Rewrite && w.unsure:
		// The version was there before, and says nothing.
		if !settled {
			return res, false, nil
		}
		return transport.Result{Text: "whether the request arrived is not known, and the version was there before"}, true, nil
	case fresh && w.data.Rewrite && w.resets() && !w.gone && !w.again():
		if !settled { // it is about to reset
			return res, false, nil
		}
		return transport.Result{Verdict: transport.VerdictApplied, Code: w.claim.code, Text: text}, true, nil
	case fresh:
		return transport.Result{Verdict: transport.VerdictApplied, Code: w.claim.code, Text: text}, true, nil
	}
	what := w.activation(st)
	if what != transport.ActivationNone && !w.unsure && (w.claim.claim || w.busy) && (w.claim.claim || settled) {
		return transport.Result{Verdict: transport.VerdictStaged, Activation: what, Code: w.claim.code, Text: text}, true, nil
	}
	if !settled {
		return res, false, nil
	}
	says := "the target no longer says what became of the update"
	switch {
	case w.unsure:
		says = "whether the request arrived is not known"
	case w.claim.claim:
		says = "the target says that the update succeeded"
	}
	return transport.Result{Code: w.claim.code, Text: strings.TrimSuffix(fmt.Sprintf("%s, but %s; %s", says, strings.Join(missing, ", "), text), "; ")}, true, nil
}

// again reports whether the target has ended the session meanwhile, as a reset does.
func (w *watch) again() bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.logins == 0 {
		w.logins = w.s.logins
	}
	return w.s.logins != w.logins
}

// resets reports whether what is updated starts anew by itself.
func (w *watch) resets() bool {
	return slices.ContainsFunc(w.data.Subjects, func(s subject) bool { return s.Class == transport.ClassBMC })
}

// activation is what the update waits for, by what the target says, the package says, or
// the part is; none where nothing tells. A management processor resets by itself.
func (w *watch) activation(st status) transport.Activation {
	strongest := transport.ActivationNone
	rank := []transport.Activation{transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle}
	add := func(a transport.Activation) {
		if slices.Index(rank, a) > slices.Index(rank, strongest) {
			strongest = a
		}
	}
	for _, s := range w.data.Subjects {
		switch name := strings.ToLower(s.Name); {
		case strings.Contains(name, "programmable logic"), strings.Contains(name, "cpld"):
			add(transport.ActivationPowerCycle)
		case s.Class == transport.ClassBMC:
			continue
		case s.Class == transport.ClassBIOS:
			add(transport.ActivationReboot)
		default:
			add(w.data.Staged)
		}
	}
	add(st.staged)
	add(w.claim.staged)
	return strongest
}

// installed reads the versions of the subjects.
func (u *update) installed() ([]string, error) {
	r := &reader{conn: u.conn, ctx: u.ctx, op: "update", related: map[string]int{}}
	entries, err := u.entries(r)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range u.data.Subjects {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.err == nil && e.device.ID == s.ID })
		if i < 0 {
			return nil, &transport.Error{Op: "update", Target: u.s.target, Kind: fs.ErrNotExist, Err: fmt.Errorf("the firmware inventory has no %q now", s.ID)}
		}
		out = append(out, entries[i].device.Firmware)
	}
	return out, nil
}

// status asks what became of the update: the task where there is one, else the state of
// the service.
func (u *update) status() (status, error) {
	if u.data.Task == "" && u.data.Monitor == "" && u.unsure && !u.profile.ilo() {
		u.newTask()
	}
	for _, at := range []string{u.data.Task, u.data.Monitor} {
		if at == "" {
			continue
		}
		st, err := u.taskStatus(at)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return st, err
		}
		// Resets end tasks, and services forget them.
	}
	if u.profile.ilo() || u.profile == ProfileILO4 {
		return u.serviceStatus()
	}
	return status{}, nil
}

// newTask finds the task of a request whose answer was lost, where there is one that was
// not there before.
func (u *update) newTask() {
	var found []string
	now, _ := u.tasks()
	for _, t := range now {
		if !slices.Contains(u.data.Tasks, t) {
			found = append(found, t)
		}
	}
	if len(found) == 1 {
		u.data.Task = found[0]
	}
}

// get reads something that may be away, busy, or no JSON.
func (u *update) poll(at string) (*reply, error) {
	rep, err := u.s.do(u.ctx, request{op: "update", method: http.MethodGet, path: at})
	if err != nil {
		return nil, err
	}
	if rep.status == http.StatusServiceUnavailable || rep.status == http.StatusTooManyRequests {
		return rep, nil
	}
	if rep.status >= 500 || rep.status == http.StatusUnauthorized {
		return rep, u.refused("update", at, rep)
	}
	return rep, nil
}

// retryAfter is how long a target asks to be left alone (RFC 9110, section 10.2.3).
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After")))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}

// taskStatus reads a task or its monitor.
func (u *update) taskStatus(at string) (status, error) {
	rep, err := u.poll(at)
	if err != nil {
		return status{}, err
	}
	st := status{phase: "flash", wait: retryAfter(rep.header)}
	if rep.status == http.StatusServiceUnavailable || rep.status == http.StatusTooManyRequests {
		st.running = true
		return st, nil
	}
	if rep.status == http.StatusAccepted {
		st.running = true
	}
	var t struct {
		State   text   `json:"TaskState"`
		Status  text   `json:"TaskStatus"`
		Percent number `json:"PercentComplete"`
	}
	if len(rep.body) > 0 && decode(rep.body, &t) != nil {
		if rep.ok() {
			return st, nil
		}
		return st, u.refused("update", at, rep)
	}
	all := messages(rep.body)
	st.percent, st.text = float64(t.Percent), words(all)
	if m, ok := telling(all); ok {
		st.code = m.code()
	}
	st.staged = activationOf(all)
	switch state := strings.ToLower(string(t.State)); state {
	case "":
		if st.running {
			return st, nil
		}
		if !rep.ok() {
			if rep.status == http.StatusNotFound || rep.status == http.StatusGone {
				return st, u.refused("update", at, rep)
			}
			// A monitor ends with what the operation would have answered.
			e := refusal(rep)
			st.failed, st.code, st.text = true, e.Code, e.Err.Error()
			return st, nil
		}
		st.claim = true
	case "completed":
		st.running = false
		if s := string(t.Status); s == "" || strings.EqualFold(s, "OK") {
			st.claim = true
			break
		}
		// With another status it is no success, whatever is complete.
		st.failed = true
		if st.text == "" {
			st.text = "the task ended as Completed with the status " + clip(string(t.Status), 100)
		}
	case "exception", "killed", "cancelled", "canceled", "interrupted":
		st.running, st.failed = false, true
		if st.text == "" {
			st.text = "the task ended as " + clip(string(t.State), 100)
		}
	default:
		st.running = true
	}
	return st, nil
}

// activationOf is what messages say that is still to be done.
func activationOf(all []message) transport.Activation {
	out := transport.ActivationNone
	for _, m := range all {
		switch key := strings.ToLower(m.key()); {
		case strings.Contains(key, "powercycle"), strings.Contains(key, "auxcycle"):
			return transport.ActivationPowerCycle
		case strings.Contains(key, "resetrequired"), strings.Contains(key, "rebootrequired"), strings.Contains(key, "requestsystemcoldboot"):
			out = transport.ActivationReboot
		}
	}
	return out
}

// serviceStatus reads the state of an iLO's update service.
func (u *update) serviceStatus() (status, error) {
	at, err := pathOf(u.updatePath)
	if err != nil {
		return status{}, u.fail(transport.ErrProtocol, err, "")
	}
	rep, err := u.poll(at)
	if err != nil {
		return status{}, err
	}
	if rep.status == http.StatusServiceUnavailable || rep.status == http.StatusTooManyRequests {
		return status{running: true, phase: "busy", wait: retryAfter(rep.header)}, nil
	}
	if !rep.ok() {
		return status{}, u.refused("update", at, rep)
	}
	var now updateService
	if err := u.conn.decode("update", at, rep.body, &now); err != nil {
		return status{}, err
	}
	hpe := now.hpe()
	state, percent := string(hpe.State), float64(hpe.Progress)
	m := message{ID: hpe.Result.MessageID, Args: hpe.Result.Args}
	if u.profile == ProfileILO4 {
		state, percent = string(now.State), float64(now.Progress)
		m = message{ID: now.Error, Text: now.Details}
	}
	st := status{phase: phaseOf(state), percent: percent}
	if m.id() != "" {
		st.text, st.code = m.String(), m.code()
		st.staged = activationOf([]message{m})
	}
	mine := hpe.UploadETag != "" && string(hpe.UploadETag) == u.data.Tag
	if mine {
		u.unsure = false // it has come
	}
	for _, f := range now.Flags {
		if strings.Contains(strings.ToUpper(f), "COLD_BOOT") {
			st.staged = transport.ActivationReboot
		}
	}
	switch strings.ToUpper(state) {
	case "COMPLETE", "COMPLETED":
		st.claim = !u.unsure
	case "ERROR":
		st.failed = true
	case "", "IDLE":
	default:
		st.running = true
	}
	return st, nil
}

// phaseOf is a state of an iLO as a phase of progress.
func phaseOf(state string) string {
	switch strings.ToUpper(state) {
	case "UPLOADING", "DOWNLOADING":
		return "upload"
	case "VERIFYING":
		return "verify"
	}
	return "flash"
}

// between waits until the target has taken a section.
func (u *update) between() (transport.Result, error) {
	sign, last := time.Now(), ""
	for {
		st, err := u.status()
		switch {
		case err != nil:
			return transport.Result{}, err
		case st.failed:
			return transport.Result{Verdict: transport.VerdictFailed, Code: st.code, Text: st.text}, nil
		case !st.running:
			return transport.Result{}, nil
		}
		if p := fmt.Sprint(st.phase, st.percent); p != last {
			sign, last = time.Now(), p
		}
		if time.Since(sign) > u.s.opts.UpdateStall {
			return transport.Result{}, u.fail(transport.ErrTimeout, fmt.Errorf("no progress for %v between two sections", u.s.opts.UpdateStall), "")
		}
		if err := u.pause(u.s.opts.PollInterval); err != nil {
			return transport.Result{}, err
		}
	}
}
