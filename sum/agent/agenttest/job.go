package agenttest

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Job is what the program of a job does. Its zero value succeeds after one step
// and sets the version of the software named like the component to the job's
// version.
type Job struct {
	// Log is the output, one piece for each step. Each Status is one step; the
	// program ends when the pieces are used up, but not in the Install itself.
	Log []string
	// Exit is how the program ends.
	Exit transport.Exit
	// Effect is what it changes when it has ended, whatever Exit is. Nil means:
	// the software of the component's name gets the job's version, if the
	// profile understands Exit as success. Effect must not call the Host.
	Effect func(*Machine)
	// AtBoot is a change that the next reboot makes, as of firmware that is
	// activated by it. With it, a nil Effect changes nothing.
	AtBoot func(*Machine)
	// Hold keeps the program running until it is closed, if it is not nil.
	Hold <-chan struct{}
	// AgentDies ends the agent in the step in which the program was seen
	// running: the call fails with transport.ErrConnLost, and the job goes on.
	AgentDies bool
	// HostBusy lets the job end before its program begins, because the job of
	// another manager has the host.
	HostBusy bool
	// Interrupted lets the job end so instead of Done, without an effect.
	Interrupted bool
	// Overdue reports the job as past its timeout while it runs.
	Overdue bool
}

// job is a job on a host's disk.
type job struct {
	spec    agent.Job
	script  Job
	state   agent.State
	starts  int
	steps   int
	log     []byte
	exit    *transport.Exit
	result  transport.Result
	started time.Time
	ended   time.Time
	bootID  string
	cancel  bool // asked for, and to be obeyed in the next step
}

func (j *job) end(s agent.State, exit *transport.Exit) {
	j.state, j.exit, j.ended = s, exit, time.Now()
	if exit != nil {
		j.result = j.spec.Profile.Judge(*exit)
	}
}

// held reports whether the test keeps the program running.
func (j *job) held() bool {
	if j.script.Hold == nil {
		return false
	}
	select {
	case <-j.script.Hold:
		return false
	default:
		return true
	}
}

// begin starts the program.
func (j *job) begin(bootID string) {
	j.state, j.started, j.bootID = agent.Running, time.Now(), bootID
	j.starts++
}

// refuse ends a job that another one kept out.
func (j *job) refuse() {
	j.end(agent.Done, nil)
	by := agent.HostHolder{Agent: "another", Component: "other", Version: "1.0", Since: j.ended}
	j.result = transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "agent", Value: agent.CodeHostBusy}, Text: by.String()}
}

// step lets the program go on by one piece of output, or to its end.
func (j *job) step(h *Host) {
	if j.state != agent.Running {
		return
	}
	if j.cancel {
		j.end(agent.Cancelled, &transport.Exit{Code: -1, Signal: "TERM"})
		j.result.Verdict, j.result.Text = transport.VerdictUnknown, "cancelled" // it had begun
		return
	}
	if j.steps < len(j.script.Log) {
		j.log = append(j.log, j.script.Log[j.steps]...)
		j.steps++
		if j.steps < len(j.script.Log) {
			return
		}
	}
	if !j.held() {
		j.finish(h)
	}
}

// finish lets the program run to its end.
func (j *job) finish(h *Host) {
	for ; j.steps < len(j.script.Log); j.steps++ {
		j.log = append(j.log, j.script.Log[j.steps]...)
	}
	if j.script.Interrupted {
		j.end(agent.Interrupted, nil)
		return
	}
	exit := j.script.Exit
	j.end(agent.Done, &exit)
	m := &Machine{h}
	switch {
	case j.script.Effect != nil:
		j.script.Effect(m)
	case j.script.AtBoot == nil:
		if v := j.result.Verdict; v == transport.VerdictApplied || v == transport.VerdictStaged || v == transport.VerdictUnknown {
			m.SetVersion(j.spec.Component, j.spec.Version, j.source())
		}
	}
	if j.script.AtBoot != nil {
		h.atBoot = append(h.atBoot, j.script.AtBoot)
	}
}

// source is where new software of this job is found by an inventory.
func (j *job) source() string {
	switch j.spec.Profile {
	case agent.ProfileDeb:
		return "dpkg"
	case agent.ProfileRPM:
		return "rpm"
	}
	return agent.ProbeSource
}

// maxPiece is the most that one Status gives of a log, in bytes, as of a real
// agent: a job that is Done may have more to tell.
const maxPiece = 256 << 10

// status reports the job, with its log from offset on; a negative offset is for
// calls that tell nothing of the log.
func (j *job) status(offset int64) agent.Status {
	s := agent.Status{
		ID: j.spec.ID, State: j.state, Result: j.result,
		Started: j.started, Ended: j.ended, BootID: j.bootID,
		Overdue: j.script.Overdue && j.state == agent.Running,
	}
	if j.exit != nil {
		e := *j.exit
		s.Exit = &e
	}
	if offset >= 0 {
		end := min(int64(len(j.log)), offset+maxPiece)
		s.Log, s.NextLog = slices.Clone(j.log[offset:end]), end
	}
	return s
}

// record is the job's file on the host.
func (j *job) record() []byte {
	b, err := json.Marshal(struct {
		ID        string          `json:"id"`
		Component string          `json:"component"`
		State     agent.State     `json:"state"`
		Exit      *transport.Exit `json:"exit,omitempty"`
	}{j.spec.ID, j.spec.Component, j.state, j.exit})
	if err != nil {
		panic(err) // strings and integers always marshal
	}
	return append(b, '\n')
}

func cloneJob(j agent.Job) agent.Job {
	j.Files, j.Argv, j.Env = slices.Clone(j.Files), slices.Clone(j.Argv), slices.Clone(j.Env)
	return j
}

func sameJob(a, b agent.Job) bool {
	norm := func(j agent.Job) agent.Job {
		if len(j.Files) == 0 {
			j.Files = nil
		}
		if len(j.Argv) == 0 {
			j.Argv = nil
		}
		if len(j.Env) == 0 {
			j.Env = nil
		}
		return j
	}
	return reflect.DeepEqual(norm(a), norm(b))
}
