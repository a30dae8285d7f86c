package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// standInBDE is a manage-bde.exe that answers by what is in the files of its directory:
// "protected" is there as long as the drive is, and "refuses" where it will stay so.
const standInBDE = `#!/bin/sh
cd "${0%/*}"
echo "$@" >> calls
case $1 in
-status) [ -e protected ] && exit 0; [ -e broken ] && exit 255; exit 1 ;;
-protectors)
	[ -e refuses ] && { echo "Group Policy forbids it"; exit 87; }
	[ -e lies ] || rm protected ;;
esac
`

// TestSuspendBitLocker: the program begins only when the drive is not protected.
func TestSuspendBitLocker(t *testing.T) {
	const status, disable = "-status C: -protectionaserrorlevel\n", "-protectors -disable C: -RebootCount 1\n"
	for name, c := range map[string]struct {
		files []string
		calls string
		said  string
		runs  bool
	}{
		"protected": {[]string{"protected"}, status + disable + status, "BitLocker of C: is suspended until", true},
		"off":       {nil, status, "BitLocker does not protect C:", true},
		"refused":   {[]string{"protected", "refuses"}, status + disable, "exit code 87 (0x00000057): Group Policy forbids it", false},
		"lies":      {[]string{"protected", "lies"}, status + disable + status, "C: is protected still", false},
		"broken":    {[]string{"broken", "refuses"}, status + disable, "exit code 87", false},
		"missing":   {[]string{"missing"}, "", "BitLocker is not installed", true},
		"no tool":   {[]string{"none"}, "", "this system has no BitLocker", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := testService(t)
			dir := t.TempDir()
			tool := filepath.Join(dir, "manage-bde.exe")
			require.NoError(t, os.WriteFile(tool, []byte(standInBDE), 0o700))
			for _, f := range c.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o600))
			}
			switch name {
			case "missing":
				require.NoError(t, os.Remove(tool))
			case "no tool":
				tool = ""
			}
			ran := filepath.Join(dir, "ran")
			job := trueJob()
			job.Args, job.SuspendBitLocker, job.Profile = []string{"touch", ran}, true, string(ProfileZeroOK)
			_, err := s.Install(t.Context(), job)
			require.NoError(t, err)
			sh := testShim(s, job.JobID)
			sh.bitLocker = &bitLocker{tool: tool, drive: "C:", run: runInGroup}
			require.NoError(t, sh.run(t.Context()))
			calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
			require.Equal(t, c.calls, string(calls))
			st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
			require.NoError(t, err)
			require.Equal(t, channel.StateDone, st.State)
			if c.runs {
				require.FileExists(t, ran)
				require.Equal(t, string(transport.VerdictApplied), st.Verdict)
				require.Contains(t, string(st.Log), "roundsman: "+c.said)
				return
			}
			require.NoFileExists(t, ran)
			require.Nil(t, st.ExitCode)
			require.Equal(t, string(transport.VerdictFailed), st.Verdict)
			require.Equal(t, &channel.Code{Space: "agent", Value: "bitlocker"}, st.Code)
			require.Contains(t, st.Text, "the program was not started: BitLocker cannot be suspended")
			require.Contains(t, st.Text, c.said)
		})
	}
	t.Run("not asked for", func(t *testing.T) {
		s := testService(t)
		job := trueJob()
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		sh := testShim(s, job.JobID)
		sh.bitLocker = &bitLocker{tool: "/bin/false", run: nil} // a call would panic
		require.NoError(t, sh.run(t.Context()))
	})
	t.Run("cancelled meanwhile", func(t *testing.T) {
		s := testService(t)
		job := trueJob()
		job.SuspendBitLocker = true
		_, err := s.Install(t.Context(), job)
		require.NoError(t, err)
		sh := testShim(s, job.JobID)
		tool := filepath.Join(t.TempDir(), "manage-bde.exe")
		require.NoError(t, os.WriteFile(tool, []byte("#!/bin/sh\ntouch "+sh.cancel()+"\nexit 1\n"), 0o700))
		sh.bitLocker = &bitLocker{tool: tool, drive: "C:", run: runInGroup}
		require.NoError(t, sh.run(t.Context()))
		st, err := s.Status(t.Context(), &channel.StatusRequest{JobID: job.JobID})
		require.NoError(t, err)
		require.Equal(t, channel.StateCancelled, st.State)
		require.Equal(t, string(transport.VerdictCancelled), st.Verdict)
	})
}

// What manage-bde.exe leaves running, and holds its output, makes no failure of it.
func TestBitLockerOutputHeld(t *testing.T) {
	t.Parallel()
	b := bitLocker{tool: "/bin/sh", run: (*exec.Cmd).Run}
	code, out, err := b.call(t.Context(), "-c", "sleep 600 & echo $!")
	pid, _ := strconv.Atoi(out)
	require.Positive(t, pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.NoError(t, err)
	require.Zero(t, code)
}
