package agentless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/internal/inventory"
	"github.com/roundsman-go/roundsman/transport"
)

// treeScript prints what an inventory reads of /proc, /sys and /etc: links as ls(1)
// does, an empty line, then files, each behind a line with its name, as head(1)
// does it. All have names without blanks.
const treeScript = `
cd /
{
	find sys/class/net sys/class/nvme sys/class/fc_host sys/class/scsi_host sys/block sys/bus/pci/devices -maxdepth 1 -type l
	find sys/devices -type l \( -name driver -o -name subsystem -o -name device -o -name physfn -o -name module \)
} 2>/dev/null | xargs ls -ld 2>/dev/null
echo
{
	ls -d etc/os-release usr/lib/os-release etc/hostname proc/sys/kernel/hostname proc/sys/kernel/osrelease proc/sys/kernel/random/boot_id
	find sys/class/dmi/id/ -maxdepth 1 -type f
	find sys/bus/pci/slots -type f -name address
	find sys/module -maxdepth 2 -type f -name version
	find run/udev/data -type f -name 'b*'
	find sys/devices -type f \( -name vendor -o -name device -o -name 'subsystem_*' -o -name class -o -name revision -o -name label \
		-o -name address -o -name 'addr_*' -o -name '*model*' -o -name name -o -name '*rev' -o -name '*fw*' -o -name '*serial*' -o -name 'wwid' \
		-o -name '*_version' -o -name '*_name' -o -name '*_id' -o -name size -o -name dev -o -name type -o -name state -o -name removable \
		-o -name rotational -o -name operstate -o -name speed -o -name duplex -o -name uevent -o -name modalias -o -name '*_block_size' \
		-o -name '*bios*' -o -name '*firmware*' \)
} 2>/dev/null | while read -r f; do [ -r "$f" ] && echo "$f"; done | xargs head -v -c 4096 2>/dev/null
exit 0
`

// Bounds of what a target may make the manager keep for a moment.
const (
	maxTree  = 64 << 20 // bytes of treeScript's answer
	maxNames = 200_000
	maxRPM   = 64 << 20
)

// Inventory implements agent.Ops. Devices are read on a manager that runs Linux;
// what only a program on the target can ask the kernel, such as the firmware of
// some network adapters (ethtool), is missing.
func (c *commands) Inventory(ctx context.Context, req agent.InventoryRequest) (*transport.Inventory, error) {
	fail := func(err error) (*transport.Inventory, error) {
		return nil, &agent.Error{Op: "inventory", Target: c.target, Err: err}
	}
	id, err := c.conn.Identify(ctx)
	if err != nil {
		return fail(err)
	}
	sweepTemp()
	root, err := os.MkdirTemp("", tempPrefix+agent.ProcessName()+"-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(root)
	inv := &transport.Inventory{}
	problem := func(part string, err error) {
		inv.Problems = append(inv.Problems, transport.Problem{Part: part, Text: err.Error()})
	}
	if runtime.GOOS == "linux" {
		err = c.copyTree(ctx, root)
		if err == nil {
			inv = inventory.Options{Root: root}.Collect(ctx)
		}
	} else {
		err = errors.New("the devices of a target without an agent are read on a manager that runs Linux only")
		if derr := c.debs(ctx, root, func(s transport.Software) { inv.Software = append(inv.Software, s) }); derr != nil {
			problem("dpkg", derr)
		}
	}
	switch {
	case err == nil:
	case ctx.Err() != nil || transport.Temporary(err) || errors.Is(err, transport.ErrClosed):
		return fail(err)
	default:
		problem("devices", err)
	}
	merge(&inv.Identity, id)
	if err := c.rpms(ctx, inv); err != nil {
		return fail(err)
	}
	for _, p := range req.Probes {
		if err := c.probe(ctx, p, inv); err != nil {
			return fail(err)
		}
	}
	inv.Taken = time.Now()
	return inv, nil
}

const tempPrefix = "roundsman-inventory-"

// sweepTemp removes what managers left on this machine that were killed.
func sweepTemp() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*-*"))
	for _, dir := range left {
		word := strings.TrimPrefix(filepath.Base(dir), tempPrefix)
		if agent.ProcessGone(word[:strings.LastIndexByte(word, '-')]) {
			_ = os.RemoveAll(dir) // that of another user stays
		}
	}
}

// merge fills in what the connection knows.
func merge(to *transport.Identity, from transport.Identity) {
	for _, f := range []struct{ to, from *string }{
		{&to.Name, &from.Name}, {&to.Vendor, &from.Vendor}, {&to.Product, &from.Product}, {&to.Serial, &from.Serial}, {&to.UUID, &from.UUID},
		{&to.OS, &from.OS}, {&to.Version, &from.Version}, {&to.Kernel, &from.Kernel}, {&to.Arch, &from.Arch}, {&to.BootID, &from.BootID},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
}

// copyTree copies what an inventory reads into a directory of the manager.
func (c *commands) copyTree(ctx context.Context, root string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	t := &tree{root: dir}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := t.read(r)
		r.CloseWithError(err)
		read <- err
	}()
	_, err = transport.Run(ctx, c.conn, transport.Command{Argv: []string{"sh", "-c", compact(treeScript)}, Stdout: w})
	w.CloseWithError(err)
	if err := errors.Join(err, <-read); err != nil {
		return err
	}
	if err := t.link(); err != nil {
		return err
	}
	return c.debs(ctx, root, nil)
}

// debs copies dpkg's list of packages, and hands them on if found is not nil.
func (c *commands) debs(ctx context.Context, root string, found func(transport.Software)) error {
	const name = "/var/lib/dpkg/status"
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o700); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(root, name))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = transport.Get(ctx, c.conn, name, f, transport.GetOptions{Limit: maxTree})
	switch {
	case errors.Is(err, fs.ErrNotExist): // not a Debian system
		return os.Remove(f.Name())
	case err != nil || found == nil:
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return inventory.ParseDpkgStatus(f, found)
}

// rpms asks the target's rpm, where that is what its packages are kept with.
func (c *commands) rpms(ctx context.Context, inv *transport.Inventory) error {
	var out limited
	var errs lastBytes
	script := `for f in ` + strings.Join(inventory.RPMDatabases, " ") + `; do [ -e "$f" ] && exec rpm "$@"; done; exit 0`
	exit, err := transport.Run(ctx, c.conn, transport.Command{
		Argv: append([]string{"sh", "-c", script, "sh"}, inventory.RPMArgs...), Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		return err
	}
	if exit != (transport.Exit{}) {
		err = fmt.Errorf("rpm ended with status %d: %.300q", exit.Code, string(errs))
	} else {
		err = inventory.ParseRPM(&out.Buffer, func(s transport.Software) { inv.Software = append(inv.Software, s) })
	}
	inv.Problems = dropPart(inv.Problems, "rpm") // that the copy of the tree cannot be asked
	if err != nil {
		inv.Problems = append(inv.Problems, transport.Problem{Part: "rpm", Text: err.Error()})
	}
	return nil
}

func dropPart(list []transport.Problem, part string) []transport.Problem {
	out := list[:0]
	for _, p := range list {
		if p.Part != part {
			out = append(out, p)
		}
	}
	return out
}

// limited is a buffer that refuses what is too much.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxRPM {
		return 0, errors.New("the list of packages is too long")
	}
	return l.Buffer.Write(p)
}

// probe runs a program that prints a version.
func (c *commands) probe(ctx context.Context, p agent.Probe, inv *transport.Inventory) error {
	problem := func(format string, args ...any) {
		inv.Problems = append(inv.Problems, transport.Problem{Part: agent.ProbePart(p.Name), Text: fmt.Sprintf(format, args...)})
	}
	if len(p.Argv) == 0 || p.Argv[0] == "" {
		problem("it has no command")
		return nil
	}
	limit := p.Timeout
	if limit <= 0 {
		limit = 30 * time.Second
	}
	pctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out, errs firstBytes
	exit, err := transport.Run(pctx, c.conn, transport.Command{
		Argv:  append([]string{"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, p.Argv...),
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
	})
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		problem("%q did not end within %v", p.Argv[0], limit)
	case err != nil && (transport.Temporary(err) || errors.Is(err, transport.ErrClosed)):
		return err
	case err != nil:
		problem("%v", err)
	case exit.Signal != "":
		problem("%q was ended by a signal", p.Argv[0])
	case exit.Code == 126: // env(1), of a program that is there
		problem("%q cannot be executed: %.200q", p.Argv[0], firstLine(errs))
	case exit.Code == 0 && firstLine(out) != "":
		inv.Software = append(inv.Software, transport.Software{Name: p.Name, Version: firstLine(out), Source: agent.ProbeSource})
	default: // 127 is env(1)'s of one that is not there
		line := firstLine(out)
		if line == "" {
			line = firstLine(errs)
		}
		inv.Notes = append(inv.Notes, transport.Problem{Part: agent.ProbePart(p.Name), Text: agent.ProbeNote(exit.Code, line)})
	}
	return nil
}

// firstLine is the first line with something on it, trimmed.
func firstLine(b []byte) string {
	for line := range strings.Lines(strings.ToValidUTF8(string(b), "\uFFFD")) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes []byte

func (f *firstBytes) Write(p []byte) (int, error) {
	*f = append(*f, p[:min(len(p), 4096-len(*f))]...)
	return len(p), nil
}
