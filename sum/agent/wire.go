package agent

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// seconds rounds up, so that a short time does not become none.
func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d+time.Second-1)/time.Second, math.MaxUint32))
}

func jobFromWire(r *channel.InstallRequest) Job {
	j := Job{
		ID: r.JobID, Component: r.Component, Version: r.Version, Argv: r.Args, Env: r.Env,
		Profile: Profile(r.Profile), Timeout: time.Duration(r.TimeoutSeconds) * time.Second, NoKill: r.NoKill,
		SuspendBitLocker: r.SuspendBitLocker,
	}
	for _, f := range r.Files {
		j.Files = append(j.Files, JobFile(f))
	}
	return j
}

func jobToWire(j Job) *channel.InstallRequest {
	r := &channel.InstallRequest{
		JobID: j.ID, Component: j.Component, Version: j.Version, Args: j.Argv, Env: j.Env,
		Profile: string(j.Profile), TimeoutSeconds: seconds(j.Timeout), NoKill: j.NoKill,
		SuspendBitLocker: j.SuspendBitLocker,
	}
	for _, f := range j.Files {
		r.Files = append(r.Files, channel.File(f))
	}
	return r
}

func statusToWire(r record) *channel.JobStatus {
	s := &channel.JobStatus{
		JobID: r.ID, State: channel.JobState(r.State), BootID: r.BootID, LogTruncated: r.Truncated,
		Verdict: string(r.Result.Verdict), Activation: string(r.Result.Activation), Text: r.Result.Text, Overdue: r.Overdue,
	}
	if !r.Result.Code.IsZero() {
		s.Code = &channel.Code{Space: r.Result.Code.Space, Value: r.Result.Code.Value}
	}
	if r.Exit != nil {
		s.Signal = r.Exit.Signal
		if s.Signal == "" {
			s.ExitCode = &r.Exit.Code
		}
	}
	if !r.Started.IsZero() {
		s.StartedAt = &r.Started
	}
	if !r.Ended.IsZero() {
		s.EndedAt = &r.Ended
	}
	return s
}

// checkStatus refuses an answer that cannot be right: an agent may be hostile, and
// its manager polls and decides by what it says. id may be "" for any job.
func checkStatus(s *channel.JobStatus, id string, offset int64) error {
	bad := func(format string, args ...any) error {
		return &transport.Error{Op: "read", Path: "status", Kind: transport.ErrProtocol, Err: fmt.Errorf(format, args...)}
	}
	if id != "" && s.JobID != id || !channel.ValidJobID(s.JobID) {
		return bad("the answer is about job %.80q instead of %q", s.JobID, id)
	}
	switch State(s.State) {
	case Accepted, Running, Done, Cancelled, Interrupted:
	default:
		return bad("state %.80q of a job is not known", s.State)
	}
	switch transport.Verdict(s.Verdict) {
	case transport.VerdictUnknown, transport.VerdictApplied, transport.VerdictStaged, transport.VerdictNotNeeded,
		transport.VerdictFailed, transport.VerdictCancelled:
	default:
		return bad("verdict %.80q is not known", s.Verdict)
	}
	switch transport.Activation(s.Activation) {
	case transport.ActivationNone, transport.ActivationReset, transport.ActivationReboot, transport.ActivationPowerCycle:
	default:
		return bad("activation %.80q is not known", s.Activation)
	}
	// Without a log the offset may only go back, to the end of a shorter one.
	next, n := s.NextLogOffset, int64(len(s.Log))
	if n > 0 && next != offset+n || n == 0 && (next < 0 || next > offset) {
		return bad("%d bytes of log at %d end at %d", n, offset, next)
	}
	return nil
}

func statusFromWire(s *channel.JobStatus) Status {
	out := Status{
		ID: s.JobID, State: State(s.State), BootID: s.BootID, Log: s.Log, NextLog: s.NextLogOffset,
		Overdue: s.Overdue, LogTruncated: s.LogTruncated,
		Result: transport.Result{
			Verdict: transport.Verdict(s.Verdict), Activation: transport.Activation(s.Activation), Text: s.Text,
		},
	}
	if s.Code != nil {
		out.Result.Code = transport.Code{Space: s.Code.Space, Value: s.Code.Value}
	}
	switch {
	case s.Signal != "":
		out.Exit = &transport.Exit{Code: -1, Signal: s.Signal}
	case s.ExitCode != nil:
		out.Exit = &transport.Exit{Code: *s.ExitCode}
	}
	if s.StartedAt != nil {
		out.Started = *s.StartedAt
	}
	if s.EndedAt != nil {
		out.Ended = *s.EndedAt
	}
	return out
}

// systemID is the device that stands for the computer itself. The channel's
// inventory has no other place for its maker and model.
const systemID, systemClass = "system", "system"

func inventoryToWire(inv *transport.Inventory) *channel.InventoryResponse {
	id := inv.Identity
	r := &channel.InventoryResponse{
		HostName: id.Name, Product: id.OS, Version: id.Version, Arch: id.Arch, Kernel: id.Kernel,
		Serial: id.Serial, UUID: id.UUID, BootID: id.BootID, AgentTime: time.Now(),
	}
	if id.Vendor != "" || id.Product != "" {
		r.Devices = append(r.Devices, channel.Device{
			ID: systemID, Class: systemClass, Vendor: id.Vendor, Model: id.Product, Serial: id.Serial,
		})
	}
	for _, d := range inv.Devices {
		r.Devices = append(r.Devices, channel.Device(d))
	}
	for _, s := range inv.Software {
		r.Software = append(r.Software, channel.Software(s))
	}
	for _, p := range inv.Problems {
		r.Problems = append(r.Problems, channel.Problem(p))
	}
	return r
}

func inventoryFromWire(r *channel.InventoryResponse) *transport.Inventory {
	inv := &transport.Inventory{Identity: transport.Identity{
		Name: r.HostName, OS: r.Product, Version: r.Version, Arch: r.Arch, Kernel: r.Kernel,
		Serial: r.Serial, UUID: r.UUID, BootID: r.BootID,
	}}
	for _, d := range r.Devices {
		if d.ID == systemID && d.Class == systemClass {
			inv.Identity.Vendor, inv.Identity.Product = d.Vendor, d.Model
			continue
		}
		inv.Devices = append(inv.Devices, transport.Device(d))
	}
	for _, s := range r.Software {
		inv.Software = append(inv.Software, transport.Software(s))
	}
	for _, p := range r.Problems {
		inv.Problems = append(inv.Problems, transport.Problem(p))
	}
	for _, p := range r.Results {
		if version := firstLine(p.Output); version != "" && p.ExitCode != nil && *p.ExitCode == 0 {
			inv.Software = append(inv.Software, transport.Software{Name: p.Name, Version: version, Source: ProbeSource})
		} else if !slices.ContainsFunc(r.Problems, func(x channel.Problem) bool { return x.Part == ProbePart(p.Name) }) {
			code := -1
			if p.ExitCode != nil {
				code = *p.ExitCode
			}
			inv.Notes = append(inv.Notes, transport.Problem{Part: ProbePart(p.Name), Text: ProbeNote(code, version)})
		}
	}
	return inv
}
