package redfish

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// The states of an update, as Checkpoint gets them.
const (
	stateDriver  = "redfish"
	stateVersion = 1

	phaseBegin = "begin" // nothing was sent, or what was sent has no effect
	phaseSend  = "send"  // a request that cannot be taken back
	phaseNext  = "next"  // it was answered, and another one follows
	phaseWait  = "wait"  // all were answered
)

// stateData is what an update goes on from.
type stateData struct {
	Tag      string               `json:"tag"`    // of this update, for marks, names and offers
	Digest   string               `json:"digest"` // of the payload
	Way      Way                  `json:"way"`
	Subjects []subject            `json:"subjects"`
	Version  string               `json:"version"`
	Targets  []string             `json:"targets,omitempty"` // what the request names as its targets
	Staged   transport.Activation `json:"staged,omitempty"`  // what the payload says activates it
	Rewrite  bool                 `json:"rewrite,omitempty"` // the version was there before, and proves nothing
	Aimed    bool                 `json:"aimed,omitempty"`   // HttpPushUriTargets was set
	Queue    *queued              `json:"queue,omitempty"`
	Events   string               `json:"events,omitempty"` // the Context of a subscription to events, which may be there

	Part   int                  `json:"part,omitempty"` // section that is sent, or comes next
	Before before               `json:"before"`         // the last request
	Task   taskRef              `json:"task,omitzero"`
	Watch  string               `json:"monitor,omitempty"` // the task monitor
	Mark   string               `json:"mark,omitempty"`    // of the last upload
	Worked bool                 `json:"worked,omitempty"`  // the target was seen at work since the last request
	Told   transport.Activation `json:"told,omitempty"`    // what the target says activates it
}

// subject is a device that is to have another version.
type subject struct {
	ID    string `json:"id"`
	URI   string `json:"uri"`
	Class string `json:"class"`
	Name  string `json:"name,omitempty"`
	From  string `json:"from"`
	Part  bool   `json:"part,omitempty"` // the firmware inventory does not list it
}

// before is what the target told before a request: what it still tells afterwards is no
// answer to it.
type before struct {
	Boot    string       `json:"boot,omitempty"`   // when the management processor was reset last
	Service serviceState `json:"service,omitzero"` // of the update service of an iLO
	Tasks   []taskRef    `json:"tasks,omitempty"`  // that there were
	Leaves  bool         `json:"leaves,omitempty"` // Tasks is all there were, and a request leaves one
}

// taskRef names a task: numbers alone are given away again.
type taskRef struct {
	URI   string `json:"uri"`
	Start string `json:"start,omitempty"`
}

func (t taskRef) is(other taskRef) bool {
	return t.URI == other.URI && (t.Start == "" || other.Start == "" || t.Start == other.Start)
}

// digest is that of a payload.
func digest(p transport.Payload) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", p.Name, p.Version)
	for _, f := range p.Files {
		fmt.Fprintf(h, " %q %d %s", f.Name, f.Size, f.Digest())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// readState is the state of an earlier call.
func readState(s transport.State) (stateData, error) {
	var data stateData
	if s.Driver != stateDriver || s.Version != stateVersion {
		return data, fmt.Errorf("it is of driver %q, version %d; this is %q, version %d", s.Driver, s.Version, stateDriver, stateVersion)
	}
	if err := decode(s.Data, &data); err != nil {
		return data, err
	}
	if data.Tag == "" || len(data.Subjects) == 0 || data.Way == "" || data.Part < 0 ||
		!slices.Contains([]string{phaseBegin, phaseSend, phaseNext, phaseWait}, s.Phase) {
		return data, errors.New("it is incomplete")
	}
	return data, nil
}

const hintState = "the state cannot be gone on from: read the versions"

// resume takes over the state of an earlier call.
func (u *update) resume() error {
	if len(u.payload.Files) == 0 || u.payload.Version == "" {
		return u.invalid(errors.New("a payload has files and a version"))
	}
	sum := digest(u.payload)
	s := u.opts.Resume
	if s == nil {
		u.data = stateData{Tag: "r" + strings.ToLower(rand.Text()), Digest: sum, Version: u.payload.Version}
		return nil
	}
	data, err := readState(*s)
	if err == nil && data.Digest != sum {
		err = errors.New("it belongs to another payload")
	}
	if err != nil {
		return u.fail(transport.ErrInvalid, err, hintState)
	}
	u.data, u.phase, u.sent = data, s.Phase, s.Sent
	return nil
}

// checkpoint makes the state durable. Once that has failed nothing is tried any more.
func (u *update) checkpoint(phase string, sent bool) error {
	if u.unkept != nil {
		return u.unkept
	}
	u.phase, u.sent = phase, sent
	if u.opts.Checkpoint == nil {
		return nil
	}
	data, err := json.Marshal(u.data)
	if err == nil {
		ctx := u.ctx
		if !sent { // what was answered is recorded also when the caller has given up
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
			defer cancel()
		}
		err = u.opts.Checkpoint(ctx, transport.State{Driver: stateDriver, Version: stateVersion, Phase: phase, Sent: sent, Data: data})
	}
	if err != nil {
		u.unkept = u.fail(nil, fmt.Errorf("the state could not be kept: %w", err), "")
	}
	return u.unkept
}
