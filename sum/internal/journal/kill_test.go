package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"
)

// victim is the process that TestKill kills: it appends without end, and
// prints the id of every record after it was acknowledged.
func victim(dir string) {
	j, err := Open(dir, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for g := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", g, i)
				data, _ := json.Marshal(strings.Repeat("x", rand.IntN(5000)))
				if err := j.Append(context.Background(), Opened("k", "t", id, data)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				_, _ = os.Stdout.WriteString(id + "\n")
			}
		}()
	}
	select {}
}

// TestKill kills a process that appends at a random moment: every record that
// it had acknowledged is there, the file reads cleanly, and the run is dead,
// can be adopted and retired.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		dir := newDir(t)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "JOURNAL_TEST_VICTIM="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())

		until := 1 + rand.IntN(200)
		var acked []string
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // a line cut short by the kill counts as not printed
			}
			acked = append(acked, strings.TrimSuffix(line, "\n"))
			if len(acked) == 1 {
				require.Equal(t, Live, only(t, dir).State)
			}
			if len(acked) == until {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait())
		require.Empty(t, stderr.String())
		require.GreaterOrEqual(t, len(acked), until, "round %d", round)

		run := only(t, dir)
		require.Equal(t, Dead, run.State)
		require.Equal(t, cmd.Process.Pid, run.Owner.PID)
		left, err := run.Open()
		require.NoError(t, err)
		there := map[string]bool{}
		for _, r := range left {
			there[r.ID] = true
		}
		for _, id := range acked {
			require.True(t, there[id], "round %d: %s was acknowledged and is lost", round, id)
		}
		require.LessOrEqual(t, len(left), len(acked)+2*8, "no more than was under way")

		j, err := Adopt(t.Context(), run, Options{})
		require.NoError(t, err)
		for _, r := range left {
			require.NoError(t, j.Append(t.Context(), Closed(r.Kind, r.Target, r.ID)))
		}
		require.NoError(t, j.Retire(t.Context()))
		require.Equal(t, Ended, only(t, dir).State)
	}
}

// TestKilledWhileForking: a child that has not executed its program yet still has
// the lock of the process that was killed.
func TestKilledWhileForking(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := newDir(t)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "JOURNAL_TEST_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	run := only(t, dir)
	require.Equal(t, Live, run.State)

	// This process takes the part of the child: with the lock, and not the owner.
	lock := flock.New(lockPath(run.Path))
	taken := make(chan error, 1)
	go func() { taken <- lock.Lock() }()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, <-taken)
	released := make(chan error, 1)
	go func() {
		time.Sleep(100 * time.Millisecond)
		released <- lock.Unlock()
	}()
	require.Equal(t, Dead, only(t, dir).State)
	require.NoError(t, <-released)
}
