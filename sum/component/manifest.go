package component

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// maxDepth bounds the nesting of component.json; its own form needs 3 levels.
const maxDepth = 16

// manifest is component.json as it is written.
type manifest struct {
	Name           string         `json:"name"`
	Version        string         `json:"version"`
	Scheme         version.Scheme `json:"scheme"`
	Description    string         `json:"description"`
	Kinds          []string       `json:"kinds"`
	Package        *PackageMatch  `json:"package"`
	Device         *DeviceMatch   `json:"device"`
	Probe          *manifestProbe `json:"probe"`
	Files          []manifestFile `json:"files"`
	Install        []string       `json:"install"`
	RewriteArgs    []string       `json:"rewrite_args"`
	DowngradeArgs  []string       `json:"downgrade_args"`
	Profile        agent.Profile  `json:"profile"`
	TimeoutSeconds int64          `json:"timeout_seconds"`
	NoKill         bool           `json:"no_kill"`
	Env            []string       `json:"env"`

	Activation transport.Activation `json:"activation"`

	SuspendBitLocker bool   `json:"suspend_bitlocker"`
	MinimumVersion   string `json:"minimum_version"`
}

type manifestProbe struct {
	Argv           []string `json:"argv"`
	TimeoutSeconds int64    `json:"timeout_seconds"`
}

type manifestFile struct {
	Name       string `json:"name"`
	SHA256     string `json:"sha256"`
	Size       *int64 `json:"size"`
	Executable bool   `json:"executable"`
}

// parseManifest decodes component.json and looks at its form only.
func parseManifest(data []byte) (*manifest, error) {
	if len(data) > maxManifest {
		return nil, bad("", fmt.Errorf("longer than %d bytes", maxManifest), "")
	}
	if err := checkKeys(data); err != nil {
		return nil, bad("", err, position(data, err))
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m *manifest
	err := dec.Decode(&m)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return nil, bad(wrong.Field, fmt.Errorf("a %s where %s is wanted", wrong.Value, wrong.Type), position(data, err))
	case err != nil:
		return nil, bad("", err, position(data, err))
	case m == nil:
		return nil, bad("", errors.New("null where an object is wanted"), "")
	}
	return m, nil
}

// checkKeys refuses what encoding/json lets through: a field that is given
// twice or in another case, deep nesting, and a second value.
func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	type level struct {
		keys map[string]bool // nil for a list
		key  bool            // the next token is a key
	}
	var stack []level
	values := 0
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			if len(stack) > 0 || values == 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		if len(stack) == 0 {
			if values++; values > 1 {
				return errors.New("something follows the object")
			}
		}
		top := len(stack) - 1
		if s, ok := tok.(string); ok && top >= 0 && stack[top].key {
			if strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
				return fmt.Errorf("unknown field %.80q", s)
			}
			if stack[top].keys[s] {
				return fmt.Errorf("field %.80q is given twice", s)
			}
			stack[top].keys[s], stack[top].key = true, false
			continue
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if len(stack) > maxDepth {
			return fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
		if d, ok := tok.(json.Delim); ok && (d == '{' || d == '[') {
			continue
		}
		// A value is complete; in an object a key follows.
		if top = len(stack) - 1; top >= 0 && stack[top].keys != nil {
			stack[top].key = true
		}
	}
}

// position says where in the text an error of encoding/json is.
func position(data []byte, err error) string {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	var offset int64
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &wrong):
		offset = wrong.Offset
	default:
		return ""
	}
	offset = min(offset, int64(len(data)))
	return fmt.Sprintf("see line %d", 1+bytes.Count(data[:offset], []byte("\n")))
}

// component checks the contents and returns the component, still without its
// files.
func (m *manifest) component() (*Component, error) {
	c := &Component{
		Name: m.Name, Version: m.Version, Scheme: m.Scheme, Description: m.Description, Kinds: m.Kinds,
		Match:   Match{Package: m.Package, Device: m.Device},
		Payload: transport.Payload{Name: m.Name, Version: m.Version},
		Install: m.Install, RewriteArgs: m.RewriteArgs, DowngradeArgs: m.DowngradeArgs,
		Profile: m.Profile, Env: m.Env, NoKill: m.NoKill, Activation: m.Activation,
		SuspendBitLocker: m.SuspendBitLocker, Minimum: m.MinimumVersion,
	}
	var err error
	if c.Timeout, err = seconds("timeout_seconds", m.TimeoutSeconds, maxTimeout); err != nil {
		return nil, err
	}
	if m.Probe != nil {
		c.Match.Probe, c.ProbeArgv = m.Name, m.Probe.Argv
		if c.ProbeTimeout, err = seconds("probe.timeout_seconds", m.Probe.TimeoutSeconds, maxProbeTimeout); err != nil {
			return nil, err
		}
		if len(m.Probe.Argv) == 0 {
			return nil, bad("probe.argv", errors.New("empty"), "give the program that prints the version")
		}
	}
	if err := m.checkFiles(); err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if f.Executable {
			c.Executable = append(c.Executable, f.Name)
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(c.Install) > 0 {
		if program, ok := strings.CutPrefix(c.Install[0], "./"); ok &&
			!slices.ContainsFunc(m.Files, func(f manifestFile) bool { return f.Name == program }) {
			return nil, bad("install[0]", fmt.Errorf("%q is not one of the files", program), "add it to files")
		}
	}
	return c, nil
}

func seconds(field string, n int64, limit time.Duration) (time.Duration, error) {
	if n < 0 || n > int64(limit/time.Second) {
		return 0, bad(field, fmt.Errorf("%d is not between 0 and %d", n, int64(limit/time.Second)), "")
	}
	return time.Duration(n) * time.Second, nil
}

func (m *manifest) checkFiles() error {
	if len(m.Files) > maxFiles {
		return bad("files", fmt.Errorf("%d files are more than %d", len(m.Files), maxFiles), "pack them into an archive")
	}
	seen := map[string]bool{}
	for i, f := range m.Files {
		field := fmt.Sprintf("files[%d].", i)
		if !validFileName(f.Name) {
			return bad(field+"name", fmt.Errorf("%.200q", f.Name), "want a clean relative path with forward slashes, below the directory of "+ManifestName)
		}
		// The target's file system may not tell cases apart.
		key := strings.ToLower(f.Name)
		if seen[key] {
			return bad(field+"name", fmt.Errorf("%q is given twice", f.Name), "")
		}
		seen[key] = true
		if why := notOnWindows(f.Name); why != "" && slices.Contains(m.Kinds, "windows") {
			return bad(field+"name", fmt.Errorf("%q: on Windows %s", f.Name, why), "give it another name")
		}
		if _, err := hex.DecodeString(f.SHA256); f.SHA256 != "" && (err != nil || len(f.SHA256) != 64) {
			return bad(field+"sha256", fmt.Errorf("%.80q", f.SHA256), "want 64 hexadecimal digits, as sha256sum prints them")
		}
		if f.Size != nil && *f.Size < 0 {
			return bad(field+"size", fmt.Errorf("%d is negative", *f.Size), "")
		}
	}
	return nil
}

// verify compares the file on disk with its description.
func (f manifestFile) verify(i int, file transport.File) error {
	differs := func(field string, want, got any) error {
		return &Error{Field: fmt.Sprintf("files[%d].%s", i, field), Kind: ErrDigest,
			Err:  fmt.Errorf("%q has %v, described as %v", f.Name, got, want),
			Hint: "fetch the file again, or correct " + ManifestName + " if it is the right one"}
	}
	if f.Size != nil && *f.Size != file.Size {
		return differs("size", *f.Size, file.Size)
	}
	if f.SHA256 != "" && !strings.EqualFold(f.SHA256, file.Digest()) {
		return differs("sha256", strings.ToLower(f.SHA256), file.Digest())
	}
	return nil
}
