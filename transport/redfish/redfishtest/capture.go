package redfishtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// Capture is what a real service answered, for [Config.Capture]: a server then
// serves these resources to those who log in. Nothing changes them: whoever posts
// to the target of an action that one of them names gets the success of an action
// that does nothing, and is on record in [Server.Requests]. Collections come as
// they are, whatever $expand says. Faults of connections and answers work.
//
// Its JSON form is one object:
//
//	{
//	  "version": 1,
//	  "resources": {
//	    "/redfish/v1/": {"@odata.id": "/redfish/v1/", "RedfishVersion": "1.6.0", ...},
//	    "/redfish/v1/UpdateService/": {...}
//	  }
//	}
//
// Keys are paths as the service names them, without scheme, host, query and
// fragment; values are the bodies of the answers to GET. A slash at the end of a
// path does not count. Other members of the object are for people.
type Capture struct {
	Version   int                        `json:"version"`
	Resources map[string]json.RawMessage `json:"resources"`

	nodes map[string]object
	paths []string
}

// The bounds of captures.
const (
	captureSize  = 256 << 20 // bytes
	captureDepth = 100
)

// ReadCapture reads a capture in its JSON form, of at most 256 MiB. It must have
// a service root, and its resources must be objects that are nested at most 100
// deep.
func ReadCapture(r io.Reader) (*Capture, error) {
	b, err := io.ReadAll(io.LimitReader(r, captureSize+1))
	if err != nil {
		return nil, fmt.Errorf("redfishtest: reading a capture: %w", err)
	}
	if len(b) > captureSize {
		return nil, fmt.Errorf("redfishtest: a capture of more than %d bytes", captureSize)
	}
	var c Capture
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("redfishtest: reading a capture: %w", err)
	}
	return &c, c.check()
}

// check parses the resources.
func (c *Capture) check() error {
	if c.Version != 1 {
		return fmt.Errorf("redfishtest: a capture of version %d; 1 is known", c.Version)
	}
	nodes := make(map[string]object, len(c.Resources))
	paths := make([]string, 0, len(c.Resources))
	for path, raw := range c.Resources {
		key := strings.TrimRight(path, "/")
		if key != "/redfish" && key != "/redfish/v1" && !strings.HasPrefix(key, "/redfish/v1/") && !strings.HasPrefix(key, "/rest/v1") {
			return fmt.Errorf("redfishtest: a capture has the path %q, which is no resource of Redfish", path)
		}
		var o object
		if err := json.Unmarshal(raw, &o); err != nil {
			return fmt.Errorf("redfishtest: resource %s of a capture: %w", path, err)
		}
		if o == nil || depth(o) > captureDepth {
			return fmt.Errorf("redfishtest: resource %s of a capture is no object, or too deep", path)
		}
		nodes[key] = o
		paths = append(paths, key)
	}
	if nodes["/redfish/v1"] == nil {
		return fmt.Errorf("redfishtest: a capture without the resource /redfish/v1/")
	}
	slices.Sort(paths)
	c.nodes, c.paths = nodes, paths
	return nil
}

func depth(v any) int {
	n := 0
	switch v := v.(type) {
	case object:
		for _, e := range v {
			n = max(n, depth(e))
		}
		return n + 1
	case []any:
		for _, e := range v {
			n = max(n, depth(e))
		}
		return n + 1
	}
	return 0
}

// profile is the profile whose manners fit what was captured.
func (c *Capture) profile() Profile {
	oem, _ := c.nodes["/redfish/v1"]["Oem"].(object)
	switch {
	case strings.Contains(string(encode(c.nodes["/redfish/v1/UpdateService"])), ".UpdateAll\""):
		return RMC
	case oem["Hp"] != nil:
		return ILO4
	case oem["Hpe"] != nil:
		b := string(encode(oem))
		for _, p := range []Profile{ILO7, ILO6, ILO5} {
			if strings.Contains(b, fmt.Sprint(`"iLO `, p.ilo(), `"`)) {
				return p
			}
		}
		return ILO5
	}
	return Generic
}

// captureTree serves the capture. s.mu is held.
func (s *Server) captureTree(t *tree) {
	c := s.cfg.Capture
	for _, path := range c.paths {
		t.nodes[s.clean(path)] = c.nodes[path]
		t.paths = append(t.paths, path)
	}
}

// stub answers for an action that does nothing.
func (s *Server) stub(x *exchange, r *http.Request, path string) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return bad("GeneralError")
	}
	if r.Method == http.MethodPost {
		for _, o := range s.cfg.Capture.nodes {
			if s.isAction(o, path) {
				s.success(x)
				return nil
			}
		}
	}
	s.mu.Lock()
	known := s.tree(path).nodes[path] != nil
	s.mu.Unlock()
	if !known {
		return &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{r.URL.Path}}
	}
	return &message{status: http.StatusMethodNotAllowed, id: "OperationNotAllowed"}
}

// isAction reports whether a resource names the path as the target of an action
// or as a place to push to.
func (s *Server) isAction(v any, path string) bool {
	switch v := v.(type) {
	case object:
		for k, e := range v {
			switch k {
			case "target", "HttpPushUri", "MultipartHttpPushUri", "PushUpdateUri":
				if t, ok := e.(string); ok && s.clean(t) == path {
					return true
				}
			}
			if s.isAction(e, path) {
				return true
			}
		}
	case []any:
		for _, e := range v {
			if s.isAction(e, path) {
				return true
			}
		}
	}
	return false
}

// Capture returns what the service would answer now, as a capture.
func (s *Server) Capture() (*Capture, error) {
	s.mu.Lock()
	t := s.tree("")
	c := &Capture{Version: 1, Resources: make(map[string]json.RawMessage, len(t.paths))}
	for _, path := range t.paths {
		c.Resources[path+t.slash] = encode(t.nodes[t.clean(path)])
	}
	s.mu.Unlock()
	return c, c.check()
}
