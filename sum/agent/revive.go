package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	maxTries    = 3           // shims of a job, until its program begins
	reviveAfter = time.Second // for a shim to take its lock, and between tries
	recordSpare = 64 << 10    // bytes that a record may grow
)

// start starts a job's shim. Where that fails the job stays Accepted, and revive
// tries again or ends it. The caller holds mu.
func (s *service) start(rec record) record {
	s.forget()
	s.tried[rec.ID] = time.Now()
	ended, err := s.spawn(rec.ID)
	if err == nil {
		s.starting[rec.ID] = ended
		delete(s.faults, rec.ID)
	} else {
		s.faults[rec.ID] = err
		s.log.Error("starting the shim of a job", "job", rec.ID, "try", rec.Tries, "error", err)
	}
	return rec
}

// forget drops what is only of use until a job's program begins. The caller holds mu.
func (s *service) forget() {
	for id := range s.tried {
		if rec, err := s.home.readRecord(id); errors.Is(err, fs.ErrNotExist) || err == nil && rec.State != Accepted {
			delete(s.tried, id)
			delete(s.faults, id)
		}
	}
}

// revive gives a new shim to a job whose shim died before the program began, or
// could not be started: that is not a second attempt. A job that has had too many is ended. The caller
// holds mu.
func (s *service) revive(rec record) (record, error) {
	if rec.State != Accepted || s.leaving || slices.Contains(s.begun(), rec.ID) {
		return rec, nil
	}
	lock, err := lockFile(s.home.jobLock(rec.ID), true)
	gone := errors.Is(err, fs.ErrNotExist) // somebody deleted the job's directory
	if err != nil && !gone {
		return rec, err
	}
	if !gone {
		if lock == nil {
			return rec, nil // a shim lives
		}
		defer lock.Close() // also before the return below: the new shim waits for it
	}
	now, err := s.home.readRecord(rec.ID)
	if err != nil { // it may be there, and be readable again
		return rec, err
	}
	if now.State != Accepted {
		return now, nil
	}
	rec = now
	if gone || rec.Tries >= maxTries {
		rec.State, rec.Ended = Done, time.Now().UTC()
		rec.Result = transport.Result{
			Verdict: transport.VerdictFailed, Code: transport.Code{Space: "agent", Value: "shim"},
			Text: fmt.Sprintf("the program was not started: the process that was to watch over it ended %d times before it could", rec.Tries),
		}
		switch {
		case gone:
			rec.Result.Text = "the program was not started: the files of the job are gone"
		case s.faults[rec.ID] != nil:
			rec.Result.Text = tail(fmt.Appendf(nil, "the program was not started: nor could the process that was to watch over it be, the last of %d times: %v",
				rec.Tries, s.faults[rec.ID]), maxText)
		}
		s.log.Error("job given up", "job", rec.ID, "reason", rec.Result.Text)
		if err := s.home.writeEnd(rec); err != nil {
			return now, err
		}
		delete(s.tried, rec.ID)
		delete(s.faults, rec.ID)
		return rec, removeAll(s.home.jobDir(rec.ID))
	}
	rec.Tries++
	if err := s.home.writeRecord(rec); err != nil {
		return now, err
	}
	s.log.Warn("job gets another shim", "job", rec.ID, "try", rec.Tries)
	return s.start(rec), nil
}

// reviveSlowly is revive for a caller who asks often and for whom a failure is
// only one try of several.
func (s *service) reviveSlowly(rec record) record {
	if rec.State != Accepted {
		return rec
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.tried[rec.ID]; ok && time.Since(last) < reviveAfter {
		return rec
	}
	rec, err := s.revive(rec)
	if err != nil {
		s.log.Error("reviving a job", "job", rec.ID, "error", err)
	}
	return rec
}

// reviveAll is for the start of an agent.
func (s *service) reviveAll() {
	ids, err := s.home.jobIDs()
	if err != nil {
		s.log.Error("listing the jobs", "error", err)
	}
	for _, id := range ids {
		if rec, err := s.home.readRecord(id); err == nil {
			s.reviveSlowly(rec)
		}
	}
}

// cancelOrphan ends the program of a job whose shim is dead: nobody else can. A
// program that does not listen is killed by a later call. before is the mark of
// an earlier call, or nil.
func (s *service) cancelOrphan(rec record, before fs.FileInfo) error {
	var job Job
	sh := shim{home: s.home, id: rec.ID}
	if err := readLimited(sh.spec(), &job, maxRecord); err != nil {
		return err // without it, it is not known whether the program may be ended
	}
	if job.NoKill || !rec.Program.sure() {
		return nil
	}
	force := before != nil && time.Since(before.ModTime()) > killGrace
	s.log.Info("ending a program without a shim", "job", rec.ID, "force", force)
	return endGroup(rec.Program.PID, rec.Group, force)
}
