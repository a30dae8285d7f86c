package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// testMatrix is TestKillMatrix for a Windows server: see there. Its cells follow one
// another, on one host. By default the manager is killed at some of the steps, and the
// agent while the component runs; ROUNDSMAN_KILLMATRIX=all tests all cells, some 160.
func (l *winLab) testMatrix(t *testing.T) {
	var steps []winStep
	require.True(t, t.Run("undisturbed", func(t *testing.T) { steps = l.undisturbed(t) }))
	cells := l.cells(t, steps, os.Getenv("ROUNDSMAN_KILLMATRIX") == "all")
	t.Logf("%d steps, %d cells", len(steps), len(cells))
	for _, c := range cells {
		t.Run(c.fault.name+"/"+strings.ReplaceAll(c.step.name, " ", "_"), c.test)
	}
}

// A winStep is a column.
type winStep struct {
	name    string
	stop    string           // the manager waits before this call
	arrange func(c *winCell) // brings the target to the step
	closed  bool             // the component waits for a file "go-on"
	at      int              // its place among the steps
}

// A winFault is a row. strike returns when the manager has ended.
type winFault struct {
	name   string
	strike func(c *winCell)
}

var winFaults = []winFault{
	{"manager killed", func(c *winCell) {
		require.NoError(c.t, c.proc.cmd.Process.Kill())
		c.goOn(c.t)
		c.proc.wait(c.t)
	}},
	{"agent killed", func(c *winCell) {
		c.killAgent()
		c.goOn(c.t)
		c.proc.goAhead()
		c.proc.wait(c.t)
	}},
	{"target rebooted", func(c *winCell) {
		c.smb.Stall(true)
		require.NoError(c.t, c.Down())
		c.smb.CloseConnections()
		c.goOn(c.t)
		require.NoError(c.t, c.Up())
		c.smb.Stall(false)
		c.proc.goAhead()
		c.proc.wait(c.t)
	}},
	{"cable returned", func(c *winCell) {
		c.smb.Stall(true)
		c.goOn(c.t)
		c.proc.goAhead()
		c.proc.reach(c.t, "dial #2") // it knows
		c.smb.Stall(false)
		c.proc.wait(c.t)
	}},
	{cutForGood, func(c *winCell) {
		served := c.served()
		c.smb.Stall(true)
		c.goOn(c.t)
		c.proc.goAhead()
		c.proc.wait(c.t)
		if served {
			c.requireLeft(c.t, "an agent whose manager is gone")
		}
		c.smb.CloseConnections() // what the host kept open of the old line
		c.smb.Stall(false)
	}},
	{"disk full", func(c *winCell) {
		c.fillDisk(c.t)
		c.goOn(c.t)
		c.proc.goAhead()
		c.proc.wait(c.t)
		c.ended = c.jobEnded() // on the full disk
		c.freeDisk(c.t)
	}},
}

// undisturbed deploys without any harm, and returns the steps.
func (l *winLab) undisturbed(t *testing.T) []winStep {
	c := &winCell{winLab: l}
	c.begin(t)
	c.goOn(t)
	c.deploy(time.Minute, time.Minute)
	c.proc.wait(t)
	require.Equal(t, 0, c.proc.status(), "%s", c.proc)
	require.Equal(t, "Updated", outcomes(c.proc.events(t))[0]["outcome"])
	l.requireClean(t, "a deployment")

	var steps []winStep
	add := func(name, stop string, arrange func(*winCell)) {
		steps = append(steps, winStep{name: name, stop: stop, arrange: arrange, at: len(steps)})
	}
	installed := false
	for i, call := range mergeSteps(c.proc.reached()) {
		t.Logf("%2d %s", i, call)
		kind, _, _ := strings.Cut(call, " #")
		switch {
		case kind == "install":
			add(call, call, nil)
			add(call+answer, call+answer, nil)
		case kind == "status":
			add("installing", call, (*winCell).arrangeInstalling)
			steps[len(steps)-1].closed = true
			add("installed", call, (*winCell).arrangeInstalled)
			installed = true
		case kind == "inventory" && installed:
			add("verify", call, nil)
			add("verify"+answer, call+answer, nil)
		case kind == "remove":
			add(call, call, nil)
			add(call+answer, call+answer, nil)
		case kind != "identify" && slices.Contains(readOnly, kind): // how often is a matter of time
		default:
			add(call, call, nil)
		}
	}
	return steps
}

// winDefault are the cells that are tested by default. Of the others some went through, and
// some did not: beside other tests a process of Wine 8 sometimes hangs
// where a service says that it has stopped, and its service then stays until Wine restarts.
var winDefault = map[string][]string{
	"create agent":    {"manager killed"},
	"tunnel":          {"manager killed"},
	"installing":      {"manager killed", "agent killed"},
	"remove" + answer: {"manager killed"},
}

// cells returns what is to be tested.
func (l *winLab) cells(t *testing.T, steps []winStep, all bool) []*winCell {
	t.Helper()
	place := func(name string) int {
		return slices.IndexFunc(steps, func(s winStep) bool { return s.name == name })
	}
	for name := range winDefault {
		require.NotEqual(t, -1, place(name), "no step %q", name)
	}
	var out []*winCell
	for i, s := range steps {
		for _, f := range winFaults {
			if f.name == "agent killed" && (i <= place("start agent") || i >= place("remove"+answer)) {
				continue // there is none
			}
			if all || slices.Contains(winDefault[s.name], f.name) {
				out = append(out, &winCell{winLab: l, step: s, fault: f, steps: place})
			}
		}
	}
	return out
}

// A winCell is one fault at one step.
type winCell struct {
	*winLab
	t       *testing.T
	journal string
	step    winStep
	fault   winFault
	steps   func(name string) int
	proc    *matrixProcess
	ended   bool // the component ended before the fault, or on the full disk
}

func (c *winCell) begin(t *testing.T) {
	c.t, c.journal = t, t.TempDir()
	c.fresh(t)
}

// deploy starts the manager that goes step by step.
func (c *winCell) deploy(lease, redial time.Duration) {
	cfg := c.config(c.journal)
	cfg.Stop, cfg.Lease, cfg.Redial = c.step.stop, lease, redial
	c.proc = startMatrixProcess(c.t, exec.CommandContext, c.t.TempDir(), cfg)
}

func (c *winCell) test(t *testing.T) {
	c.begin(t)
	if !c.step.closed {
		c.goOn(t)
	}
	if c.fault.name == cutForGood {
		c.deploy(3*time.Second, time.Second)
	} else {
		c.deploy(time.Minute, time.Minute)
	}
	require.True(t, c.proc.reach(t, c.step.stop), "the step was not reached: %s", c.proc)
	if c.step.arrange != nil {
		c.step.arrange(c)
	}
	c.ended = c.jobEnded()
	c.fault.strike(c)
	t.Logf("deploy: %s", c.proc)

	found := outcomes(c.proc.events(t))
	if c.proc.status() == 0 {
		c.requireClean(t, "a deployment that says that all is well")
	}
	c.expect(found)
	left, _ := c.look(t)
	first := c.runs()
	require.LessOrEqual(t, first, 1, "the component ran twice")
	recovered := c.recover(left)
	t.Logf("cell: %s at %s: deploy %d %v, left %d, recover %v, runs %d", c.fault.name, c.step.name, c.proc.status(), kinds(found), len(left), kinds(recovered), first)
	found = append(found, recovered...)
	require.Empty(t, pendingIn(t, c.journal))
	c.requireClean(t, "recover")
	require.LessOrEqual(t, c.runs(), 1, "the component ran twice")
	c.again(c.final(found))
}

// expect checks what the manager that met the fault came to, where that is certain.
func (c *winCell) expect(found []map[string]any) {
	c.t.Helper()
	status, at := c.proc.status(), c.step.at
	done := []string{"Updated exit:0"}
	switch c.fault.name {
	case "manager killed":
		require.Equal(c.t, -1, status)
		if at < c.steps("remove") {
			require.Empty(c.t, found)
		} else {
			require.Equal(c.t, done, kinds(found))
		}
	case "agent killed":
		// Another takes its place, and the component goes on under its shim.
		require.Equal(c.t, 0, status)
		require.Equal(c.t, done, kinds(found))
	case "target rebooted":
		// It is waited for. What it did to a component that ran nobody knows; that of a
		// job that was just accepted may have run, or not.
		switch c.step.name {
		case "installing":
			require.Equal(c.t, []string{"Unverified <nil>:<nil>"}, kinds(found))
			require.Equal(c.t, exitUnverified, status)
		case "install" + answer:
			require.Len(c.t, found, 1)
		default:
			require.Equal(c.t, done, kinds(found))
			if at < c.steps("remove") { // else what is left is for recover
				require.Equal(c.t, 0, status)
			}
		}
	case "cable returned":
		switch {
		case c.step.name == "dial": // a target that was never there is not waited for
			require.Equal(c.t, exitFailed, status)
			require.Empty(c.t, found)
		case at < c.steps("remove"):
			require.Equal(c.t, 0, status)
			require.Equal(c.t, done, kinds(found))
		default:
			require.Equal(c.t, done, kinds(found))
		}
	case cutForGood:
		if c.step.name == "close" { // everything is done
			require.Equal(c.t, 0, status)
			require.Equal(c.t, done, kinds(found))
			return
		}
		require.Equal(c.t, exitFailed, status)
	case "disk full":
		said := c.proc.out.String()
		switch {
		case at <= c.steps("install") && at > c.steps("mkdir"):
			require.Equal(c.t, exitFailed, status)
			require.Contains(c.t, said, transport.ErrNoSpace.Error())
		case at >= c.steps("installing"):
			// However the component ended on the full disk, that is on record, and the
			// manager has it.
			require.True(c.t, c.ended, "the component's end is not on record")
			require.Len(c.t, found, 1)
			require.Equal(c.t, "exit", found[0]["code"].(map[string]any)["space"], "%v", found[0])
		}
	}
}

// final is what became of the component, as the manager or recover said it.
func (c *winCell) final(found []map[string]any) string {
	if len(found) == 0 {
		require.Equal(c.t, 0, c.runs(), "the component ran, and nobody says so")
		return ""
	}
	last := found[len(found)-1]
	kind := last["outcome"].(string)
	if c.ended {
		require.Equal(c.t, "Updated", kind, "the component had ended: %v", last)
		require.Equal(c.t, map[string]any{"space": "exit", "value": "0"}, last["code"], "the result of a component that had ended is lost: %v", last)
	}
	return kind
}

// again deploys a second time, as an operator would.
func (c *winCell) again(before string) {
	deployAgain(c.t, before, c.runs, func() (int, []map[string]any) {
		return c.command(c.t, c.journal, "deploy", "--component", c.slow, winTarget, "--detailed-exitcode")
	})
	require.Empty(c.t, pendingIn(c.t, c.journal))
	c.requireClean(c.t, "the second deployment")
}

// recover runs recover, and returns the outcomes that it told. left is what there is for
// it to do on the target.
func (c *winCell) recover(left []string) []map[string]any {
	c.t.Helper()
	status, list := c.command(c.t, c.journal, "recover")
	return recovered(c.t, status, list, left)
}

// service has the state of the agent's service, of which there is one at most, and 0 if
// there is none.
func (c *winCell) service() (state, pid uint32) {
	names, err := c.Names("roundsman-agent-")
	require.NoError(c.t, err)
	for _, name := range names {
		h, err := c.OpenService(name)
		if err != nil {
			continue // gone
		}
		st, err := c.QueryService(h)
		_ = c.CloseService(h)
		if err == nil {
			return st[1], st[7]
		}
	}
	return 0, 0
}

func (c *winCell) served() bool {
	_, pid := c.service()
	return pid != 0
}

// killAgent ends the agent's process, and waits until the host knows.
func (c *winCell) killAgent() {
	c.t.Helper()
	_, pid := c.service()
	require.NotZero(c.t, pid, "there is no agent")
	require.NoError(c.t, c.Kill(pid))
	require.Eventually(c.t, func() bool { _, pid := c.service(); return pid == 0 }, time.Minute, 10*time.Millisecond)
}

// testAbandoned: of an agent whose manager never comes back nothing is left but logs when
// the host was restarted.
func (l *winLab) testAbandoned(t *testing.T) {
	c := &winCell{winLab: l, step: winStep{stop: "install" + answer}}
	c.begin(t)
	c.deploy(3*time.Second, time.Second)
	require.True(t, c.proc.reach(t, c.step.stop), "%s", c.proc)
	c.arrangeInstalling()
	require.NoError(t, c.proc.cmd.Process.Kill())
	c.proc.wait(t)
	c.goOn(t)
	c.requireLeft(t, "an agent whose manager is gone")
	require.True(t, c.jobEnded(), "what became of the component is on record")
	require.NoError(t, c.Down())
	require.NoError(t, c.Up())
	l.requireClean(t, "a restart of the host")
	require.True(t, c.jobEnded())
	status, list := c.command(t, c.journal, "recover")
	require.Equal(t, []string{"Updated exit:0"}, kinds(recovered(t, status, list, nil)))
	require.Equal(t, 1, c.runs())
	l.requireClean(t, "recover")
}

// requireLeft: nothing but its program is left by an agent that removed itself; that is
// marked for deletion.
func (c *winCell) requireLeft(t *testing.T, after string) {
	t.Helper()
	var left, running []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		left, running = c.look(t)
		left = slices.DeleteFunc(left, func(s string) bool { return filepath.Base(s) == agent.WindowsBinaryName })
		running = slices.DeleteFunc(running, func(s string) bool { return !strings.HasPrefix(s, "process ") })
		if len(left)+len(running) == 0 {
			return
		}
	}
	require.Fail(t, "something is left", "after %s: %q %q\nagent.log:\n%s", after, left[:min(len(left), 20)], running, c.agentLogs())
}

// jobEnded reports whether there is a job whose component has ended, and how that is on
// record.
func (c *winCell) jobEnded() bool {
	files, _ := filepath.Glob(c.path("windows", "roundsman", "*", "jobs", "*.json"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && endedWell(data) {
			return true
		}
	}
	return false
}

// arrangeInstalling: the component runs.
func (c *winCell) arrangeInstalling() {
	require.Eventually(c.t, func() bool { return c.runs() == 1 }, time.Minute, 10*time.Millisecond, "the component runs")
}

// arrangeInstalled: it has ended, and the manager does not know that.
func (c *winCell) arrangeInstalled() {
	require.Eventually(c.t, c.jobEnded, time.Minute, 10*time.Millisecond, "the component ends")
}
