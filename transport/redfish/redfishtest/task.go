package redfishtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// task is a Task (DSP0266, 9.10). Its fields are guarded by s.mu.
type task struct {
	id, name string
	target   string // the request that made it, as "POST /path", or ""
	state    string // TaskState
	status   string // TaskStatus
	percent  int
	messages []any
	start    time.Time
	end      time.Time
	err      *message
}

func tasksPath(id string) string   { return "/redfish/v1/TaskService/Tasks/" + id }
func monitorPath(id string) string { return "/redfish/v1/TaskService/TaskMonitors/" + id }
func (t *task) running() bool      { return t.end.IsZero() }
func stamp(t time.Time) string     { return t.UTC().Format(time.RFC3339) }

// newTask makes a task for a request, or nil where those make none. s.mu is held.
func (s *Server) newTask(r *http.Request, name string, how Tasks) *task {
	if how == TasksNone && s.cfg.Profile != RMC {
		return nil
	}
	t := s.addTask(&task{name: name, state: "New", status: "OK", target: r.Method + " " + r.URL.Path})
	s.taskEvent(t, "TaskStarted")
	return t
}

// addTask gives a task its number. s.mu is held.
func (s *Server) addTask(t *task) *task {
	s.taskNo++
	t.id, t.start = fmt.Sprint(s.taskNo), s.now()
	s.tasks = append(s.tasks, t)
	s.notify()
	return t
}

// AddTask adds a task that has ended well, as if somebody else had done something,
// and returns its URI. Target is the path to which that was posted; see
// Config.TaskPayload.
func (s *Server) AddTask(name, target string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.addTask(&task{name: name, state: "Completed", status: "OK", percent: 100, target: "POST " + target})
	t.end = t.start
	return tasksPath(t.id) + s.cfg.Profile.slash()
}

// visible are the tasks that there are for clients. s.mu is held.
func (s *Server) visible() []*task {
	if s.active(TaskLost) {
		return nil
	}
	if !s.active(TasksPruned) {
		return s.tasks
	}
	ended := 0
	for _, t := range s.tasks {
		if !t.running() {
			ended++
		}
	}
	var out []*task
	var f *Injected
	for _, t := range s.tasks {
		if !t.running() {
			if f == nil {
				if f = s.faultLocked(TasksPruned, nil); f == nil {
					return s.tasks
				}
			}
			if ended--; int64(ended) >= f.Bytes {
				continue
			}
		}
		out = append(out, t)
	}
	return out
}

// progressTask tells how far a task is. s.mu is held.
func (s *Server) progressTask(t *task, percent int) {
	if t == nil || !t.running() {
		return
	}
	t.state, t.percent = "Running", percent
	s.taskEvent(t, "TaskProgressChanged")
}

// endTask ends a task with a message or, that being nil, success, or with an
// error. s.mu is held.
func (s *Server) endTask(t *task, end *message, err error) {
	if t == nil {
		return
	}
	t.end, t.percent = s.now(), 100
	for kind, status := range map[FaultKind]string{TaskWarning: "Warning", TaskCritical: "Critical"} {
		if err != nil || !s.active(kind) {
			continue
		}
		f := s.faultLocked(kind, nil)
		if f == nil {
			continue
		}
		id := f.MessageID
		if id == "" {
			id = "FirmwareUpdateConflictError"
		}
		t.state, t.status = "Completed", status
		t.messages = []any{s.taskMessage(id)}
		s.taskEvent(t, "TaskCompletedWarning")
		return
	}
	if err == nil {
		t.state, t.status = "Completed", "OK"
		if end == nil {
			end = &message{id: "Success"}
		}
		t.messages = []any{s.taskMessage(end.id, end.args...)}
		s.taskEvent(t, "TaskCompletedOK")
		return
	}
	if !errors.As(err, &t.err) {
		t.err = &message{status: http.StatusInternalServerError, id: "InternalError"}
	}
	t.state, t.status = "Exception", "Critical"
	if s.cfg.Profile == RMC {
		t.state, t.status = "Completed", "Warning"
	}
	t.messages = []any{s.taskMessage(t.err.id, t.err.args...)}
	s.taskEvent(t, "TaskAborted")
}

func (s *Server) taskMessage(id string, args ...string) object {
	o := s.cfg.Profile.info(id, args...)
	if o["Message"] == nil {
		o["Message"], o["Resolution"] = id, "None."
	}
	return o
}

func (s *Server) taskObject(t *task) object {
	slash := s.cfg.Profile.slash()
	o := object{
		"@odata.id": tasksPath(t.id) + slash, "@odata.type": "#Task.v1_4_3.Task", "Id": t.id, "Name": t.name,
		"TaskState": t.state, "TaskStatus": t.status, "PercentComplete": t.percent, "StartTime": stamp(t.start),
		"TaskMonitor": monitorPath(t.id) + slash, "Messages": append([]any{}, t.messages...),
	}
	if method, path, ok := strings.Cut(t.target, " "); ok && s.cfg.TaskPayload {
		o["Payload"] = object{"HttpOperation": method, "TargetUri": path}
	}
	if !t.running() {
		o["EndTime"] = stamp(t.end)
	} else if t.state == "Running" && s.faultLocked(TaskInterrupted, nil) != nil {
		o["TaskState"] = "Interrupted"
	}
	return o
}

// answerTask answers a request that made a task.
func (s *Server) answerTask(x *exchange, t *task, how Tasks) {
	s.mu.Lock()
	o := s.taskObject(t)
	s.mu.Unlock()
	switch how {
	case TasksNone: // of an RMC
		writeJSON(x, http.StatusOK, object{"@odata.id": tasksPath(t.id)})
	case TasksOK:
		writeJSON(x, http.StatusOK, o)
	default:
		x.Header().Set("Location", monitorPath(t.id)+s.cfg.Profile.slash())
		writeJSON(x, http.StatusAccepted, o)
	}
}

// start takes the flash for what a request wants of it, unless that is against
// something, does the work, and answers: at once, or with what became of it where
// it is synchronous.
func (s *Server) start(x *exchange, r *http.Request, name string, work func(ctx context.Context) error) error {
	synchronous := s.fault(SynchronousPull, r) != nil
	s.mu.Lock()
	if err := s.begin(r); err != nil {
		s.mu.Unlock()
		return err
	}
	var t *task
	if !synchronous {
		t = s.newTask(r, name, s.cfg.Tasks)
	}
	s.mu.Unlock()
	ended := s.launch(t, func(ctx context.Context) error {
		s.say("Uploading", 0)
		return work(ctx)
	})
	switch {
	case t != nil:
		s.answerTask(x, t, s.cfg.Tasks)
		return nil
	case synchronous:
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
		case <-r.Context().Done():
			return nil
		case <-s.ctx.Done():
			return nil
		}
	}
	s.success(x)
	return nil
}

// monitor answers for a task monitor: 202 while the task runs, then what the
// operation would have answered.
func (s *Server) monitor(x *exchange, r *http.Request, id string) {
	status, o := http.StatusNotFound, s.cfg.Profile.errorBody("ResourceMissingAtURI", r.URL.Path)
	s.mu.Lock()
	for _, t := range s.visible() {
		if !strings.EqualFold(t.id, id) {
			continue
		}
		status, o = http.StatusOK, s.taskObject(t)
		switch {
		case t.running():
			status = http.StatusAccepted
			x.Header().Set("Location", monitorPath(t.id)+s.cfg.Profile.slash())
		case t.err != nil && s.cfg.Profile != RMC:
			status, o = t.err.status, s.cfg.Profile.errorBody(t.err.id, t.err.args...)
		}
	}
	s.mu.Unlock()
	writeJSON(x, status, o)
}

// taskTree adds the task service.
func (s *Server) taskTree(t *tree) {
	var members []string
	for _, k := range s.visible() {
		members = append(members, tasksPath(k.id))
		t.add(tasksPath(k.id), "#Task.v1_4_3.Task", s.taskObject(k))
	}
	t.collection("/redfish/v1/TaskService/Tasks", "TaskCollection", "Tasks", members...)
	t.add("/redfish/v1/TaskService", "#TaskService.v1_1_1.TaskService", object{
		"Name": "Task Service", "ServiceEnabled": true, "Tasks": t.link("/redfish/v1/TaskService/Tasks"),
		"CompletedTaskOverWritePolicy": "Oldest", "Status": object{"State": "Enabled", "Health": "OK"},
	})
}
