package redfishtest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// setLimit is how many install sets an iLO keeps.
const setLimit = 8

// installSet is a list of items to be put into the queue together.
type installSet struct {
	Name       string
	IsRecovery bool
	Sequence   []item

	id      string
	created time.Time
}

func (i *installSet) object(path, slash string) object {
	var seq []any
	for _, e := range i.Sequence {
		var o object
		b, err := json.Marshal(e)
		if err == nil {
			err = json.Unmarshal(b, &o)
		}
		if err != nil {
			panic(err) // plain data
		}
		seq = append(seq, o)
	}
	return object{
		"Id": i.id, "Name": i.Name, "IsRecovery": i.IsRecovery, "Sequence": seq, "Created": stamp(i.created), "Modified": stamp(i.created),
		"Actions": object{"#HpeComponentInstallSet.Invoke": object{"target": path + "/Actions/HpeComponentInstallSet.Invoke" + slash}},
	}
}

// InstallSets returns the names of the install sets of an iLO.
func (s *Server) InstallSets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, i := range s.repo.sets {
		out = append(out, i.Name)
	}
	return out
}

// readSet reads an install set of a request. s.mu is held.
func (s *Server) readSet(o object, a Account) (*installSet, error) {
	set := &installSet{Name: text(o, "Name"), IsRecovery: truth(o, "IsRecovery"), created: s.now()}
	set.id = nameID(set.Name)
	if set.Name == "" {
		return nil, bad("PropertyMissing", "Name")
	}
	if set.IsRecovery && a.Role != Administrator {
		return nil, &message{status: http.StatusForbidden, id: "InsufficientPrivilege"}
	}
	names := make(map[string]bool)
	seq, _ := o["Sequence"].([]any)
	for _, v := range seq {
		eo, _ := v.(object)
		e, err := s.readItem(eo)
		if err != nil {
			return nil, err
		}
		if names[e.Name] {
			return nil, bad("ResourceAlreadyExists", e.Name)
		}
		names[e.Name] = true
		set.Sequence = append(set.Sequence, *e)
	}
	return set, nil
}

// newSet creates an install set.
func (s *Server) newSet(x *exchange, r *http.Request, a Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.readSet(o, a)
	if err != nil {
		return err
	}
	if len(s.repo.sets) >= setLimit {
		return bad("CreateLimitReachedForResource")
	}
	if slices.ContainsFunc(s.repo.sets, func(i *installSet) bool { return i.Name == set.Name || set.IsRecovery && i.IsRecovery }) {
		return bad("ResourceAlreadyExists", set.Name)
	}
	s.repo.sets = append(s.repo.sets, set)
	s.created(x, setsPath+"/"+set.id)
	return nil
}

// patchSet changes an install set. Another name is another Id.
func (s *Server) patchSet(x *exchange, r *http.Request, id string, a Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, set := range s.repo.sets {
		if !strings.EqualFold(set.id, id) {
			continue
		}
		if set.IsRecovery && a.Role != Administrator {
			return &message{status: http.StatusForbidden, id: "InsufficientPrivilege"}
		}
		full := object{"Name": set.Name, "IsRecovery": set.IsRecovery, "Sequence": set.object("", "")["Sequence"]}
		for k, v := range o {
			if full[k] == nil {
				return bad("PropertyUnknown", k)
			}
			full[k] = v
		}
		changed, err := s.readSet(full, a)
		if err != nil {
			return err
		}
		for _, other := range s.repo.sets {
			if other != set && other.Name == changed.Name {
				return bad("ResourceAlreadyExists", changed.Name)
			}
		}
		s.repo.sets[n] = changed
		s.notify()
		s.mu.Unlock()
		s.success(x)
		s.mu.Lock()
		return nil
	}
	return &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{r.URL.Path}}
}

// invoke puts the items of an install set into the queue.
func (s *Server) invoke(x *exchange, r *http.Request, id string) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	err = func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := slices.IndexFunc(s.repo.sets, func(i *installSet) bool { return strings.EqualFold(i.id, id) })
		if n < 0 {
			return &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{r.URL.Path}}
		}
		before := s.repo.queue
		if truth(o, "ClearTaskQueue") {
			s.repo.queue = nil
		}
		for _, e := range s.repo.sets[n].Sequence {
			i := e
			i.state, i.created = "Pending", s.now()
			i.TPMOverride = i.TPMOverride || truth(o, "TPMOverride")
			err := s.schedule(&i, o)
			if err == nil {
				err = s.addItem(r, &i)
			}
			if err != nil {
				s.repo.queue = before // all or nothing
				return err
			}
		}
		s.notify()
		return nil
	}()
	if err != nil {
		return err
	}
	s.success(x)
	s.kick()
	return nil
}
