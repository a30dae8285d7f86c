package redfishtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strings"
)

// object is a JSON object.
type object = map[string]any

// message is an error that has an identifier in a message registry.
type message struct {
	status int    // of HTTP
	id     string // the last segment of the identifier
	args   []string
}

func (m *message) Error() string { return strings.Join(append([]string{m.id}, m.args...), " ") }

func bad(id string, args ...string) *message {
	return &message{status: http.StatusBadRequest, id: id, args: args}
}

// base are the messages of the Base registry (DSP8011). The others are of the
// vendor's registry, or of the Update registry.
var base = map[string]string{
	"Success": "The request completed successfully.", "NoValidSession": "There is no valid session established with the implementation.",
	"SessionLimitExceeded":     "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.",
	"InsufficientPrivilege":    "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.",
	"ActionParameterUnknown":   "The action was submitted with an unknown parameter.",
	"ActionParameterMissing":   "The action requires a parameter that is not present in the request body.",
	"ActionNotSupported":       "The action is not supported by the resource.",
	"PropertyMissing":          "A property is required and must be included in the request.",
	"PropertyUnknown":          "A property is not in the list of valid properties for the resource.",
	"PropertyNotWritable":      "A property is a read only property and cannot be assigned a value.",
	"PropertyValueNotInList":   "The value is not in the list of acceptable values.",
	"ActionParameterNotInList": "The value of a parameter is not in the list of acceptable values.",
	"MalformedJSON":            "The request body submitted was malformed JSON and could not be parsed by the receiving service.",
	"ResourceMissingAtURI":     "The resource was not found.", "ResourceAlreadyExists": "A resource of that name exists already.",
	"CreateLimitReachedForResource": "The create operation failed because the resource has reached the limit of possible resources.",
	"GeneralError":                  "A general error has occurred.", "InternalError": "The request failed due to an internal service error.",
	"ServiceTemporarilyUnavailable": "The service is temporarily unavailable.",
	"OperationNotAllowed":           "The HTTP method is not allowed on this resource.",
	"ResourceInUse":                 "The change to the requested resource failed because the resource is in use or in transition.",
}

// full is the identifier with its registry and version.
func (p Profile) full(id string) string {
	_, isBase := base[id]
	switch {
	case p == ILO4 && isBase:
		return "Base.0.10." + id
	case p == ILO4:
		return "iLO.0.10." + id
	case p.ilo() > 0 && isBase:
		return "Base.1.4." + id
	case p.ilo() > 0:
		return "iLO.2.14." + id
	case isBase && p == RMC:
		return "Base.1.0." + id
	case isBase:
		return "Base.1.18." + id
	case p == RMC:
		return "SDFlexUpdate.1.0." + id
	}
	return "Update.1.2." + id
}

// info is an entry of @Message.ExtendedInfo.
func (p Profile) info(id string, args ...string) object {
	o := object{"MessageId": p.full(id), "MessageArgs": append([]string{}, args...)}
	if p.ilo() == 0 {
		text := base[id]
		if text == "" {
			text = id
		}
		o["Message"], o["Severity"], o["Resolution"] = text, "Warning", "None."
		if id == "Success" {
			o["Severity"] = "OK"
		}
	}
	return o
}

// errorBody is the error response of DSP0266.
func (p Profile) errorBody(id string, args ...string) object {
	e := object{"@Message.ExtendedInfo": []any{p.info(id, args...)}}
	if p.ilo() > 0 {
		e["code"], e["message"] = "iLO.0.10.ExtendedInfo", "See @Message.ExtendedInfo for more information."
	} else {
		e["code"], e["message"] = p.full("GeneralError"), base["GeneralError"]
		if id == "Success" {
			e["code"], e["message"] = p.full(id), base[id]
		}
	}
	return object{"error": e}
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, status int, id string, args ...string) {
	writeJSON(w, status, s.cfg.Profile.errorBody(id, args...))
}

// fail answers with the error of a request.
func (s *Server) fail(w http.ResponseWriter, err error) {
	var m *message
	if !errors.As(err, &m) {
		m = &message{status: http.StatusInternalServerError, id: "InternalError"}
	}
	s.refuse(w, m.status, m.id, m.args...)
}

// success answers as services do that have nothing to say.
func (s *Server) success(w http.ResponseWriter) {
	if s.cfg.Profile.ilo() == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.refuse(w, http.StatusOK, "Success")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b := encode(v)
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("OData-Version", "4.0")
	h.Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // our own maps
	}
	return b.Bytes()
}

// etag is a weak entity tag of a resource.
func etag(v any) string {
	h := fnv.New32a()
	_, _ = h.Write(encode(v))
	return fmt.Sprintf(`W/"%08X"`, h.Sum32())
}

// decode reads the JSON object in the body of a request, of at most 1 MiB, and
// records it.
func (x *exchange) decode(r *http.Request) (object, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, jsonSize+1))
	if err != nil || len(b) > jsonSize {
		return nil, bad("MalformedJSON")
	}
	text := redacted(b)
	x.s.mu.Lock()
	x.record.JSON = text
	x.s.mu.Unlock()
	if len(bytes.TrimSpace(b)) == 0 {
		return object{}, nil
	}
	return parseObject(b)
}

// The bounds of JSON in requests.
const (
	jsonSize  = 1 << 20 // bytes
	jsonDepth = 32
)

// parseObject reads a JSON object of a request.
func parseObject(b []byte) (object, error) {
	var o object
	if json.Unmarshal(b, &o) != nil || depth(o) > jsonDepth {
		return nil, bad("MalformedJSON")
	}
	return o, nil
}

// readObject reads a JSON object that is a part of a request.
func readObject(r io.Reader) (object, error) {
	b, err := io.ReadAll(io.LimitReader(r, jsonSize+1))
	if err != nil || len(b) > jsonSize {
		return nil, bad("MalformedJSON")
	}
	return parseObject(b)
}

// known fails for parameters that the action does not have.
func known(action string, o object, names ...string) error {
	for k := range o {
		ok := false
		for _, n := range names {
			ok = ok || n == k
		}
		if !ok {
			return bad("ActionParameterUnknown", action, k)
		}
	}
	return nil
}

// text and truth are a property of a request, or the zero value.
func text(o object, name string) string { v, _ := o[name].(string); return v }
func truth(o object, name string) bool  { v, _ := o[name].(bool); return v }

func list(o object, name string) []string {
	var out []string
	vs, _ := o[name].([]any)
	for _, v := range vs {
		if t, ok := v.(string); ok {
			out = append(out, t)
		}
	}
	return out
}
