package redfishtest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// task is a Task (DSP0266, 9.10). Its fields are guarded by s.mu.
type task struct {
	id, name string
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

// newTask makes a task. s.mu is held.
func (s *Server) newTask(name string) *task {
	s.numbers++
	t := &task{id: fmt.Sprint(s.numbers), name: name, state: "New", status: "OK", start: time.Now()}
	s.tasks = append(s.tasks, t)
	s.taskEvent(t, "TaskStarted")
	s.notify()
	return t
}

// progressTask tells how far a task is. s.mu is held.
func (s *Server) progressTask(t *task, percent int) {
	if t == nil || !t.running() {
		return
	}
	t.state, t.percent = "Running", percent
	s.taskEvent(t, "TaskProgressChanged")
}

// endTask ends a task. s.mu is held.
func (s *Server) endTask(t *task, err error) {
	if t == nil {
		return
	}
	t.end, t.percent = time.Now(), 100
	if f := s.faultLocked(TaskWarning, nil); f != nil && err == nil {
		id := f.MessageID
		if id == "" {
			id = "FirmwareUpdateConflictError"
		}
		t.state, t.status = "Completed", "Warning"
		t.messages = []any{s.taskMessage(id)}
		s.taskEvent(t, "TaskCompletedWarning")
		return
	}
	if err == nil {
		t.state, t.status = "Completed", "OK"
		t.messages = []any{s.taskMessage("Success")}
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
	if !t.running() {
		o["EndTime"] = stamp(t.end)
	}
	return o
}

// answerTask answers a request that made a task.
func (s *Server) answerTask(x *exchange, t *task) {
	s.mu.Lock()
	o := s.taskObject(t)
	s.mu.Unlock()
	status := http.StatusAccepted
	if s.cfg.Tasks == TasksOK {
		status = http.StatusOK
	} else {
		x.Header().Set("Location", monitorPath(t.id)+s.cfg.Profile.slash())
	}
	writeJSON(x, status, o)
}

// monitor answers for a task monitor: 202 while the task runs, then what the
// operation would have answered.
func (s *Server) monitor(x *exchange, r *http.Request, id string) {
	status, o := http.StatusNotFound, s.cfg.Profile.errorBody("ResourceMissingAtURI", r.URL.Path)
	s.mu.Lock()
	for _, t := range s.tasks {
		if !strings.EqualFold(t.id, id) || s.faultLocked(TaskLost, r) != nil {
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
	if !s.active(TaskLost) {
		for _, k := range s.tasks {
			members = append(members, tasksPath(k.id))
			t.add(tasksPath(k.id), "#Task.v1_4_3.Task", s.taskObject(k))
		}
	}
	t.collection("/redfish/v1/TaskService/Tasks", "TaskCollection", "Tasks", members...)
	t.add("/redfish/v1/TaskService", "#TaskService.v1_1_1.TaskService", object{
		"Name": "Task Service", "ServiceEnabled": true, "Tasks": t.link("/redfish/v1/TaskService/Tasks"),
		"CompletedTaskOverWritePolicy": "Oldest", "Status": object{"State": "Enabled", "Health": "OK"},
	})
}
