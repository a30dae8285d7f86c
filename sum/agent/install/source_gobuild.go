package install

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// AgentPackage is the program that [GoBuild] builds if it is not told another.
const AgentPackage = "github.com/roundsman-go/roundsman/examples/agent"

// modulePath is the module that AgentPackage must come from.
const modulePath = "github.com/roundsman-go/roundsman"

// GoBuild is a Source that builds the agent with the go command when it is asked
// for one. It needs Go on the manager, and a module that has [AgentPackage]: this
// one, or one that requires it. The same source gives the same bytes on every
// machine with the same Go: the build is static, without paths, and without
// version control information.
//
// What it builds runs on targets, often as root, so it matters where the source
// comes from. If Dir is in a checkout of this module, that checkout is trusted as
// it is. In any other module, AgentPackage and all it imports must be the modules
// that go.sum and the checksum database vouch for: a replace directive for one of
// them, a workspace and a vendor directory do not count or are refused with
// transport.ErrTrust. Another Package is the caller's word: it is trusted with
// whatever its module says. GOFLAGS and GOWORK of the environment are not used.
//
// Its zero value is ready. It builds each binary once in its life, also for
// concurrent callers, and must not be copied.
type GoBuild struct {
	Dir     string // where go build runs; "" is the current directory
	Package string // "" is AgentPackage
	Go      string // the go command; "" is "go" as PATH finds it
	// CacheDir is where binaries are kept, in "roundsman/agents" below it; "" is
	// os.UserCacheDir. A binary, or what is left of a build, that nobody asked for
	// in 30 days is deleted there, and nothing else.
	CacheDir string

	mu     sync.Mutex
	builds map[string]*build
}

// build is one binary; whoever holds turn may make it.
type build struct {
	turn chan struct{}
	file transport.File
	name string // on disk; "" until it is built
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
	if b.name != "" && touch(b.name) == nil {
		return b.file, nil
	}
	f, name, err := g.build(ctx, goos, goarch)
	if err != nil {
		return transport.File{}, err
	}
	b.file, b.name = f, name
	return f, nil
}

// build returns the binary and its name on disk.
func (g *GoBuild) build(ctx context.Context, goos, goarch string) (transport.File, string, error) {
	fail := func(err error) (transport.File, string, error) {
		if cerr := ctx.Err(); cerr != nil {
			return transport.File{}, "", &agent.Error{Op: "build", Kind: cerr, Err: err}
		}
		if errors.Is(err, transport.ErrTrust) {
			return transport.File{}, "", err
		}
		return transport.File{}, "", &agent.Error{Op: "build", Kind: agent.ErrNoBinary, Err: err,
			Hint: "building the agent for " + goos + "/" + goarch + " needs Go and the source of " + g.pkg()}
	}
	dir := g.CacheDir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return fail(err)
		}
		dir = base
	}
	dir = filepath.Join(dir, "roundsman", "agents")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fail(err)
	}
	tmp, err := os.MkdirTemp(dir, buildPrefix)
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
	_ = touch(final) // an equal one may have been there, but its time is of no use
	prune(dir, final)
	f, err = diskBinary(ctx, final)
	return f, final, err
}

func (g *GoBuild) pkg() string {
	if g.Package != "" {
		return g.Package
	}
	return AgentPackage
}

func (g *GoBuild) run(ctx context.Context, goos, goarch, out string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}
	if g.pkg() == AgentPackage {
		list, err := g.command(ctx, goos, goarch, "list", "-mod=readonly", "-deps", "-json=ImportPath,Module", AgentPackage)
		if err != nil {
			return err
		}
		if err := checkModules(list); err != nil {
			return err
		}
		args = append(args, "-mod=readonly") // not what a vendor directory holds
	}
	_, err := g.command(ctx, goos, goarch, append(args, g.pkg())...)
	return err
}

// checkModules judges what go list says of AgentPackage and all it imports.
func checkModules(list []byte) error {
	type module struct {
		Path    string
		Main    bool
		Replace *struct{ Path, Version string }
	}
	const hint = "set GoBuild.Dir to a checkout of " + modulePath + " that you trust"
	found, main := false, false
	var replaced []string
	for dec := json.NewDecoder(bytes.NewReader(list)); ; {
		var p struct {
			ImportPath string
			Module     *module
		}
		err := dec.Decode(&p)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		if p.Module == nil {
			continue // the standard library
		}
		if p.ImportPath == AgentPackage {
			found = true
			if p.Module.Path != modulePath {
				return badSource(fmt.Errorf("%s comes from module %s", AgentPackage, p.Module.Path), hint)
			}
			main = p.Module.Main
		}
		if p.Module.Replace != nil {
			replaced = append(replaced, p.Module.Path+" => "+p.Module.Replace.Path)
		} else if p.Module.Main && p.Module.Path != modulePath {
			replaced = append(replaced, p.ImportPath+" of module "+p.Module.Path)
		}
	}
	if !found {
		return fmt.Errorf("go list does not know %s", AgentPackage)
	}
	if len(replaced) > 0 && !main {
		return badSource(fmt.Errorf("the module in the build directory puts other code into the agent: %s", replaced[0]), hint)
	}
	return nil
}

// command runs the go command and returns what it prints.
func (g *GoBuild) command(ctx context.Context, goos, goarch string, args ...string) ([]byte, error) {
	name := g.Go
	if name == "" {
		name = "go"
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = g.Dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch,
		// An empty GOFLAGS would let that of "go env -w" in; this one changes nothing.
		"GOFLAGS=-trimpath", "GOWORK=off",
		// What the manager's own machine is tuned for must not reach the targets.
		"GOAMD64=v1", "GOARM64=v8.0", "GOARM=5", "GO386=sse2", "GOEXPERIMENT=")
	cmd.WaitDelay = transport.CloseGrace
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if msg := bytes.TrimSpace(stderr.Bytes()); len(msg) > 0 {
			err = fmt.Errorf("%w: %s", err, msg[:min(len(msg), 4096)])
		}
		return nil, err
	}
	return stdout.Bytes(), nil
}

const buildPrefix = "roundsman-build-"

var (
	ownBinary = regexp.MustCompile(`^` + agent.BinaryName + `-[a-z0-9]+-[a-z0-9]+-[0-9a-f]{16}$`)
	ownBuild  = regexp.MustCompile(`^` + buildPrefix + `[0-9]+$`)
)

// touch says that a file was asked for.
func touch(name string) error {
	now := time.Now()
	return os.Chtimes(name, now, now)
}

// prune deletes those of our files that nobody has asked for in a long time.
func prune(dir, keep string) {
	now := time.Now()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		fi, err := e.Info()
		if name == keep || err != nil || now.Sub(fi.ModTime()) < keepBuilds {
			continue
		}
		switch {
		case e.Type().IsRegular() && ownBinary.MatchString(e.Name()):
			_ = os.Remove(name)
		case e.IsDir() && ownBuild.MatchString(e.Name()):
			_ = os.RemoveAll(name)
		}
	}
}
