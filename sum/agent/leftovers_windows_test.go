package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows/svc/mgr"
)

// age makes everything in the directory as old as if nobody had been there for hours.
func (h *winHost) age() {
	h.t.Helper()
	at := time.Now().Add(-2 * time.Hour)
	for _, f := range h.files() {
		name := h.home.path(filepath.FromSlash(f))
		require.NoError(h.t, os.Chtimes(name, at, at), name)
	}
	for _, dir := range []string{h.home.blobs(), h.home.jobs()} {
		require.NoError(h.t, os.Chtimes(dir, at, at))
	}
}

func (h *winHost) killAgent() {
	h.t.Helper()
	killed := thisWinProcess(h.t, h.ready.PID)
	require.NoError(h.t, endProcess(h.ready.PID))
	h.await("the end of the agent", func() bool { return !killed.alive() })
}

// TestWindowsReconcile: the service, the program and the directory of an agent that was
// killed, whose manager does not come back, go when another begins. An agent that lives, or
// whose job does, keeps what it has.
func TestWindowsReconcile(t *testing.T) {
	ended, live, busy := newWinHost(t), newWinHost(t), newWinHost(t)
	s := ended.create(ended.agentName(), "serve")
	ended.serve(s)
	ended.killAgent()
	require.NoError(t, s.Close()) // or the entry would stay as long as it is open
	require.NoError(t, ended.create(RemoveServiceName(ended.home.id()), "remove").Close())
	live.serve(live.create(live.agentName(), "serve"))
	busy.serve(busy.create(busy.agentName(), "serve"))
	gate := filepath.Join(tempDir(t), "gate")
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	j, c := busy.command(gate), busy.client()
	_, err := c.Install(t.Context(), j)
	require.NoError(t, err)
	busy.await("the job", func() bool {
		st, err := c.Status(t.Context(), j.ID, 0)
		require.NoError(t, err)
		return strings.Contains(string(st.Log), "begun")
	})
	busy.killAgent()
	require.True(t, ended.exists(ended.agentName()), "its lease is in force")
	for _, h := range []*winHost{ended, live, busy} {
		h.age()
	}

	next := newWinHost(t)
	next.serve(next.create(next.agentName(), "serve"))
	require.Equal(t, []string{string(ended.home)}, next.ready.Swept, next.log())
	require.NoDirExists(t, string(ended.home))
	for _, name := range []string{ended.agentName(), RemoveServiceName(ended.home.id())} {
		ended.await("the end of "+name, func() bool { return !ended.exists(name) })
	}
	for _, h := range []*winHost{live, busy} {
		require.True(t, h.exists(h.agentName()))
		require.FileExists(t, h.home.path(programName))
	}
	_, err = live.client().Jobs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{j.ID}, busy.home.busy())
	require.NoError(t, os.Remove(gate))
	busy.await("the end of the job", func() bool { return len(busy.home.busy()) == 0 })
	rec, err := busy.home.readRecord(j.ID)
	require.NoError(t, err)
	require.Equal(t, Done, rec.State)
}

// TestWindowsServiceWithoutProgram: the entry of a service whose directory is gone goes when
// it is old, and has nothing to do with another directory.
func TestWindowsServiceWithoutProgram(t *testing.T) {
	h := newWinHost(t)
	base := h.home.base()
	const here, there, used = "00000000000000aa", "00000000000000bb", "00000000000000cc"
	for id, dir := range map[string]string{here: filepath.Join(base, here), there: `C:\elsewhere\` + there, used: filepath.Join(base, used)} {
		name := RemoveServiceName(id)
		s, err := h.scm.CreateService(name, filepath.Join(dir, programName), mgr.Config{StartType: mgr.StartManual}, "remove", "-dir", dir, "-service", name)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		t.Cleanup(func() { h.end(name) })
	}
	require.NoError(t, os.Mkdir(filepath.Join(base, used), 0o700))
	t.Cleanup(func() { require.NoError(t, removeAll(filepath.Join(base, used))) })
	require.NoError(t, os.WriteFile(filepath.Join(base, used, programName), nil, 0o700))

	names, err := h.home.forgetOrphans(t.Context(), time.Now().Add(-time.Minute))
	require.NoError(t, err)
	require.Empty(t, names, "they were made just now")
	names, err = h.home.forgetOrphans(t.Context(), time.Now().Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, []string{RemoveServiceName(here)}, names)
	require.False(t, h.exists(RemoveServiceName(here)))
	require.True(t, h.exists(RemoveServiceName(there)))
	require.True(t, h.exists(RemoveServiceName(used)))
}

// TestWindowsProgramPutAside: the program of a shim that a newer manager has put aside, as
// it runs, goes with the next boot as one under the usual name does.
func TestWindowsProgramPutAside(t *testing.T) {
	for _, name := range []string{programName, "." + programName + ".0123456789abcdef.old-ABCDEFGH"} {
		h := home(filepath.Join(tempDir(t), "agent"))
		require.NoError(t, os.Mkdir(string(h), 0o700))
		f, err := os.Create(h.path(name)) // without FILE_SHARE_DELETE
		require.NoError(t, err)
		require.NoError(t, removeAll(h.path(name)))
		require.Contains(t, pending(t), strings.ToLower(h.path(name))+"\n", "what cannot be renamed keeps its name")
		require.NoError(t, f.Close())
	}
	h := home(filepath.Join(tempDir(t), "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	f, err := os.Create(h.path("other.exe"))
	require.NoError(t, err)
	require.Error(t, removeAll(h.path("other.exe")))
	require.NoError(t, f.Close())
}
