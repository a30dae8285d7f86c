package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// rootPath is where every service begins (DSP0266, "Redfish-defined URIs and relative
// reference rules").
const rootPath = "/redfish/v1/"

// serviceRoot is what is used of the ServiceRoot resource.
type serviceRoot struct {
	Type                                                                          text `json:"@odata.type"`
	Version                                                                       text `json:"RedfishVersion"`
	Vendor                                                                        text
	Product                                                                       text
	UUID                                                                          text
	Events                                                                        link `json:"EventService"`
	Links                                                                         struct{ Sessions, Systems link }
	Systems, Managers, Chassis, UpdateService, Tasks, TaskService, AccountService link
	Features                                                                      struct {
		Expand struct {
			ExpandAll, NoLinks bool
		} `json:"ExpandQuery"`
	} `json:"ProtocolFeaturesSupported"`
	Oem struct{ Hpe, Hp oemRoot }
}

// oemRoot is what HPE adds.
type oemRoot struct {
	Manager []struct {
		Type     text `json:"ManagerType"`
		Firmware text `json:"ManagerFirmwareVersion"`
	}
}

// valid reports whether it looks like one at all.
func (r *serviceRoot) valid() bool {
	return strings.Contains(string(r.Type), "ServiceRoot") || r.Version != "" || r.Systems != "" || r.Managers != ""
}

// expand is the query that has a collection come with its members, or "".
func (r *serviceRoot) expand() string {
	switch {
	case r.Features.Expand.NoLinks:
		return "$expand=."
	case r.Features.Expand.ExpandAll:
		return "$expand=*"
	}
	return ""
}

// get reads a resource.
func (c *conn) get(ctx context.Context, op, uri string) (*reply, error) {
	path, err := pathOf(uri)
	if err != nil {
		return nil, &transport.Error{Op: op, Target: c.s.target, Kind: transport.ErrProtocol, Err: err}
	}
	rep, err := c.s.do(ctx, request{op: op, method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	if !rep.ok() {
		return rep, c.refused(op, path, rep)
	}
	return rep, nil
}

// refused is the error for an answer.
func (c *conn) refused(op, path string, rep *reply) error {
	e := refusal(rep)
	e.Op, e.Target, e.Path = op, c.s.target, path
	return e
}

// read reads and decodes a resource.
func (c *conn) read(ctx context.Context, op, uri string, v any) error {
	rep, err := c.get(ctx, op, uri)
	if err != nil {
		return err
	}
	return c.decode(op, uri, rep.body, v)
}

// decode decodes a resource.
func (c *conn) decode(op, uri string, body []byte, v any) error {
	if err := decode(body, v); err != nil {
		return &transport.Error{Op: op, Target: c.s.target, Path: uri, Kind: transport.ErrProtocol, Err: err}
	}
	return nil
}

// member is one member of a collection, or why it could not be read.
type member struct {
	uri  string
	body json.RawMessage
	err  error
}

// members reads a collection and its members, in order: in one request where the
// service expands, else one after the other. What cannot be read is a member with an
// error; the error beside is for what ended the reading.
func (c *conn) members(ctx context.Context, op, uri string) ([]member, error) {
	return c.collect(ctx, op, uri, maxMembers)
}

// collect is members with a bound of its own.
func (c *conn) collect(ctx context.Context, op, uri string, most int) ([]member, error) {
	if uri == "" {
		return nil, nil
	}
	next := uri
	if q := c.root.expand(); q != "" && !strings.Contains(uri, "?") {
		next += "?" + q
	}
	var out []member
	seen := map[string]bool{}
	for page := 0; next != ""; page++ {
		if page == maxPages || seen[next] {
			return out, &transport.Error{Op: op, Target: c.s.target, Path: uri, Kind: transport.ErrProtocol, Err: errors.New("the pages of the collection do not end")}
		}
		seen[next] = true
		var col struct {
			Members []json.RawMessage
			Next    text                               `json:"Members@odata.nextLink"`
			Links   struct{ Member []json.RawMessage } `json:"links"` // before 1.0
		}
		err := c.read(ctx, op, next, &col)
		if err != nil && page == 0 && next != uri && answered(err) {
			// It does not expand, whatever its root says.
			err = c.read(ctx, op, uri, &col)
		}
		if err != nil {
			return out, err
		}
		for _, raw := range append(col.Members, col.Links.Member...) {
			if len(out) == most {
				return out, &transport.Error{Op: op, Target: c.s.target, Path: uri, Kind: transport.ErrProtocol, Err: fmt.Errorf("more than %d members", most)}
			}
			out = append(out, c.member(ctx, op, raw))
			if err := ctx.Err(); err != nil {
				return out, c.s.fail(ctx, request{op: op, path: uri}, err)
			}
			if m := out[len(out)-1]; m.err != nil && !answered(m.err) {
				return out, m.err
			}
		}
		next = string(col.Next)
	}
	return out, nil
}

// answered reports whether the error is what the service said of one resource, and not
// that it could not be asked, or answers nothing at all.
func answered(err error) bool {
	var te *transport.Error
	if !errors.As(err, &te) || errors.Is(te.Kind, transport.ErrAuth) {
		return false
	}
	return errors.Is(te.Kind, transport.ErrProtocol) || !te.Code.IsZero()
}

// member returns a member that came with its collection, or reads one of which only the
// reference did.
func (c *conn) member(ctx context.Context, op string, raw json.RawMessage) member {
	var ref link
	_ = ref.UnmarshalJSON(raw)
	m := member{uri: string(ref), body: raw}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		m.err = &transport.Error{Op: op, Target: c.s.target, Path: m.uri, Kind: transport.ErrProtocol, Err: err}
		return m
	}
	if len(fields) > 2 || fields["Name"] != nil || fields["Id"] != nil {
		return m
	}
	if m.uri == "" {
		m.err = &transport.Error{Op: op, Target: c.s.target, Kind: transport.ErrProtocol, Err: errors.New("a member of a collection has no reference")}
		return m
	}
	rep, err := c.get(ctx, op, m.uri)
	if m.err = err; err == nil {
		m.body = rep.body
	}
	return m
}
