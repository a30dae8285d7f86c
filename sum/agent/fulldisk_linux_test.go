package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/channel"
)

// fullDiskVariable names the disk of a copy of the test program that has one of
// its own, in a mount namespace of its own.
const fullDiskVariable = "ROUNDSMAN_FULLDISK"

// TestFullDisk: the result of a job is recorded on a disk that is full, and a job
// whose result would have no room does not begin.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDiskVariable); dir != "" {
		testFullDisk(t, dir)
		return
	}
	t.Parallel()
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-ec", `
		mount -t tmpfs -o size=2m none "$1"; shift; exec "$@"`, "sh", dir, self, "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), fullDiskVariable+"="+dir)
	runtime.LockOSThread() // see prctl(2), PR_SET_PDEATHSIG
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}

// fullDisk is a disk that a test fills.
type fullDisk struct {
	t      *testing.T
	dir    string
	filler string
	gate   string // not on the disk; see job
}

// fill leaves so many bytes.
func (d *fullDisk) fill(leave int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.filler, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(d.t, err)
	defer f.Close()
	for buf := make([]byte, 64<<10); len(buf) > 0; {
		if _, err = f.Write(buf); err != nil {
			buf = buf[:len(buf)/2]
		}
	}
	require.ErrorIs(d.t, err, unix.ENOSPC)
	fi, err := f.Stat()
	require.NoError(d.t, err)
	require.NoError(d.t, f.Truncate(fi.Size()-leave))
	if leave == 0 {
		d.requireFull()
	}
}

// requireFull: the disk takes no more.
func (d *fullDisk) requireFull() {
	d.t.Helper()
	name := filepath.Join(d.dir, "more")
	err := os.WriteFile(name, make([]byte, 1), 0o600)
	require.ErrorIs(d.t, err, unix.ENOSPC)
	require.NoError(d.t, os.Remove(name))
}

func (d *fullDisk) free() { require.NoError(d.t, os.Remove(d.filler)) }

// job is one whose program ends with status 3 once the gate is open. Its record is
// larger than what is given back before it is written.
func (d *fullDisk) job() *channel.InstallRequest {
	d.gate = filepath.Join(os.TempDir(), "gate-"+channel.NewJobID())
	d.t.Cleanup(func() { _ = os.Remove(d.gate) })
	return &channel.InstallRequest{JobID: channel.NewJobID(), Component: "c", Args: []string{"sh", "-c",
		`n=0; until [ -e "$1" ] || [ $n = 900 ]; do n=$((n+1)); sleep 0.1; done; echo "the last words"; exit 3`, "sh", d.gate, strings.Repeat("long ", 8<<10)}}
}

func (d *fullDisk) open() { require.NoError(d.t, os.WriteFile(d.gate, nil, 0o600)) }

func testFullDisk(t *testing.T, dir string) {
	// begin is a service on the disk whose job's program runs.
	begin := func(t *testing.T, inProcess bool) (*fullDisk, *service, string, <-chan error) {
		d := &fullDisk{t: t, dir: dir, filler: filepath.Join(dir, "filler")}
		t.Cleanup(func() { _ = os.Remove(d.filler) })
		s := fullDiskService(t, dir)
		job := d.job()
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		ended := make(chan error, 1)
		sh := testShim(s, job.JobID)
		sh.inProcess = inProcess
		go func() { ended <- sh.run(t.Context()) }()
		require.Eventually(t, func() bool { r, err := s.home.readRecord(job.JobID); return err == nil && r.programAlive() }, time.Minute, time.Millisecond)
		return d, s, job.JobID, ended
	}
	status := func(t *testing.T, s *service, id string) *channel.JobStatus {
		t.Helper()
		st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: id})
		require.NoError(t, err)
		return st
	}
	for _, inProcess := range []bool{false, true} {
		t.Run(fmt.Sprintf("end, in process %v", inProcess), func(t *testing.T) {
			d, s, id, ended := begin(t, inProcess)
			d.fill(0)
			d.open()
			require.NoError(t, endOf(t, ended))
			st := status(t, s, id)
			require.Equal(t, channel.StateDone, st.State)
			require.Equal(t, 3, *st.ExitCode)
			if !inProcess { // there the program writes its log itself
				require.Equal(t, "the last words", st.Text)
			}
			require.NoDirExists(t, s.home.jobDir(id))
			fi, err := os.Lstat(s.home.record(id))
			require.NoError(t, err)
			require.Less(t, fi.Size(), int64(41<<10+resultSpare/2), "what was taken and not needed is given back")
		})
	}
	// Where what was taken does not help, as on file systems that copy on write.
	t.Run("end without the room", func(t *testing.T) {
		d, s, id, ended := begin(t, false)
		require.NoError(t, os.Remove(s.home.result(id)))
		d.fill(0)
		d.open()
		require.Eventually(t, func() bool { _, err := os.Lstat(filepath.Join(s.home.jobDir(id), "work")); return os.IsNotExist(err) }, time.Minute, time.Millisecond)
		for range 3 {
			require.Equal(t, channel.StateRunning, status(t, s, id).State)
			require.Equal(t, []string{id}, s.busy())
		}
		d.free()
		require.NoError(t, endOf(t, ended))
		st := status(t, s, id)
		require.Equal(t, channel.StateDone, st.State)
		require.Equal(t, 3, *st.ExitCode)
		require.Equal(t, "the last words", st.Text)
	})
	t.Run("end without the directory", func(t *testing.T) {
		d, s, _, ended := begin(t, false)
		require.NoError(t, os.RemoveAll(string(s.home)))
		d.open()
		require.ErrorIs(t, endOf(t, ended), os.ErrNotExist)
	})
	t.Run("end while the host goes down", func(t *testing.T) {
		d := &fullDisk{t: t, dir: dir, filler: filepath.Join(dir, "filler")}
		t.Cleanup(func() { _ = os.Remove(d.filler) })
		s := fullDiskService(t, dir)
		job := d.job()
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		sh := testShim(s, job.JobID)
		sh.rec, err = s.home.readRecord(job.JobID)
		require.NoError(t, err)
		require.NoError(t, os.Remove(s.home.result(job.JobID)))
		d.fill(0)
		stopped := make(chan os.Signal, 1)
		stopped <- unix.SIGTERM
		sh.stopped = stopped
		require.ErrorIs(t, sh.end(sh.rec.Result), unix.ENOSPC)
		sh.stopped, sh.stopAsked = make(chan os.Signal), true // while the program ran
		require.ErrorIs(t, sh.end(sh.rec.Result), unix.ENOSPC)
	})
	// A job is refused whose result might have no room, and nothing is left of it.
	t.Run("refused", func(t *testing.T) {
		d := &fullDisk{t: t, dir: dir, filler: filepath.Join(dir, "filler")}
		t.Cleanup(func() { _ = os.Remove(d.filler) })
		s := fullDiskService(t, dir)
		s.spawn = func(string) (<-chan struct{}, error) { panic("a job that was refused is begun") }
		refused := 0
		for leave := int64(0); ; leave += 4 << 10 {
			d.fill(leave)
			job := d.job()
			data, err := encodeJSON(jobFromWire(job))
			require.NoError(t, err)
			if leave >= int64(2*len(data)+12<<10)+resultSpare { // and a block for each file
				break
			}
			_, err = s.Install(t.Context(), job)
			require.Equal(t, codeNoSpace, faultCode(err), "with %d bytes left: %v", leave, err)
			require.NoDirExists(t, s.home.jobDir(job.JobID))
			_, err = s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
			require.Equal(t, channel.CodeNotFound, faultCode(err))
			refused++
		}
		require.Greater(t, refused, 3)
	})
	// The program of a job that was accepted does not begin where the disk has no
	// room for the record that it did.
	t.Run("full before the program", func(t *testing.T) {
		d := &fullDisk{t: t, dir: dir, filler: filepath.Join(dir, "filler")}
		t.Cleanup(func() { _ = os.Remove(d.filler) })
		s := fullDiskService(t, dir)
		job := d.job()
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		d.fill(0)
		require.NoError(t, testShim(s, job.JobID).run(t.Context()))
		st := status(t, s, job.JobID)
		require.Equal(t, channel.StateDone, st.State)
		require.Nil(t, st.ExitCode)
		require.Equal(t, &channel.Code{Space: "errno", Value: "ENOSPC"}, st.Code)
		require.Contains(t, st.Text, "the program was not started")
	})
	// That nobody saw how a program ended is a result as well.
	t.Run("interrupted", func(t *testing.T) {
		d := &fullDisk{t: t, dir: dir, filler: filepath.Join(dir, "filler")}
		t.Cleanup(func() { _ = os.Remove(d.filler) })
		s := fullDiskService(t, dir)
		job := d.job()
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		rec, err := s.home.readRecord(job.JobID)
		require.NoError(t, err)
		rec.State, rec.BootID, rec.Shim = Running, bootID(), process{PID: 1 << 30, Start: "1"}
		require.NoError(t, s.home.writeRecord(rec))
		d.fill(0)
		require.Equal(t, channel.StateInterrupted, status(t, s, job.JobID).State)
		resp, err := s.Stop(t.Context(), &channel.StopRequest{Remove: true})
		require.NoError(t, err)
		require.True(t, slices.Contains(resp.Left, s.home.record(job.JobID)))
	})
}

// endOf is how a shim ended.
func endOf(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the shim does not end")
		return nil
	}
}

// fullDiskService is testService on a disk.
func fullDiskService(t *testing.T, dir string) *service {
	t.Helper()
	base, err := os.MkdirTemp(dir, "base-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	s := testService(t)
	h := home(filepath.Join(base, "agent"))
	require.NoError(t, os.Mkdir(string(h), 0o700))
	require.NoError(t, h.prepare())
	s.home, s.store = h, newStore(h.blobs())
	return s
}
