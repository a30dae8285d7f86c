package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// TestWindows runs the agent for Windows under Wine, deployed by the SMB driver to a
// Samba that demands signatures: see winHost for what that shows.
func TestWindows(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it starts a real host")
	}
	if os.Getenv(windowsVariable) == "" {
		withMounts(t)
		return
	}
	h := newWinHost(t)
	l := &winLab{winHost: h, agent: matrixAgent(t, "windows", "amd64"), slow: winComponent(t)}
	t.Run("service", h.testService)
	t.Run("deploy", l.testDeploy)
	t.Run("msi", l.testMSI)
	t.Run("abandoned", l.testAbandoned)
	t.Run("matrix", l.testMatrix)
}

// windowsVariable makes a copy of the test program run TestWindows itself.
const windowsVariable = "ROUNDSMAN_WINDOWS"

// withMounts runs the test in a copy of the test program that has mounts of its own: the
// disk of the host is one.
func withMounts(t *testing.T) {
	unshare := realtest.Need(t, "unshare")
	realtest.NeedRoot(t)
	self, err := os.Executable()
	require.NoError(t, err)
	pattern := "^TestWindows$"
	if _, below, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		pattern += "/" + below
	}
	cmd := exec.CommandContext(t.Context(), unshare, "--mount", "--propagation", "private", self, "-test.run="+pattern, "-test.v", "-test.timeout="+flag.Lookup("test.timeout").Value.String())
	cmd.Env = append(os.Environ(), windowsVariable+"=1")
	runtime.LockOSThread() // see prctl(2), PR_SET_PDEATHSIG
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	require.NoError(t, cmd.Run(), "%s", &out)
}

// A winLab is a Windows server with what is deployed to it.
type winLab struct {
	*winHost
	agent string // the file of the agent
	slow  string // a component.json
}

// componentProgram is a component that counts its runs, waits for a file "go-on" and then
// notes its version, all in C:\rm.
const componentProgram = `
#include <windows.h>
#include <stdio.h>
static void add(const char *file, const char *line) {
	FILE *f = fopen(file, "a");
	if (!f || fputs(line, f) < 0 || fclose(f)) ExitProcess(9);
}
int main(void) {
	int i;
	add("C:\\rm\\runs", "run\n");
	printf("begun\n"); fflush(stdout);
	for (i = 0; i < 3000 && GetFileAttributesA("C:\\rm\\go-on") == INVALID_FILE_ATTRIBUTES; i++) Sleep(20);
	DeleteFileA("C:\\rm\\version");
	add("C:\\rm\\version", "1.0\n");
	printf("ended\n");
	return 0;
}
`

// component writes a component.json for a file.
func winManifest(t *testing.T, dir string, fields map[string]any) string {
	t.Helper()
	all := map[string]any{"version": "1.0", "scheme": "numeric", "kinds": []string{"windows"}}
	for k, v := range fields {
		all[k] = v
	}
	data, err := json.Marshal(all)
	require.NoError(t, err)
	file := filepath.Join(dir, "component.json")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}

func winComponent(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "rmslow.c")
	require.NoError(t, os.WriteFile(source, []byte(componentProgram), 0o600))
	out, err := exec.CommandContext(t.Context(), realtest.Need(t, "x86_64-w64-mingw32-gcc"), "-Os", "-s", "-o", filepath.Join(dir, "rmslow.exe"), source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return winManifest(t, dir, map[string]any{
		"name": "rmslow", "files": []map[string]any{{"name": "rmslow.exe", "executable": true}},
		"install": []string{"./rmslow.exe"}, "profile": "zero-ok",
		"probe": map[string]any{"argv": []string{"cmd.exe", "/c", `type C:\rm\version`}},
	})
}

// fresh is the host without what components have left, or a test that failed.
func (l *winLab) fresh(t *testing.T) {
	t.Helper()
	l.smb.Stall(false)
	l.freeDisk(t)
	require.NoError(t, os.RemoveAll(l.path("rm")))
	require.NoError(t, os.Mkdir(l.path("rm"), 0o700))
	require.Eventually(t, func() bool {
		l.clear(t)
		files, err := filepath.Glob(l.path("windows", "roundsman", "*"))
		for _, file := range files {
			if filepath.Base(file) != diskFile {
				err = errors.Join(err, os.RemoveAll(file))
			}
		}
		return err == nil
	}, time.Minute, 50*time.Millisecond, "what an earlier test left does not go")
}

// clear ends and deletes services and processes.
func (l *winLab) clear(t *testing.T) {
	t.Helper()
	processes, err := l.Processes()
	require.NoError(t, err)
	for _, p := range processes {
		if ours(p) {
			_ = l.Kill(p.PID)
		}
	}
	names, err := l.Names("roundsman-")
	require.NoError(t, err)
	for _, name := range names {
		if h, err := l.OpenService(name); err == nil {
			_ = l.DeleteService(h)
			_ = l.CloseService(h)
		}
	}
}

func (l *winLab) goOn(t *testing.T) {
	require.NoError(t, os.WriteFile(l.path("rm", "go-on"), nil, 0o600))
}

// runs is how often the component ran.
func (l *winLab) runs() int {
	data, _ := os.ReadFile(l.path("rm", "runs"))
	return strings.Count(string(data), "run")
}

const winTarget = "windows://ops@win1.example"

func (l *winLab) config(journal string) matrixConfig {
	return matrixConfig{Agent: l.agent, Component: l.slow, Target: winTarget, Journal: journal,
		Windows: &windowsLogin{Address: l.smb.Addr(), User: l.smb.User(), Password: l.smb.Password()}}
}

// command runs the command line to its end.
func (l *winLab) command(t *testing.T, journal string, args ...string) (status int, list []map[string]any) {
	t.Helper()
	cfg := l.config(journal)
	cfg.Args = args
	began := time.Now()
	p := startMatrixProcess(t, exec.CommandContext, t.TempDir(), cfg)
	p.wait(t)
	t.Logf("%s: %v: %s", strings.Join(args, " "), time.Since(began).Round(time.Millisecond), p)
	return p.status(), p.events(t)
}

// testDeploy: the command line, from the first contact to the logs.
func (l *winLab) testDeploy(t *testing.T) {
	l.fresh(t)
	l.goOn(t)
	journal := t.TempDir()
	status, list := l.command(t, journal, "deploy", "--component", l.slow, winTarget)
	require.Equal(t, 0, status)
	require.Len(t, outcomes(list), 1)
	o := outcomes(list)[0]
	require.Equal(t, "Updated", o["outcome"])
	require.Equal(t, "1.0", o["to"])
	require.Equal(t, map[string]any{"space": "exit", "value": "0"}, o["code"])
	require.Equal(t, 1, l.runs())
	l.requireClean(t, "a deployment")

	status, list = l.command(t, journal, "deploy", "--component", l.slow, winTarget, "--detailed-exitcode")
	require.Equal(t, 3, status)
	require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
	require.Equal(t, 1, l.runs())
	l.requireClean(t, "a second deployment")

	into := t.TempDir()
	status, _ = l.command(t, journal, "logs", winTarget, "--out", into)
	require.Equal(t, 0, status)
	require.Contains(t, readAll(t, into), "begun\r\nended\r\n", "the component's output is in the logs")
	l.requireClean(t, "fetching logs")
}

// winPackage is what wixl makes an installer package of.
const winPackage = `<?xml version="1.0" encoding="utf-8"?>
<Wix xmlns="http://schemas.microsoft.com/wix/2006/wi">
  <Product Name="rmhello" Id="*" UpgradeCode="6E4B9E2C-53C5-4F0C-9A0E-7B0B2C6F1A01" Language="1033" Version="2.10.3" Manufacturer="roundsman tests">
    <Package InstallerVersion="200" Compressed="yes" InstallScope="perMachine"/>
    <Media Id="1" Cabinet="rm.cab" EmbedCab="yes"/>
    <Directory Id="TARGETDIR" Name="SourceDir">
      <Directory Id="WindowsFolder">
        <Directory Id="INSTALLDIR" Name="rmhello">
          <Component Id="Hello" Guid="6E4B9E2C-53C5-4F0C-9A0E-7B0B2C6F1A02">
            <File Id="Version" Name="version.txt" Source="version.txt" KeyPath="yes"/>
          </Component>
        </Directory>
      </Directory>
    </Directory>
    <Feature Id="Main" Level="1"><ComponentRef Id="Hello"/></Feature>
  </Product>
</Wix>
`

// testMSI: a package of Windows Installer.
func (l *winLab) testMSI(t *testing.T) {
	wixl := realtest.Need(t, "wixl")
	l.fresh(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "version.txt"), []byte("2.10.3\r\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rmhello.wxs"), []byte(winPackage), 0o600))
	cmd := exec.CommandContext(t.Context(), wixl, "-a", "x64", "-o", "rmhello.msi", "rmhello.wxs")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	component := winManifest(t, dir, map[string]any{
		"name": "rmhello", "version": "2.10.3", "files": []map[string]any{{"name": "rmhello.msi"}},
		"install": []string{"msiexec.exe", "/i", "rmhello.msi", "/qn", "/norestart"}, "profile": "msi",
		"probe": map[string]any{"argv": []string{"cmd.exe", "/c", `type C:\Windows\rmhello\version.txt`}},
	})
	journal := t.TempDir()
	status, list := l.command(t, journal, "deploy", "--component", component, winTarget)
	require.Equal(t, 0, status)
	o := outcomes(list)[0]
	require.Equal(t, "Updated", o["outcome"])
	require.Equal(t, "2.10.3", o["to"])
	require.Equal(t, map[string]any{"space": "msi", "value": "0"}, o["code"])
	l.requireClean(t, "a package")
	status, list = l.command(t, journal, "deploy", "--component", component, winTarget, "--detailed-exitcode")
	require.Equal(t, 3, status)
	require.Equal(t, "NotNeeded", outcomes(list)[0]["outcome"])
	l.requireClean(t, "a package that is there")
}
