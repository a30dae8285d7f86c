package agentless

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// TestLeaseEnds: what nobody asks for any more goes, but not while a job runs.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := l.start(2 * time.Second)
	gate := filepath.Join(t.TempDir(), "gate")
	job := l.job(a, "while ! [ -e "+gate+" ]; do sleep 0.1; done")
	_, err := a.Install(t.Context(), job)
	require.NoError(t, err)
	require.NoError(t, a.Close(t.Context()))
	again := l.start(2 * time.Second) // another manager finds it by its place
	st, err := again.Status(t.Context(), job.ID, 0)
	require.NoError(t, err)
	require.Equal(t, agent.Running, st.State)
	require.NoError(t, again.Close(t.Context()))
	require.Never(t, func() bool { _, err := os.Stat(l.base + "/lab/agentless"); return err != nil }, 5*time.Second, 100*time.Millisecond)
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	require.Eventually(t, func() bool { _, err := os.Stat(l.base + "/lab/agentless"); return err != nil }, time.Minute, 100*time.Millisecond)
	l.onlyLogs()

	// Whoever comes back has the result, and does not run the job again.
	late := l.start(time.Minute)
	for range 2 {
		st, err = late.Status(t.Context(), job.ID, 0)
		require.NoError(t, err)
		require.Equal(t, agent.Done, st.State)
		require.Equal(t, &transport.Exit{}, st.Exit)
		require.Equal(t, transport.VerdictApplied, st.Result.Verdict)
		jobs, err := late.Jobs(t.Context())
		require.NoError(t, err)
		require.Len(t, jobs, 1)
		_, err = late.Install(t.Context(), job)
		require.NoError(t, err)
		_, err = late.Cancel(t.Context(), job.ID)
		require.NoError(t, err)
	}
	_, err = late.Remove(t.Context())
	require.NoError(t, err)
	l.onlyLogs()
}

// TestJanitorComesLate: a janitor that begins when the directory has been cleared
// leaves nothing in it, nor does a call that renews the lease then.
func TestJanitorComesLate(t *testing.T) {
	realtest.Need(t, "setsid")
	for name, script := range map[string]string{
		"janitor": janitorScript,
		// The marker is seen, and goes while the script is at what comes next.
		"beat": functions + "D=$1\ndate() { rm -f \"$D/agentless\"; }\n: >\"$D/agentless\"\nbeat\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "lab")
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "jobs"), 0o700))
			out, err := exec.Command("sh", "-c", compact(script), "sh", dir).CombinedOutput()
			t.Log(string(out), err)
			_, err = os.Stat(dir)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// TestNoRecords: a directory that is new says so of a job that it does not know; one
// that somebody comes back to has never had it.
func TestNoRecords(t *testing.T) {
	l := newLab(t)
	a := l.start(0)
	_, err := a.Status(t.Context(), channel.NewJobID(), 0)
	require.ErrorIs(t, err, agent.ErrNoRecords)
	require.ErrorIs(t, err, agent.ErrNoJob)
	_, err = l.start(0).Status(t.Context(), channel.NewJobID(), 0)
	require.ErrorIs(t, err, agent.ErrNoJob)
	require.NotErrorIs(t, err, agent.ErrNoRecords)
}

// TestBeatWithoutRoom: each call is told from the one before also where nothing can
// be written.
func TestBeatWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "agentless"), []byte("900\n"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "beat"), 0o700)) // in the place of a full disk
	var seen []bool
	for range 4 {
		out, err := exec.Command("sh", "-c", compact(beatScript), "sh", dir).CombinedOutput()
		require.NoError(t, err)
		require.Empty(t, string(out))
		_, err = os.Stat(filepath.Join(dir, "pulse"))
		seen = append(seen, err == nil)
	}
	require.Equal(t, []bool{true, false, true, false}, seen)
}

// TestUnsafeDirectories: no program is run from where others can put theirs.
func TestUnsafeDirectories(t *testing.T) {
	l := newLab(t)
	start := func() error {
		_, err := (&Installer{}).Start(t.Context(), l.conn, agent.StartOptions{Target: "here", ID: "lab", BaseDirs: []string{l.base}})
		return err
	}
	require.NoError(t, os.MkdirAll(l.base+"/lab", 0o755))
	require.ErrorIs(t, start(), agent.ErrNoDir)
	require.NoError(t, os.Remove(l.base+"/lab"))
	require.NoError(t, os.Symlink(t.TempDir(), l.base+"/lab"))
	require.ErrorIs(t, start(), agent.ErrNoDir)
	require.NoError(t, os.Remove(l.base+"/lab"))
	require.NoError(t, os.Chmod(l.base, 0o777))
	require.ErrorIs(t, start(), agent.ErrNoDir)
	_, err := (&Installer{}).Sweep(t.Context(), l.conn, agent.Place{ID: "x", Dir: "/etc"})
	require.ErrorIs(t, err, transport.ErrInvalid)
}

// What is damaged of one job hides no other.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var log bytes.Buffer
	a, err := (&Installer{Logger: slog.New(slog.NewTextHandler(&log, nil))}).Start(t.Context(), l.conn, agent.StartOptions{Target: "here", ID: "lab", BaseDirs: []string{l.base}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close(context.Background())) })
	var want []string
	for range 3 {
		job := l.job(a, "exit 0")
		_, err := a.Install(t.Context(), job)
		require.NoError(t, err)
		l.end(a, job.ID)
		want = append(want, job.ID)
	}
	jobs := filepath.Join(l.base, "lab/jobs")
	// One that is known by its record alone, among those that cannot be read.
	require.NoError(t, os.RemoveAll(filepath.Join(jobs, want[1])))
	for i, content := range []string{"", "\n", "{", "{}\n", "record\nid x\n\n", strings.Repeat("x", 1<<20), `{"id":"` + strings.Repeat("5", 32) + `","state":"asleep"}` + "\n"} {
		for _, digit := range []string{"0", "f"} { // before and after the good ones
			require.NoError(t, os.WriteFile(filepath.Join(jobs, strings.Repeat(digit, 31)+fmt.Sprint(i)+".json"), []byte(content), 0o600))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(jobs, want[2], "run"), []byte("nonsense\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(jobs, want[2], "exit"), []byte("nonsense\n"), 0o600))
	got, err := a.Jobs(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, st := range got {
		ids = append(ids, st.ID)
	}
	require.ElementsMatch(t, want[:2], ids)
	require.Equal(t, 15, strings.Count(log.String(), "level=WARN"), "%s", &log)
}

// TestSweepTemp: what a killed manager left goes, what a live one has stays; also where
// another process has its number, or had it in an earlier boot.
func TestSweepTemp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	name := func(process string) string { return filepath.Join(os.TempDir(), tempPrefix+process+"-1") }
	me := agent.ProcessName()
	pid, rest, _ := strings.Cut(me, ".")
	_, boot, _ := strings.Cut(rest, ".")
	gone := []string{name(fmt.Sprint(dead.Process.Pid, ".1.", boot)), name(pid + ".1." + boot), name(strings.TrimSuffix(me, boot) + "another-boot"), name(fmt.Sprint(dead.Process.Pid, ".."))}
	stay := []string{name(me), name(pid + ".."), os.TempDir() + "/" + tempPrefix + "x", name("x")}
	for _, dir := range append(gone, stay...) {
		require.NoError(t, os.MkdirAll(dir+"/sys", 0o700))
	}
	sweepTemp()
	for _, dir := range gone {
		require.NoDirExists(t, dir)
	}
	for _, dir := range stay {
		require.DirExists(t, dir)
	}
}
