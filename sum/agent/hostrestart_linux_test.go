package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/channel"
)

// A restart that was asked for is void when it does not come.
func TestRestartIsPending(t *testing.T) {
	t.Parallel()
	none, booted, scheduled := t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(booted+"/system", 0o700))
	require.NoError(t, os.Mkdir(scheduled+"/system", 0o700))
	require.NoError(t, os.Mkdir(scheduled+"/shutdown", 0o700))
	require.NoError(t, os.WriteFile(scheduled+"/shutdown/scheduled", nil, 0o600))
	asked := time.Now()
	r := restart{asked.Unix(), asked.Add(time.Hour).Unix()}
	require.Equal(t, r, parseRestart(r.String()))
	for what, x := range map[string]struct {
		after time.Duration
		run   string
		want  bool
	}{
		"just asked":                 {0, none, true},
		"just asked, of systemd":     {30 * time.Second, booted, true},
		"waiting":                    {30 * time.Minute, none, true},
		"waiting, and systemd knows": {30 * time.Minute, scheduled, true},
		"cancelled":                  {30 * time.Minute, booted, false},
		"going down":                 {time.Hour + time.Minute, booted, true},
		"long over":                  {time.Hour + restartGrace + time.Minute, scheduled, false},
		"long over, no systemd":      {time.Hour + restartGrace + time.Minute, none, false},
	} {
		require.Equal(t, x.want, r.pending(asked.Add(x.after), x.run), what)
	}
	require.False(t, parseRestart("restart x y").pending(time.Now(), none))
}

// What holds the host for a restart outlives whoever asked, and is deleted when it is
// void: after the boot, or when the host has not restarted.
func TestRestartHoldsTheHost(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(name, content string) (string, string){
		"held":        func(n, c string) (string, string) { return n, c },
		"another one": func(n, c string) (string, string) { return strings.ReplaceAll(n, bootID(), "another-boot"), c },
		"init is another": func(n, c string) (string, string) {
			return strings.Replace(n, ".1."+processStart(1)+".", ".1.77777777777.", 1), c
		},
		"over": func(n, c string) (string, string) {
			at := restart{time.Now().Add(-time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()}
			return n, c[:strings.Index(c, hostRestart+" ")] + at.String() + "\nheld\n"
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := home(filepath.Join(t.TempDir(), "agent"))
			lock, by, err := h.holdForRestart("db1", time.Hour)
			require.NoError(t, err)
			require.Nil(t, by)
			require.NoError(t, h.keepForRestart(lock))
			files, err := filepath.Glob(filepath.Join(h.base(), HostLockPrefix+"*"))
			require.NoError(t, err)
			require.Len(t, files, 1)
			content, err := os.ReadFile(files[0])
			require.NoError(t, err)
			require.NoError(t, os.Remove(files[0]))
			name, text := change(files[0], string(content))
			require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
			by, err = h.hostHolder()
			require.NoError(t, err)
			if what != "held" {
				require.Nil(t, by)
				require.NoFileExists(t, name)
				return
			}
			require.NotNil(t, by)
			require.Equal(t, "agent", by.Agent)
			require.Contains(t, by.String(), "a restart of the host is due at "+by.Restart.Format(time.RFC3339)+` (asked by agent "agent" on "db1")`)
			require.Contains(t, HostBusyError("install", "db1", *by).Error(), restartHint)
		})
	}
}

// Of restarts that are asked for at once none deletes the file of a later one, in
// whatever order they go on: so one holds the host.
func TestRestartsAtOnce(t *testing.T) {
	t.Parallel()
	files := func(h home) []string {
		files, err := filepath.Glob(filepath.Join(h.base(), HostLockPrefix+"*"))
		require.NoError(t, err)
		return files
	}
	for range 10 { // their names are random
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			h := home(filepath.Join(t.TempDir(), "agent"))
			var locks [2]*hostLock
			now := time.Now()
			for i := range locks {
				lock, by, err := h.hold(h.bases(), channel.NewJobID(), process{1, processStart(1)}, HostHolder{},
					restart{now.Unix(), now.Add(time.Hour).Unix()}.String())
				require.NoError(t, err)
				require.Nil(t, by)
				locks[i] = lock
			}
			for _, i := range order {
				require.NoError(t, h.keepForRestart(locks[i]))
			}
			require.NotEmpty(t, files(h))
			by, err := h.hostHolder()
			require.NoError(t, err)
			require.NotNil(t, by)
		}

		// And of those that are asked for one after the other, however soon, the last remains.
		h := home(filepath.Join(t.TempDir(), "agent"))
		var last string
		for range 3 {
			lock, by, err := h.holdForRestart("db1", time.Hour)
			require.NoError(t, err)
			require.Nil(t, by)
			last = lock.name
			require.NoError(t, h.keepForRestart(lock))
			require.Equal(t, []string{last}, files(h))
		}
	}

	// One takes the place of those that were asked for before, and of no other.
	h := home(filepath.Join(t.TempDir(), "agent"))
	now := time.Now()
	write := func(after time.Duration, end string) string {
		r := restart{now.Add(after).Unix(), now.Add(time.Hour).Unix()}
		return hostFile(t, h.base(), process{1, processStart(1)}, bootID()+end, "{}\n"+r.String()+"\nheld\n")
	}
	earlier, later := write(-time.Minute, ""), write(2*time.Minute, "")
	coming, foreign := write(-time.Minute, hostNew), write(-time.Minute, ".1")
	job := hostFile(t, h.base(), process{os.Getpid(), "1"}, bootID(), "{}\nheld\n")
	lock, by, err := h.holdForRestart("db1", time.Hour)
	require.NoError(t, err)
	require.Nil(t, by)
	mine := lock.name
	require.NoFileExists(t, job, "whoever looks deletes that of a dead job")
	require.NoError(t, h.keepForRestart(lock))
	require.NoFileExists(t, earlier)
	require.ElementsMatch(t, []string{later, coming, foreign, mine}, files(h))
}
