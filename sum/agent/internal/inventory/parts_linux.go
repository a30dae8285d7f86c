package inventory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func (o Options) systemParts() []part {
	h := host{root: filepath.Clean(cmp.Or(o.Root, "/"))}
	if h.live() {
		return h.parts(ethtoolDriverInfo)
	}
	return h.parts(nil)
}

// parts returns what to read. Without ask, the kernel is not asked about drivers.
func (h host) parts(ask driverInfoFunc) []part {
	return []part{
		{name: "identity", read: h.identity},
		{name: "bios", read: h.bios},
		{name: "network", read: func(ctx context.Context, out *finds) { h.network(ctx, ask, out) }},
		{name: "controllers", read: h.controllers},
		{name: "disks", read: h.disks},
		{name: "dpkg", read: h.dpkg},
		{name: "rpm", timeout: rpmTimeout, read: h.rpm},
	}
}

func (h host) dpkg(ctx context.Context, out *finds) {
	f, err := os.Open(h.path("/var/lib/dpkg/status"))
	if errors.Is(err, fs.ErrNotExist) {
		return // not a Debian system
	}
	if err == nil {
		defer f.Close()
		err = ParseDpkgStatus(f, out.installed)
	}
	if err != nil {
		out.problem("%v", err)
	}
}

// rpm lists packages where rpm is used, not where it is merely installed: asked
// for a database that is missing, the program would make one.
func (h host) rpm(ctx context.Context, out *finds) {
	database := ""
	for _, name := range RPMDatabases {
		if h.exists(name) {
			database = name
			break
		}
	}
	if database == "" {
		return
	}
	if !h.live() {
		out.problem("%s is there, but only the rpm program of that system can read it", database)
		return
	}
	for _, program := range []string{"/usr/bin/rpm", "/bin/rpm"} {
		if h.exists(program) {
			if err := runRPM(ctx, program, out.installed); err != nil {
				out.problem("%v", err)
			}
			return
		}
	}
	out.problem("%s is there, but no rpm program", database)
}

// runRPM asks the rpm program for all packages.
func runRPM(ctx context.Context, program string, found func(transport.Software)) error {
	cmd := exec.CommandContext(ctx, program, RPMArgs...)
	// The caller's environment could point rpm at other macros and another database.
	cmd.Env = []string{"LC_ALL=C", "HOME=/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var stderr head
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	perr := ParseRPM(out, found)
	if perr != nil {
		_ = cmd.Process.Kill() // it may be blocked on the pipe that nobody reads
	}
	werr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case perr != nil:
		return perr
	case werr != nil:
		return fmt.Errorf("%s: %w: %s", program, werr, bytes.TrimSpace(stderr.buf))
	}
	return nil
}

// head keeps the first bytes of what is written to it.
type head struct{ buf []byte }

func (t *head) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), 512-len(t.buf))]...)
	return len(p), nil
}
