package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestCanary runs everything that the command line does on a server, with debug
// logging, and kills the manager while an installer runs. Every secret is a canary:
// those that the operator gives, and those that are made for the channel to the
// agent. Meanwhile a sampler reads the command lines and environments of all
// processes, of this machine and of the target, and all files that the target has
// changed; afterwards everything that was seen or logged is searched. Nothing may
// hold a canary but the agent's bootstrap, which is its user's alone and goes.
func TestCanary(t *testing.T) {
	t.Run("agent", func(t *testing.T) { remoteCanary(t) })
	t.Run("agent in the classic generation", func(t *testing.T) { remoteCanary(t, "--generation", "classic", "--first-ports") })
	t.Run("agentless", func(t *testing.T) { remoteCanary(t, "--agentless") })
	t.Run("local", func(t *testing.T) { localCanary(t, "roundsman") })
	t.Run("local in process", func(t *testing.T) { localCanary(t, inProcess) })
}

// secretText is a password that is different in each way of writing it down.
func secretText(what string) string {
	return "canary" + what + strings.ToLower(rand.Text()[:12]) + ` '"&<%>\$+/ é`
}

// aviary is a run with its canaries.
type aviary struct {
	*manager
	sampler
	canaries []canarySecret
	controls []canarySecret // that must be found
	output   bytes.Buffer
	records  string // where the journal is, in the name of a sample

	secretsMu sync.Mutex
	boots     map[string]bool // by the agent's private key
	problems  []string
}

// add makes a secret a canary, and its beginning, which no way of quoting changes.
func (a *aviary) add(name, secret string) {
	a.canaries = append(a.canaries, newSecret(name, []byte(secret)))
	if core, _, ok := strings.Cut(secret, " "); ok {
		a.canaries = append(a.canaries, newSecret("the beginning of "+name, []byte(core)))
	}
}

func newAviary(t *testing.T, m *manager) *aviary {
	a := &aviary{manager: m, records: "journal:/", boots: map[string]bool{}}
	holder := m.host.Command(t.Context(), "sleep", "3600") // on the host, so that we find our way there
	require.NoError(t, holder.Start())
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	pid := strconv.Itoa(holder.Process.Pid)
	top := outside(t, pid)
	changed := filepath.Join("/proc", top, "root", filepath.Dir(m.host.Identity), "fs/up")
	require.DirExists(t, changed)
	a.roots = []canaryRoot{{"host:", changed}, {"journal:", m.journal}, {"home:", m.home}}
	for _, dir := range []string{"run", "tmp", "root"} { // file systems of their own; /dev is this machine's
		a.roots = append(a.roots, canaryRoot{"host:/" + dir, filepath.Join("/proc", pid, "root", dir)})
	}
	a.skip = func(name string) bool {
		// What the test itself puts there.
		return name == "host:/run/canary" || name == "host:/srv/secrets" ||
			name == "host:/etc/shadow" || name == "host:/usr/local/bin/"+inProcess || name == "host:/usr/local/bin/roundsman"
	}
	a.bootstrap = a.sawBootstrap
	return a
}

// outside finds a process that is in the host's mount namespace but sees all of it:
// the one that set it up.
func outside(t *testing.T, pid string) string {
	t.Helper()
	var found string
	require.Eventually(t, func() bool {
		ns, err := os.Readlink("/proc/" + pid + "/ns/mnt")
		own, _ := os.Readlink("/proc/self/ns/mnt")
		if err != nil || ns == own { // nsenter is not there yet
			return false
		}
		for _, p := range pidsOf("/proc") {
			if other, err := os.Readlink("/proc/" + p + "/ns/mnt"); err == nil && other == ns {
				if root, err := os.Readlink("/proc/" + p + "/root"); err == nil && root == "/" {
					found = p
				}
			}
		}
		return found != ""
	}, 30*time.Second, 10*time.Millisecond, "nothing that sees the host's file systems")
	// The one that is asked for must have changed its root by now.
	require.Eventually(t, func() bool {
		root, err := os.Readlink("/proc/" + pid + "/root")
		return err == nil && root != "/"
	}, 30*time.Second, 10*time.Millisecond)
	return found
}

// sawBootstrap makes canaries of the keys in an agent's bootstrap.
func (a *aviary) sawBootstrap(fi fs.FileInfo, content, ready []byte) {
	a.secretsMu.Lock()
	defer a.secretsMu.Unlock()
	if st := fi.Sys().(*syscall.Stat_t); fi.Mode().Perm() != 0o600 || st.Uid != 0 {
		a.problems = append(a.problems, fmt.Sprintf("%s: %v, user %d", fi.Name(), fi.Mode(), st.Uid))
	}
	var boot agent.Bootstrap
	if json.Unmarshal(content, &boot) != nil { // it is not whole
		return
	}
	a.keys(boot)
	var r agent.Ready
	if json.Unmarshal(ready, &r) == nil && r.Nonce == boot.Nonce {
		a.problems = append(a.problems, "a bootstrap is still there when the agent is ready")
	}
}

func (a *aviary) keys(boot agent.Bootstrap) {
	var inner struct{ Key, Secret string }
	if json.Unmarshal(boot.Credentials, &inner) != nil || a.boots[inner.Key] {
		return
	}
	a.boots[inner.Key] = true
	secret, err := base64.StdEncoding.DecodeString(inner.Secret)
	if err != nil || len(secret) != 32 {
		a.problems = append(a.problems, "a bootstrap without a secret of 32 bytes")
		return
	}
	a.canaries = append(a.canaries, newSecret("the channel's secret", secret), newSecret("the channel's secret as it is written", []byte(inner.Secret)))
	block, _ := pem.Decode([]byte(inner.Key))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		a.problems = append(a.problems, "a bootstrap with a key that cannot be read: "+err.Error())
		return
	}
	scalar, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		a.problems = append(a.problems, err.Error())
		return
	}
	a.canaries = append(a.canaries, newSecret("the agent's private key", scalar))
	number := new(big.Int).SetBytes(scalar).String() // as a careless %v would print it
	a.canaries = append(a.canaries, newSecret("the agent's private key as a number", []byte(number)))
	for i, line := range strings.Split(strings.TrimSpace(inner.Key), "\n") {
		// The first line of the DER is the same for all keys but for its end.
		if i == 2 {
			a.canaries = append(a.canaries, newSecret("the agent's private key as PEM", []byte(line)))
		}
	}
}

// control shows that the sampler sees what it should: a process with a secret among
// its arguments, one with a secret in its environment, on the target and beside the
// manager, and files with each form of one.
func (a *aviary) control() {
	t := a.t
	for where, command := range map[string]func(name string, args ...string) *exec.Cmd{
		"on the target":      func(name string, args ...string) *exec.Cmd { return a.host.Command(t.Context(), name, args...) },
		"beside the manager": func(name string, args ...string) *exec.Cmd { return a.net.Command(t.Context(), name, args...) },
	} {
		arg, env := secretText("arg"), secretText("env")
		a.controls = append(a.controls, newSecret("argument of a process "+where, []byte(arg)), newSecret("environment of a process "+where, []byte(env)))
		with := command("sh", "-c", "read x", "sh", arg)
		in := command("sh", "-c", "read x")
		in.Env = append(os.Environ(), "CONTROL="+env)
		for _, cmd := range []*exec.Cmd{with, in} {
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			require.True(t, a.wait(0))
			require.NoError(t, stdin.Close())
			_ = cmd.Wait() // there was nothing to read
		}
	}
	file := secretText("file")
	c := newSecret("file", []byte(file))
	for i, form := range c.forms {
		one := canarySecret{"file with the form " + form.name, []canaryForm{form}}
		a.controls = append(a.controls, one)
		name := fmt.Sprintf("/var/lib/control-%d", i)
		cmd := a.host.Command(t.Context(), "sh", "-c", `mkdir -p /var/lib; cat >"$1"`, "sh", name)
		cmd.Stdin = io.MultiReader(strings.NewReader("before "), bytes.NewReader(form.text), strings.NewReader(" after"))
		require.NoError(t, cmd.Run())
	}
	// Files that are gone before the end.
	for _, dir := range []string{"/var/lib", "/run", "/tmp", "/root"} {
		text := secretText("moment")
		a.controls = append(a.controls, newSecret("file in "+dir+" for a moment", []byte(text)))
		cmd := a.host.Command(t.Context(), "sh", "-c", `cat >"$1"`, "sh", dir+"/moment")
		cmd.Stdin = strings.NewReader(text)
		require.NoError(t, cmd.Run())
		require.True(t, a.wait(1))
		a.host.Run("rm", dir+"/moment")
	}
}

// judge searches everything. The keys of as many starts of an agent must be among the
// canaries. A process whose command line is allowed was given secrets in its
// environment by its caller.
func (a *aviary) judge(starts int, allowed func(argv string) bool) {
	t := a.t
	samples := a.end()
	require.GreaterOrEqual(t, len(a.boots), starts, "the bootstraps that were seen while they were there")
	require.Equal(t, starts > 0, len(a.boots) > 0, "there are bootstraps where there are agents alone")
	samples = append(samples, sample{where: "what the manager printed and logged", content: a.output.Bytes()})
	t.Logf("%d rounds over all processes, %d over all files: %d samples, %d canaries of %d bootstraps",
		a.rounds[0], a.rounds[1], len(samples), len(a.canaries), len(a.boots))
	// The first canaries are those that were known from the start.
	all := newSecretIndex(slices.Concat(a.canaries, a.controls))
	places := make([][]string, len(a.canaries)+len(a.controls))
	for _, s := range samples {
		found := s.found
		if s.content != nil {
			found = all.search(s.content)
		}
		if len(found) > 0 && strings.HasPrefix(s.where, "environment") && allowed != nil && allowed(s.argv) {
			continue
		}
		for i, form := range found {
			places[i] = append(places[i], form+": "+s.where)
		}
	}
	for i, c := range a.controls {
		require.NotEmpty(t, places[len(a.canaries)+i], "the sampler does not see: %s", c.name)
	}
	require.NotEmpty(t, a.canaries)
	for i, c := range a.canaries {
		if p := places[i]; len(p) > 0 {
			t.Errorf("%s is seen in %d places:\n%s", c.name, len(p), strings.Join(p[:min(len(p), 10)], "\n"))
		}
	}
	require.Empty(t, a.problems, "what is wrong with a bootstrap")
	a.host.Run("sh", "-ec", "mkdir -p /srv/roundsman/x; : >/srv/roundsman/x/bootstrap.json")
	require.Equal(t, []string{"host:/srv/roundsman/x/bootstrap.json"}, a.left(), "what is left is not found")
	a.host.Run("rm", "-r", "/srv/roundsman")
	require.Empty(t, a.left(), "a bootstrap is left")
	// What was to be searched was there.
	files := []string{"/jobs/", a.records}
	if starts > 0 {
		files = append(files, "/"+agent.LogName)
	}
	for _, want := range files {
		require.True(t, slices.ContainsFunc(samples, func(s sample) bool {
			return strings.HasPrefix(s.where, "file ") && strings.Contains(s.where, want) && (s.content != nil || s.found != nil)
		}), "no file %s was seen", want)
	}
}

// left returns the bootstraps that are there.
func (a *aviary) left() (names []string) {
	for _, root := range a.roots {
		_ = filepath.WalkDir(root.dir, func(name string, d fs.DirEntry, err error) error {
			rel := root.name + strings.TrimPrefix(name, root.dir)
			if err == nil && !a.skip(rel) && isBootstrap(rel) && d.Type().IsRegular() { // not what an overlay hides
				names = append(names, rel)
			}
			return nil
		})
	}
	return names
}

// whole does everything with a target, by a way to make the program's command.
func (a *aviary) whole(passphrase, target string, pkg func(name, postinst string) string, logs string, command func(args ...string) *exec.Cmd, more ...string) {
	t := a.t
	run := func(want int, args ...string) []map[string]any {
		t.Helper()
		flags := slices.Clone(more)
		if args[0] == "logs" { // which has no use for those of agents
			flags = slices.DeleteFunc(flags, func(f string) bool { return f != "--sudo" })
		}
		status, list := a.finish(a.begin(command(append(append(args, "-v", "--json"), flags...)...), passphrase))
		require.Equal(t, want, status)
		return list
	}
	run(0, "inventory", target)
	done := outcomes(run(0, "deploy", "--component", pkg("rmcanary", "echo configured"), target))
	require.Len(t, done, 1)
	require.Equal(t, "Updated", done[0]["outcome"])

	slow := pkg("rmslow", waitFor)
	r := a.begin(command(append([]string{"deploy", "--component", slow, target, "-v", "--json"}, more...)...), passphrase)
	require.Eventually(t, func() bool {
		select {
		case <-r.ended:
			return true
		default:
			return a.runs("rmslow") == 1
		}
	}, 2*time.Minute, 100*time.Millisecond, "the installer did not start")
	require.Equal(t, 1, a.runs("rmslow"), "%s%s", &r.out, &r.errs)
	require.NoError(t, syscall.Kill(a.program(r), syscall.SIGKILL))
	a.finish(r)
	a.host.Run("touch", "/var/lib/go-on")
	done = outcomes(run(0, "recover", target))
	require.Len(t, done, 1)
	require.Equal(t, "Updated", done[0]["outcome"])
	require.Equal(t, 1, a.runs("rmslow"))
	run(0, "logs", target, "--out", logs)
	a.clean()
}

// remoteCanary works on a server as a user who needs a key with a passphrase and a
// password to come in, and another password to become root. With an agent the
// passwords come from files, without from the environment, where only the program
// itself may have them.
func remoteCanary(t *testing.T, flags ...string) {
	realtest.Need(t, "sudo")
	agentless := slices.Contains(flags, "--agentless")
	m := newManager(t)
	if slices.Contains(flags, "classic") { // which has ports of its own
		m.host.Run("nft", "add rule inet only22 in tcp sport 60000-60999 tcp dport 62286-62290 accept")
		m.host.Run("nft", "add rule inet only22 out tcp dport 61000-61007 accept")
	}
	login, sudo, passphrase := secretText("login"), secretText("sudo"), secretText("phrase")
	own := t.TempDir() // what the operator keeps
	write := func(name, text string) string {
		name = filepath.Join(own, name)
		require.NoError(t, os.WriteFile(name, []byte(text+"\n"), 0o600))
		return name
	}
	key := filepath.Join(own, "key")
	in := m.host.Command(t.Context(), "sh", "-ec", `
		useradd -m -s /bin/sh ops
		install -d -m 700 -o ops -g ops /home/ops/.ssh
		IFS= read -r key; IFS= read -r password; IFS= read -r root
		printf '%s\n' "$key" >/home/ops/.ssh/authorized_keys; chown ops /home/ops/.ssh/authorized_keys
		printf 'ops:%s\nroot:%s\n' "$password" "$root" | chpasswd -c SHA256 -s 1000 # sudo asks for it often
		printf 'Defaults rootpw, logfile=/var/log/sudo.log, !lecture\nops ALL=(root) ALL\n' >/etc/sudoers.d/ops; chmod 440 /etc/sudoers.d/ops
		# Each sudo first copies a bootstrap that is there.
		install -d -m 700 /run/canary
		printf '#!/bin/sh\nfor f in /var/lib/roundsman/*/bootstrap.json; do [ ! -e "$f" ] || cp -p "$f" "/run/canary/$$"; done\n' >/usr/local/sbin/canary
		chmod 755 /usr/local/sbin/canary
		echo 'session optional pam_exec.so quiet seteuid /usr/local/sbin/canary' >>/etc/pam.d/sudo
		sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes\nAuthenticationMethods publickey,password/' /etc/rmtest/sshd_config
		pkill -HUP -o -x sshd`)
	in.Stdin = strings.NewReader(encryptedKey(t, key, passphrase) + login + "\n" + sudo + "\n")
	out, err := in.CombinedOutput()
	require.NoError(t, err, "%s", out)

	a := newAviary(t, m)
	a.add("the login password", login)
	a.add("the sudo password", sudo)
	a.add("the passphrase", passphrase)
	a.known = newSecretIndex(a.canaries)
	loginFile, sudoFile := write("login", login), write("sudo", sudo)
	logs := filepath.Join(m.home, "logs")
	tmp := filepath.Join(m.home, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	command := func(args ...string) *exec.Cmd {
		args = append(args, "--journal", m.journal, "--known-hosts", m.host.HostKey, "--identity", key)
		cmd := m.net.Command(context.Background(), m.bin, args...)
		cmd.Env = append(os.Environ(), "HOME="+m.home, "TMPDIR="+tmp, "SSH_AUTH_SOCK=")
		if agentless {
			cmd.Env = append(cmd.Env, passwordVariable+"="+login, sudoPasswordVariable+"="+sudo)
		} else {
			cmd.Args = append(cmd.Args, "--password-file", loginFile, "--sudo-password-file", sudoFile)
		}
		cmd.Dir = tmp
		return cmd
	}
	more := append([]string{"--sudo"}, flags...)
	a.start()
	a.control()
	a.whole(passphrase, "linux://ops@"+m.host.Addr, func(name, postinst string) string { return deb(t, name, "1.0", postinst) }, logs, command, more...)

	copied, err := os.ReadDir(filepath.Join(a.hostDir("/run"), "canary"))
	require.NoError(t, err)
	for _, e := range copied {
		fi, err := e.Info()
		require.NoError(t, err)
		content, err := os.ReadFile(filepath.Join(a.hostDir("/run"), "canary", e.Name()))
		require.NoError(t, err)
		a.sawBootstrap(fi, content, nil)
	}
	starts := 4 // of an agent: for the inventory, two deployments and recover
	if agentless {
		starts = 0
	}
	a.judge(starts, func(argv string) bool {
		name, _, _ := strings.Cut(argv, "\x00")
		return agentless && (name == m.bin || name == "ip" && strings.Contains(argv, "\x00"+m.bin+"\x00"))
	})
	require.Contains(t, a.output.String(), "level=DEBUG")
	if !agentless { // the way that was meant was gone
		network := "network=unix"
		if slices.Contains(flags, "classic") {
			network = "network=tcp"
		}
		require.True(t, slices.ContainsFunc(a.samples, func(s sample) bool {
			return strings.HasSuffix(s.where, "/"+agent.LogName) && bytes.Contains(s.content, []byte(network))
		}), network)
	}
}

// hostDir is where a file system of the host is to be found.
func (a *aviary) hostDir(name string) string {
	for _, r := range a.roots {
		if r.name == "host:"+name {
			return r.dir
		}
	}
	a.t.Fatalf("no %s", name)
	return ""
}

// localCanary works on the program's own host. There the passwords are for other
// targets; nothing that is started may have them.
func localCanary(t *testing.T, program string) {
	s := newSite(t, program)
	login, sudo := secretText("login"), secretText("sudo")
	s.host.Run("install", "-d", "-m", "700", "/srv/secrets")
	for name, text := range map[string]string{"login": login, "sudo": sudo} {
		cmd := s.host.Command(t.Context(), "sh", "-ec", `umask 077; cat >"$1"`, "sh", "/srv/secrets/"+name)
		cmd.Stdin = strings.NewReader(text + "\n")
		require.NoError(t, cmd.Run())
	}
	a := newAviary(t, s.manager)
	a.records = "host:/srv/journal/"
	a.add("the login password", login)
	a.add("the sudo password", sudo)
	a.known = newSecretIndex(a.canaries)
	byEnvironment := program != inProcess // which does not take it out of its environment, as main does
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
	command := func(args ...string) *exec.Cmd {
		if !byEnvironment {
			args = append(args, "--password-file", "/srv/secrets/login", "--sudo-password-file", "/srv/secrets/sudo")
		}
		args = append(args, "--journal", "/srv/journal")
		cmd := s.host.Command(context.Background(), "/usr/local/bin/"+program, args...)
		cmd.Env = []string{"PATH=" + path, "HOME=/root"}
		if byEnvironment {
			cmd.Env = append(cmd.Env, passwordVariable+"="+login, sudoPasswordVariable+"="+sudo)
		}
		cmd.Dir = "/"
		return cmd
	}
	a.start()
	a.control()
	a.whole("", "local:", func(name, postinst string) string { return s.deb(name, "1.0", postinst) }, "/srv/logs", command)
	starts := 1 // of an agent, at least: nobody holds up those that are started here
	if program == inProcess {
		starts = 0
	}
	a.judge(starts, func(argv string) bool {
		name, _, _ := strings.Cut(argv, "\x00")
		return byEnvironment && (name == "/usr/local/bin/"+program || name == "nsenter" && strings.Contains(argv, "\x00/usr/local/bin/"+program+"\x00"))
	})
}
