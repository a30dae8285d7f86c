package fleet

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/roundsman-go/roundsman/sum"
)

// Limits of a fleet file.
const (
	maxFile  = 16 << 20 // bytes
	maxDepth = 32       // levels of nesting; a fleet file needs four
)

// A FileError says what is wrong with a fleet file, and where. It never quotes
// the file, in which somebody may have written a password.
type FileError struct {
	File string
	Line int // counted from 1; 0: the file as a whole
	Err  error
}

// Error implements error.
func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap returns the cause, which matches sum.ErrInvalid unless the file could
// not be read.
func (e *FileError) Unwrap() error { return e.Err }

// document is a fleet file. Fields that it does not name are refused.
type document struct {
	Defaults defaults `yaml:"defaults"`
	Targets  []entry  `yaml:"targets"`
}

// defaults hold for targets that do not say otherwise. Labels are merged.
type defaults struct {
	Kind   string            `yaml:"kind"`
	User   string            `yaml:"user"`
	Labels map[string]string `yaml:"labels"`
}

type entry struct {
	Name    string            `yaml:"name"`
	URL     string            `yaml:"url"`
	Kind    string            `yaml:"kind"`
	User    string            `yaml:"user"`
	Address string            `yaml:"address"`
	Object  string            `yaml:"object"`
	Parent  string            `yaml:"parent"`
	Labels  map[string]string `yaml:"labels"`
}

// ReadFile reads a fleet file; see Parse. Errors are [*FileError]s.
func ReadFile(filename string) ([]sum.Target, error) {
	f, err := os.Open(filename)
	if err != nil {
		return nil, &FileError{File: filename, Err: plain(err)}
	}
	defer f.Close()
	data, err := readAtMost(f, maxFile)
	if err != nil {
		return nil, &FileError{File: filename, Err: plain(err)}
	}
	return Parse(filename, data)
}

// plain takes the file name, which FileError has, out of an error of package os.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Parse reads the YAML text of a fleet file. The name is for messages.
//
//	defaults:
//	  kind: linux
//	  user: root
//	targets:
//	  - name: db1
//	    address: db1.example.com:2222
//	    labels: {role: database}
//	  - url: linux://ops@web1
//
// A target has either a url or a kind with an address; kind and user may come
// from the defaults. Unknown fields, passwords, targets that are named or
// addressed twice, and parents that are not in the file are refused, with the
// line.
func Parse(name string, data []byte) (targets []sum.Target, err error) {
	// The YAML package panics on some texts that are no YAML.
	defer func() {
		if p := recover(); p != nil {
			targets, err = nil, &FileError{name, 0, fmt.Errorf("%w: not understood as YAML", sum.ErrInvalid)}
		}
	}()
	fail := func(line int, format string, args ...any) ([]sum.Target, error) {
		return nil, &FileError{name, line, fmt.Errorf("%w: "+format, append([]any{sum.ErrInvalid}, args...)...)}
	}
	if len(data) > maxFile {
		return fail(0, "larger than %d bytes", maxFile)
	}
	if line := tooDeep(data); line > 0 {
		return fail(line, "nested deeper than %d levels", maxDepth)
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		line, msg := explain(err)
		return fail(line, "%s", msg)
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return fail(lineOf(d.Body), "more than one document")
		}
		body = d.Body
	}
	if body == nil {
		return fail(0, "no targets")
	}
	if n := find(body, ast.AliasType); n != nil {
		return fail(lineOf(n), "aliases are not understood; use defaults")
	}
	var doc document
	if err := yaml.NodeToValue(body, &doc, yaml.Strict()); err != nil {
		line, msg := explain(err)
		return fail(line, "%s", msg)
	}
	if len(doc.Targets) == 0 {
		return fail(lineOf(body), "no targets")
	}
	lines := entryLines(body, len(doc.Targets))
	targets = make([]sum.Target, 0, len(doc.Targets))
	for i, e := range doc.Targets {
		t, err := e.target(doc.Defaults)
		if err != nil {
			return nil, &FileError{name, lines[i], err}
		}
		targets = append(targets, t)
	}
	if i, err := check(targets); err != nil {
		return nil, &FileError{name, lines[i], err}
	}
	return targets, nil
}

// target returns the target of an entry.
func (e entry) target(d defaults) (sum.Target, error) {
	bad := func(format string, args ...any) (sum.Target, error) {
		return sum.Target{}, fmt.Errorf("%w: "+format, append([]any{sum.ErrInvalid}, args...)...)
	}
	var t sum.Target
	if e.URL != "" {
		if e.Kind != "" || e.User != "" || e.Address != "" || e.Object != "" {
			return bad("url excludes kind, user, address and object, which it holds")
		}
		var err error
		if t, err = sum.ParseTarget(e.URL); err != nil {
			return sum.Target{}, err
		}
	} else {
		kind := e.Kind
		if kind == "" {
			kind = d.Kind
		}
		if kind == "" {
			return bad("neither url nor kind")
		}
		k, err := sum.ParseKind(kind)
		if err != nil {
			return sum.Target{}, err
		}
		t = sum.Target{Kind: k, User: e.User, Address: e.Address, Object: e.Object}
		if k == sum.Local && e.Address != "" {
			return bad("the manager's own host has no address")
		}
		if k != sum.Local && e.Address == "" {
			return bad("no address")
		}
	}
	if t.User == "" && t.Kind != sum.Local {
		t.User = d.User
	}
	if strings.Contains(t.User, ":") {
		return bad("a password does not belong in a fleet file; give it in a file of its own, the environment or at the prompt")
	}
	// What a URL could not say is refused in the long form too.
	if u, err := sum.ParseTarget(t.String()); err != nil {
		return sum.Target{}, err
	} else if u.Address != t.Address && "["+u.Address+"]" != t.Address || u.User != t.User || u.Object != t.Object {
		return bad("address, user or object is malformed")
	}
	t.Name, t.Parent = e.Name, e.Parent
	if len(d.Labels)+len(e.Labels) > 0 {
		t.Labels = maps.Clone(d.Labels)
		if t.Labels == nil {
			t.Labels = map[string]string{}
		}
		maps.Copy(t.Labels, e.Labels)
	}
	return t, nil
}

// check looks at the targets together and returns the index of a wrong one.
func check(targets []sum.Target) (int, error) {
	// Names and URLs share one space: a journal knows a target by either.
	byName, byURL := map[string]int{}, map[string]int{}
	for i, t := range targets {
		url := t.String()
		if _, ok := byURL[url]; ok {
			return i, fmt.Errorf("%w: target %s is there twice", sum.ErrInvalid, url)
		}
		byURL[url] = i
		if t.Name == "" {
			continue
		}
		if _, ok := byName[t.Name]; ok {
			return i, fmt.Errorf("%w: name %q is there twice", sum.ErrInvalid, t.Name)
		}
		byName[t.Name] = i
	}
	for i, t := range targets {
		if j, ok := byURL[t.Name]; ok && j != i {
			return i, fmt.Errorf("%w: name %q is the URL of another target", sum.ErrInvalid, t.Name)
		}
		// Up to the top; more steps than targets are a circle.
		at, steps := t, 0
		for at.Parent != "" {
			j, ok := byName[at.Parent]
			if !ok {
				return i, fmt.Errorf("%w: parent %q is no target of this file", sum.ErrInvalid, at.Parent)
			}
			if steps++; steps > len(targets) {
				return i, fmt.Errorf("%w: target %q is its own parent", sum.ErrInvalid, t.Name)
			}
			at = targets[j]
		}
	}
	return 0, nil
}

// secretField finds fields that somebody takes for the place of a password.
var secretField = regexp.MustCompile(`(?i)pass(word|wd|phrase)?$|secret|token|credential`)

// explain says where and what an error of the YAML package is about, without the
// excerpt of the file that its own text has.
func explain(err error) (line int, msg string) {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return 0, err.Error()
	}
	field := ""
	if tok := ye.GetToken(); tok != nil {
		line, field = tok.Position.Line, tok.Value
	}
	var unknown *yaml.UnknownFieldError
	var mismatch *yaml.TypeError
	switch {
	case errors.As(err, &unknown) && secretField.MatchString(field):
		return line, fmt.Sprintf("field %q: a password does not belong in a fleet file; give it in a file of its own, the environment or at the prompt", field)
	case errors.As(err, &unknown):
		return line, fmt.Sprintf("unknown field %q", field)
	case errors.As(err, &mismatch) && mismatch.DstType != nil && mismatch.SrcType != nil:
		return line, fmt.Sprintf("want a %s, found a %s", mismatch.DstType.Kind(), mismatch.SrcType.Kind())
	case errors.As(err, &mismatch):
		return line, "value of a wrong type"
	}
	return line, ye.GetMessage()
}

// entryLines returns the line of each entry of "targets".
func entryLines(body ast.Node, n int) []int {
	lines := slices.Repeat([]int{lineOf(body)}, n)
	path, err := yaml.PathString("$.targets")
	if err != nil {
		return lines
	}
	node, err := path.FilterNode(body)
	if err != nil {
		return lines
	}
	if seq, ok := node.(*ast.SequenceNode); ok {
		for i, v := range seq.Values {
			if i < n {
				lines[i] = lineOf(v)
			}
		}
	}
	return lines
}

func lineOf(n ast.Node) int {
	// The token of a mapping is the colon or the key; the first key comes first.
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		return tok.Position.Line
	}
	return 0
}

// find returns the first node of a type.
func find(root ast.Node, want ast.NodeType) ast.Node {
	f := &finder{want: want}
	ast.Walk(f, root)
	return f.found
}

type finder struct {
	want  ast.NodeType
	found ast.Node
}

// Visit implements ast.Visitor.
func (f *finder) Visit(n ast.Node) ast.Visitor {
	if f.found != nil {
		return nil
	}
	if n.Type() == f.want {
		f.found = n
		return nil
	}
	return f
}
