package agent

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/stretchr/testify/require"
)

// hostFile puts a file into a base directory as a holder would.
func hostFile(t *testing.T, base string, p process, boot, content string) string {
	t.Helper()
	name := filepath.Join(base, HostLockPrefix+strings.Join([]string{channel.NewJobID(), strconv.Itoa(p.PID), p.Start, boot}, "."))
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}

func TestHostHolders(t *testing.T) {
	dead := process{os.Getpid(), "1"} // another process had the number
	me := thisProcess()
	leader := exec.Command("sh", "-c", "sleep 600 >/dev/null & echo; exec sleep 600")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := leader.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, leader.Start())
	_, err = out.Read(make([]byte, 1)) // now its child is there
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(-leader.Process.Pid, syscall.SIGKILL) })
	led := process{leader.Process.Pid, processStart(leader.Process.Pid)}
	require.NoError(t, leader.Process.Kill())
	_ = leader.Wait()

	used := exec.Command("sleep", "600") // leads a group, too
	used.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, used.Start())
	t.Cleanup(func() { _ = used.Process.Kill(); _ = used.Wait() })
	again := process{used.Process.Pid, "1"}

	for name, x := range map[string]struct {
		p       process
		boot    string
		content string
		lock    bool // by another process
		want    bool
	}{
		"alive":                        {me, bootID(), "{\"component\":\"c\"}\nheld\n", false, true},
		"alive, nothing written yet":   {me, bootID(), "", false, true},
		"alive, in the middle":         {me, bootID(), "{\"compo", false, true},
		"after a reboot":               {me, "another", "{}\nheld\n", false, false},
		"after a reboot, with program": {me, "another", "{}\nheld\nprogram " + strconv.Itoa(me.PID) + " " + me.Start + "\n", false, false},
		"dead":                         {dead, bootID(), "{}\nheld\n", false, false},
		"dead, nothing written":        {dead, bootID(), "", false, false},
		"dead, and its program lives":  {dead, bootID(), "{}\nheld\nprogram " + strconv.Itoa(me.PID) + " " + me.Start + "\n", false, true},
		"dead, and its program":        {dead, bootID(), "{}\nheld\nprogram " + strconv.Itoa(me.PID) + " 1\n", true, false},
		"dead, unrecorded program":     {dead, bootID(), "{}\nheld\n", true, true},
		"dead, and its group lives":    {led, bootID(), "{}\nheld group\n", false, true},
		"dead, its number used again":  {again, bootID(), "{}\nheld group\n", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			file := hostFile(t, base, x.p, x.boot, x.content)
			if x.lock {
				f, err := os.Open(file)
				require.NoError(t, err)
				defer f.Close()
				require.NoError(t, holdOutput(f))
			}
			jobs, err := hostJobs([]string{base}, "")
			require.NoError(t, err)
			if x.want {
				require.Len(t, jobs, 1)
				require.FileExists(t, file)
				return
			}
			require.Empty(t, jobs)
			require.NoFileExists(t, file, "it is swept")
		})
	}
}

// What only looks like a file of ours is left alone, and keeps nobody out.
// TestHostFileOfAnotherUser: in a directory where others may write nobody else holds
// the host, or keeps anybody from it.
func TestHostFileOfAnotherUser(t *testing.T) {
	realtest.NeedRoot(t)
	base := t.TempDir()
	file := hostFile(t, base, thisProcess(), bootID(), "{}\nheld\n")
	require.NoError(t, os.Chown(file, 65534, 65534))
	jobs, err := hostJobs([]string{base}, "")
	require.NoError(t, err)
	require.Empty(t, jobs)
	require.FileExists(t, file, "it is not ours")
}

func TestHostLockNames(t *testing.T) {
	base := t.TempDir()
	id := channel.NewJobID()
	for _, name := range []string{
		HostLockPrefix, HostLockPrefix + "x", HostLockPrefix + id, HostLockPrefix + id + ".1", HostLockPrefix + id + ".0.1.b",
		HostLockPrefix + id + ".-1.1.b", HostLockPrefix + id + ".1..b", HostLockPrefix + id + ".1.1.b.c", HostLockPrefix + id + ".1.1.b.", HostLockPrefix + id + ".1.1.b.1.1", "roundsman-job-" + id + ".1.1.b",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(base, name), nil, 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(base, HostLockPrefix+id+".1.1."+bootID()), 0o700))
	victim := filepath.Join(base, "victim")
	require.NoError(t, os.WriteFile(victim, nil, 0o600))
	require.NoError(t, os.Symlink(victim, filepath.Join(base, HostLockPrefix+id+".2.1."+bootID())))
	before, err := os.ReadDir(base)
	require.NoError(t, err)
	jobs, err := hostJobs([]string{base}, "")
	require.NoError(t, err)
	require.Empty(t, jobs)
	after, err := os.ReadDir(base)
	require.NoError(t, err)
	require.Len(t, after, len(before))
}

// Two that come at the same time do not both withdraw, nor both begin.
func TestHostTieIsBroken(t *testing.T) {
	base := t.TempDir()
	h := home(filepath.Join(base, "agent"))
	rec := record{ID: strings.Repeat("5", 32), Component: "mine"}
	// One that sorts later, and has not begun, is waited for; it withdraws.
	other := filepath.Join(base, HostLockPrefix+strings.Repeat("9", 32)+"."+strconv.Itoa(os.Getpid())+"."+thisProcess().Start+"."+bootID())
	require.NoError(t, os.WriteFile(other, []byte("{}\n"), 0o600))
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		for {
			if own, _ := filepath.Glob(filepath.Join(base, HostLockPrefix+rec.ID+".*")); len(own) == 1 {
				break
			}
		}
		_ = os.Remove(other)
	}()
	lock, by, err := h.takeHost(rec)
	<-waited
	require.NoError(t, err)
	require.Nil(t, by)
	require.NoError(t, lock.release())
	require.NoError(t, lock.release(), "twice is no error")

	// One that sorts before is given way to at once.
	first := hostFile(t, base, thisProcess(), bootID(), "")
	require.NoError(t, os.Rename(first, filepath.Join(base, HostLockPrefix+strings.Repeat("1", 32)+first[strings.Index(first, "."+strconv.Itoa(os.Getpid())+"."):])))
	lock, by, err = h.takeHost(rec)
	require.NoError(t, err)
	require.Nil(t, lock)
	require.NotNil(t, by)
	own, err := filepath.Glob(filepath.Join(base, HostLockPrefix+rec.ID+".*"))
	require.NoError(t, err)
	require.Empty(t, own)
}

func FuzzParseHostLock(f *testing.F) {
	id := strings.Repeat("0f", 16)
	for _, s := range []string{"", "x", id, id + ".1.2.b", id + ".1.2.b.3", id + ".-1.2.b", id + ".+1.2.b", id + ".1.2.", id + ".1.new.new", id + ".1..b", id + ".1.2.b.", id + ".1.2.b.new", id + ".1.2.b.3.4", id + ".99999999999999999999.2.b"} {
		f.Add(HostLockPrefix + s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		by, ok := parseHostLock(name)
		if !ok {
			return
		}
		require.Greater(t, by.PID, 0)
		require.NotEmpty(t, by.Start)
		require.NotEmpty(t, by.boot)
		parts := strings.Split(strings.TrimPrefix(name, HostLockPrefix), ".")
		require.True(t, channel.ValidJobID(parts[0]))
		require.Equal(t, parts[2:], append([]string{by.Start, by.boot}, parts[4:]...))
		parts[1] = strconv.Itoa(by.PID)
		again, ok := parseHostLock(HostLockPrefix + strings.Join(parts, "."))
		require.True(t, ok)
		require.Equal(t, by, again)
	})
}

func FuzzReadHostLock(f *testing.F) {
	f.Add([]byte(`{"agent":"a","job":"b","component":"c","version":"1","target":"t","since":"2026-01-02T03:04:05Z"}` + "\nheld\nprogram 7 8\n"))
	f.Add([]byte("{}\nrestart 1700000000 1700000600\nheld\n"))
	f.Add([]byte("{\nrestart x y\nheld group\nprogram 7\nprogram -1 x"))
	f.Add([]byte(`{"component":"\u001b[2J\u202e","target":"\n","restart":"9999-12-31T23:59:59Z"}` + "\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > maxFile { // readHostLock refuses it
			return
		}
		c := parseHostContent(content)
		lines := "\n" + string(content)
		require.Equal(t, strings.Contains(lines, "\nheld\n") || strings.Contains(lines, "\nheld group\n"), c.held)
		require.True(t, c.held || !c.group)
		if c.program != (process{}) {
			require.Contains(t, lines, "\nprogram ")
			require.NotEmpty(t, c.program.Start)
		}
		if c.restart != (restart{}) {
			require.Contains(t, lines, "\nrestart ")
			require.True(t, c.restart.asked > 0 && c.restart.due > 0)
			require.Equal(t, c.restart, parseRestart(c.restart.String()))
		}
		// What others have written goes to logs and terminals.
		for _, r := range c.String() {
			require.True(t, unicode.IsPrint(r), "%q", c.String())
		}
		require.Less(t, len(c.String()), 16<<10)
		// The end of a line that is being written says nothing yet.
		whole := content[:bytes.LastIndexByte(content, '\n')+1]
		less := parseHostContent(whole)
		require.Equal(t, c.held, less.held)
		require.Equal(t, c.program, less.program)
		require.Equal(t, c.restart, less.restart)
		require.Equal(t, c.Component, less.Component)
	})
}
