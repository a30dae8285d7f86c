package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// An iptables is one of the four programs of iptables, for the table "filter".
// Gates in its tables are made by itself: rules that others wrote there through
// netlink can lose what they match on the way through save and restore.
type iptables struct {
	frontEnd FrontEnd // IptablesNFT or IptablesLegacy
	path     string
	v6       bool
	gates    [][]string // rules of INPUT that are gates, as arguments after -A INPUT
	// firewalld says that its rules are in INPUT: it is set to do without tables of
	// nftables of its own.
	firewalld bool
	idle      bool // INPUT has no rule, and accepts
}

// String returns for example "chain INPUT of ip6tables-nft".
func (p iptables) String() string {
	name := "iptables"
	if p.v6 {
		name = "ip6tables"
	}
	return "chain INPUT of " + name + strings.TrimPrefix(string(p.frontEnd), "iptables")
}

// findIptables returns the program, or none where it is not installed.
func findIptables(ctx context.Context, f FrontEnd, v6 bool) (iptables, bool) {
	name := "iptables"
	if v6 {
		name = "ip6tables"
	}
	if path := lookPath(name + strings.TrimPrefix(string(f), "iptables")); path != "" {
		return iptables{frontEnd: f, path: path, v6: v6}, true
	}
	path := lookPath(name)
	if path == "" {
		return iptables{}, false
	}
	// "iptables v1.8.9 (nf_tables)"; versions before 1.8 say nothing and are legacy.
	out, err := exec.CommandContext(ctx, path, "-V").Output()
	if err != nil || strings.Contains(string(out), "nf_tables") != (f == IptablesNFT) {
		return iptables{}, false
	}
	return iptables{frontEnd: f, path: path, v6: v6}, true
}

// lookPath finds programs that an ordinary PATH leaves out, too.
func lookPath(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// run runs the program. With held, what it changes is shared: see lock.
func (p iptables) run(ctx context.Context, held *os.File, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.path, append([]string{"-w", "5"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if held != nil {
		cmd.ExtraFiles = []*os.File{held}
	}
	cmd.WaitDelay = time.Second // for what a killed one has started and left running
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &Error{FrontEnd: p.frontEnd, Cause: fmt.Errorf("%s %s: %w: %s",
			p.path, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))}
	}
	return string(out), nil
}

// read reads the gates.
func (p *iptables) read(ctx context.Context) error {
	out, err := p.run(ctx, nil, "-S", "INPUT")
	if err != nil {
		return err
	}
	p.gates, p.firewalld = nil, false
	p.idle = strings.TrimSpace(out) == "-P INPUT ACCEPT"
	for line := range strings.Lines(out) {
		p.firewalld = p.firewalld || strings.TrimSpace(line) == "-A INPUT -j INPUT_ZONES"
		// It quotes what has other characters than letters and digits. No argument
		// of a gate has a space or a quote.
		args := strings.Fields(strings.ReplaceAll(line, `"`, ""))
		if len(args) > 2 && args[0] == "-A" && strings.HasPrefix(comment(args), gatePrefix) {
			p.gates = append(p.gates, args[2:])
		}
	}
	return nil
}

// hasChain reports whether one of these chains is there.
func (p iptables) hasChain(ctx context.Context, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, err := p.run(ctx, nil, "-S", name)
		return err == nil
	})
}

func comment(args []string) string {
	if i := slices.Index(args, "--comment"); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func (p iptables) has(g *gate) (bool, error) {
	return slices.ContainsFunc(p.gates, func(args []string) bool {
		return slices.Contains(args, markArgument(g.mark, g.mask))
	}), nil
}

func markArgument(mark, mask uint32) string {
	if mask == 0xffffffff {
		return fmt.Sprintf("%#x", mark)
	}
	return fmt.Sprintf("%#x/%#x", mark, mask)
}

func (p iptables) add(ctx context.Context, g *gate) error {
	_, err := p.run(ctx, g.held, "-I", "INPUT", "1", "-m", "mark", "--mark", markArgument(g.mark, g.mask),
		"-m", "comment", "--comment", gatePrefix+g.owner.String(), "-j", "ACCEPT")
	return err
}

func (p iptables) remove(ctx context.Context, g *gate) ([]Leftover, error) {
	var left []Leftover
	for _, args := range p.gates {
		if _, err := p.run(ctx, g.held, append([]string{"-D", "INPUT"}, args...)...); err != nil {
			return left, err
		}
		left = append(left, leftover(p.frontEnd, "gate in "+p.String(), strings.TrimPrefix(comment(args), gatePrefix)))
	}
	return left, nil
}

// legacyTables returns the names of the tables of legacy iptables that are loaded.
// The program itself would load them only to look.
func legacyTables(v6 bool) ([]string, error) {
	file := "/proc/self/net/ip_tables_names"
	if v6 {
		file = "/proc/self/net/ip6_tables_names"
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) { // the kernel has none
		return nil, nil
	}
	return strings.Fields(string(b)), err
}
