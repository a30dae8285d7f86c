package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// advices say by which flags of this program something can be done about a class
// of failure. The packages below do not know them: their errors name fields of Go.
// The first class that matches counts.
var advices = []struct {
	is   error
	text string
}{
	{agent.ErrPolicy, "--agentless puts no program on the target, and --agent-dir DIR names another directory for it"},
	{agent.ErrNoBinary, "--agentless puts no program on the target"},
	{agent.ErrNoDir, "--agent-dir DIR names a directory on the target for the agent, and --agentless puts no program there"},
	{sum.ErrJournal, "--journal DIR names another directory for the journal"},
	{portalloc.ErrExhausted, portAdvice},
	{portalloc.ErrBusy, portAdvice},
	{portalloc.ErrDisabled, portAdvice},
	{transport.ErrUnknownIdentity, "--known-hosts FILE names a file with the keys of targets, in which you have the one that this target is known to have (ssh-keyscan prints it)"},
	{transport.ErrTrust, "--known-hosts FILE names another file with the keys of targets; replace the one that is recorded only when you know why the target has another"},
	{transport.ErrAuth, "--identity FILE names a private key, and --password-file FILE has the password; for sudo, --sudo-password-file FILE"},
	{transport.ErrTimeout, "--connect-timeout TIME gives a target longer, as ConnectTimeout in ~/.ssh/config, or in that of --ssh-config FILE, does"},
}

const portAdvice = "--port ROLE=PORT gives a role of the manager another port, and --port ROLE=FIRST-LAST a range"

// adviceOn returns what can be done about an error by flags, or "".
func adviceOn(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return ""
	}
	var inChannel *channel.Error // whose trust is not that of ssh
	for _, a := range advices {
		if (a.is == transport.ErrTrust || a.is == transport.ErrAuth || a.is == transport.ErrTimeout) && errors.As(err, &inChannel) {
			continue
		}
		if errors.Is(err, a.is) {
			return a.text
		}
	}
	return ""
}

// inFlags says by the flags of this program what hints say by fields of Go. It is for
// people alone: nothing is decided by it.
var inFlags = strings.NewReplacer(
	", or decide on first use (Trust.FirstUse)", "",
	": name its key (Trust.HostKeys) or a known_hosts file (Trust.KnownHosts)", ": name a known_hosts file (--known-hosts)",
	"Trust.KnownHosts", "--known-hosts",
	", which Options.ConnectTimeout sets", "",
	"Options.IdentityFiles", "--identity",
	", or allow that (Options.LegacyAlgorithms) for a target whose key is known", "",
	", or allow that (Options.LegacyAlgorithms)", "",
	"Options.SudoPassword", "--sudo-password-file",
	" (Config.BaseDirs)", " (--agent-dir)",
	" in Config.Policies", " (--port)",
	" (Config.OpenFirewall)", " (--open-firewall)",
	", or work without an agent", ", or work without an agent (--agentless)",
	", and TCP port 445 open? Older networks may have port 139 alone: Options.NetBIOS tries it", ", and TCP port 445 open?",
	"; see Options.Dialect", "",
	"tell the driver which directory of the target the share is (smb.Options.ShareRoot)", "is the service Server (LanmanServer) of the target in order?",
	": let Config.Way give another address", "",
	": set Config.Way", "",
	": Config.Way can say under which address the target finds the manager", "",
	": finish it by Recover", ": finish it by roundsman recover",
)

// told is an error for people: what happened, and below it, clause by clause, the
// rest that the packages say about it.
func told(err error) (what string, rest []string) {
	what = err.Error()
	hint := ""
	var te *transport.Error
	var ae *agent.Error
	switch {
	case errors.As(err, &te) && te.Hint != "":
		hint = te.Hint
	case errors.As(err, &ae) && ae.Hint != "":
		hint = ae.Hint
	}
	if head, tail, ok := strings.Cut(what, "; "+hint); hint != "" && ok {
		what = head + tail
		rest = strings.Split(inFlags.Replace(hint), "; ")
	}
	return inFlags.Replace(what), rest
}

// portRoles are the roles of --port, by name.
func portRoles() map[string]portalloc.Role {
	roles := map[string]portalloc.Role{}
	for _, r := range []portalloc.Role{portalloc.LocalIPC, portalloc.ManagerToTarget, portalloc.TargetToManager,
		portalloc.HTTP, portalloc.Port, portalloc.SSLPort, portalloc.FTP, portalloc.Dynamic} {
		roles[r.String()] = r
	}
	return roles
}

const portRoleNames = "port, ssl_port, ftp_port, http; classic: local-ipc, manager-to-target, target-to-manager, dynamic"

// portPolicies parses the values of --port.
func portPolicies(values []string) (map[portalloc.Role]portalloc.Policy, error) {
	if len(values) == 0 {
		return nil, nil
	}
	roles, out := portRoles(), map[portalloc.Role]portalloc.Policy{}
	for _, v := range values {
		name, ports, _ := strings.Cut(v, "=")
		role, known := roles[name]
		if !known {
			return nil, usagef("--port %s: no role %q; the roles are %s", v, name, portRoleNames)
		}
		if _, twice := out[role]; twice {
			return nil, usagef("--port %s: the role is given twice", v)
		}
		first, last, isRange := strings.Cut(ports, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(last, 10, 16)
		}
		switch {
		case err != nil || b < a || isRange && a == 0:
			return nil, usagef("--port %s: want ROLE=PORT, or ROLE=FIRST-LAST, with ports up to 65535", v)
		case isRange:
			out[role] = portalloc.Policy{First: uint16(a), Last: uint16(b)}
		case a == 0: // off
			out[role] = portalloc.Policy{}
		default:
			out[role] = portalloc.Fixed(uint16(a))
		}
	}
	return out, nil
}

// checkFiles looks for the files that flags name, before anything is dialled.
func (f *sessionFlags) checkFiles() error {
	for flag, files := range map[string][]string{"--known-hosts": f.knownHosts, "--identity": f.identities} {
		for _, name := range files {
			fi, err := os.Stat(name)
			if err != nil && flag == "--identity" {
				if _, perr := os.Stat(name + ".pub"); perr == nil {
					continue // the private half is in the agent alone
				}
			}
			switch {
			case err != nil:
				return usageError{fmt.Errorf("%s %s: %w", flag, name, err)}
			case fi.IsDir():
				return usagef("%s %s: it is a directory", flag, name)
			}
		}
	}
	return nil
}

// checkWords refuses words beside --component that name neither a target nor a file:
// they are taken for further components, as the shell makes several words of a pattern.
func checkWords(words []string) error {
	for _, w := range words {
		if _, err := os.Stat(w); errors.Is(err, os.ErrNotExist) {
			return usagef("%q is neither a target, such as linux://%s, nor a file: beside --component, words without \"://\" are further components", w, w)
		}
	}
	return nil
}
