package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/roundsman-go/roundsman/internal/winlab"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
)

// windowsServer is as much of a Windows server as Linux has: files and pipes are those of a
// Samba that demands signatures; services and processes are those of Wine, whose
// C:\Windows is the share ADMIN$.
func windowsServer(dir string, agents install.Source) maker {
	return maker{sum.Windows, "Windows", "Samba with Wine behind it", func(ctx context.Context) ([]*machine, error) {
		if err := lacks(ctx); err != nil {
			return nil, &leftOut{err}
		}
		m, err := startWindows(ctx, dir, agents)
		if err != nil {
			return nil, &leftOut{fmt.Errorf("it does not start: %w", err)}
		}
		return []*machine{m}, nil
	}}
}

// lacks says what this machine has not, in one line.
func lacks(ctx context.Context) error {
	var what, packages []string
	lack := func(w, p string) {
		what = append(what, w)
		if p != "" {
			packages = append(packages, p)
		}
	}
	for _, p := range [][2]string{{"smbd", "samba"}, {"unshare", "util-linux"}, {"go", "golang-go"}} {
		_, err := exec.LookPath(p[0])
		if _, sbin := exec.LookPath(filepath.Join("/usr/sbin", p[0])); err != nil && sbin != nil {
			lack("the program "+p[0], p[1])
		}
	}
	var missing *winlab.MissingError
	if errors.As(winlab.Find(), &missing) {
		lack(missing.What, missing.Package)
	}
	switch {
	case len(packages) > 0:
		return fmt.Errorf("missing: %s (Debian: apt-get install %s)", strings.Join(what, ", "), strings.Join(packages, " "))
	case len(what) > 0:
		return fmt.Errorf("missing: %s", strings.Join(what, ", "))
	case os.Geteuid() != 0:
		return errors.New("smbd needs root rights")
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("smbd needs namespaces: %w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "go", "list", setupPackage).CombinedOutput(); err != nil {
		return fmt.Errorf("programs for it are built from source, so run this in a checkout of the module: %w: %s", err, out)
	}
	return nil
}

func startWindows(ctx context.Context, dir string, agents install.Source) (*machine, error) {
	// While Wine starts, what it is to run is built.
	type built struct {
		c   *component.Component
		err error
	}
	building := make(chan built, 1)
	go func() {
		c, err := windowsComponent(ctx, filepath.Join(dir, "windows-component"))
		if err == nil {
			_, err = agents.Open(ctx, "windows", "amd64")
		}
		building <- built{c, err}
	}()
	h, err := newWindows(ctx)
	b := <-building
	if err != nil {
		return nil, errors.Join(err, b.err)
	}
	if b.err != nil {
		return nil, errors.Join(b.err, h.close())
	}
	return &machine{
		target:    sum.Target{Name: "win", Kind: sum.Windows, User: h.smb.User(), Address: h.smb.Addr()},
		transport: transport.Retry(&smb.Transport{}, transport.RetryOptions{}),
		endpoint: transport.Endpoint{
			Address:     h.smb.Addr(),
			Credentials: transport.Credentials{User: h.smb.User(), Password: transport.NewSecret(h.smb.Password())},
			Options:     smb.Options{ShareRoot: `C:\Windows`},
		},
		component: b.c, want: sum.Updated,
		nothing: "no program, no process and no service",
		host:    h,
	}, nil
}

// windows is a Wine with a Samba before it.
type windows struct {
	*winlab.Services
	wine *winlab.Wine
	smb  *smbtest.Server
}

func newWindows(ctx context.Context) (_ *windows, err error) {
	h := new(windows)
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.wine, err = winlab.New(ctx); err != nil {
		return nil, err
	}
	if h.Services, err = h.wine.Services(ctx); err != nil {
		return nil, err
	}
	h.smb, err = smbtest.NewServer(smbtest.Config{Windows: h.wine.Admin(), Services: &smbtest.Services{Backend: h}})
	return h, err
}

func (h *windows) close() error {
	var errs []error
	if h.smb != nil {
		errs = append(errs, h.smb.Close())
	}
	if h.Services != nil {
		h.Services.Close()
	}
	if h.wine != nil {
		errs = append(errs, h.wine.Close())
	}
	return errors.Join(errs...)
}

// CreateService is Wine's, and Samba gets the pipe that an agent serves, which is named as
// its service is.
func (h *windows) CreateService(name, display, command string, startType uint32) (uint64, error) {
	handle, err := h.Services.CreateService(name, display, command, startType)
	if err == nil {
		// Of an earlier service of that name it is there already.
		_, _ = h.smb.Forward(name, func(ctx context.Context) (net.Conn, error) { return h.DialPipe(ctx, name) })
	}
	return handle, err
}

// remains lists files, services and processes of agents.
func (h *windows) remains(context.Context) (left remains, err error) {
	err = filepath.WalkDir(filepath.Join(h.wine.Admin(), "roundsman"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(h.wine.Admin(), path)
		rel = `C:\Windows\` + strings.ReplaceAll(rel, "/", `\`)
		if isLog(path) {
			left.logs = append(left.logs, rel)
		} else {
			left.rest = append(left.rest, rel)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return left, err
	}
	services, err := h.Names("roundsman-")
	if err != nil {
		return left, err
	}
	for _, name := range services {
		left.rest = append(left.rest, "service "+name)
	}
	processes, err := h.Processes()
	for _, p := range processes {
		if strings.Contains(strings.ToLower(p.Program), `\roundsman\`) {
			left.rest = append(left.rest, "process "+p.Program)
		}
	}
	return left, err
}

const setupPackage = "github.com/roundsman-go/roundsman/examples/quickstart/setup"

// windowsComponent is a component of 4 MiB whose installer the go command builds.
func windowsComponent(ctx context.Context, dir string) (*component.Component, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := winlab.Build(ctx, filepath.Join(dir, "setup.exe"), setupPackage); err != nil {
		return nil, err
	}
	image := make([]byte, 4<<20)
	_, _ = rand.Read(image)
	return load(ctx, dir, map[string][]byte{
		"hello.img": image,
		"component.json": []byte(`{
  "name": "hello",
  "version": "` + version + `",
  "scheme": "numeric",
  "kinds": ["windows"],
  "probe": {"argv": ["cmd.exe", "/c", "type C:\\hello\\VERSION"]},
  "files": [{"name": "setup.exe", "executable": true}, {"name": "hello.img"}],
  "install": ["./setup.exe", "C:\\hello", "` + version + `"],
  "profile": "zero-ok"
}
`),
	})
}
