package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// resetAction is the action ComputerSystem.Reset (DMTF DSP2046).
type resetAction struct {
	Target text  `json:"target"`
	Types  texts `json:"ResetType@Redfish.AllowableValues"`
	Info   link  `json:"@Redfish.ActionInfo"`
}

// resettable is what is used of a ComputerSystem to restart it.
type resettable struct {
	ID      link `json:"@odata.id"`
	Power   text `json:"PowerState"`
	Actions struct {
		Reset resetAction `json:"#ComputerSystem.Reset"`
	}
}

// Reboot implements transport.Rebooter: it restarts the host at once, by
// Options.ResetType, or gracefully where the service offers that. A host that is off is
// switched on: what is staged takes effect then as well. A message cannot be shown, nor
// can it be done later.
func (c *conn) Reboot(ctx context.Context, opts transport.RebootOptions) error {
	fail := func(kind error, err error, hint string) error {
		return &transport.Error{Op: "reboot", Target: c.s.target, Kind: kind, Err: err, Hint: hint}
	}
	switch {
	case opts.Delay < 0:
		return fail(transport.ErrInvalid, errors.New("a negative delay"), "")
	case opts.Delay > 0:
		return fail(errors.ErrUnsupported, errors.New("the service restarts the host at once"), "ask for it when it is time; nothing was sent")
	case opts.Message != "":
		return fail(errors.ErrUnsupported, errors.New("the service shows no message to those who are logged in on the host"),
			"restart it by its operating system, or without a message; nothing was sent")
	}
	end, err := c.take(ctx, request{op: "reboot"})
	if err != nil {
		return err
	}
	defer end()
	systems, err := c.members(ctx, "reboot", c.systems())
	if err != nil {
		return err
	}
	if len(systems) != 1 {
		return fail(errors.ErrUnsupported, fmt.Errorf("the service has %d systems", len(systems)), "this driver restarts the only one of a service; restart those that are meant by its own means")
	}
	m := systems[0]
	var s resettable
	if m.err == nil {
		m.err = c.decode("reboot", m.uri, m.body, &s)
	}
	if m.err != nil {
		return m.err
	}
	to, err := pathOf(string(s.Actions.Reset.Target))
	if err != nil {
		return fail(errors.ErrUnsupported, errors.New("the service does not offer ComputerSystem.Reset"), "")
	}
	allowed, err := c.resetTypes(ctx, s.Actions.Reset)
	if err != nil {
		return err
	}
	kind, err := resetType(c.s.opts.ResetType, string(s.Power), allowed)
	if err != nil {
		return fail(errors.ErrUnsupported, err, "choose one of them (Options.ResetType)")
	}
	r, err := jsonRequest("reboot", http.MethodPost, to, map[string]string{"ResetType": kind})
	if err != nil {
		return err
	}
	rep, err := c.s.do(ctx, r)
	if err != nil {
		return err
	}
	if !rep.ok() {
		return c.refused("reboot", to, rep)
	}
	return nil
}

// resetTypes are those that the service allows; none where it does not say.
func (c *conn) resetTypes(ctx context.Context, a resetAction) ([]string, error) {
	if len(a.Types) > 0 || a.Info == "" {
		return a.Types, nil
	}
	var info struct {
		Parameters []struct {
			Name   text
			Values texts `json:"AllowableValues"`
		}
	}
	if err := c.read(ctx, "reboot", string(a.Info), &info); err != nil {
		return nil, err
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.Values, nil
		}
	}
	return nil, nil
}

// resetType chooses how a host is restarted.
func resetType(want, power string, allowed []string) (string, error) {
	try := []string{"GracefulRestart", "ForceRestart"}
	switch {
	case want != "":
		try = []string{want}
	case strings.EqualFold(power, "Off"):
		try = []string{"On", "ForceOn"}
	}
	for _, t := range try {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			return t, nil
		}
	}
	return "", fmt.Errorf("the service allows none of %s, but %s", strings.Join(try, ", "), strings.Join(allowed, ", "))
}
