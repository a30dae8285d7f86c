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
	worked  bool // it says that it is at work, and not only that it is busy
	claim   bool // it says that it succeeded
	failed  bool
	waits   bool // it says that it waits for what activates it
	phase   string
	percent float64
	code    transport.Code
	text    string
	wait    time.Duration // how long it asks to be left alone
	staged  transport.Activation
}

// status asks what became of the update: the queue or the task where there is one, else
// the state of the service.
func (u *update) status() (status, error) {
	if u.data.Queue != nil && u.data.Queue.Kept {
		return u.queueStatus()
	}
	if u.data.Task.URI == "" && u.data.Watch == "" && u.unsure && u.data.Way != WayHPEPush {
		u.newTask()
	}
	for _, at := range []string{u.data.Task.URI, u.data.Watch} {
		if at == "" || at != u.data.Task.URI && at != u.data.Watch { // by now
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

// poll reads something that may be away, busy, or no JSON. A target that is busy gives no
// reply, but a status.
func (u *update) poll(at string) (*reply, status, error) {
	rep, err := u.s.do(u.ctx, request{op: "update", method: http.MethodGet, path: at})
	if err != nil {
		return nil, status{}, err
	}
	st := status{phase: "flash", wait: retryAfter(rep.header, time.Now())}
	switch {
	case rep.busy():
		st.running = true
		return nil, st, nil
	case rep.status >= 500, rep.status == http.StatusUnauthorized:
		return nil, st, u.refused("update", at, rep)
	}
	return rep, st, nil
}

// retryAfter is how long a target asks to be left alone: seconds, or a date (RFC 9110,
// section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = time.Hour
	said := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.Atoi(said); err == nil {
		return time.Duration(min(max(n, 0), int(most/time.Second))) * time.Second
	}
	at, err := http.ParseTime(said)
	if err != nil {
		return 0
	}
	// The target's clock may be any; what it calls now it says, too.
	if own, err := http.ParseTime(h.Get("Date")); err == nil {
		now = own
	}
	return min(max(at.Sub(now), 0), most)
}

// taskStatus reads a task or its monitor.
func (u *update) taskStatus(at string) (status, error) {
	rep, st, err := u.poll(at)
	if err != nil || rep == nil {
		return st, err
	}
	return u.readTask(at, rep, st)
}

// readTask reads what was answered of a task, or by its monitor.
func (u *update) readTask(at string, rep *reply, st status) (status, error) {
	st.running = rep.status == http.StatusAccepted
	st.worked = st.running
	var t struct {
		State   text   `json:"TaskState"`
		Status  text   `json:"TaskStatus"`
		Start   text   `json:"StartTime"`
		Percent number `json:"PercentComplete"`
	}
	if len(rep.body) > 0 && decode(rep.body, &t) != nil {
		if rep.ok() {
			return st, nil
		}
		return st, u.refused("update", at, rep)
	}
	if rep.ok() && t.State != "" && at == u.data.Task.URI {
		if start := string(t.Start); u.data.Task.Start == "" {
			u.data.Task.Start = start
		} else if start != "" && start != u.data.Task.Start {
			// The number is another task's by now.
			u.data.Task, u.data.Watch = taskRef{}, ""
			return status{}, u.fail(fs.ErrNotExist, errors.New("the service has forgotten the task"), "")
		}
	}
	all := messages(rep.body)
	st.percent, st.text = float64(t.Percent), words(all)
	if m, ok := telling(all); ok {
		st.code = m.code()
	}
	st.staged = activationOf(all)
	return u.taskEnd(st, at, rep, string(t.State), string(t.Status))
}

// taskEnd judges the state of a task (DMTF DSP2046, "Task").
func (u *update) taskEnd(st status, at string, rep *reply, state, health string) (status, error) {
	switch strings.ToLower(state) {
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
		st.running, st.worked = false, true
		switch {
		case health == "" || strings.EqualFold(health, "OK"):
			st.claim = true
		case u.profile == ProfileRMC || strings.EqualFold(health, "Critical"):
			// There, with another status it is no success, whatever is complete.
			st.failed = true
		}
		if !st.claim && st.text == "" {
			st.text = "the task ended as Completed with the status " + clip(health, 100)
		}
	case "exception", "killed", "cancelled", "canceled":
		st.running, st.failed = false, true
		if st.text == "" {
			st.text = "the task ended as " + clip(state, 100)
		}
	default: // Interrupted and Suspended ones are expected to go on
		st.running = true
		st.worked = !strings.EqualFold(state, "New") && !strings.EqualFold(state, "Pending")
	}
	return st, nil
}

// activationOf is what messages say that is still to be done.
func activationOf(all []message) transport.Activation {
	out := transport.ActivationNone
	for _, m := range all {
		args := strings.ToLower(strings.Join(m.Args, " "))
		switch key := strings.ToLower(m.key()); {
		case strings.Contains(key, "powercycle"), strings.Contains(key, "auxcycle"), strings.Contains(key, "coldboot"):
			out = stronger(out, transport.ActivationPowerCycle)
		case key == "resetrequired" && strings.Contains(args, "powercycle"): // of the registry Base: what, and how
			out = stronger(out, transport.ActivationPowerCycle)
		case key == "resetrequired" && strings.Contains(args, "/managers/"):
			out = stronger(out, transport.ActivationReset)
		case strings.Contains(key, "resetrequired"), strings.Contains(key, "rebootrequired"), strings.Contains(key, "awaittoactivate"):
			out = stronger(out, transport.ActivationReboot)
		}
	}
	return out
}

var activations = []transport.Activation{transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle}

// stronger is the one that stands in for both.
func stronger(a, b transport.Activation) transport.Activation {
	if slices.Index(activations, b) > slices.Index(activations, a) {
		return b
	}
	return a
}

// progressed is a status as a line, to tell whether there is any progress.
func (st status) progressed() string { return fmt.Sprint(st.phase, st.percent) }
