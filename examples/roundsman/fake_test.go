package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// wire is a connection that only identifies itself.
type wire struct{ name string }

func (w wire) Identify(ctx context.Context) (transport.Identity, error) {
	return transport.Identity{Name: w.name, Serial: "S-" + w.name, OS: "linux"}, ctx.Err()
}
func (w wire) Caps() transport.Caps        { return 0 }
func (w wire) Path() transport.Path        { return transport.Path{} }
func (w wire) Close(context.Context) error { return nil }

func (w wire) Dial(_ context.Context, ep transport.Endpoint) (transport.Conn, error) {
	if strings.HasPrefix(ep.Address, "down") {
		return nil, &transport.Error{Op: "dial", Target: ep.Address, Kind: transport.ErrUnreachable}
	}
	return w, nil
}

// bench runs commands against hosts in memory.
type bench struct {
	t      *testing.T
	dir    string
	fake   *agenttest.Installer
	out    bytes.Buffer
	errs   bytes.Buffer
	events []map[string]any // of the last run with --json
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, dir: t.TempDir(), fake: &agenttest.Installer{Detached: true}}
}

func (b *bench) resolve(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	return wire{t.Address}, transport.Endpoint{Address: t.Address}, nil
}

// run runs a command, with a journal that all commands of the bench share.
func (b *bench) run(ctx context.Context, args ...string) int {
	b.t.Helper()
	b.out.Reset()
	b.errs.Reset()
	a := &app{resolve: b.resolve, installer: b.fake}
	args = append(args, "--journal", filepath.Join(b.dir, "journal"))
	status := a.run(ctx, args, strings.NewReader(""), &b.out, &b.errs, nil)
	b.events = nil
	for line := range strings.Lines(b.out.String()) {
		var e map[string]any
		if strings.HasPrefix(line, "{") {
			require.NoError(b.t, json.Unmarshal([]byte(line), &e), line)
			require.EqualValues(b.t, 1, e["v"], line)
			b.events = append(b.events, e)
		}
	}
	return status
}

// of returns the events of a name.
func (b *bench) of(event string) []map[string]any {
	var out []map[string]any
	for _, e := range b.events {
		if e["event"] == event {
			out = append(out, e)
		}
	}
	return out
}

// component writes a component and returns its directory. The fields replace or
// add to those of a package "hello" 2.10-3; nil takes one away.
func (b *bench) component(fields map[string]any) string {
	b.t.Helper()
	m := map[string]any{
		"name": "hello", "version": "2.10-3", "scheme": "deb", "install": []string{"./install.sh"}, "profile": "deb",
		"package": map[string]string{"source": "dpkg", "name": "hello"},
		"files":   []map[string]any{{"name": "install.sh", "executable": true}},
	}
	for k, v := range fields {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	dir, err := os.MkdirTemp(b.dir, "component")
	require.NoError(b.t, err)
	text, err := json.Marshal(m)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, "component.json"), text, 0o600))
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, "install.sh"), []byte("#!/bin/sh\n"), 0o700))
	return dir
}

// clean checks that nothing was left on the hosts.
func (b *bench) clean() {
	b.t.Helper()
	require.NoError(b.t, b.fake.Check())
}
