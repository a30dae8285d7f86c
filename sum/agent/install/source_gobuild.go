package install

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// AgentPackage is the program that [GoBuild] builds if it is not told another.
const AgentPackage = "github.com/roundsman-go/roundsman/examples/agent"

// GoBuild is a Source that builds the agent with the go command when it is asked
// for one. It needs Go on the manager, and a module that has [AgentPackage]: this
// one, or one that requires it. The same source gives the same bytes on every
// machine with the same Go: the build is static, without paths, and without
// version control information.
//
// Its zero value is ready. It builds each binary once in its life, also for
// concurrent callers, and must not be copied.
type GoBuild struct {
	Dir      string // where go build runs; "" is the current directory
	Package  string // "" is AgentPackage
	Go       string // the go command; "" is "go" as PATH finds it
	CacheDir string // "" is a directory of ours in os.UserCacheDir

	mu     sync.Mutex
	builds map[string]*build
}

// build is one binary; whoever holds turn may make it.
type build struct {
	turn chan struct{}
	file transport.File
	done bool
}

// keepBuilds is how long a binary that nobody asks for stays in the cache.
const keepBuilds = 30 * 24 * time.Hour

// Open implements Source.
func (g *GoBuild) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	key := goos + "-" + goarch
	g.mu.Lock()
	b := g.builds[key]
	if b == nil {
		b = &build{turn: make(chan struct{}, 1)}
		if g.builds == nil {
			g.builds = map[string]*build{}
		}
		g.builds[key] = b
	}
	g.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return transport.File{}, &agent.Error{Op: "binary", Kind: ctx.Err()}
	}
	defer func() { <-b.turn }()
	if b.done {
		return b.file, nil
	}
	f, err := g.build(ctx, goos, goarch)
	if err != nil {
		return transport.File{}, err
	}
	b.file, b.done = f, true
	return f, nil
}

func (g *GoBuild) build(ctx context.Context, goos, goarch string) (transport.File, error) {
	fail := func(err error) (transport.File, error) {
		if cerr := ctx.Err(); cerr != nil {
			return transport.File{}, &agent.Error{Op: "build", Kind: cerr, Err: err}
		}
		return transport.File{}, &agent.Error{Op: "build", Kind: agent.ErrNoBinary, Err: err,
			Hint: "building the agent for " + goos + "/" + goarch + " needs Go and the source of " + g.pkg()}
	}
	dir := g.CacheDir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return fail(err)
		}
		dir = filepath.Join(base, "roundsman", "agents")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fail(err)
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, agent.BinaryName)
	if err := g.run(ctx, goos, goarch, out); err != nil {
		return fail(err)
	}
	f, err := diskBinary(ctx, out)
	if err != nil {
		return fail(err)
	}
	// Named by its content, so that a build never replaces a file that another
	// process is sending.
	final := filepath.Join(dir, fmt.Sprintf("%s-%s-%s-%s", agent.BinaryName, goos, goarch, hex.EncodeToString(f.SHA256[:8])))
	if err := os.Rename(out, final); err != nil {
		return fail(err)
	}
	prune(dir, final)
	return diskBinary(ctx, final)
}

func (g *GoBuild) pkg() string {
	if g.Package != "" {
		return g.Package
	}
	return AgentPackage
}

func (g *GoBuild) run(ctx context.Context, goos, goarch, out string) error {
	name := g.Go
	if name == "" {
		name = "go"
	}
	cmd := exec.CommandContext(ctx, name, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, g.pkg())
	cmd.Dir = g.Dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch,
		// What the manager's own machine is tuned for must not reach the targets.
		"GOAMD64=v1", "GOARM64=v8.0", "GOARM=5", "GO386=sse2", "GOEXPERIMENT=")
	cmd.WaitDelay = transport.CloseGrace
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if msg := bytes.TrimSpace(stderr.Bytes()); len(msg) > 0 {
			err = fmt.Errorf("%w: %s", err, msg[:min(len(msg), 4096)])
		}
		return err
	}
	return nil
}

// prune deletes what nobody has asked for in a long time.
func prune(dir, keep string) {
	now := time.Now()
	_ = os.Chtimes(keep, now, now)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		fi, err := e.Info()
		if name == keep || errors.Is(err, os.ErrNotExist) || err != nil || now.Sub(fi.ModTime()) < keepBuilds {
			continue
		}
		_ = os.RemoveAll(name)
	}
}
