package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agenttest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

const db1 = "linux://root@db1"

func TestDeployUpdatedThenNotNeeded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	comp := b.component(nil)
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--component", comp, db1), b.errs.String())
	var outcome string
	for line := range strings.Lines(b.out.String()) {
		if strings.Contains(line, `"event":"outcome"`) {
			outcome = line
		}
	}
	require.True(t, strings.HasPrefix(outcome, `{"v":1,"event":"outcome","target":"linux://root@db1","component":"hello","outcome":"Updated","from":"","to":"2.10-3","code":{"space":"dpkg","value":"0"}`), outcome)
	require.Len(t, b.of("plan"), 1)
	require.Equal(t, "install", b.of("plan")[0]["action"])
	require.NotEmpty(t, b.of("progress"))
	summary := b.events[len(b.events)-1]
	require.Equal(t, "summary", summary["event"])
	require.Equal(t, map[string]any{"Updated": 1.0}, summary["outcomes"])
	require.EqualValues(t, 0, summary["exit"])
	b.clean()

	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--component", comp, db1))
	require.Equal(t, "NotNeeded", b.of("outcome")[0]["outcome"])
	require.Equal(t, "2.10-3", b.of("outcome")[0]["from"])
	require.Equal(t, exitNothing, b.run(t.Context(), "deploy", "--detailed-exitcode", "--component", comp, db1))
	require.Contains(t, b.out.String(), "NotNeeded")
	require.Equal(t, 1, b.fake.Runs("hello"))
	b.clean()

	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--detailed-exitcode", "--rewrite", "--component", comp, db1), "something was done")
	require.Equal(t, 2, b.fake.Runs("hello"))
}

func TestDeployText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fake.Host(db1).SetSoftware(transport.Software{Name: "hello", Version: "2.9", Source: "dpkg"})
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--component", b.component(nil), db1))
	require.Contains(t, b.out.String(), "linux://root@db1: hello  install  2.9 -> 2.10-3: 2.10-3 is newer than 2.9\n")
	require.Contains(t, b.out.String(), "linux://root@db1: hello  Updated  2.9 -> 2.10-3, dpkg 0\n")
	require.True(t, strings.HasSuffix(b.out.String(), "\n1 target, 1 Updated\n"), b.out.String())
	require.NotContains(t, b.out.String(), "\x1b")
}

func TestDeployExitStatus(t *testing.T) {
	t.Parallel()
	hpe := map[string]any{"profile": "hpe-linux"}
	for _, tc := range []struct {
		name     string
		fields   map[string]any
		job      agenttest.Job
		outcome  sum.OutcomeKind
		status   int
		detailed int
	}{
		{"updated", nil, agenttest.Job{}, sum.Updated, exitFine, exitFine},
		{"reboot needed", hpe, agenttest.Job{Exit: transport.Exit{Code: 1}}, sum.UpdatedNeedsReboot, exitFine, exitReboot},
		{"installer says not needed", hpe, agenttest.Job{Exit: transport.Exit{Code: 2}}, sum.NotNeeded, exitFine, exitNothing},
		{"failed", nil, agenttest.Job{Exit: transport.Exit{Code: 5}}, sum.Failed, exitFailed, exitFailed},
		{"claimed and not there", nil, agenttest.Job{Effect: func(*agenttest.Machine) {}}, sum.Unverified, exitUnverified, exitUnverified},
		{"nothing to prove it by", map[string]any{"package": nil}, agenttest.Job{}, sum.Unverified, exitUnverified, exitUnverified},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, detailed := range []bool{false, true} {
				b := newBench(t)
				b.fake.Host(db1).OnInstall("hello", tc.job)
				args, want := []string{"deploy", "--json", "--component", b.component(tc.fields), db1}, tc.status
				if detailed {
					args, want = append(args, "--detailed-exitcode"), tc.detailed
				}
				require.Equal(t, want, b.run(t.Context(), args...), b.out.String())
				require.EqualValues(t, tc.outcome, b.of("outcome")[0]["outcome"])
				require.EqualValues(t, want, b.of("summary")[0]["exit"])
				b.clean()
			}
		})
	}
}

func TestDeployStopped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, stop := context.WithCancel(t.Context())
	b.fake.Host(db1).Fault(agenttest.Fault{Op: agenttest.Stage, Do: stop})
	require.Equal(t, exitStopped, b.run(ctx, "deploy", "--json", "--detailed-exitcode", "--component", b.component(nil), db1), b.out.String())
	require.Equal(t, "Cancelled", b.of("outcome")[0]["outcome"])
	require.Equal(t, true, b.of("summary")[0]["stopped"])
	require.Zero(t, b.fake.Runs("hello"))
	b.clean()

	// Stopped before it began.
	require.Equal(t, exitStopped, b.run(ctx, "inventory", "--json", db1), b.out.String())
	require.Empty(t, b.of("inventory"))
	require.Empty(t, b.of("error"), "the summary says it")
}

func TestDeployFleet(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fleet := filepath.Join(b.dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(fleet, []byte(`
defaults: {kind: linux, user: root}
targets:
  - {name: one, address: one}
  - {name: two, address: down}
  - {name: three, address: three}
`), 0o600))
	b.fake.Host("three").SetSoftware(transport.Software{Name: "hello", Version: "2.10-3", Source: "dpkg"})
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--parallel", "2", "--component", b.component(nil), "--fleet", fleet, "linux://four"))
	got := map[string]any{}
	for _, o := range b.of("outcome") {
		key, _ := o["name"].(string)
		if key == "" {
			key, _ = o["target"].(string)
		}
		got[key] = o["outcome"]
	}
	require.Equal(t, map[string]any{"one": "Updated", "three": "NotNeeded", "linux://four": "Updated"}, got)
	require.Len(t, b.of("error"), 1)
	require.Equal(t, "linux://root@down", b.of("error")[0]["target"])
	require.Equal(t, "two", b.of("error")[0]["name"])
	require.EqualValues(t, 4, b.of("summary")[0]["targets"])
	require.EqualValues(t, 1, b.of("summary")[0]["failed"])
	b.clean()
}

func TestPlanFile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	comp := b.component(nil)
	file := filepath.Join(b.dir, "plan.json")
	require.Equal(t, exitFine, b.run(t.Context(), "plan", "--json", "--component", comp, db1, "-o", file), b.out.String())
	require.Equal(t, "install", b.of("plan")[0]["action"])
	require.Equal(t, "not installed", b.of("plan")[0]["reason"])
	require.Len(t, b.of("plan-file"), 1)
	require.Zero(t, b.fake.Runs("hello"), "planned, not installed")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	plan, err := sum.ReadPlan(data)
	require.NoError(t, err)
	require.Equal(t, comp, plan.Targets[0].Items[0].Source)
	b.clean()

	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--detailed-exitcode", "--plan", file), b.out.String())
	require.Equal(t, "Updated", b.of("outcome")[0]["outcome"])

	// The target has moved on since the plan was made.
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--plan", file), b.out.String())
	require.Contains(t, b.of("error")[0]["error"], sum.ErrPlanStale.Error())
	require.Empty(t, b.of("outcome"))
	require.Equal(t, 1, b.fake.Runs("hello"))
	b.clean()
}

func TestPlanFileOfOtherPayload(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, comp string){
		"changed": func(t *testing.T, comp string) {
			require.NoError(t, os.WriteFile(filepath.Join(comp, "install.sh"), []byte("#!/bin/sh\nrm -rf /\n"), 0o700))
		},
		"gone": func(t *testing.T, comp string) { require.NoError(t, os.RemoveAll(comp)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			comp := b.component(nil)
			file := filepath.Join(b.dir, "plan.json")
			require.Equal(t, exitFine, b.run(t.Context(), "plan", "--component", comp, db1, "-o", file), b.out.String())
			spoil(t, comp)
			calls := b.fake.Host(db1).Calls(agenttest.AnyOp)
			require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--plan", file), b.out.String())
			require.Contains(t, b.of("error")[0]["error"], sum.ErrPlanStale.Error())
			require.Equal(t, calls, b.fake.Host(db1).Calls(agenttest.AnyOp), "no target was touched")
		})
	}
}

func TestPlanIsWholeOrNotWritten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	file := filepath.Join(b.dir, "plan.json")
	require.Equal(t, exitFailed, b.run(t.Context(), "plan", "--json", "--component", b.component(nil), db1, "linux://down", "-o", file))
	require.NoFileExists(t, file)
	require.Len(t, b.of("error"), 2, "the target, and the file")
	b.clean()
}

// TestArgumentsBehindComponent: the shell makes several arguments of *.deb.
func TestArgumentsBehindComponent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.component(nil)
	two := b.component(map[string]any{"name": "world", "package": map[string]string{"source": "dpkg", "name": "world"}})
	require.Equal(t, exitFine, b.run(t.Context(), "plan", "--json", "--component", one, two, db1), b.errs.String())
	require.Len(t, b.of("plan"), 2)
	require.Equal(t, exitUsage, b.run(t.Context(), "plan", "--component", one, "--component", one, db1))
	require.Contains(t, b.errs.String(), "same component")
}

func TestInventory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := b.fake.Host(db1)
	h.SetIdentity(transport.Identity{Name: "evil\x1b[2J", Vendor: "HPE", Product: "ProLiant", OS: "linux"})
	h.SetDevices(transport.Device{ID: "pci:1", Class: transport.ClassNIC, Name: "Ethernet\u202egnp", Firmware: "1.2", Driver: "igb"})
	h.SetSoftware(transport.Software{Name: "a", Version: "1", Source: "dpkg"}, transport.Software{Name: "b", Version: "2", Source: "dpkg"})
	h.SetProblems(transport.Problem{Part: "disks", Text: "no \u009b31m rights"})
	require.Equal(t, exitFine, b.run(t.Context(), "inventory", db1))
	text := b.out.String()
	for _, want := range []string{`evil\x1b[2J`, "HPE ProLiant", "1.2", "igb", "2 packages of dpkg", `Ethernet\u202egnp`, `not read: disks: no \u009b31m rights`} {
		require.Contains(t, text, want)
	}
	requireHarmless(t, text)

	require.Equal(t, exitFine, b.run(t.Context(), "inventory", "--json", db1))
	requireHarmless(t, b.out.String())
	var e struct{ Inventory transport.Inventory }
	line, _, _ := strings.Cut(b.out.String(), "\n")
	require.NoError(t, json.Unmarshal([]byte(line), &e))
	require.Equal(t, "evil\x1b[2J", e.Inventory.Identity.Name, "escaped, not changed")
	require.Equal(t, "Ethernet\u202egnp", e.Inventory.Devices[0].Name)
	require.Len(t, e.Inventory.Software, 2)
	b.clean()
}

// requireHarmless fails on anything that a terminal obeys.
func requireHarmless(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u202e') {
			t.Errorf("%U in output", r)
		}
	}
}

func TestOutputOfInstaller(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fake.Host(db1).OnInstall("hello", agenttest.Job{Log: []string{"Unpacking\x07\n", "50%\r100%\nbad \x1b]0;title\x07\n"}})
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "-v", "--component", b.component(nil), db1))
	require.Contains(t, b.out.String(), `hello  install  Unpacking\x07`)
	require.Contains(t, b.out.String(), "hello  install  100%\n")
	requireHarmless(t, b.out.String())
	b2 := newBench(t)
	b2.fake.Host(db1).OnInstall("hello", agenttest.Job{Log: []string{"Unpacking\x07\n"}})
	require.Equal(t, exitFine, b2.run(t.Context(), "deploy", "--json", "--component", b2.component(nil), db1))
	found := false
	for _, e := range b2.of("progress") {
		found = found || e["text"] == "Unpacking\x07\n"
	}
	require.True(t, found, b2.out.String())
}

func TestAgentThatStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := b.fake.Host(db1)
	h.Fault(agenttest.Fault{Op: agenttest.Remove, Err: agent.ErrJobRunning})
	require.Equal(t, exitFailed, b.run(t.Context(), "inventory", "--json", db1), "an agent that could not be removed is a failure")
	require.Equal(t, db1, b.of("error")[0]["target"])
	require.NotEmpty(t, b.fake.Left())
}

// TestProbeWithoutAnswer: what is not known is no success, unless it is written as
// asked; and what cannot be proven then is told as that.
func TestProbeWithoutAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	comp := b.component(map[string]any{"package": nil, "profile": "zero-ok", "probe": map[string]any{"argv": []string{"hello", "--version"}}})
	b.fake.Host(db1).SetProblems(transport.Problem{Part: agent.ProbePart("hello"), Text: "it did not end within 30s"})
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--component", comp, db1), b.out.String())
	require.Equal(t, true, b.of("plan")[0]["unknown"])
	require.Equal(t, "Failed", b.of("outcome")[0]["outcome"])
	require.Contains(t, b.of("outcome")[0]["text"], "did not end within 30s")
	require.Zero(t, b.fake.Runs("hello"))
	b.fake.Host(db1).OnInstall("hello", agenttest.Job{Effect: func(*agenttest.Machine) {}})
	require.Equal(t, exitUnverified, b.run(t.Context(), "deploy", "--json", "--rewrite", "--component", comp, db1), b.out.String())
	require.Equal(t, 1, b.fake.Runs("hello"))
	b.clean()
}

// TestRecoverOfNoTarget: recover comes to the end of a dead run also where that left
// nothing on a target.
func TestRecoverOfNoTarget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	alive := t.TempDir()
	s, err := sum.Open(t.Context(), sum.Config{Resolve: b.resolve, Installer: b.fake, Journal: alive})
	require.NoError(t, err)
	runs, err := filepath.Glob(filepath.Join(alive, "run-*.jsonl"))
	require.NoError(t, err)
	require.Len(t, runs, 1)
	begun, err := os.ReadFile(runs[0])
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))
	journal := filepath.Join(b.dir, "journal")
	require.NoError(t, os.Mkdir(journal, 0o700))
	dead := filepath.Join(journal, filepath.Base(runs[0])) // nobody has it locked
	require.NoError(t, os.WriteFile(dead, begun, 0o600))
	require.Equal(t, exitFine, b.run(t.Context(), "preflight", "--probe", "--json", db1), b.out.String())
	now, err := os.ReadFile(dead)
	require.NoError(t, err)
	require.Equal(t, string(begun), string(now))
	require.Equal(t, exitFine, b.run(t.Context(), "recover", "--json"), b.out.String())
	now, err = os.ReadFile(dead)
	require.NoError(t, err)
	require.Contains(t, string(now[len(begun):]), "ended")
}

// TestUnprovenResult: a result that recover is to prove is Unverified, and no failure
// of the target.
func TestUnprovenResult(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := b.fake.Host(db1)
	h.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: 3, Err: transport.ErrRejected}) // behind those of the plan and of deploy
	require.Equal(t, exitUnverified, b.run(t.Context(), "deploy", "--json", "--component", b.component(nil), db1), b.out.String())
	require.Equal(t, "Unverified", b.of("outcome")[0]["outcome"])
	require.Contains(t, b.of("error")[0]["error"], "recover proves it")
	require.EqualValues(t, exitUnverified, b.of("summary")[0]["exit"])
	require.EqualValues(t, 0, b.of("summary")[0]["failed"])
	require.Equal(t, exitFine, b.run(t.Context(), "recover", "--json"), b.out.String())
	require.Equal(t, "Updated", b.of("outcome")[0]["outcome"])
	require.Equal(t, 1, b.fake.Runs("hello"))
	b.clean()

	// An agent that could not be removed as well is one.
	b = newBench(t)
	h = b.fake.Host(db1)
	h.Fault(agenttest.Fault{Op: agenttest.Inventory, Call: 3, Err: transport.ErrRejected})
	h.Fault(agenttest.Fault{Op: agenttest.Remove, Err: agent.ErrJobRunning})
	require.Equal(t, exitFailed, b.run(t.Context(), "deploy", "--json", "--component", b.component(nil), db1), b.out.String())
}

// TestPlanFileIsTriedFirst: no target is touched for a plan that cannot be written.
func TestPlanFileIsTriedFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, out := range []string{filepath.Join(b.dir, "missing", "plan.json"), b.dir} {
		require.Equal(t, exitUsage, b.run(t.Context(), "plan", "--component", b.component(nil), db1, "-o", out))
		require.Contains(t, b.errs.String(), "--output")
		require.Zero(t, b.fake.Host(db1).Calls(agenttest.AnyOp))
	}
	left, err := filepath.Glob(filepath.Join(b.dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestInstallationShows: who waits for a slow and silent installer sees what for.
func TestInstallationShows(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fake.Host(db1).OnInstall("hello", agenttest.Job{Log: []string{"Unpacking\n"}})
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--component", b.component(nil), db1))
	require.Equal(t, 1, strings.Count(b.out.String(), "linux://root@db1: hello  install\n"), b.out.String())
	require.NotContains(t, b.out.String(), "Unpacking", "without -v")
	stage, install := strings.Index(b.out.String(), "hello  stage"), strings.Index(b.out.String(), "hello  install\n")
	require.Less(t, stage, install)
	require.Less(t, install, strings.Index(b.out.String(), "hello  verify"))
}

func TestProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	comp := b.component(map[string]any{"package": nil, "profile": "zero-ok", "probe": map[string]any{"argv": []string{"hello", "--version"}}})
	require.Equal(t, exitFine, b.run(t.Context(), "deploy", "--json", "--component", comp, db1), b.out.String())
	require.Equal(t, "Updated", b.of("outcome")[0]["outcome"])
	require.Equal(t, map[string]any{"space": "exit", "value": "0"}, b.of("outcome")[0]["code"])
	b.clean()
}
