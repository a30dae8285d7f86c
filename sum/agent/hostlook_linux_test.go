package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A holder that cannot be looked at because too many files are open is not dead, nor
// is a program.
func TestTooManyFilesToLook(t *testing.T) { // not parallel: the limit is the process's
	s := testService(t)
	lock, by, err := s.home.takeHost(record{ID: channel.NewJobID()})
	require.NoError(t, err)
	require.Nil(t, by)
	me, boot := thisProcess(), bootID()
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var open []*os.File
	full := func() {
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(entries) + 50), Max: old.Max}))
		for {
			f, err := os.Open(os.DevNull)
			if err != nil {
				require.ErrorIs(t, err, unix.EMFILE)
				return
			}
			open = append(open, f)
		}
	}
	enough := func() {
		for _, f := range open {
			f.Close()
		}
		open = nil
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	}
	defer enough()
	full()
	alive, sure, held, program := me.alive(), me.sure(), fileHeld(lock.name), record{State: Running, BootID: boot, Program: me}.programAlive()
	_, looked := hostJobs(s.home.bases(), "")
	_, _, taken := s.home.takeHost(record{ID: channel.NewJobID()})
	enough()
	require.True(t, alive)
	require.False(t, sure, "it gets no signal")
	require.True(t, held)
	require.True(t, program)
	require.Error(t, looked)
	require.Error(t, taken)
	require.FileExists(t, lock.name)
	require.NoError(t, lock.release())
}

const hiddenVariable = "ROUNDSMAN_HIDDEN_PROCESS"

// Nor is one that is hidden from this user.
func TestHiddenProcess(t *testing.T) {
	if pid, err := strconv.Atoi(os.Getenv(hiddenVariable)); err == nil {
		_, err := os.Stat("/proc/" + strconv.Itoa(pid))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.True(t, process{pid, "1"}.alive())
		require.False(t, process{pid, "1"}.sure())
		require.False(t, process{1 << 22, "1"}.alive())
		return
	}
	realtest.NeedRoot(t)
	self := filepath.Join(t.TempDir(), "test")
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, copyFile(self, exe, 0o755, discard{}))
	for dir := filepath.Dir(self); dir != os.TempDir(); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	cmd := exec.Command(realtest.Need(t, "unshare"), "--mount", "--propagation", "private", "sh", "-ec",
		`mount -t proc -o hidepid=2 proc /proc; exec "$@"`, "sh", realtest.Need(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups",
		self, "-test.run=^TestHiddenProcess$", "-test.v")
	cmd.Env = append(os.Environ(), hiddenVariable+"="+strconv.Itoa(os.Getpid()), "TMPDIR="+os.TempDir())
	cmd.Dir = "/"
	runtime.LockOSThread() // see prctl(2), PR_SET_PDEATHSIG
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestHiddenProcess")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Of a process of another PID namespace only the lock tells whether it lives.
func TestHolderInAnotherNamespace(t *testing.T) {
	t.Parallel()
	require.Regexp(t, `^\d+$`, pidNamespace())
	for what, x := range map[string]struct {
		content      string
		locked, want bool
	}{
		"locked":     {"{}\nheld\n", true, true},
		"not locked": {"{}\nheld\n", false, false},
		"program":    {"{}\nheld\nprogram " + strconv.Itoa(os.Getpid()) + " " + thisProcess().Start + "\n", false, false},
		"no lock":    {"{}\nheld group\n", false, true},
	} {
		t.Run(what, func(t *testing.T) {
			base := t.TempDir()
			me := thisProcess()
			file := filepath.Join(base, HostLockPrefix+strings.Join([]string{channel.NewJobID(), strconv.Itoa(me.PID), me.Start, bootID(), "1"}, "."))
			require.NoError(t, os.WriteFile(file, []byte(x.content), 0o600))
			if x.locked {
				f, err := os.Open(file)
				require.NoError(t, err)
				defer f.Close()
				require.NoError(t, holdOutput(f))
			}
			jobs, err := hostJobs([]string{base}, "")
			require.NoError(t, err)
			require.Equal(t, x.want, len(jobs) == 1)
			_, err = os.Lstat(file)
			require.Equal(t, x.want, err == nil)
		})
	}
	// A restart that a container asked for is not this host's.
	base := t.TempDir()
	r := restart{time.Now().Unix(), time.Now().Add(time.Hour).Unix()}
	file := filepath.Join(base, HostLockPrefix+strings.Join([]string{channel.NewJobID(), "1", processStart(1), bootID(), "1"}, "."))
	require.NoError(t, os.WriteFile(file, []byte("{}\n"+r.String()+"\nheld\n"), 0o600))
	jobs, err := hostJobs([]string{base}, "")
	require.NoError(t, err)
	require.Empty(t, jobs)
	require.FileExists(t, file)
}

func TestBasesOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, c, link := dir+"/a", dir+"/b", dir+"/c", dir+"/link"
	require.NoError(t, os.Mkdir(a, 0o700))
	require.NoError(t, os.Mkdir(c, 0o700))
	require.NoError(t, os.Symlink(a, link))
	defaults := []string{a, b}
	require.Equal(t, []string{a, b}, basesOf(a, defaults))
	require.Equal(t, []string{b, a}, basesOf(b, defaults), "it need not be there")
	require.Equal(t, []string{link, b}, basesOf(link, defaults), "by another name")
	require.Equal(t, []string{c}, basesOf(c, defaults))
}

// Of jobs that come at the same time in different base directories, one at most holds
// the host; and no directory but one's own is written to.
func TestHostInDifferentBases(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	hold := func(bases ...string) (*hostLock, *HostHolder, error) {
		h := home(filepath.Join(bases[0], "agent"))
		return h.hold(bases, channel.NewJobID(), thisProcess(), HostHolder{Agent: filepath.Base(bases[0])}, "")
	}
	lock, by, err := hold(a, b)
	require.NoError(t, err)
	require.Nil(t, by)
	_, by, err = hold(b, a)
	require.NoError(t, err)
	require.Equal(t, filepath.Base(a), by.Agent)
	left, err := os.ReadDir(b)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, lock.release())

	for range 30 {
		var all sync.WaitGroup
		got := make([]*hostLock, 2)
		for i, bases := range [][]string{{a, b}, {b, a}} {
			all.Go(func() {
				lock, _, err := hold(bases...)
				if err != nil {
					t.Error(err)
				}
				got[i] = lock
			})
		}
		all.Wait()
		require.True(t, (got[0] == nil) != (got[1] == nil), "one begins")
		require.NoError(t, got[0].release())
		require.NoError(t, got[1].release())
	}
	// One that is missing holds nothing; one that cannot be looked at may.
	lock, by, err = hold(a, dirOf(t)+"/missing")
	require.NoError(t, err)
	require.Nil(t, by)
	require.NoError(t, lock.release())
	loop := filepath.Join(dirOf(t), "loop")
	require.NoError(t, os.Symlink(loop, loop))
	_, _, err = hold(a, loop)
	require.ErrorIs(t, err, syscall.ELOOP)
}

func dirOf(t *testing.T) string { return t.TempDir() }

// The result of a job waits for room, and for nothing else.
func TestResultThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	s := testService(t)
	gate := filepath.Join(t.TempDir(), "gate")
	job := trueJob()
	job.Args = []string{"sh", "-c", "until [ -e " + gate + " ]; do sleep 0.02; done"}
	_, err := s.Install(t.Context(), job)
	require.NoError(t, err)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- testShim(s, job.JobID).run(ctx) }()
	require.Eventually(t, func() bool { r, err := s.home.readRecord(job.JobID); return err == nil && r.programAlive() }, time.Minute, 10*time.Millisecond)
	require.NoError(t, os.Remove(s.home.record(job.JobID)))
	require.NoError(t, os.MkdirAll(s.home.record(job.JobID)+"/in the way", 0o700))
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	require.Error(t, endOf(t, ended))
	for _, passes := range []error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE} {
		require.True(t, mayPass(&os.PathError{Err: passes}))
	}
	for _, stays := range []error{unix.EROFS, unix.EIO, unix.EACCES, os.ErrNotExist} {
		require.False(t, mayPass(&os.PathError{Err: stays}))
	}
}
