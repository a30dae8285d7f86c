package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
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

// FileErrors are all that is wrong with a fleet file, in the order of its lines.
type FileErrors []*FileError

// Error implements error: one line for each.
func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each.
func (e FileErrors) Unwrap() []error {
	out := make([]error, len(e))
	for i, err := range e {
		out[i] = err
	}
	return out
}

// File is a fleet file.
type File struct {
	Targets []sum.Target
	// PasswordFiles are the names of files with the passwords of targets, by what
	// Target.String returns. They are not looked at.
	PasswordFiles map[string]string
	// Redfish are the settings of targets that speak Redfish, likewise. Files that they
	// name are not looked at.
	Redfish map[string]RedfishSettings
}

// defaults hold for targets that do not say otherwise. Labels are merged.
type defaults struct {
	Kind         string            `yaml:"kind"`
	User         string            `yaml:"user"`
	PasswordFile string            `yaml:"password_file"`
	Labels       map[string]string `yaml:"labels"`
	redfishKeys
}

type entry struct {
	Name         string            `yaml:"name"`
	URL          string            `yaml:"url"`
	Kind         string            `yaml:"kind"`
	User         string            `yaml:"user"`
	PasswordFile string            `yaml:"password_file"`
	Address      string            `yaml:"address"`
	Object       string            `yaml:"object"`
	Parent       string            `yaml:"parent"`
	Labels       map[string]string `yaml:"labels"`
	redfishKeys
}

// ReadFile reads a fleet file; see Parse. A relative password_file, or ca_file, is beside it.
func ReadFile(filename string) (*File, error) {
	f, err := os.Open(filename)
	if err != nil {
		return nil, FileErrors{{File: filename, Err: plain(err)}}
	}
	defer f.Close()
	data, err := readAtMost(f, maxFile)
	if err != nil {
		return nil, FileErrors{{File: filename, Err: plain(err)}}
	}
	out, err := Parse(filename, data)
	if err != nil {
		return nil, err
	}
	for t, name := range out.PasswordFiles {
		if !filepath.IsAbs(name) {
			out.PasswordFiles[t] = filepath.Join(filepath.Dir(filename), name)
		}
	}
	for _, s := range out.Redfish {
		for i, name := range s.Authorities { // a list of its own
			if !filepath.IsAbs(name) {
				s.Authorities[i] = filepath.Join(filepath.Dir(filename), name)
			}
		}
	}
	return out, nil
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
//	  - {url: ilo://ops@ilo1, pin: "SHA256:...", way: add-from-uri}
//
// A target has either a url or a kind with an address; kind, user and password_file,
// the name of a file with the password, may come from the defaults. Of those that speak
// Redfish, which alone heed such defaults, it may say more: pin, the SHA-256 of the public
// key (see ParseKey; several are separated by blanks), ca_file, accept_new, profile, way,
// tpm_override, ignore_queue, recovery_set and legacy_tls. Unknown fields,
// passwords, targets that are named or addressed twice, and parents that are not in the
// file are refused, all of them together: the error is FileErrors.
func Parse(name string, data []byte) (file *File, err error) {
	// The YAML package panics on some texts that are no YAML.
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, FileErrors{{name, 0, invalid("not understood as YAML")}}
		}
	}()
	r := reading{name: name}
	if body := r.parse(data); body != nil {
		file = r.document(body)
	}
	if len(r.wrong) > 0 {
		slices.SortStableFunc(r.wrong, func(a, b *FileError) int { return cmp.Compare(a.Line, b.Line) })
		return nil, r.wrong
	}
	return file, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{sum.ErrInvalid}, args...)...)
}

// reading is one Parse, with what was found to be wrong.
type reading struct {
	name  string
	wrong FileErrors
}

func (r *reading) fail(line int, err error) { r.wrong = append(r.wrong, &FileError{r.name, line, err}) }

// parse returns the one document of a YAML text, or nil.
func (r *reading) parse(data []byte) ast.Node {
	if len(data) > maxFile {
		r.fail(0, invalid("larger than %d bytes", maxFile))
		return nil
	}
	text, err := Text(data)
	if err != nil {
		r.fail(0, invalid("%w", err))
		return nil
	}
	data = []byte(text)
	if line := tooDeep(data); line > 0 {
		r.fail(line, invalid("nested deeper than %d levels", maxDepth))
		return nil
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		r.fail(explain(err))
		return nil
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			r.fail(lineOf(d.Body), invalid("more than one document"))
			return nil
		}
		body = d.Body
	}
	if body == nil {
		r.fail(0, invalid("no targets"))
		return nil
	}
	if n := find(body, ast.AliasType); n != nil {
		r.fail(lineOf(n), invalid("aliases are not understood; use defaults"))
		return nil
	}
	return body
}

// document reads a fleet file.
func (r *reading) document(body ast.Node) *File {
	var d defaults
	var list *ast.SequenceNode
	for _, f := range r.fields(body, "defaults", "targets") {
		switch f.name {
		case "defaults":
			r.decode(f.value, &d)
		case "targets":
			if seq, ok := f.value.(*ast.SequenceNode); ok {
				list = seq
			} else if f.value.Type() != ast.NullType {
				r.fail(lineOf(f.value), invalid("want a list of targets"))
				return nil
			}
		}
	}
	if list == nil || len(list.Values) == 0 {
		if len(r.wrong) == 0 {
			r.fail(lineOf(body), invalid("no targets"))
		}
		return nil
	}
	out := &File{PasswordFiles: map[string]string{}, Redfish: map[string]RedfishSettings{}}
	var lines []int
	for _, node := range list.Values {
		var e entry
		if node.Type() == ast.StringType { // whose text may hold a password
			r.fail(lineOf(node), invalid("want a mapping, such as {url: \"linux://root@db1\"}, not the URL alone"))
			continue
		}
		if !r.decode(node, &e) {
			continue
		}
		t, err := e.target(d)
		if err != nil {
			r.fail(lineOf(node), err)
			continue
		}
		out.Targets, lines = append(out.Targets, t), append(lines, lineOf(node))
		if pw := cmp.Or(e.PasswordFile, d.PasswordFile); pw != "" && t.Kind != sum.Local {
			out.PasswordFiles[t.String()] = pw
		}
		if SpeaksRedfish(t.Kind) {
			s, err := e.settings(d.redfishKeys)
			if err != nil {
				r.fail(lineOf(node), err)
			} else if !reflect.ValueOf(s).IsZero() {
				out.Redfish[t.String()] = s
			}
		} else if key := e.given(); key != "" {
			r.fail(lineOf(node), invalid("%s is for targets that speak Redfish (kinds ilo, superdome-flex and redfish), and this one is of kind %s", key, t.Kind))
		}
	}
	// What is missing may be the parent, or the twin, of what is there.
	if whole := len(r.wrong) == 0; whole || len(out.Targets) > 0 {
		check(out.Targets, whole, func(i int, err error) { r.fail(lines[i], err) })
	}
	return out
}

// field is one of a mapping.
type field struct {
	name  string
	line  int
	value ast.Node
}

// fields returns the fields of a mapping that are known, and tells the others.
func (r *reading) fields(node ast.Node, known ...string) []field {
	var values []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode: // a mapping of one field may be one of these
		values = []*ast.MappingValueNode{n}
	default:
		r.fail(lineOf(node), invalid("want a mapping, such as \"targets:\""))
		return nil
	}
	var out []field
	for _, v := range values {
		tok := v.Key.GetToken()
		f := field{tok.Value, tok.Position.Line, v.Value}
		switch {
		case slices.ContainsFunc(out, func(o field) bool { return o.name == f.name }):
			r.fail(f.line, invalid("field %q is there twice", f.name))
		case slices.Contains(known, f.name):
			out = append(out, f)
		case secretField.MatchString(f.name):
			r.fail(f.line, invalid("field %q: a password does not belong in a fleet file; name a file that has it (password_file), or give it in the environment or at the prompt", f.name))
		default:
			r.fail(f.line, invalid("unknown field %q", f.name))
		}
	}
	return out
}

// decode reads a mapping into a struct, and reports whether that went well. to is a
// pointer to one whose fields are texts, mappings of them, and pointers to truth values.
func (r *reading) decode(node ast.Node, to any) bool {
	before := len(r.wrong)
	if node.Type() == ast.NullType {
		return true
	}
	v := reflect.ValueOf(to).Elem()
	var known []string
	at := map[string][]int{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		if name := f.Tag.Get("yaml"); name != "" {
			known, at[name] = append(known, name), f.Index
		}
	}
	for _, f := range r.fields(node, known...) {
		field := v.FieldByIndex(at[f.name])
		if field.Kind() == reflect.Pointer { // which the YAML package leaves nil
			field.Set(reflect.New(field.Type().Elem()))
		} else {
			field = field.Addr()
		}
		if err := yaml.NodeToValue(f.value, field.Interface()); err != nil {
			line, err := explain(err)
			r.fail(cmp.Or(line, f.line), err)
		}
	}
	return len(r.wrong) == before
}

// target returns the target of an entry.
func (e entry) target(d defaults) (sum.Target, error) {
	bad := func(format string, args ...any) (sum.Target, error) {
		return sum.Target{}, invalid(format, args...)
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
		return bad("a password does not belong in a fleet file; name a file that has it (password_file), or give it in the environment or at the prompt")
	}
	// What a URL could not say is refused in the long form too.
	if u, err := sum.ParseTarget(t.String()); err != nil {
		return sum.Target{}, err
	} else if u.Address != t.Address && "["+u.Address+"]" != t.Address || u.User != t.User || u.Object != t.Object {
		return bad("address, user or object is malformed")
	}
	if err := senseless(t); err != nil {
		return sum.Target{}, invalid("%w", err)
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

// check looks at the targets together and tells each that is wrong. whole says that they
// are all of the file's.
func check(targets []sum.Target, whole bool, fail func(i int, err error)) {
	// Names and URLs share one space: a journal knows a target by either.
	byName, byURL := map[string]int{}, map[string]int{}
	for i, t := range targets {
		url := t.String()
		if _, ok := byURL[url]; ok {
			fail(i, invalid("target %s is there twice", url))
			continue
		}
		byURL[url] = i
		if t.Name == "" {
			continue
		}
		if _, ok := byName[t.Name]; ok {
			fail(i, invalid("name %q is there twice", t.Name))
			continue
		}
		byName[t.Name] = i
	}
	for i, t := range targets {
		if j, ok := byURL[t.Name]; ok && j != i {
			fail(i, invalid("name %q is the URL of another target", t.Name))
		}
		// Up to the top; more steps than targets are a circle.
		at, steps := t, 0
		for at.Parent != "" {
			j, ok := byName[at.Parent]
			if !ok {
				if whole && steps == 0 { // else it is told of the one that has it
					fail(i, invalid("parent %q is no target of this file", at.Parent))
				}
				break
			}
			if steps++; steps > len(targets) {
				fail(i, invalid("target %q is its own parent", t.Name))
				break
			}
			at = targets[j]
		}
	}
}

// secretField finds fields that somebody takes for the place of a password.
var secretField = regexp.MustCompile(`(?i)pass(word|wd|phrase)?$|secret|token|credential`)

// explain says where and what an error of the YAML package is about, without the
// excerpt of the file that its own text has.
func explain(err error) (line int, _ error) {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return 0, invalid("%s", err.Error())
	}
	if tok := ye.GetToken(); tok != nil {
		line = tok.Position.Line
	}
	var mismatch *yaml.TypeError
	switch {
	case errors.As(err, &mismatch) && mismatch.DstType != nil && mismatch.SrcType != nil:
		return line, invalid("want a %s, found a %s", mismatch.DstType.Kind(), mismatch.SrcType.Kind())
	case errors.As(err, &mismatch):
		return line, invalid("value of a wrong type")
	}
	return line, invalid("%s", ye.GetMessage())
}

func lineOf(n ast.Node) int {
	// The token of a mapping is the colon or the key; the first key comes first.
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
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
