package agentless

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

const (
	maxLog   = 16 << 20  // bytes of a job's output that are kept
	maxPiece = 256 << 10 // bytes of a log in one answer
	maxText  = 4 << 10   // bytes of output in a result
)

// isLog reports whether a file in jobs stays.
func isLog(name string) bool {
	id, ext, ok := strings.Cut(name, ".")
	return ok && channel.ValidJobID(id) && (ext == "json" || ext == "log")
}

// Install implements agent.Ops.
func (c *commands) Install(ctx context.Context, job agent.Job) (agent.Status, error) {
	if err := job.Check(); err != nil {
		return agent.Status{}, &agent.Error{Op: "install", Target: c.target, Kind: transport.ErrInvalid, Err: err}
	}
	work := path.Join(c.place.Dir, "jobs", job.ID, "work")
	limit, kill := 0, "kill"
	if job.Timeout > 0 {
		limit = int((job.Timeout + time.Second - 1) / time.Second)
	}
	enforced := limit
	if job.NoKill {
		enforced, kill = 0, "keep"
	}
	spec := fmt.Sprintf("%s %s %d %s", digestOf(job), nameOf(job.Profile), limit, kill)
	var extra []string
	for _, e := range job.Env {
		name, _, _ := strings.Cut(e, "=")
		extra = append(extra, fmt.Sprintf(`%s="$%s"`, name, name)) // Job.Check knows the name
	}
	args := []string{c.place.Dir, job.ID, compact(parentScript), spec, fmt.Sprint(enforced), fmt.Sprint(maxLog / 512), c.holderOf(job), strings.Join(extra, " ")}
	for _, f := range job.Files {
		x := "-"
		if f.Executable {
			x = "x"
		}
		args = append(args, f.Name, f.SHA256, x)
	}
	args = append(args, "--")
	for _, a := range job.Argv {
		args = append(args, strings.ReplaceAll(a, "{dir}", work))
	}
	out, err := c.script(ctx, "install", job.Env, installScript, args...)
	if err != nil {
		return agent.Status{}, err
	}
	if said, _, _ := strings.Cut(string(out), " "); said != digestOf(job) {
		return agent.Status{}, &agent.Error{Op: "install", Target: c.target, Kind: agent.ErrJobConflict, Err: fmt.Errorf("job %s", job.ID)}
	}
	return c.Status(ctx, job.ID, 0)
}

// digestOf tells a job from another with the same ID.
func digestOf(job agent.Job) string {
	job.Env = nil             // which may be secret, and short enough to be guessed
	b, _ := json.Marshal(job) // strings and numbers alone
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// nameOf is a profile as a word.
func nameOf(p agent.Profile) string {
	if p == agent.ProfileNone {
		return "-"
	}
	return string(p)
}

// Status implements agent.Ops.
func (c *commands) Status(ctx context.Context, id string, logOffset int64) (agent.Status, error) {
	if !channel.ValidJobID(id) || logOffset < 0 {
		return agent.Status{}, &agent.Error{Op: "status", Target: c.target, Kind: transport.ErrInvalid, Err: fmt.Errorf("job %.80q, offset %d", id, logOffset)}
	}
	return c.status(ctx, "status", id, logOffset)
}

func (c *commands) status(ctx context.Context, op, id string, offset int64) (agent.Status, error) {
	out, err := c.script(ctx, op, nil, statusScript, c.place.Dir, strconv.FormatInt(offset+1, 10), strconv.Itoa(maxPiece), id)
	if err != nil {
		return agent.Status{}, err
	}
	st, rest, err := parseStatus(out)
	if err == nil && (st.ID != id || len(rest) > maxPiece) {
		err = errors.New("it is about another job, or too long")
	}
	if err != nil {
		return agent.Status{}, &agent.Error{Op: op, Target: c.target, Kind: transport.ErrProtocol, Err: err}
	}
	st.Log, st.NextLog = rest, offset+int64(len(rest))
	if st.State.Final() && st.State != agent.Cancelled || st.Exit != nil {
		if err := c.say(ctx, &st); err != nil {
			return agent.Status{}, &agent.Error{Op: op, Target: c.target, Err: err}
		}
	}
	return st, nil
}

// say puts the end of the log into the result of a job that has ended.
func (c *commands) say(ctx context.Context, st *agent.Status) error {
	out, err := c.script(ctx, "status", nil, `[ -e "$1" ] && tail -c "$2" "$1"; exit 0`, path.Join(c.place.Dir, "jobs", st.ID+".log"), fmt.Sprint(maxText))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(strings.ToValidUTF8(string(out), "\uFFFD"))
	if st.Result.Text != "" {
		text = strings.TrimSpace(st.Result.Text + "\n" + text)
	}
	st.Result.Text = text
	return nil
}

// Jobs implements agent.Ops.
func (c *commands) Jobs(ctx context.Context) ([]agent.Status, error) {
	out, err := c.script(ctx, "jobs", nil, statusScript, c.place.Dir, "1", "0", "")
	if err != nil {
		return nil, err
	}
	var jobs []agent.Status
	for len(out) > 0 {
		st, rest, err := parseStatus(out)
		if err != nil {
			// One that is damaged does not hide the others.
			c.in.log().WarnContext(ctx, "what the target says of a job cannot be read", "target", c.target, "dir", c.place.Dir, "err", err)
			rest = afterStatus(out)
		} else {
			jobs = append(jobs, st)
		}
		out = rest
	}
	return jobs, nil
}

// afterStatus is what follows what statusScript says of one job.
func afterStatus(b []byte) []byte {
	end := []byte("\n\n")
	if record, ok := bytes.CutPrefix(b, []byte("record\n")); ok {
		b, end = record, end[1:]
	}
	_, rest, _ := bytes.Cut(b, end)
	return rest
}

// Cancel implements agent.Ops.
func (c *commands) Cancel(ctx context.Context, id string) (agent.Status, error) {
	if !channel.ValidJobID(id) {
		return agent.Status{}, &agent.Error{Op: "cancel", Target: c.target, Kind: transport.ErrInvalid, Err: fmt.Errorf("job %.80q", id)}
	}
	if _, err := c.script(ctx, "cancel", nil, cancelScript, c.place.Dir, id); err != nil {
		return agent.Status{}, err
	}
	return c.status(ctx, "cancel", id, 0)
}

// fromRecord turns the line that save wrote into the lines of statusScript.
func fromRecord(b []byte) ([]byte, error) {
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	var r struct {
		ID, State, Spec, Run, Exit, Cancel, Why string
		Timeout, Begun, Failed, Cut             bool
		Busy                                    *agent.HostHolder
	}
	if err := json.Unmarshal(line, &r); err != nil || !ok {
		return nil, errors.New("the record of a job cannot be read")
	}
	var out []byte
	for _, f := range []struct{ word, value string }{{"id", r.ID}, {"state", r.State}, {"spec", r.Spec}, {"run", r.Run}, {"exit", r.Exit}, {"cancel", r.Cancel}, {"failed", r.Why}} {
		if f.value != "" && !strings.Contains(f.value, "\n") {
			out = fmt.Appendf(out, "%s %s\n", f.word, f.value)
		}
	}
	for word, set := range map[string]bool{"timeout": r.Timeout, "begun": r.Begun, "cut": r.Cut} {
		if set {
			out = append(out, word+"\n"...)
		}
	}
	if r.Busy != nil {
		by, _ := json.Marshal(r.Busy) // strings and a time
		out = fmt.Appendf(out, "busy %s\n", by)
	}
	return append(append(out, '\n'), rest...), nil
}

// notStarted is the result of a job whose parent gave up before its program, for a
// reason that parentScript has a word for. What the system said is in the log.
func notStarted(why string) transport.Result {
	code, text := "prepare", "it could not be prepared"
	switch why {
	case "host":
		code, text = "lock", "the file by which a job holds the host could not be written beside the directory of the agent, or those of others not be read"
	case "work":
		text = "its directory could not be made"
	case "files":
		text = "its files could not be laid out"
	case "record":
		code, text = "start", "that it begins could not be recorded"
	}
	return transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "agent", Value: code}, Text: "the program was not started: " + text}
}

// parseStatus reads what statusScript says of one job, and returns what follows.
func parseStatus(b []byte) (agent.Status, []byte, error) {
	var st agent.Status
	var profile agent.Profile
	var limit, now int64
	var state, why string
	var timeout, cancelled, begun, noKill bool
	var by agent.HostHolder
	if record, ok := bytes.CutPrefix(b, []byte("record\n")); ok {
		var err error
		if b, err = fromRecord(record); err != nil {
			return st, nil, err
		}
	}
	for {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return st, nil, errors.New("the answer ends early")
		}
		b = rest
		if len(line) == 0 {
			break
		}
		f := strings.Fields(string(line))
		num := func(i int) int64 {
			if i >= len(f) {
				return -1
			}
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				return -1
			}
			return n
		}
		if len(f) == 0 {
			return st, nil, fmt.Errorf("line %.80q", line)
		}
		switch f[0] {
		case "id":
			if len(f) == 2 && channel.ValidJobID(f[1]) {
				st.ID = f[1]
			}
		case "state":
			if len(f) == 2 {
				state = f[1]
			}
		case "spec":
			if len(f) == 5 {
				limit, noKill = num(3), f[4] == "keep"
				if profile = agent.Profile(f[2]); profile == "-" {
					profile = agent.ProfileNone
				}
			}
		case "run":
			if len(f) == 5 {
				st.BootID, st.Started = f[3], time.Unix(num(4), 0).UTC()
			}
		case "exit":
			if len(f) == 3 && num(1) >= 0 {
				st.Exit, st.Ended = &transport.Exit{Code: int(num(1))}, time.Unix(num(2), 0).UTC()
			}
		case "cancel":
			cancelled = true
		case "timeout":
			timeout = true
		case "begun":
			begun = true
		case "cut":
			st.LogTruncated = true
		case "failed":
			if len(f) == 2 {
				why = f[1]
			}
		case "busy":
			_ = json.Unmarshal(line[len("busy"):], &by)
		case "now":
			now = num(1)
		}
	}
	if st.ID == "" {
		return st, nil, errors.New("it is about no job")
	}
	switch state {
	case "accepted":
		st.State = agent.Accepted
	case "running":
		st.State = agent.Running
		st.Overdue = noKill && limit > 0 && now-st.Started.Unix() > limit
	case "interrupted":
		st.State = agent.Interrupted
	case "cancelled":
		st.State = agent.Cancelled
		st.Result = transport.Result{Verdict: transport.VerdictCancelled, Text: "it ended before its program began"}
	case "busy":
		st.State = agent.Done
		st.Result = transport.Result{Verdict: transport.VerdictFailed, Code: transport.Code{Space: "agent", Value: agent.CodeHostBusy}, Text: by.String()}
	case "failed":
		st.State = agent.Done
		st.Result = notStarted(why)
	case "done":
		if st.Exit == nil || !begun {
			return st, nil, errors.New("a job that has ended says not how")
		}
		st.State = agent.Done
		st.Result = profile.Judge(*st.Exit)
		if st.Exit.Code != 0 && !noKill && (timeout || cancelled) {
			st.Result.Verdict, st.Result.Activation = transport.VerdictFailed, transport.ActivationNone
			st.Result.Text = fmt.Sprintf("timed out after %v", time.Duration(limit)*time.Second)
			if !timeout {
				st.State = agent.Cancelled
				st.Result.Verdict, st.Result.Text = transport.VerdictUnknown, "cancelled" // it had begun
			}
		}
	default:
		return st, nil, fmt.Errorf("state %.40q", state)
	}
	return st, b, nil
}
