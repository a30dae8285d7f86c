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
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
)

// lab is three Linux servers: one without the program, one with an old version,
// one that is up to date.
type lab struct {
	dir      string
	password string // of all servers; another in each run, as the servers run commands as the caller
	servers  []*server
	cut      sync.Once
}

type server struct {
	name string
	*sshtest.Server
}

const version = "2.10"

func newLab(dir string) (*lab, error) {
	l := &lab{dir: dir, password: rand.Text()}
	for name, installed := range map[string]string{"fresh": "", "old": "2.9", "new": version} {
		home := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(home, "hello"), 0o700); err != nil {
			return nil, err
		}
		if installed != "" {
			if err := os.WriteFile(filepath.Join(home, "hello", "VERSION"), []byte(installed+"\n"), 0o600); err != nil {
				return nil, err
			}
		}
		s, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: l.password, Home: home})
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.servers = append(l.servers, &server{name, s})
	}
	return l, nil
}

func (l *lab) close() error {
	var errs []error
	for _, s := range l.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (l *lab) targets() []sum.Target {
	var out []sum.Target
	for _, name := range []string{"fresh", "old", "new"} {
		out = append(out, sum.Target{Name: name, Kind: sum.Linux, User: "ops", Address: l.server(name).Addr()})
	}
	return out
}

func (l *lab) server(name string) *server {
	for _, s := range l.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

// resolve is what connects the pipeline to the lab: a real one would look the
// password up in a vault and the host key in known_hosts.
func (l *lab) resolve(_ context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	s := l.server(t.Name)
	return transport.Retry(&ssh.Transport{}, transport.RetryOptions{}), transport.Endpoint{
		Address:     t.Address,
		Credentials: transport.Credentials{User: t.User, Password: transport.NewSecret(l.password)},
		Trust:       transport.Trust{HostKeys: []string{s.AuthorizedHostKey()}},
	}, nil
}

// component makes a component of 16 MiB whose installer is a shell script, and
// loads it as the command line would.
func (l *lab) component(ctx context.Context) (*component.Component, error) {
	dir := filepath.Join(l.dir, "component")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	image := make([]byte, 16<<20)
	_, _ = rand.Read(image)
	files := map[string][]byte{
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
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o700); err != nil {
			return nil, err
		}
	}
	return component.Load(ctx, dir)
}

// interfere pulls the cable of one target when a part of the image is there.
func (l *lab) interfere(e sum.Event) {
	if e.Target.Name == "old" && e.Phase == "stage" && e.Done > 4<<20 {
		l.cut.Do(func() {
			l.server("old").CloseConnections()
			fmt.Printf("  %-6s ** the line is cut here **\n", "old")
		})
	}
}

// leftovers prints what the agents left, and fails if that is more than logs.
func (l *lab) leftovers() error {
	var bad []string
	for _, s := range l.servers {
		base := filepath.Join(s.Home(), ".cache", "roundsman")
		err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(s.Home(), path)
			fmt.Printf("  %-6s %s\n", s.name, rel)
			log := d.Name() == "agent.log" || filepath.Base(filepath.Dir(path)) == "jobs"
			if !log {
				bad = append(bad, path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// An agent that has deleted itself takes a moment more to end.
	running := l.agents()
	for deadline := time.Now().Add(10 * time.Second); len(running) > 0 && time.Now().Before(deadline); running = l.agents() {
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Printf("  agents that still run: %d\n", len(running))
	if bad = append(bad, running...); len(bad) > 0 {
		return fmt.Errorf("left on targets: %s", strings.Join(bad, ", "))
	}
	return nil
}

// agents returns the command lines of the processes that were started from the
// homes of the lab, where the system has /proc.
func (l *lab) agents() []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.HasPrefix(line, l.dir) {
			out = append(out, line)
		}
	}
	return out
}
