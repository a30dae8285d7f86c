package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent/install"
)

// TestKillMatrix strikes each step of a deployment to a real host with each fault,
// and then shows that nothing is left but logs, that no component ran twice, that
// no result of an installer that ended is lost, and that recover says what it did.
// A second deployment then finds the host as good as new.
//
// The rows are matrixFaults. The columns are the calls that the manager makes, as
// an undisturbed deployment lists them (in succession, calls of one kind are one
// step, and so are calls that only read: see mergeSteps), answers of the agent
// that come and are lost, and what goes on behind a call: the installer runs, it
// has ended and nobody knows, the second inventory is being read, the agent deletes
// itself. The manager is a process of its own that waits at the step until the
// fault is there, so that each step is hit exactly. There are no cells for killing
// an agent before there is one, or when it has gone.
//
// By default a fixed part of the cells is tested: each fault where results are made
// and lost, and elsewhere one fault at each step. ROUNDSMAN_KILLMATRIX=all tests
// them all, some 140, which takes two processors more than two minutes.
func TestKillMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts many real hosts")
	}
	realtest.NeedRoot(t)
	realtest.Need(t, "dpkg-deb")
	m := &matrix{pkg: deb(t, "rmslow", "1.0", waitFor), agent: matrixAgent(t, "linux", goEnv(t, "GOARCH"))}
	var steps []matrixStep
	require.True(t, t.Run("undisturbed", func(t *testing.T) { steps = m.undisturbed(t) }))

	cells := m.cells(steps, os.Getenv("ROUNDSMAN_KILLMATRIX") == "all")
	t.Logf("%d steps, %d cells", len(steps), len(cells))
	// Not by t.Parallel, whose limit is the number of processors: cells mostly wait.
	const hosts = 12
	queue := make(chan *matrixCell, len(cells))
	for _, c := range cells {
		queue <- c
	}
	close(queue)
	var wg sync.WaitGroup
	for range hosts {
		wg.Go(func() {
			for c := range queue {
				t.Run(c.fault.name+"/"+strings.ReplaceAll(c.step.name, " ", "_"), c.test)
			}
		})
	}
	wg.Wait()
}

// matrixAgent is the file of an agent for a platform.
func matrixAgent(t *testing.T, goos, goarch string) string {
	t.Helper()
	f, err := (&install.GoBuild{}).Open(t.Context(), goos, goarch)
	require.NoError(t, err)
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	defer r.Close()
	file := t.TempDir() + "/roundsman-agent"
	w, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o700)
	require.NoError(t, err)
	_, err = io.Copy(w, r)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return file
}

type matrix struct{ pkg, agent string }

// A matrixStep is a column.
type matrixStep struct {
	name string
	stop string // the manager waits before this call
	// arrange brings the target to the step. What it holds there, it lets go on by
	// release.
	arrange func(c *matrixCell) (release func())
	closed  bool // the installer waits for a file "go-on"
	at      int  // its place among the steps
}

// A matrixFault is a row. strike returns when the manager has ended.
type matrixFault struct {
	name   string
	strike func(c *matrixCell)
}

var matrixFaults = []matrixFault{
	{"manager killed", func(c *matrixCell) {
		require.NoError(c.t, c.proc.cmd.Process.Kill())
		c.release()
		c.proc.wait(c.t)
	}},
	{"agent killed", func(c *matrixCell) {
		c.host.Run("pkill", "-KILL", "-f", "roundsman-agent serve")
		c.release()
		c.proc.goAhead()
		c.proc.wait(c.t)
	}},
	{"target rebooted", func(c *matrixCell) {
		c.host.Reboot()
		c.release()
		c.proc.goAhead()
		c.proc.wait(c.t)
	}},
	{"cable returned", func(c *matrixCell) {
		c.host.Cable(false)
		c.release()
		c.proc.goAhead()
		c.proc.reach(c.t, "dial #2") // it knows
		c.host.Cable(true)
		c.proc.wait(c.t)
	}},
	{cutForGood, func(c *matrixCell) {
		served := c.served()
		c.host.Cable(false)
		c.release()
		c.proc.goAhead()
		c.proc.wait(c.t)
		if served { // it ends by its lease
			c.requireClean("an agent whose manager is gone")
		}
		c.host.Cable(true)
	}},
	{"disk full", func(c *matrixCell) {
		c.host.FillDisk()
		c.release()
		c.proc.goAhead()
		c.proc.wait(c.t)
		c.ended = c.jobEnded() // on the full disk
		c.host.FreeDisk()
	}},
}

const cutForGood = "cable cut for good"

// undisturbed deploys without any harm, and returns the steps.
func (m *matrix) undisturbed(t *testing.T) []matrixStep {
	c := &matrixCell{matrix: m}
	c.begin(t)
	c.host.Run("touch", "/var/lib/go-on")
	c.deploy(time.Minute, time.Minute)
	c.proc.wait(t)
	require.Equal(t, 0, c.proc.status(), "%s", c.proc)
	require.Equal(t, "Updated", outcomes(c.proc.events(t))[0]["outcome"])
	c.requireClean("a deployment")

	var steps []matrixStep
	add := func(name, stop string, arrange func(*matrixCell) func()) {
		steps = append(steps, matrixStep{name: name, stop: stop, arrange: arrange, at: len(steps)})
	}
	inventories := 0
	merged := mergeSteps(c.proc.reached())
	for i, call := range merged {
		kind, _, _ := strings.Cut(call, " #")
		switch kind {
		case "install":
			add(call, call, nil)
			add(call+answer, call+answer, (*matrixCell).arrangeAccepted)
		case "status":
			add("installing", call, (*matrixCell).arrangeInstalling)
			steps[len(steps)-1].closed = true
			add("installed", call, (*matrixCell).arrangeInstalled)
		case "inventory":
			add(call, call, nil)
			if inventories++; inventories == 2 {
				add("verifying", call, (*matrixCell).arrangeVerifying)
				add(call+answer, call+answer, nil)
			}
		case "remove":
			add(call, call, nil)
			add("removing", call, (*matrixCell).arrangeRemoving)
			add(call+answer, call+answer, (*matrixCell).arrangeRemoved)
		default:
			add(call, call, nil)
		}
		t.Logf("%2d %s", i, call)
	}
	for _, name := range []string{"dial", "install", "installing", "installed", "verifying", "removing", "close"} {
		require.True(t, slices.ContainsFunc(steps, func(s matrixStep) bool { return s.name == name }), "no step %q", name)
	}
	return steps
}

// cells returns what is to be tested.
func (m *matrix) cells(steps []matrixStep, all bool) []*matrixCell {
	place := func(name string) int {
		return slices.IndexFunc(steps, func(s matrixStep) bool { return s.name == name })
	}
	each := []string{"install" + answer, "installing", "installed", "verifying", "removing"}
	var out []*matrixCell
	for i, s := range steps {
		var cells []*matrixCell
		for _, f := range matrixFaults {
			if f.name == "agent killed" && (i <= place("run agent start") || i >= place("remove"+answer)) {
				continue
			}
			cells = append(cells, &matrixCell{matrix: m, step: s, fault: f, steps: place})
		}
		if !all && !slices.Contains(each, s.name) {
			k := i % len(cells)
			cells = cells[k : k+1]
		}
		out = append(out, cells...)
	}
	return out
}

// TestMergeSteps: calls that are no step of their own.
func TestMergeSteps(t *testing.T) {
	require.Equal(t, []string{"dial", "identify", "mkdir", "stat #2", "put x", "inventory"},
		mergeSteps([]string{"dial", "identify", "run sh", "stat", "mkdir", "mkdir #2", "stat #2", "put x", "inventory", "inventory #2"}))
	require.Equal(t, []string{"status", "inventory #3", "remove", "list"},
		mergeSteps([]string{"status", "status #2", "inventory #3", "remove", "list", "list #2"}))
}
