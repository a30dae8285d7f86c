package install

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// policyScript prints what may keep the program $1 from being executed, one
// "name=value" a line, in any POSIX shell. It asks the system, and tries nothing.
//
//	access     access(2) for execution: mode bits, mount options and SELinux have
//	           their say there; a daemon that decides at the execution has not
//	enforce    1 where SELinux enforces its policy (selinuxfs)
//	file, dir  their SELinux labels
//	user       the label of this login
//	fapolicyd  that it runs
//	permissive 1 where it only reports (fapolicyd.conf(5)); root alone may read that
const policyScript = `f=$1
if [ -x "$f" ]; then echo access=yes; else echo access=no; fi
echo "enforce=$(cat /sys/fs/selinux/enforce 2>/dev/null)"
echo "file=$(stat -c %C "$f" 2>/dev/null)"
echo "dir=$(stat -c %C "${f%/*}" 2>/dev/null)"
echo "user=$(id -Z 2>/dev/null)"
for c in /proc/[0-9]*/comm; do
	n=$(cat "$c" 2>/dev/null)
	if [ "$n" = fapolicyd ]; then echo fapolicyd=running; fi
done
sed -n 's/^[ 	]*permissive[ 	]*=[ 	]*\([01]\).*/permissive=\1/p' /etc/fapolicyd/fapolicyd.conf 2>/dev/null
exit 0`

// policy is what policyScript says.
type policy struct {
	access     bool
	enforcing  bool
	file, dir  string // SELinux labels, or ""
	user       string
	fapolicyd  bool // runs and enforces
	permissive bool
}

func parsePolicy(out []byte) policy {
	var p policy
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		name, value, _ := strings.Cut(sc.Text(), "=")
		switch name {
		case "access":
			p.access = value == "yes"
		case "enforce":
			p.enforcing = value == "1"
		case "file":
			p.file = label(value)
		case "dir":
			p.dir = label(value)
		case "user":
			p.user = label(value)
		case "fapolicyd":
			p.fapolicyd = value == "running"
		case "permissive":
			p.permissive = value == "1"
		}
	}
	p.fapolicyd = p.fapolicyd && !p.permissive
	return p
}

// label returns an SELinux label, or "" for what stat(1) prints without one.
func label(s string) string {
	if strings.Count(s, ":") < 2 {
		return ""
	}
	return s
}

// labelType is the type in a label, user:role:type and perhaps a range.
func labelType(label string) string {
	if fields := strings.SplitN(label, ":", 4); len(fields) >= 3 {
		return fields[2]
	}
	return ""
}

// execType is the SELinux type of programs without a domain of their own.
const execType = "bin_t"

// inherited reports whether the program has no other type than its directory
// gives to every file.
func (p policy) inherited() bool {
	t := labelType(p.file)
	return t != "" && t != execType && t == labelType(p.dir)
}

// Who forbids an execution.
const (
	byNobody    = ""
	bySELinux   = "SELinux"
	byFapolicyd = "fapolicyd"
	byEither    = "fapolicyd or SELinux"
)

// who tells who refused to execute the program, whose mode and mount allow it.
// errno is the error's name, such as "EPERM", where the connection tells it. A
// refusal at the execution alone is fapolicyd's, which answers EPERM, or that of
// SELinux where the program may be executed but not by this domain, EACCES.
func (p policy) who(errno string) string {
	switch {
	case !p.access && p.enforcing:
		return bySELinux
	case !p.access:
		return byNobody
	case p.fapolicyd && (!p.enforcing || errno == "EPERM"):
		return byFapolicyd
	case p.enforcing && (!p.fapolicyd || errno == "EACCES"):
		return bySELinux
	case p.fapolicyd:
		return byEither
	}
	return byNobody
}

// hint says what an administrator must do.
func (p policy) hint(who, program, sha256 string) string {
	dir := path.Dir(program)
	selinux := fmt.Sprintf("an administrator of the target must give the program a type that %s may execute: "+
		"semanage fcontext -a -t %s %s; what was denied is shown by: ausearch -m AVC -ts recent",
		orElse(p.user, "this login"), execType, program)
	fapolicyd := fmt.Sprintf("an administrator of the target must trust the program, by two lines in a file such as "+
		"/etc/fapolicyd/rules.d/80-roundsman.rules, which \"fagenrules --load\" and a restart of fapolicyd put in force: "+
		"\"allow perm=execute all : path=%s sha256hash=%s\", and for what it installs \"allow perm=any exe=%s : dir=%s/jobs/\"",
		program, sha256, program, dir)
	switch who {
	case bySELinux:
		return selinux
	case byFapolicyd:
		return fapolicyd
	}
	return fapolicyd + "; or " + selinux
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// policy asks the target what may forbid to execute a program.
func (r *run) policy(ctx context.Context, program string) (policy, error) {
	out, _, err := output(ctx, r.conn, "/bin/sh", "-c", policyScript, "sh", program)
	if err != nil {
		return policy{}, err
	}
	return parsePolicy(out), nil
}

// refused explains why the agent's program, which is there, was not executed; why
// says how that showed. It returns nil after it has given the program another
// SELinux type, where that can help: only to this file of ours, as root, where it
// has its type from its directory. Then it is to be tried again.
func (r *run) refused(ctx context.Context, program string, why error, relabel bool) error {
	if m := explain(ctx, r.conn, r.dir); m != "" {
		return why // findDir says it
	}
	p, err := r.policy(ctx, program)
	if err != nil {
		if stops(ctx, err) {
			return err
		}
		return why
	}
	errno := ""
	if code := transport.CodeOf(why); code.Space == "errno" {
		errno = code.Value
	}
	who := p.who(errno)
	if who == byNobody {
		return fmt.Errorf("%w; a security policy may forbid it", why)
	}
	if who == bySELinux && relabel && r.sys.uid == 0 && p.inherited() {
		out, exit, err := output(ctx, r.conn, "chcon", "-t", execType, program)
		switch {
		case err != nil && stops(ctx, err):
			return err
		case err == nil && exit == (transport.Exit{}):
			r.in.log().InfoContext(ctx, "agent got another SELinux type", "target", r.opts.Target, "file", program, "from", labelType(p.file), "to", execType)
			return nil
		}
		why = errors.Join(why, err, fmt.Errorf("chcon -t %s (%v): %.300q", execType, exitCode(exit), out))
	}
	facts := who
	if who != byFapolicyd {
		facts += fmt.Sprintf(", where the program has the label %q, its directory %q and this login %q", p.file, p.dir, p.user)
	}
	return &agent.Error{Op: "execute", Kind: agent.ErrPolicy, Code: transport.CodeOf(why),
		Err: fmt.Errorf("%s: %w", facts, why), Hint: p.hint(who, program, r.bin.Digest())}
}
