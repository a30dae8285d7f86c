package install_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// built is one agent for all tests. The go command's own cache makes it cheap
// after the first time.
var built builder

// A builder builds into a directory. Copies of the test program, which are killed, use
// that of the test program itself, and what is in it.
type builder struct {
	install.GoBuild
	copied bool
}

func (b *builder) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	if b.copied {
		there, err := filepath.Glob(filepath.Join(b.CacheDir, "roundsman", "agents", agent.BinaryName+"-"+goos+"-"+goarch+"-*"))
		if err == nil && len(there) > 0 {
			return transport.DiskFile(ctx, agent.BinaryName, there[0])
		}
	}
	return b.GoBuild.Open(ctx, goos, goarch)
}

// builtVariable tells copies of the test program the directory of built.
const builtVariable = "INSTALL_TEST_BUILT"

func TestMain(m *testing.M) {
	install.RunAgent() // see TestSelfIsAnAgent
	dir := os.Getenv(builtVariable)
	built.copied = dir != ""
	if !built.copied {
		var err error
		if dir, err = os.MkdirTemp("", "install-test-"); err == nil {
			err = os.Setenv(builtVariable, dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	built.CacheDir = dir
	// Most of these tests wait for agents: more of them than there are processors go on
	// at a time, unless the command line says how many.
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	code := m.Run()
	if !built.copied {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// lab is a target: an SSH server whose commands really run, and a directory in
// which agents may live.
type lab struct {
	t    *testing.T
	srv  *sshtest.Server
	base string
	id   string
}

func newLab(t *testing.T, cfg sshtest.Config) *lab {
	t.Helper()
	cfg.User, cfg.Password = "ops", "secret"
	srv, err := sshtest.NewServer(cfg)
	require.NoError(t, err)
	l := &lab{t: t, srv: srv, base: filepath.Join(t.TempDir(), "base"), id: "m1-db1"}
	t.Cleanup(func() {
		for _, pid := range l.processes() { // of a test that failed
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		require.NoError(t, srv.Close())
	})
	return l
}

// dial opens a connection that the test can watch and break.
func (l *lab) dial() *tap {
	l.t.Helper()
	c, err := l.tryDial()
	require.NoError(l.t, err)
	return c
}

func (l *lab) tryDial() (*tap, error) {
	conn, err := (&ssh.Transport{}).Dial(l.t.Context(), transport.Endpoint{
		Address:     l.srv.Addr(),
		Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("secret")},
		Trust:       transport.Trust{HostKeys: []string{l.srv.AuthorizedHostKey()}},
	})
	if err != nil {
		return nil, err
	}
	l.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &tap{Forward: transport.Forward{Conn: conn}}, nil
}

func (l *lab) opts() agent.StartOptions {
	return agent.StartOptions{Target: "db1", ID: l.id, BaseDirs: []string{l.base}}
}

func (l *lab) dir() string { return filepath.Join(l.base, l.id) }

func (l *lab) place() agent.Place { return agent.Place{ID: l.id, Dir: l.dir()} }

// common is what most tests install with: what it has compressed serves them all.
var common = install.Installer{Source: &built}

func installer() *install.Installer { return &common }

func (l *lab) start(conn transport.Conn) agent.Agent {
	l.t.Helper()
	a, err := installer().Start(l.t.Context(), conn, l.opts())
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

// files returns what is below a directory, without directories.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			rel, err := filepath.Rel(dir, name)
			out = append(out, rel)
			return err
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

// processes returns those whose command line names the lab's directory.
func (l *lab) processes() []int {
	var out []int
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, err := os.ReadFile(name)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && pid != os.Getpid() && bytes.Contains(line, []byte(l.base)) {
			out = append(out, pid)
		}
	}
	return out
}

// requireClean asserts that nothing but logs is left, and nothing runs.
func (l *lab) requireClean() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.processes()) == 0 }, 20*time.Second, 20*time.Millisecond, "processes are left")
	for _, name := range files(l.t, l.base) {
		rel := strings.TrimPrefix(name, l.id+"/")
		id, isJob := strings.CutPrefix(rel, "jobs/")
		id = strings.TrimSuffix(strings.TrimSuffix(id, ".json"), ".log")
		require.True(l.t, rel == agent.LogName || isJob && channel.ValidJobID(id), "left behind: %s", name)
	}
}

// requireNothing asserts that not even the base directory is left.
func (l *lab) requireNothing() {
	l.t.Helper()
	l.requireClean()
	require.NoDirExists(l.t, l.base)
}

// tap watches the calls of a connection, and can break it.
var _ interface {
	transport.FileStore
	transport.Runner
} = (*tap)(nil)

type tap struct {
	transport.Forward
	mu    sync.Mutex
	calls []string // "put roundsman-agent", "run version", ...
	dead  bool

	cutAt    int  // break the connection at this call, counted from 1
	cutAfter bool // the call is carried out first
	// hook, if set, may answer a call instead.
	hook func(op string) error
}

func (c *tap) lost(op string) error {
	return &transport.Error{Op: op, Kind: transport.ErrConnLost}
}

func tapped[T any](c *tap, op string, f func() (T, error)) (T, error) {
	var zero T
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return zero, c.lost(op)
	}
	c.calls = append(c.calls, op)
	cut := len(c.calls) == c.cutAt
	c.dead = cut
	c.mu.Unlock()
	if cut && !c.cutAfter {
		_ = c.Conn.Close(context.Background())
		return zero, c.lost(op)
	}
	if c.hook != nil {
		if err := c.hook(op); err != nil {
			return zero, err
		}
	}
	v, err := f()
	if cut {
		_ = c.Conn.Close(context.Background())
		return zero, c.lost(op)
	}
	return v, err
}

func (c *tap) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, call := range c.calls {
		if strings.HasPrefix(call, op) {
			n++
		}
	}
	return n
}

func (c *tap) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	return tapped(c, "stat "+name, func() (transport.FileInfo, error) { return c.Forward.Stat(ctx, name) })
}

func (c *tap) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	return tapped(c, "list "+dir, func() ([]transport.FileInfo, error) { return c.Forward.List(ctx, dir) })
}

func (c *tap) Mkdir(ctx context.Context, dir string, perm fs.FileMode) error {
	_, err := tapped(c, "mkdir "+dir, func() (struct{}, error) { return struct{}{}, c.Forward.Mkdir(ctx, dir, perm) })
	return err
}

func (c *tap) Put(ctx context.Context, name string, f transport.File, opts transport.PutOptions) (transport.PutResult, error) {
	return tapped(c, "put "+filepath.Base(name), func() (transport.PutResult, error) { return c.Forward.Put(ctx, name, f, opts) })
}

func (c *tap) Get(ctx context.Context, name string, w io.Writer, opts transport.GetOptions) (int64, error) {
	return tapped(c, "get "+filepath.Base(name), func() (int64, error) { return c.Forward.Get(ctx, name, w, opts) })
}

func (c *tap) Remove(ctx context.Context, name string) error {
	_, err := tapped(c, "remove "+name, func() (struct{}, error) { return struct{}{}, c.Forward.Remove(ctx, name) })
	return err
}

func (c *tap) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	op := "run " + filepath.Base(cmd.Argv[0])
	if len(cmd.Argv) > 1 {
		op = "run " + cmd.Argv[1]
	}
	return tapped(c, op, func() (transport.Exit, error) { return c.Forward.Run(ctx, cmd) })
}

// script is a job whose program counts how often it ran.
func script(t *testing.T, a agent.Ops, body string) agent.Job {
	t.Helper()
	f := transport.BytesFile("install.sh", []byte("#!/bin/sh\n"+body))
	_, err := a.Stage(t.Context(), f, nil)
	require.NoError(t, err)
	return agent.Job{
		ID: channel.NewJobID(), Component: "hello", Version: "1", Profile: agent.ProfileZeroOK,
		Files: []agent.JobFile{{Name: f.Name, SHA256: f.Digest(), Size: f.Size, Executable: true}},
		Argv:  []string{"./install.sh"},
	}
}

// finish waits for the end of a job and returns its log.
func finish(t *testing.T, a agent.Ops, id string) (agent.Status, string) {
	t.Helper()
	var log bytes.Buffer
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s, err := a.Status(t.Context(), id, int64(log.Len()))
		require.NoError(t, err)
		log.Write(s.Log)
		if s.State.Final() && len(s.Log) == 0 {
			return s, log.String()
		}
	}
	t.Fatal("the job did not end")
	return agent.Status{}, ""
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
