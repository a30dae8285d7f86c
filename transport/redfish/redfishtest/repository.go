package redfishtest

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"time"
)

// repository is what an iLO keeps for later: components, the task queue, install
// sets, maintenance windows. It outlives a reset. The update service of a Generic
// server keeps its deferred updates here.
type repository struct {
	components []*component
	queue      []*item
	sets       []*installSet
	windows    []*window
	partial    *partial
	later      []later
}

// dropPartial forgets a component of which not all sections have come. s.mu is
// held.
func (r *repository) dropPartial() {
	if r.partial != nil {
		r.partial.c.discard()
		r.partial = nil
	}
}

// component is a file in the repository.
type component struct {
	*content
	id       string
	created  time.Time
	recovery bool
}

// window is a maintenance window.
type window struct {
	id, name      string
	after, expire time.Time
}

// nameID is an Id that follows from a name, as on real ones: the same on each.
func nameID(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("%08x", h.Sum32())
}

// locked reports whether a queue item or install set names a component. s.mu is
// held.
func (r *repository) locked(name string) bool {
	return slices.ContainsFunc(r.queue, func(i *item) bool { return strings.EqualFold(i.Filename, name) }) ||
		slices.ContainsFunc(r.sets, func(i *installSet) bool {
			return slices.ContainsFunc(i.Sequence, func(e item) bool { return strings.EqualFold(e.Filename, name) })
		})
}

// component returns the component of a name, or nil.
func (r *repository) component(name string) *component {
	for _, c := range r.components {
		if strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

func (r *repository) used() (n int64) {
	for _, c := range r.components {
		n += c.size
	}
	return n
}

// Components returns the names of the files in the repository of an iLO.
func (s *Server) Components() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, c := range s.repo.components {
		out = append(out, c.name)
	}
	return out
}

// mayUpload says what is against an upload before it comes in.
func (s *Server) mayUpload(u upload, a Account) error {
	if u.Recovery && a.Role != Administrator {
		return &message{status: http.StatusForbidden, id: "InsufficientPrivilege"}
	}
	if s.fault(RepositoryAway, nil) != nil {
		return bad("UpdateRepositoryUnavailableDueToBMCReset")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repo.component(u.name) != nil && s.repo.locked(u.name) && (u.Repository || u.Recovery) {
		return bad("FirmwareFileLocked", u.name)
	}
	return nil
}

// store puts a file into the repository, in place of one of the same name.
func (s *Server) store(c *content, recovery bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.repo.component(c.name)
	if old != nil && s.repo.locked(c.name) {
		return bad("FirmwareFileLocked", c.name)
	}
	used := s.repo.used()
	if old != nil {
		used -= old.size
	}
	if used+c.size > s.cfg.Repository {
		return bad("InsufficientRepositorySpace")
	}
	s.repo.components = slices.DeleteFunc(s.repo.components, func(x *component) bool { return x == old })
	s.repo.components = append(s.repo.components, &component{content: c, id: nameID(c.name), created: s.now(), recovery: recovery})
	s.notify()
	return nil
}

// repositoryTree adds components, queue, install sets and windows. s.mu is held.
func (s *Server) repositoryTree(t *tree) {
	if t.under(repositoryPath) {
		s.componentTree(t)
	}
	if t.under(queuePath) {
		var members []string
		for _, i := range s.repo.queue {
			members = append(members, queuePath+"/"+i.id)
			t.add(queuePath+"/"+i.id, "#HpeComponentUpdateTask.v1_3_0.HpeComponentUpdateTask", s.itemObject(i))
		}
		t.collection(queuePath, "HpeComponentUpdateTaskQueueCollection", "Update Task Queue", members...)
	}
	if t.under(setsPath) {
		var members []string
		for _, set := range s.repo.sets {
			path := setsPath + "/" + set.id
			members = append(members, path)
			t.add(path, "#HpeComponentInstallSet.v1_3_0.HpeComponentInstallSet", set.object(path, t.slash))
		}
		t.collection(setsPath, "HpeComponentInstallSetCollection", "Install Sets", members...)
	}
	if t.under(windowsPath) {
		var members []string
		for _, w := range s.repo.windows {
			path := windowsPath + "/" + w.id
			members = append(members, path)
			t.add(path, "#HpeMaintenanceWindow.v1_0_1.HpeMaintenanceWindow", object{"Id": w.id, "Name": w.name, "StartAfter": moment(w.after), "Expire": moment(w.expire)})
		}
		t.collection(windowsPath, "HpeMaintenanceWindowCollection", "Maintenance Windows", members...)
	}
}

// componentTree adds the component repository. s.mu is held.
func (s *Server) componentTree(t *tree) {
	var members []string
	for _, c := range s.repo.components {
		path := repositoryPath + "/" + c.id
		members = append(members, path)
		version, class := "", ""
		targets := []any{}
		for _, i := range c.images {
			version, class = i.Version, i.DeviceClass
			for _, target := range i.Targets {
				targets = append(targets, target)
			}
		}
		by := c.by
		if by == nil {
			by = []string{"Bmc"}
		}
		activates := "Immediately"
		if c.reset {
			activates = "AfterReboot"
		}
		t.add(path, "#HpeComponent.v1_0_1.HpeComponent", object{
			"Id": c.id, "Name": c.name, "Filename": c.name, "Filepath": "/", "Version": version, "SizeBytes": c.size, "DeviceClass": class,
			"Targets": targets, "UpdatableBy": by, "Locked": s.repo.locked(c.name), "Created": stamp(c.created), "Activates": activates,
			"Criticality": "Recommended", "ComponentUri": "/fwrepo/" + c.name, "ComponentType": map[form]string{rawForm: "Binary", fwpkgForm: "Fwpkg", otherForm: "SmartComponent"}[c.form],
			"Configuration": "", "ExecutionParameters": "",
		})
	}
	coll := t.collection(repositoryPath, "HpeComponentCollection", "Component Collection", members...)
	coll["Oem"] = object{"Hpe": object{
		"@odata.type":    "#HpeComponentRepositoryInformation.v2_0_0.HpeComponentRepositoryInformation",
		"ComponentCount": len(members), "FreeSizeBytes": s.cfg.Repository - s.repo.used(), "TotalSizeBytes": s.cfg.Repository,
	}}
}

func moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

// readMoment reads a time of a request; null and absent ones are the zero time.
func readMoment(o object, name string) (time.Time, error) {
	v, ok := o[name]
	if !ok || v == nil {
		return time.Time{}, nil
	}
	str, _ := v.(string)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, str); err == nil {
			return t, nil
		}
	}
	return time.Time{}, bad("PropertyValueNotInList", str, name)
}

// repositoryHandler finds what changes the repository, or returns nil.
func (s *Server) repositoryHandler(method, path string) handler {
	under := func(base string) string {
		rest, ok := strings.CutPrefix(path, s.clean(base)+"/")
		if !ok {
			return ""
		}
		return rest
	}
	switch {
	case method == http.MethodPost && path == s.clean(queuePath):
		return s.newItem
	case method == http.MethodPost && path == s.clean(setsPath):
		return s.newSet
	case method == http.MethodPost && path == s.clean(windowsPath):
		return s.newWindow
	}
	if id, action, ok := strings.Cut(under(setsPath), "/"); ok && method == http.MethodPost && strings.EqualFold(action, "Actions/HpeComponentInstallSet.Invoke") {
		return func(x *exchange, r *http.Request, a Account) error { return s.invoke(x, r, id) }
	}
	if id := under(setsPath); id != "" && method == http.MethodPatch {
		return func(x *exchange, r *http.Request, a Account) error { return s.patchSet(x, r, id, a) }
	}
	if method != http.MethodDelete {
		return nil
	}
	for _, base := range []string{repositoryPath, queuePath, setsPath, windowsPath} {
		if id := under(base); id != "" {
			return func(x *exchange, r *http.Request, a Account) error {
				n, err := s.remove(base, id, a)
				if err == nil && n == 0 {
					err = &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{r.URL.Path}}
				}
				if err == nil {
					s.success(x)
				}
				return err
			}
		}
	}
	return nil
}

// deleteAll is an action that removes all that can be removed.
func (s *Server) deleteAll(base string) handler {
	return func(x *exchange, r *http.Request, a Account) error {
		if _, err := x.decode(r); err != nil {
			return err
		}
		if _, err := s.remove(base, "", a); err != nil {
			return err
		}
		s.success(x)
		return nil
	}
}

// remove removes the member of an Id from a collection, or with "" all that are
// not protected.
func (s *Server) remove(base, id string, a Account) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		s.notify()
		s.wg.Go(s.kick) // what was behind it may go on; the caller is a handler
	}()
	before := len(s.repo.components) + len(s.repo.queue) + len(s.repo.sets) + len(s.repo.windows)
	var err error
	switch base {
	case repositoryPath:
		s.repo.components = slices.DeleteFunc(s.repo.components, func(c *component) bool {
			if id != "" && !strings.EqualFold(c.id, id) {
				return false
			}
			if s.repo.locked(c.name) {
				if id != "" {
					err = bad("FirmwareFileLocked", c.name)
				}
				return false
			}
			return true
		})
	case queuePath:
		s.repo.queue = slices.DeleteFunc(s.repo.queue, func(i *item) bool { return id == "" || strings.EqualFold(i.id, id) })
	case setsPath:
		s.repo.sets = slices.DeleteFunc(s.repo.sets, func(i *installSet) bool {
			if id != "" && !strings.EqualFold(i.id, id) {
				return false
			}
			if i.IsRecovery && a.Role != Administrator {
				if id != "" {
					err = &message{status: http.StatusForbidden, id: "InsufficientPrivilege"}
				}
				return false
			}
			return !i.IsRecovery || id != ""
		})
	case windowsPath:
		s.repo.windows = slices.DeleteFunc(s.repo.windows, func(w *window) bool { return id == "" || strings.EqualFold(w.id, id) })
	}
	return before - len(s.repo.components) - len(s.repo.queue) - len(s.repo.sets) - len(s.repo.windows), err
}

// newWindow creates a maintenance window.
func (s *Server) newWindow(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	w := &window{name: text(o, "Name")}
	w.id = nameID(w.name)
	if w.after, err = readMoment(o, "StartAfter"); err != nil {
		return err
	}
	if w.expire, err = readMoment(o, "Expire"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.name == "" || slices.ContainsFunc(s.repo.windows, func(o *window) bool { return o.name == w.name }) {
		return bad("ResourceAlreadyExists", w.name)
	}
	s.repo.windows = append(s.repo.windows, w)
	s.created(x, windowsPath+"/"+w.id)
	return nil
}

// created answers for a resource that was made. s.mu is held.
func (s *Server) created(x *exchange, path string) {
	o := s.tree(path).nodes[s.clean(path)]
	x.Header().Set("Location", path+s.cfg.Profile.slash())
	s.notify()
	s.mu.Unlock()
	writeJSON(x, http.StatusCreated, o)
	s.mu.Lock()
}
