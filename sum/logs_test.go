package sum_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

const (
	base   = "/var/lib/roundsman"
	agent1 = "0011223344556677"
	agent2 = "8899aabbccddeeff"
	job1   = "0123456789abcdef0123456789abcdef"
)

// logLab is a server with what two agents left, of which one still runs.
func logLab(t *testing.T) (*lab, map[string]string) {
	t.Helper()
	l := newLab(t, server)
	kept := map[string]string{
		agent1 + "/agent.log":              "first\n",
		agent1 + "/jobs/" + job1 + ".log":  strings.Repeat("unpacking\n", 50_000),
		agent1 + "/jobs/" + job1 + ".json": `{"state":"done"}`,
		agent2 + "/agent.log":              "second\n",
	}
	at := l.at[l.targets[0].Name]
	for name, content := range kept {
		require.NoError(t, at.WriteFile(base+"/"+name, []byte(content)))
	}
	for _, name := range []string{
		// What is no log.
		agent2 + "/agent", agent2 + "/lock", agent2 + "/ready", agent2 + "/blobs/" + strings.Repeat("0", 64), agent2 + "/jobs/" + job1 + "/secret",
		agent1 + "/.agent.log", agent1 + "/agent.log.1", agent1 + "/jobs/agent.log", agent1 + "/jobs/" + job1 + ".log.gz",
		agent1 + "/jobs/..log", agent1 + "/jobs/" + strings.ToUpper(job1) + ".log", agent1 + "/jobs/a\nb.log", agent1 + `/jobs/..\..\x.log`,
		// What is no agent's directory.
		"README/agent", "a b/agent.log", "-rf/agent.log", ".hidden/agent.log", "a\nb/agent.log", `..\..\x/agent.log`, "$(reboot)/agent.log",
	} {
		require.NoError(t, at.WriteFile(base+"/"+name, []byte("not for the manager")))
	}
	return l, kept
}

// openAt starts a session that looks for agents in base alone.
func (l *lab) openAt() *sum.Session {
	l.t.Helper()
	s, err := sum.Open(l.t.Context(), sum.Config{Resolve: l.resolve, Journal: l.journal, Installer: l.agents, BaseDirs: []string{base, "/missing"}})
	require.NoError(l.t, err)
	return s
}

// tree returns the files below a directory with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	}))
	return out
}

func TestLogs(t *testing.T) {
	l, kept := logLab(t)
	s := l.openAt()
	n := l.nodes(s)[0]
	dir := filepath.Join(t.TempDir(), "new", "logs")
	for range 2 { // a second time overwrites
		files, err := sum.Logs(t.Context(), n, dir)
		require.NoError(t, err)
		want := map[string]string{}
		for name, content := range kept {
			id, _, _ := strings.Cut(name, "/")
			want[n.Target().Name+"/"+id+"/"+filepath.Base(name)] = content
		}
		require.Equal(t, want, tree(t, dir))
		var paths []string
		for name := range want {
			paths = append(paths, filepath.Join(dir, filepath.FromSlash(name)))
		}
		slices.Sort(paths)
		slices.Sort(files)
		require.Equal(t, paths, files)
		if runtime.GOOS != "windows" {
			for _, f := range files {
				info, err := os.Stat(f)
				require.NoError(t, err)
				require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
			}
		}
	}
	require.Zero(t, l.agents.Open(), "no agent is started for it")
	require.Empty(t, l.agents.Host(n.Target().Name).JobSpecs())
	l.clean(s)
}

// TestLogsUsualPlaces has no Config.BaseDirs: the target is asked who the user is.
func TestLogsUsualPlaces(t *testing.T) {
	l, kept := logLab(t)
	at := l.at[l.targets[0].Name]
	at.OnRun(transporttest.Argv("/bin/sh", "-c", "*"), func(_ context.Context, p *transporttest.Process) transport.Exit {
		_, err := p.Stdout.Write([]byte("os=Linux\nmachine=x86_64\nuid=0\nhome=/root\n"))
		require.NoError(t, err)
		return transport.Exit{}
	})
	s := l.open()
	files, err := sum.Logs(t.Context(), l.nodes(s)[0], t.TempDir())
	require.NoError(t, err)
	require.Len(t, files, len(kept))
	l.clean(s)
}

func TestLogsNothing(t *testing.T) {
	l := newLab(t, server)
	s := l.openAt()
	files, err := sum.Logs(t.Context(), l.nodes(s)[0], t.TempDir())
	require.NoError(t, err)
	require.Empty(t, files)
	l.clean(s)
}

// TestLogsLineLost breaks the line in the middle of a file.
func TestLogsLineLost(t *testing.T) {
	l, kept := logLab(t)
	s := l.openAt()
	hit := l.at[l.targets[0].Name].Inject(transporttest.Fault{Op: "get", After: 100_000, Do: transporttest.Cut})
	dir := t.TempDir()
	files, err := sum.Logs(t.Context(), l.nodes(s)[0], dir)
	require.NoError(t, err)
	require.Equal(t, 1, hit.Hits())
	require.Len(t, files, len(kept), "each once")
	require.Equal(t, kept[agent1+"/jobs/"+job1+".log"], tree(t, dir)[l.targets[0].Name+"/"+agent1+"/"+job1+".log"])
	l.clean(s)
}

// liar is a connection to a target that lists names which lead elsewhere.
type liar struct {
	transport.Forward
	names []string
}

func (c *liar) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	list, err := c.Forward.List(ctx, dir)
	for _, name := range c.names {
		for _, mode := range []fs.FileMode{fs.ModeDir | 0o755, 0o644} {
			list = append(list, transport.FileInfo{Name: name, Native: dir + "/" + name, Size: 7, Mode: mode})
		}
	}
	return list, err
}

type lying struct {
	transport.Transport
	names []string
}

func (t lying) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := t.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return &liar{transport.Forward{Conn: conn}, t.names}, nil
}

// TestLogsHostileTarget: names that a target makes up, and a target's own name,
// write nowhere but below the directory, and keep nothing else from coming.
func TestLogsHostileTarget(t *testing.T) {
	l, kept := logLab(t)
	l.decorate = func(tr transport.Transport) transport.Transport {
		return lying{tr, []string{"", ".", "..", "../..", "/etc/passwd", "../../../../tmp/x", "a/b", `..\x`, "x\x00y", "../" + job1 + ".log", "/" + job1 + ".json"}}
	}
	hostile := l.targets[0]
	hostile.Name = "../../outside/../.."
	l.at[hostile.Name] = l.at[l.targets[0].Name]
	s := l.openAt()
	n, err := s.Node(hostile)
	require.NoError(t, err)
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b", "logs")
	files, err := sum.Logs(t.Context(), n, dir)
	require.NoError(t, err)
	require.Len(t, files, len(kept))
	for name := range tree(t, top) {
		require.Regexp(t, `^a/b/logs/[^/.][^/]*/[0-9a-f]{16}/[^/]+$`, name)
	}
	require.NoError(t, s.Close(t.Context()))
}

// TestLogsLinkInTheWay: a link that somebody put where a log goes is not
// followed out of the directory.
func TestLogsLinkInTheWay(t *testing.T) {
	l, _ := logLab(t)
	s := l.openAt()
	n := l.nodes(s)[0]
	top := t.TempDir()
	victim := filepath.Join(top, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
	into := filepath.Join(top, "logs", n.Target().Name, agent1)
	require.NoError(t, os.MkdirAll(into, 0o700))
	if err := os.Symlink(victim, filepath.Join(into, "agent.log")); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	_, err := sum.Logs(t.Context(), n, filepath.Join(top, "logs"))
	require.Error(t, err)
	var e *sum.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "logs", e.Step)
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.True(t, bytes.Equal([]byte("precious"), b))
	l.clean(s)
}

// TestLogsCancelled returns when its context ends, with the context's error.
func TestLogsCancelled(t *testing.T) {
	l, _ := logLab(t)
	s := l.openAt()
	stalled := l.at[l.targets[0].Name].Inject(transporttest.Fault{Op: "get", After: 1000, Do: transporttest.Stall})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-stalled.Hit()
		cancel()
	}()
	_, err := sum.Logs(ctx, l.nodes(s)[0], t.TempDir())
	require.ErrorIs(t, err, context.Canceled)
	stalled.Release()
	l.clean(s)
}

// TestLogsOfADevice: who has no files says so.
func TestLogsOfADevice(t *testing.T) {
	l := newLab(t, push)
	s := l.openAt()
	_, err := sum.Logs(t.Context(), l.nodes(s)[0], t.TempDir())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	var e *sum.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, l.targets[0].Name, e.Target)
	l.clean(s)
}

// TestLogsLongName: a file system takes 255 bytes.
func TestLogsLongName(t *testing.T) {
	l, kept := logLab(t)
	long := l.targets[0]
	long.Name = strings.Repeat("東京データセンター", 20)
	l.at[long.Name] = l.at[l.targets[0].Name]
	other := long
	other.Name += "二"
	l.at[other.Name] = l.at[l.targets[0].Name]
	dir := t.TempDir()
	for _, target := range []sum.Target{long, other} {
		s := l.openAt()
		n, err := s.Node(target)
		require.NoError(t, err)
		_, err = sum.Logs(t.Context(), n, dir)
		require.NoError(t, err)
		require.NoError(t, s.Close(t.Context()))
	}
	require.Len(t, tree(t, dir), 2*len(kept), "each target has a directory of its own")
}
