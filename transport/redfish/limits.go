package redfish

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Bounds of what a target may send.
const (
	maxBody    = 16 << 20 // bytes of one answer
	maxDepth   = 64       // nested values of one answer
	maxPages   = 1000     // of one collection
	maxMembers = 20_000   // of one collection
	maxText    = 16 << 10 // bytes of the target's own words in an error or result
)

var errDepth = fmt.Errorf("values nest deeper than %d", maxDepth)

// decode decodes an answer within the bounds.
func decode(data []byte, v any) error {
	if len(data) > maxBody {
		return fmt.Errorf("more than %d bytes", maxBody)
	}
	if err := checkDepth(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// checkDepth refuses what nests too deep, before anything recurses into it.
func checkDepth(data []byte) error {
	depth, text, escaped := 0, false, false
	for _, b := range data {
		switch {
		case escaped:
			escaped = false
		case text:
			escaped, text = b == '\\', b != '"'
		case b == '"':
			text = true
		case b == '{', b == '[':
			if depth++; depth > maxDepth {
				return errDepth
			}
		case b == '}', b == ']':
			depth--
		}
	}
	return nil
}

// text is a string, or whatever a service writes in place of one.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*t = text(strings.TrimSpace(s))
		return nil
	}
	if data[0] != '{' && data[0] != '[' {
		*t = text(strings.TrimSpace(string(data)))
	}
	return nil
}

// texts is a list of strings, or one.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(data []byte) error {
	var many []text
	if json.Unmarshal(data, &many) != nil {
		var one text
		if json.Unmarshal(data, &one) != nil || one == "" {
			return nil
		}
		many = []text{one}
	}
	*t = nil
	for _, s := range many {
		if s != "" {
			*t = append(*t, string(s))
		}
	}
	return nil
}

// flag is true, false or not said: a member that is missing says nothing.
type flag struct{ value *bool }

// UnmarshalJSON implements json.Unmarshaler.
func (f *flag) UnmarshalJSON(data []byte) error {
	var s text
	if err := s.UnmarshalJSON(data); err != nil {
		return err
	}
	yes := strings.EqualFold(string(s), "true")
	if yes || strings.EqualFold(string(s), "false") {
		f.value = &yes
	}
	return nil
}

// number is a number, or text that is one; else 0.
type number float64

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(data []byte) error {
	var f float64
	if json.Unmarshal([]byte(strings.Trim(string(data), `"`)), &f) == nil {
		*n = number(f)
	}
	return nil
}

// link is a reference to another resource (DSP0266, "Reference properties"), or the
// path itself.
type link string

// UnmarshalJSON implements json.Unmarshaler.
func (l *link) UnmarshalJSON(data []byte) error {
	var ref struct {
		ID   text `json:"@odata.id"`
		Href text `json:"href"`
	}
	if json.Unmarshal(data, &ref) == nil && (ref.ID != "" || ref.Href != "") {
		*l = link(ref.ID)
		if ref.ID == "" {
			*l = link(ref.Href)
		}
		return nil
	}
	var s text
	_ = s.UnmarshalJSON(data)
	*l = link(s)
	return nil
}

// pathOf is the path and query of a URI that a target names. The host that it names, if
// any, is left out: a target behind a forwarded port does not know how it was reached,
// and nothing is ever sent to another host.
func pathOf(uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", errors.New("the target names a resource by what is no URI")
	}
	// What begins with two slashes would be read as the name of a host again.
	if !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.EscapedPath(), "//") || u.Opaque != "" {
		return "", fmt.Errorf("the target names a resource by %q, which is no path", clip(uri, 200))
	}
	out := u.EscapedPath()
	if u.RawQuery != "" {
		out += "?" + u.RawQuery
	}
	return out, nil
}

// clip shortens the target's own words.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
