package redfish

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// CaptureOptions are the options of Capture. The zero value takes all but logs.
type CaptureOptions struct {
	// Logs takes the entries of logs as well. They are many, and written for people:
	// what of them names people or places only those can tell.
	Logs bool
	// Resources is how many there can be; 0 means 5000.
	Resources int
	// Bytes is how much they can be together; 0 means 64 MiB.
	Bytes int64
}

// Captured says what Capture has written.
type Captured struct {
	Resources int
	// Problems are the resources that could not be read, or were more than the options
	// allow.
	Problems []transport.Problem
}

// Capture reads every resource of a service that the account may read, from the root on by
// the references in them, and writes them to w, in the form that redfishtest.ReadCapture
// reads: so that somebody else can see what a service is like, and try against it. It only
// reads. Sessions, schemas, registries and, without CaptureOptions.Logs, entries of logs
// are left out.
//
// Passwords, keys, tokens, hashes and the like are replaced, and so are URLs, to whom events
// are posted, what requests have said that tasks are of, serial numbers, UUIDs, addresses,
// and names of hosts and accounts: the same value by the same one, wherever it stands, also
// in paths. References keep their path alone. What is recognised is what has a known name or form.
// Read what was written before you give it away.
//
// Nothing is written when the service cannot be reached, or is lost on the way.
func (t *Transport) Capture(ctx context.Context, ep transport.Endpoint, w io.Writer, opts CaptureOptions) (Captured, error) {
	if opts.Resources <= 0 {
		opts.Resources = 5000
	}
	if opts.Bytes <= 0 {
		opts.Bytes = 64 << 20
	}
	opened, err := t.Dial(ctx, ep)
	if err != nil {
		return Captured{}, err
	}
	k := &capturer{conn: opened.(*conn), opts: opts, seen: map[string]bool{}, resources: map[string]any{}}
	err = errors.Join(k.walk(ctx), opened.Close(context.WithoutCancel(ctx)))
	if err != nil {
		return Captured{}, err
	}
	done := Captured{Resources: len(k.resources), Problems: k.problems}
	r := newRedactor(ep.Credentials)
	for _, v := range k.resources {
		r.learn("", v)
	}
	r.ready()
	for i, p := range done.Problems {
		done.Problems[i] = transport.Problem{Part: r.text("", p.Part), Text: r.text("", p.Text)}
	}
	return done, k.write(w, r)
}

// capturer walks a service, breadth first.
type capturer struct {
	conn      *conn
	opts      CaptureOptions
	size      int64
	todo      []string
	seen      map[string]bool // without a slash at the end
	resources map[string]any  // by path
	problems  []transport.Problem
}

func (k *capturer) walk(ctx context.Context) error {
	k.refer(rootPath)
	for len(k.todo) > 0 {
		path := k.todo[0]
		k.todo = k.todo[1:]
		if len(k.resources) == k.opts.Resources || k.size > k.opts.Bytes {
			k.problem(path, fmt.Errorf("left out, and %d more: there are too many (CaptureOptions)", len(k.todo)))
			return nil
		}
		v, err := k.get(ctx, path)
		switch {
		case err != nil && !answered(err):
			return err
		case err != nil:
			k.problem(path, err)
			continue
		}
		k.pages(ctx, path, v)
		prune(v)
		k.resources[path] = v
		k.follow(v, 0)
	}
	return nil
}

func (k *capturer) problem(path string, err error) {
	k.problems = append(k.problems, transport.Problem{Part: path, Text: clip(err.Error(), 1024)})
}

// get reads one resource, which is an object.
func (k *capturer) get(ctx context.Context, path string) (map[string]any, error) {
	rep, err := k.conn.s.do(ctx, request{op: "capture", method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	if !rep.ok() {
		return nil, k.conn.refused("capture", path, rep)
	}
	k.size += int64(len(rep.body))
	odd := func(err error) error {
		return &transport.Error{Op: "capture", Target: k.conn.s.target, Path: path, Kind: transport.ErrProtocol, Err: err}
	}
	if err := checkDepth(rep.body); err != nil {
		return nil, odd(err)
	}
	dec := json.NewDecoder(bytes.NewReader(rep.body))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		return nil, odd(err)
	}
	if v == nil {
		return nil, odd(errors.New("it is no object"))
	}
	return v, nil
}

// pages puts the pages of a collection into the first one: what is captured has no queries.
func (k *capturer) pages(ctx context.Context, path string, v map[string]any) {
	const next = "Members@odata.nextLink"
	members, _ := v["Members"].([]any)
	for page := 0; v[next] != nil; page++ {
		at, _ := v[next].(string)
		delete(v, next)
		at, err := pathOf(at)
		if err != nil || page == maxPages || k.size > k.opts.Bytes {
			k.problem(path, errors.Join(errors.New("a page of the collection is left out"), err))
			return
		}
		more, err := k.get(ctx, at)
		if err != nil {
			k.problem(at, err)
			return
		}
		list, _ := more["Members"].([]any)
		members = append(members, list...)
		v["Members"] = members
		if more[next] != nil {
			v[next] = more[next]
		}
	}
}

// follow finds the references in a value.
func (k *capturer) follow(v any, depth int) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if to, ok := v[name].(string); ok && (name == "@odata.id" || name == "href") {
				k.refer(to)
				continue
			}
			k.follow(v[name], depth+1)
		}
	case []any:
		for _, e := range v {
			k.follow(e, depth+1)
		}
	}
}

// prune removes references to sessions, whose names are as good as those who log in.
func prune(v any) {
	session := func(v any) bool {
		ref, _ := v.(map[string]any)
		at, _ := ref["@odata.id"].(string)
		_, name, ok := strings.Cut(strings.ToLower(at), "/sessions/")
		return ok && name != ""
	}
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if session(e) {
				delete(v, name)
				continue
			}
			if list, ok := e.([]any); ok {
				kept := slices.DeleteFunc(list, session)
				if v[name] = kept; name == "Members" && v["Members@odata.count"] != nil {
					v["Members@odata.count"] = len(kept)
				}
			}
			prune(v[name])
		}
	case []any:
		for _, e := range v {
			prune(e)
		}
	}
}

// refer remembers a reference to be read.
func (k *capturer) refer(to string) {
	path, err := pathOf(to)
	if err != nil || strings.Contains(path, "?") || len(path) > 1024 || !strings.HasPrefix(path, "/redfish/v1") && !strings.HasPrefix(path, "/rest/v1") {
		return
	}
	key := strings.TrimSuffix(path, "/")
	if k.seen[key] || k.skip(strings.ToLower(key)) {
		return
	}
	k.seen[key] = true
	k.todo = append(k.todo, path)
}

// skip reports whether a resource is left out.
func (k *capturer) skip(path string) bool {
	for _, part := range []string{"/actions/", "/$metadata", "/odata", "/jsonschemas/", "/registries/", "/schemas/", "/extensions/", "/sessions/", "/taskmonitors/"} {
		if strings.Contains(path, part) {
			return true
		}
	}
	return !k.opts.Logs && (strings.HasSuffix(path, "/entries") || strings.Contains(path, "/entries/"))
}

// write writes the resources in the order of their paths.
func (k *capturer) write(w io.Writer, r *redactor) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "{\n  \"version\": 1,\n  \"resources\": {")
	comma := "\n"
	for _, path := range slices.Sorted(maps.Keys(k.resources)) {
		key, err := json.Marshal(r.text("", path))
		if err != nil {
			return err
		}
		body, err := json.Marshal(r.value("", k.resources[path]))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s    %s: %s", comma, key, body)
		comma = ",\n"
	}
	fmt.Fprint(out, "\n  }\n}\n")
	return out.Flush()
}
