package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
)

const version = "2.10"

// linuxServers are three: one without the program, one with an old version, one that is up
// to date.
func linuxServers(dir string) *kind {
	k := &kind{name: "Linux", what: "SSH server in this process"}
	k.start = func(ctx context.Context) (_ []*machine, err error) {
		comp, err := linuxComponent(ctx, filepath.Join(dir, "linux-component"))
		if err != nil {
			return nil, err
		}
		var out []*machine
		for _, s := range []struct {
			name, installed string
			want            sum.OutcomeKind
		}{
			{"fresh", "", sum.Updated},
			{"old", "2.9", sum.Updated},
			{"new", version, sum.NotNeeded},
		} {
			m, err := linuxServer(filepath.Join(dir, s.name), s.installed)
			if err != nil {
				return out, err
			}
			m.target.Name, m.component, m.want = s.name, comp, s.want
			out = append(out, m)
		}
		return out, nil
	}
	return k
}

// linuxServer is one; its commands run in a home directory of its own.
func linuxServer(home, installed string) (*machine, error) {
	if err := os.MkdirAll(filepath.Join(home, "hello"), 0o700); err != nil {
		return nil, err
	}
	if installed != "" {
		if err := os.WriteFile(filepath.Join(home, "hello", "VERSION"), []byte(installed+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	// Another password in each run, as the server runs commands as the caller.
	password := rand.Text()
	s, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: password, Home: home})
	if err != nil {
		return nil, err
	}
	m := &machine{
		target: sum.Target{Kind: sum.Linux, User: "ops", Address: s.Addr()},
		resolve: func() (transport.Transport, transport.Endpoint) {
			return transport.Retry(&ssh.Transport{}, transport.RetryOptions{}), transport.Endpoint{
				Address:     s.Addr(),
				Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret(password)},
				Trust:       transport.Trust{HostKeys: []string{s.AuthorizedHostKey()}},
			}
		},
		left:  func() (logs, rest []string, err error) { return leftIn(home) },
		close: s.Close,
	}
	if installed == "2.9" {
		// The cable is pulled when a part of the image is there.
		var cut sync.Once
		m.event = func(e sum.Event) {
			if e.Phase == "stage" && e.Done > 4<<20 {
				cut.Do(func() {
					s.CloseConnections()
					fmt.Printf("  %-6s ** the line is cut here **\n", e.Target.Name)
				})
			}
		}
	}
	return m, nil
}

// baseDir is where agents are in these homes.
const baseDir = ".cache/roundsman"

// inHomes brings agents to the homes of the lab's Linux servers, although root has
// another place for them on this machine. Others have them where they always are.
type inHomes struct{ *install.Installer }

func (in inHomes) Start(ctx context.Context, conn transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	if conn.Caps().Has(transport.CapRun) {
		opts.BaseDirs = []string{"~/" + baseDir}
	}
	return in.Installer.Start(ctx, conn, opts)
}

func (in inHomes) Inspect(ctx context.Context, conn transport.Conn, opts agent.InspectOptions) (agent.Inspector, error) {
	if conn.Caps().Has(transport.CapRun) {
		opts.BaseDirs = []string{"~/" + baseDir}
	}
	return in.Installer.Inspect(ctx, conn, opts)
}

// leftIn lists what is in the agents' directories in a home, and, where the system has
// /proc, programs that were started from there.
func leftIn(home string) (logs, rest []string, err error) {
	err = filepath.WalkDir(filepath.Join(home, baseDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if rel, _ := filepath.Rel(home, path); isLog(path) {
			logs = append(logs, rel)
		} else {
			rest = append(rest, rel)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.HasPrefix(line, home+"/") {
			rest = append(rest, "process "+line)
		}
	}
	return logs, rest, err
}

// linuxComponent is a component of 16 MiB whose installer is a shell script.
func linuxComponent(ctx context.Context, dir string) (*component.Component, error) {
	image := make([]byte, 16<<20)
	_, _ = rand.Read(image)
	return load(ctx, dir, map[string][]byte{
		"hello.img": image,
		"install.sh": []byte("#!/bin/sh\nset -e\necho \"unpacking $(wc -c <hello.img) bytes\"\n" +
			"cp hello.img \"$HOME/hello/image\"\necho " + version + " >\"$HOME/hello/VERSION\"\necho done\n"),
		"component.json": []byte(`{
  "name": "hello",
  "version": "` + version + `",
  "scheme": "numeric",
  "kinds": ["linux"],
  "probe": {"argv": ["/bin/sh", "-c", "cat \"$HOME/hello/VERSION\""]},
  "files": [{"name": "install.sh", "executable": true}, {"name": "hello.img"}],
  "install": ["./install.sh"],
  "profile": "zero-ok"
}
`),
	})
}
