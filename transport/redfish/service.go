package redfish

import (
	"context"
	"net/http"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// serviceState is what the update service of an iLO says of its last work.
type serviceState struct {
	State   string `json:"state,omitempty"`
	Message string `json:"message,omitempty"`
	Mark    string `json:"mark,omitempty"`  // UploadCurrentEtag
	Flags   string `json:"flags,omitempty"` // of iLO 4
}

// state is what the update service says of its last work.
func (u *updateService) state() serviceState {
	hpe := u.hpe()
	s := serviceState{State: string(hpe.State), Message: string(hpe.Result.MessageID), Mark: string(hpe.UploadETag), Flags: strings.Join(u.Flags, " ")}
	if s.State == "" {
		s.State = string(u.State)
	}
	if s.Message == "" {
		s.Message = string(u.Error)
	}
	return s
}

// idle are the states of an iLO's update service in which it does nothing.
func idle(state string) bool { return final(state) || state == "" || strings.EqualFold(state, "IDLE") }

// final are those that the last work has left.
func final(state string) bool {
	switch strings.ToUpper(state) {
	case "COMPLETE", "COMPLETED", "ERROR":
		return true
	}
	return false
}

// receiving reports whether an upload comes in, or an image is fetched.
func receiving(state string) bool {
	switch strings.ToUpper(state) {
	case "UPLOADING", "DOWNLOADING":
		return true
	}
	return false
}

// service reads the update service.
func (u *update) service(ctx context.Context) (*updateService, error) {
	var now updateService
	if err := u.read(ctx, "update", u.updatePath, &now); err != nil {
		return nil, err
	}
	return &now, nil
}

// serviceStatus reads the state of an iLO's update service.
func (u *update) serviceStatus() (status, error) {
	at, err := pathOf(u.updatePath)
	if err != nil {
		return status{}, u.fail(transport.ErrProtocol, err, "")
	}
	rep, st, err := u.poll(at)
	if err != nil || rep == nil {
		return st, err
	}
	if !rep.ok() {
		return status{}, u.refused("update", at, rep)
	}
	return u.readService(at, rep, st)
}

// readService reads what the update service of an iLO has answered.
func (u *update) readService(at string, rep *reply, st status) (status, error) {
	var now updateService
	if err := u.conn.decode("update", at, rep.body, &now); err != nil {
		return status{}, err
	}
	is, was := now.state(), u.data.Before.Service
	mine := is.Mark != "" && is.Mark == u.data.Mark
	if mine && !receiving(is.State) && !strings.EqualFold(is.State, "IDLE") {
		u.unsure = false // it has come, all of it
	}
	if final(is.State) && !mine && !u.data.Worked && (is == was || was.State == "") {
		// An earlier update has left it. Ours has not begun.
		return status{}, nil
	}
	hpe := now.hpe()
	st.phase, st.percent = phaseOf(is.State), float64(max(hpe.Progress, now.Progress))
	m := message{ID: text(is.Message), Args: hpe.Result.Args, Text: now.Details}
	if m.id() != "" {
		st.text, st.code = m.String(), m.code()
		st.staged = activationOf([]message{m})
	}
	if is.Flags != was.Flags || !mineAlone(u.data.Subjects) {
		st.staged = stronger(st.staged, flagged(is.Flags))
	}
	switch {
	case strings.EqualFold(is.State, "ERROR"):
		st.failed = true
	case final(is.State):
		st.claim = !u.unsure
	case !idle(is.State):
		st.running, st.worked = true, true
	}
	return st, nil
}

// mineAlone reports whether management processors are all that is updated: what the
// server waits for is not theirs.
func mineAlone(subjects []subject) bool {
	for _, s := range subjects {
		if s.Class != transport.ClassBMC {
			return false
		}
	}
	return true
}

// flagged is what the flags of iLO 4 say that is still to be done. A cold boot and the
// auxiliary power are more than a warm boot.
func flagged(flags string) transport.Activation {
	flags = strings.ToUpper(flags)
	switch {
	case strings.Contains(flags, "COLD_BOOT"), strings.Contains(flags, "AUX_PWR_CYCLE"):
		return transport.ActivationPowerCycle
	case strings.Contains(flags, "WARM_BOOT"):
		return transport.ActivationReboot
	case strings.Contains(flags, "RESET_ILO"):
		return transport.ActivationReset
	}
	return transport.ActivationNone
}

// phaseOf is a state of an iLO as a phase of progress.
func phaseOf(state string) string {
	switch {
	case receiving(state):
		return "upload"
	case strings.EqualFold(state, "VERIFYING"):
		return "verify"
	}
	return "flash"
}

// busy reports whether an answer only asks to come again later.
func (r *reply) busy() bool {
	return r.status == http.StatusServiceUnavailable || r.status == http.StatusTooManyRequests
}
