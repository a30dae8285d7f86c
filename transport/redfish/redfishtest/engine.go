package redfishtest

import (
	"context"
	"errors"
	"net/http"

	"github.com/roundsman-go/roundsman/transport"
)

// flashState is what the service is doing to firmware. At most one thing at a
// time.
type flashState struct {
	busy    bool
	state   string // Idle, Uploading, Verifying, Writing, Updating, Complete, Error
	percent int
	message string               // the last segment of a MessageId
	etag    string               // UploadCurrentEtag
	reset   bool                 // what was written takes a reset
	needs   transport.Activation // of the host: what was written takes that
	task    *task
	stop    context.CancelFunc // ends the work
}

// begin takes the flash for one operation, or says why not. s.mu is held.
func (s *Server) begin(r *http.Request) error {
	switch {
	case s.faultLocked(FirmwareVerifying, r) != nil:
		return bad("FirmwareVerificationInProgress")
	case s.flash.busy || s.faultLocked(Busy, r) != nil:
		return s.cfg.Profile.busy()
	}
	if s.lag = nil; s.active(StateLags) {
		if f := s.faultLocked(StateLags, r); f != nil {
			s.lag = &lagging{fault: f, flash: s.flash, flags: s.flags()}
		}
	}
	s.flash = flashState{busy: true, state: "Uploading"}
	s.notify()
	return nil
}

func (p Profile) busy() error {
	switch {
	case p == RMC:
		return bad("FirmwareUpdateConflictError")
	case p.ilo() > 0:
		return bad("FirmwareFlashAlreadyInProgress")
	}
	return &message{status: http.StatusConflict, id: "ResourceInUse"}
}

// release gives the flash back without having done anything. Nothing stays of what
// was being uploaded, its mark neither.
func (s *Server) release() {
	s.mu.Lock()
	s.flash, s.lag = flashState{state: "Idle"}, nil
	s.notify()
	s.mu.Unlock()
	s.kick()
}

// launch does the work of an operation for which begin took the flash, resets
// the service if it takes that, and then goes on with the queue. The channel gets
// what became of the work.
func (s *Server) launch(t *task, work func(ctx context.Context) error) <-chan error {
	ctx, stop := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	s.mu.Lock()
	s.flash.task, s.flash.stop = t, stop
	if s.lag != nil && s.lag.fault.Delay > 0 {
		s.lag.until = s.now().Add(s.lag.fault.Delay)
	}
	s.mu.Unlock()
	s.wg.Go(func() {
		defer stop()
		err := work(ctx)
		if s.ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.flash.state, s.flash.message = "Complete", "Success"
		var end *message
		if err == nil {
			if end = s.ending(); end != nil && s.cfg.Profile.ilo() > 0 {
				s.flash.message = end.id
			}
		} else {
			s.flash.state, s.flash.message = "Error", "InternalError"
			var m *message
			if errors.As(err, &m) {
				s.flash.message = m.id
			}
			s.journal = append(s.journal, "Update failed: "+err.Error())
		}
		s.flash.percent = 100
		s.stateEvent()
		reset := s.flash.reset
		if t != nil && !(reset && s.cfg.Profile == RMC) { // the task of an RMC ends after its reset
			s.endTask(t, end, err)
			t = nil
		}
		s.notify()
		s.log("update", "state", s.flash.state, "message", s.flash.message)
		s.mu.Unlock()
		ended <- err
		if s.hold(s.ctx) != nil {
			return
		}
		if reset {
			if s.pause(s.ctx, 2) != nil {
				return
			}
			s.reset(s.ctx)
		}
		s.mu.Lock()
		s.endTask(t, end, err)
		s.flash.busy, s.flash.task, s.flash.stop = false, nil, nil
		s.notify()
		s.mu.Unlock()
		s.kick()
	})
	return ended
}

// ending is the message with which an update ends that waits for the host, if the
// service says that. s.mu is held.
func (s *Server) ending() *message {
	kind := map[transport.Activation]string{
		transport.ActivationReboot: "ForceRestart", transport.ActivationPowerCycle: "PowerCycle",
	}[s.flash.needs]
	if kind == "" {
		return nil
	}
	f := s.faultLocked(ResetRequired, nil)
	if f == nil {
		return nil
	}
	m := &message{id: f.MessageID}
	switch {
	case m.id != "":
	case s.cfg.Profile.ilo() > 0:
		m.id = "SystemResetRequired"
	default:
		m.id, m.args = "ResetRequired", []string{s.systemPath() + "/Actions/ComputerSystem.Reset", kind}
	}
	return m
}

// say changes the state that clients see.
func (s *Server) say(state string, percent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flash.state != state {
		defer s.stateEvent()
	}
	s.flash.state, s.flash.percent = state, percent
	s.progressTask(s.flash.task, percent)
	s.notify()
}

// verify takes its time and says what is wrong with a file.
func (s *Server) verify(ctx context.Context, c *content) error {
	s.say("Verifying", 0)
	if err := s.step(ctx, 1); err != nil {
		return err
	}
	if s.fault(BadSignature, nil) != nil {
		return bad("UpdateSignatureValidationFailed")
	}
	return c.err
}

// write writes the images of a file to the entries that they are for, and that
// the agent can write. An image that fits nothing is an invalid file.
func (s *Server) write(ctx context.Context, c *content, by string, targets []string) error {
	type pair struct {
		i int // of s.firmware
		p imagePart
	}
	var pairs []pair
	s.mu.Lock()
	for _, p := range c.images {
		if by == "Bmc" && !p.direct || by == "Uefi" && !p.uefi {
			continue
		}
		for i, f := range s.firmware {
			if f.Fixed || !f.takes(p.meta) || !f.by(by) || !isTarget(targets, f.ID) {
				continue
			}
			if p.Minimum != "" && compareVersions(f.Version, p.Minimum) < 0 {
				s.mu.Unlock()
				return bad("MinimumFirmwareVersionRequirementNotMet", p.Minimum)
			}
			pairs = append(pairs, pair{i, p})
		}
	}
	s.mu.Unlock()
	if len(pairs) == 0 {
		return bad("UpdateInvalidFile")
	}
	for percent := 0; percent < 100; percent += 25 {
		if by == "Bmc" {
			s.say("Updating", percent)
		}
		if err := s.step(ctx, 1); err != nil {
			return err
		}
	}
	if f := s.fault(FlashFails, nil); f != nil {
		if f.MessageID != "" {
			return bad(f.MessageID)
		}
		return bad("FirmwareFlashFailed")
	}
	unchanged := s.fault(Complete, nil) != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pairs {
		f := &s.firmware[p.i]
		if by == "Bmc" && f.Activation == transport.ActivationReset {
			s.flash.reset = true
		}
		if f.Activation != transport.ActivationReset && enough(f.Activation, s.flash.needs) {
			s.flash.needs = f.Activation
		}
		if unchanged {
			continue
		}
		s.flashes = append(s.flashes, Flash{ID: f.ID, From: f.Version, To: p.p.Version, File: c.name, Digest: p.p.digest, By: by})
		if f.Activation == transport.ActivationNone {
			s.install(f, p.p.Version)
		} else {
			f.Staged = p.p.Version
		}
	}
	s.notify()
	return nil
}

// activate lets versions take effect for which what is enough. s.mu is held.
func (s *Server) activate(what transport.Activation) {
	for i := range s.firmware {
		f := &s.firmware[i]
		if f.Staged == "" || !enough(what, f.Activation) ||
			// The host's reboot is not the service's reset.
			f.Activation == transport.ActivationReset && what == transport.ActivationReboot {
			continue
		}
		if s.faultLocked(ForgetsStaged, nil) == nil {
			s.install(f, f.Staged)
		}
		f.Staged = ""
	}
	s.notify()
}
