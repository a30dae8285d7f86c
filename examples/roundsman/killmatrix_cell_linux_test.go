package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// A matrixCell is one fault at one step.
type matrixCell struct {
	*matrix
	*manager
	step    matrixStep
	fault   matrixFault
	steps   func(name string) int
	proc    *matrixProcess
	release func()
	ended   bool // the installer ended before the fault, or on the full disk
}

func (c *matrixCell) begin(t *testing.T) {
	net := realtest.NewNet(t)
	c.manager = &manager{t: t, net: net, host: net.Host(realtest.HostConfig{}), home: t.TempDir(), journal: t.TempDir()}
	c.release = func() {}
	c.ownPackages()
}

func (c *matrixCell) config() matrixConfig {
	return matrixConfig{Agent: c.agent, Component: c.pkg, Target: c.target(), Identity: c.host.Identity, KnownHosts: c.host.HostKey, Journal: c.journal}
}

// deploy starts the manager that goes step by step.
func (c *matrixCell) deploy(lease, redial time.Duration) {
	cfg := c.config()
	cfg.Stop, cfg.Lease, cfg.Redial = c.step.stop, lease, redial
	c.proc = startMatrixProcess(c.t, c.net.Command, c.home, cfg)
}

// command runs the command line to its end.
func (c *matrixCell) command(args ...string) (status int, list []map[string]any) {
	c.t.Helper()
	cfg := c.config()
	cfg.Args = args
	p := startMatrixProcess(c.t, c.net.Command, c.home, cfg)
	p.wait(c.t)
	c.t.Logf("%s: %s", strings.Join(args, " "), p)
	return p.status(), p.events(c.t)
}

func (c *matrixCell) test(t *testing.T) {
	c.begin(t)
	if !c.step.closed {
		c.host.Run("touch", "/var/lib/go-on")
	}
	if c.fault.name == cutForGood {
		c.deploy(3*time.Second, time.Second)
	} else {
		c.deploy(time.Minute, time.Minute)
	}
	require.True(t, c.proc.reach(t, c.step.stop), "the step was not reached: %s", c.proc)
	if c.step.arrange != nil {
		c.release = c.step.arrange(c)
	}
	c.ended = c.jobEnded()
	c.fault.strike(c)
	t.Logf("deploy: %s", c.proc)

	found := outcomes(c.proc.events(t))
	if c.proc.status() == 0 {
		c.requireClean("a deployment that says that all is well")
	}
	c.expect(found)
	left, _ := c.look()
	first := c.runs("rmslow")
	require.LessOrEqual(t, first, 1, "the installer ran twice")
	recovered := c.recover(left)
	t.Logf("cell: %s: deploy %d %v, left %d, recover %v, runs %d", c, c.proc.status(), kinds(found), len(left), kinds(recovered), first)
	found = append(found, recovered...)
	require.Empty(t, c.pending())
	c.requireClean("recover")
	require.LessOrEqual(t, c.runs("rmslow"), 1, "the installer ran twice")
	final := c.final(found)
	c.again(final)
}

// expect checks what the manager that met the fault came to, where that is
// certain.
func (c *matrixCell) expect(found []map[string]any) {
	c.t.Helper()
	status, at := c.proc.status(), c.step.at
	done := []string{"Updated dpkg:0"}
	switch c.fault.name {
	case "manager killed":
		require.Equal(c.t, -1, status)
		if at < c.steps("remove") {
			require.Empty(c.t, found)
		} else {
			require.Equal(c.t, done, kinds(found))
		}
	case "agent killed":
		// Another takes its place, and the installer goes on under its shim.
		require.Equal(c.t, 0, status)
		require.Equal(c.t, done, kinds(found))
	case "target rebooted":
		// It is waited for. What it did to an installer that ran nobody knows; that of
		// a job that was just accepted may have run, or not.
		switch c.step.name {
		case "installing":
			require.Equal(c.t, []string{"Unverified <nil>:<nil>"}, kinds(found))
			require.Equal(c.t, exitUnverified, status)
		case "install" + answer:
			require.Len(c.t, found, 1)
		default:
			require.Equal(c.t, done, kinds(found))
			require.Equal(c.t, 0, status)
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
		if at > c.steps("identify") {
			require.Contains(c.t, c.proc.out.String(), "until its lease ends or recover removes it")
		}
		if at >= c.steps("install") && at < c.steps("remove") {
			require.Regexp(c.t, "recover (fetches|proves) it", c.proc.out.String())
		}
	case "disk full":
		said := c.proc.out.String()
		switch {
		case at <= c.steps("install"):
			require.Equal(c.t, exitFailed, status)
			require.Contains(c.t, said, transport.ErrNoSpace.Error())
			require.Contains(c.t, said, "/var/lib/roundsman/")
			if c.step.name == "run agent start" {
				require.Contains(c.t, said, agent.ErrStart.Error())
				require.Contains(c.t, said, "bytes free")
			}
			if at < c.steps("install") { // to take away takes no room
				left, _ := c.look()
				require.Empty(c.t, left[:min(len(left), 20)])
			}
		case at >= c.steps("installing"):
			// However the installer ended on the full disk, that is on record, and the
			// manager has it.
			require.True(c.t, c.ended, "the installer's end is not on record")
			require.Len(c.t, found, 1)
			require.Equal(c.t, "dpkg", found[0]["code"].(map[string]any)["space"], "%v", found[0])
		}
	}
}

// final is what became of the component, as the manager or recover said it.
func (c *matrixCell) final(found []map[string]any) string {
	runs := c.runs("rmslow")
	if len(found) == 0 {
		require.Equal(c.t, 0, runs, "the installer ran, and nobody says so")
		return ""
	}
	last := found[len(found)-1]
	kind := last["outcome"].(string)
	if c.ended {
		code := map[string]any{"space": "dpkg", "value": "0"}
		if c.fault.name == "disk full" && c.step.at <= c.steps("installing") && kind == "Failed" {
			code["value"] = last["code"].(map[string]any)["value"] // it needed room itself
		} else {
			require.Equal(c.t, "Updated", kind, "the installer had ended: %v", last)
		}
		require.Equal(c.t, code, last["code"], "the result of an installer that had ended is lost: %v", last)
	}
	return kind
}

// again deploys a second time, as an operator would.
func (c *matrixCell) again(before string) {
	deployAgain(c.t, before, func() int { return c.runs("rmslow") }, func() (int, []map[string]any) {
		return c.command("deploy", "--component", c.pkg, c.target(), "--detailed-exitcode")
	})
	require.Equal(c.t, "1.0 install ok installed", c.installed("rmslow"))
	require.Empty(c.t, c.pending())
	c.requireClean("the second deployment")
}

// deployAgain checks what a second deployment does, given what became of the first, and
// how often the installer ran then.
func deployAgain(t *testing.T, before string, ran func() int, deploy func() (status int, list []map[string]any)) {
	t.Helper()
	runs := ran()
	status, list := deploy()
	require.Len(t, outcomes(list), 1)
	now := outcomes(list)[0]["outcome"]
	switch before {
	case "Updated":
		require.Equal(t, 1, runs)
		require.Equal(t, "NotNeeded", now)
		require.Equal(t, 3, status)
	case "", "Cancelled":
		require.Equal(t, 0, runs, "said not to have begun")
		require.Equal(t, "Updated", now)
		runs = 1
	case "Failed", "Unverified":
		// Something went wrong, and everybody was told: it is the operator who lets
		// it run again.
		require.Contains(t, []any{"Updated", "NotNeeded"}, now)
		if now == "Updated" {
			runs++
		}
	default:
		require.Fail(t, "outcome "+before)
	}
	require.Equal(t, runs, ran(), "runs of the installer")
}

func (c *matrixCell) String() string { return fmt.Sprintf("%s at %s", c.fault.name, c.step.name) }
