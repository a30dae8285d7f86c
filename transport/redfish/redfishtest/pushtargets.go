package redfishtest

import (
	"net/http"
	"slices"
)

// pushTargets are the settings of HttpPushUri (DSP0268, UpdateService), which
// clients change before they push and put back afterwards.
type pushTargets struct {
	uris      []string // HttpPushUriTargets
	busy      bool     // HttpPushUriTargetsBusy
	applyTime string
}

// PushTargets returns HttpPushUriTargets and HttpPushUriTargetsBusy; see
// Config.PushTargets.
func (s *Server) PushTargets() (uris []string, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pushTo.uris), s.pushTo.busy
}

// SetPushTargets changes them, as if another client had.
func (s *Server) SetPushTargets(uris []string, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushTo.uris, s.pushTo.busy = slices.Clone(uris), busy
	s.notify()
}

// pushTree adds the settings to the update service. s.mu is held.
func (s *Server) pushTree(update object) {
	if s.cfg.PushTargets {
		uris := make([]any, len(s.pushTo.uris))
		for i, u := range s.pushTo.uris {
			uris[i] = u
		}
		update["HttpPushUriTargets"], update["HttpPushUriTargetsBusy"] = uris, s.pushTo.busy
	}
	if s.cfg.NoApplyTime {
		return
	}
	when := s.pushTo.applyTime
	if when == "" {
		when = "Immediate"
	}
	update["HttpPushUriOptions"] = object{"HttpPushUriApplyTime": object{
		"ApplyTime": when, "ApplyTime@Redfish.AllowableValues": supportedTimes(),
	}}
}

// supportedTimes are the values of @Redfish.OperationApplyTime.
func supportedTimes() []any {
	var out []any
	for _, v := range applyTimes[1:] {
		out = append(out, v)
	}
	return out
}

// patchUpdate is PATCH of the update service. That somebody has reserved the
// settings is for clients to heed, not for the service.
func (s *Server) patchUpdate(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	to := s.pushTo
	s.mu.Unlock()
	for name, v := range o {
		switch {
		case name == "HttpPushUriTargets" && s.cfg.PushTargets:
			all, ok := v.([]any)
			to.uris = list(o, name)
			if !ok || len(all) != len(to.uris) {
				return bad("PropertyValueNotInList", name)
			}
			if s.checkTargets(to.uris) != nil {
				return bad("PropertyValueNotInList", to.uris[0], name)
			}
		case name == "HttpPushUriTargetsBusy" && s.cfg.PushTargets:
			busy, ok := v.(bool)
			if !ok {
				return bad("PropertyValueNotInList", name)
			}
			to.busy = busy
		case name == "HttpPushUriOptions" && !s.cfg.NoApplyTime:
			options, _ := v.(object)
			when, _ := options["HttpPushUriApplyTime"].(object)
			to.applyTime = text(when, "ApplyTime")
			if !slices.Contains(applyTimes[1:], to.applyTime) {
				return bad("PropertyValueNotInList", to.applyTime, "ApplyTime")
			}
		default:
			return bad("PropertyUnknown", name)
		}
	}
	s.mu.Lock()
	s.pushTo = to
	s.notify()
	s.mu.Unlock()
	s.success(x)
	return nil
}
