package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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
func linuxServers(dir string) maker {
	return maker{sum.Linux, "Linux", "SSH server in this process", func(ctx context.Context) (out []*machine, err error) {
		if runtime.GOOS == "windows" {
			return nil, &leftOut{errors.New("their commands take a POSIX shell, which Windows has not")}
		}
		comp, err := linuxComponent(ctx, filepath.Join(dir, "linux-component"))
		if err != nil {
			return nil, err
		}
		for _, s := range []struct {
			name, installed string
			want            sum.OutcomeKind
		}{
			{"fresh", "", sum.Updated},
			{"old", "2.9", sum.Updated},
			{"new", version, sum.NotNeeded},
		} {
			srv, err := startLinux(filepath.Join(dir, s.name), s.installed)
			if err != nil {
				return out, err
			}
			m := &machine{
				target:    sum.Target{Name: s.name, Kind: sum.Linux, User: srv.user, Address: srv.ssh.Addr()},
				transport: transport.Retry(&ssh.Transport{}, transport.RetryOptions{}),
				endpoint: transport.Endpoint{
					Address:     srv.ssh.Addr(),
					Credentials: transport.Credentials{User: srv.user, Password: transport.NewSecret(srv.password)},
					Trust:       transport.Trust{HostKeys: []string{srv.ssh.AuthorizedHostKey()}},
				},
				component: comp, want: s.want,
				nothing: "no program and no process",
				host:    srv,
			}
			if s.name == "old" {
				m.event = srv.cutOnce()
			}
			out = append(out, m)
		}
		return out, nil
	}}
}

// linux is a server whose commands run in a home directory of its own.
type linux struct {
	ssh            *sshtest.Server
	home           string
	user, password string
}

func startLinux(home, installed string) (*linux, error) {
	if err := os.MkdirAll(filepath.Join(home, "hello"), 0o700); err != nil {
		return nil, err
	}
	if installed != "" {
		if err := os.WriteFile(filepath.Join(home, "hello", "VERSION"), []byte(installed+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	// Another password in each run, as the server runs commands as the caller.
	s := &linux{home: home, user: "ops", password: rand.Text()}
	var err error
	s.ssh, err = sshtest.NewServer(sshtest.Config{User: s.user, Password: s.password, Home: home})
	return s, err
}

func (s *linux) close() error { return s.ssh.Close() }

// cutOnce pulls the cable when a part of the image is there.
func (s *linux) cutOnce() func(sum.Event) {
	var cut sync.Once
	return func(e sum.Event) {
		if e.Phase == "stage" && e.Done > 4<<20 {
			cut.Do(func() {
				s.ssh.CloseConnections()
				fmt.Printf("  %-6s ** the line is cut here **\n", e.Target.Name)
			})
		}
	}
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

// remains lists what is in the agents' directories in the home, and, where the system has
// /proc, programs that were started from there.
func (s *linux) remains(context.Context) (left remains, err error) {
	err = filepath.WalkDir(filepath.Join(s.home, baseDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if rel, _ := filepath.Rel(s.home, path); isLog(path) {
			left.logs = append(left.logs, rel)
		} else {
			left.rest = append(left.rest, rel)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.HasPrefix(line, s.home+"/") {
			left.rest = append(left.rest, "process "+line)
		}
	}
	return left, err
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
