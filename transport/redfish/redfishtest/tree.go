package redfishtest

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// tree are the resources of a service at one moment: all of them, or those without which
// one of them cannot be served.
type tree struct {
	slash string
	clean func(string) string
	nodes map[string]object
	paths []string // in the order in which they were added
	want  string   // the one that is asked for
	all   bool
}

// is reports whether a resource is to be made.
func (t *tree) is(path string) bool { return t.all || t.want == t.clean(path) }

// under reports whether a resource, and all below it, are to be made. A collection is made
// together with its members, of which requests may want one for the other.
func (t *tree) under(path string) bool {
	path = t.clean(path)
	return t.all || t.want == path || strings.HasPrefix(t.want, path+"/")
}

// link is a reference to a resource.
func (t *tree) link(path string) object { return object{"@odata.id": path + t.slash} }

// add adds a resource and returns it.
func (t *tree) add(path, typ string, o object) object {
	o["@odata.id"], o["@odata.type"] = path+t.slash, typ
	if o["Id"] == nil {
		o["Id"] = path[strings.LastIndexByte(path, '/')+1:]
	}
	if o["Name"] == nil {
		o["Name"] = o["Id"]
	}
	key := t.clean(path)
	if t.nodes[key] == nil {
		t.paths = append(t.paths, path)
	}
	t.nodes[key] = o
	return o
}

// collection adds a collection of resources.
func (t *tree) collection(path, typ, name string, members ...string) object {
	links := make([]any, len(members))
	for i, m := range members {
		links[i] = t.link(m)
	}
	return t.add(path, fmt.Sprintf("#%s.%s", typ, typ), object{"Name": name, "Members": links, "Members@odata.count": len(members)})
}

// tree makes the resources of now that want, of which one is the path, takes; "" is all.
// s.mu is held.
func (s *Server) tree(want string) *tree {
	want = s.clean(want)
	// The resource directory has them all.
	t := &tree{slash: s.cfg.Profile.slash(), clean: s.clean, nodes: make(map[string]object), want: want, all: want == "" || want == s.clean(directoryPath)}
	switch p := s.cfg.Profile; {
	case s.cfg.Capture != nil:
		s.captureTree(t)
	case p == ILO4:
		s.commonTree(t)
		s.ilo4Tree(t)
		s.iloTree(t)
	case p.ilo() > 0:
		s.commonTree(t)
		s.iloTree(t)
	case p == RMC:
		s.commonTree(t)
		s.rmcTree(t)
	default:
		s.commonTree(t)
		s.genericTree(t)
	}
	return t
}

// get answers with a resource.
func (s *Server) get(x *exchange, r *http.Request, path string) {
	if s.cfg.Capture == nil && s.getSpecial(x, r, path) {
		return
	}
	s.mu.Lock()
	t := s.tree(path)
	o := t.nodes[path]
	if o != nil && s.brokenMember(t, path, r) {
		s.mu.Unlock()
		s.refuse(x, http.StatusInternalServerError, "InternalError")
		return
	}
	if members, ok := o["Members"].([]any); ok {
		o = s.members(t, o, members, r)
	}
	s.mu.Unlock()
	if o == nil {
		s.refuse(x, http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
		return
	}
	tag := etag(o)
	x.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	if s.cfg.Profile.ilo() > 0 && o["@odata.etag"] == nil {
		c := make(object, len(o)+1)
		for k, v := range o {
			c[k] = v
		}
		c["@odata.etag"] = tag
		o = c
	}
	writeJSON(x, http.StatusOK, o)
}

// members makes of a collection what the request and the faults want of it. s.mu
// is held.
func (s *Server) members(t *tree, o object, members []any, r *http.Request) object {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return o
	}
	if len(members) > 0 && s.faultLocked(DuplicateMembers, r) != nil {
		members = append([]any{members[0]}, members...)
	}
	count := len(members)
	next := ""
	if f := s.faultLocked(PagedMembers, r); f != nil {
		size, skip := int(f.Bytes), 0
		if size <= 0 {
			size = 2
		}
		if n, err := strconv.Atoi(query.Get("$skip")); err == nil && n > 0 {
			skip = min(n, count)
		}
		members = members[skip:]
		if len(members) > size {
			members = members[:size]
			q := url.Values{"$skip": {strconv.Itoa(skip + size)}}
			if e := query.Get("$expand"); e != "" {
				q.Set("$expand", e)
			}
			next = r.URL.Path + "?" + q.Encode()
		}
	}
	if query.Has("$expand") && s.cfg.Profile != ILO4 && s.cfg.Profile != RMC && s.faultLocked(StubMembers, r) == nil {
		full := make([]any, 0, len(members))
		for _, m := range members {
			id, _ := m.(object)["@odata.id"].(string)
			if n := t.nodes[t.clean(id)]; n != nil {
				m = n
			}
			full = append(full, m)
		}
		members = full
	}
	c := make(object, len(o)+2)
	for k, v := range o {
		c[k] = v
	}
	c["Members"], c["Members@odata.count"] = members, count
	if next != "" {
		c["Members@odata.nextLink"] = next
	}
	return c
}

// brokenMember reports whether the resource is the last member of a collection,
// and those are broken. s.mu is held.
func (s *Server) brokenMember(t *tree, path string, r *http.Request) bool {
	if !s.active(BrokenMember) {
		return false
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return false
	}
	members, _ := t.nodes[path[:i]]["Members"].([]any)
	if len(members) == 0 {
		return false
	}
	last, _ := members[len(members)-1].(object)
	id, _ := last["@odata.id"].(string)
	return t.clean(id) == path && s.faultLocked(BrokenMember, r) != nil
}
