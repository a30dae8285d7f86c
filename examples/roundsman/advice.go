package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// A class is one of failures: what it is called in output for programs, and by which
// flags of this program something can be done about it, where there are such flags. The
// packages below do not know them: their errors name fields of Go.
type class struct {
	is      error
	code    string // stable; that of a sum.Finding where preflight sees the same
	advice  string
	windows string // the advice for a target of kind windows
}

// classes are those that are told apart. The first that matches counts.
var classes = []class{
	{sum.ErrNoPassword, string(sum.FindNoPassword), noPasswordAdvice, noPasswordAdvice},
	{sum.ErrPlanStale, "plan-stale", "", ""},
	{sum.ErrPending, "pending", "", ""},
	{agent.ErrPolicy, string(sum.FindPolicy), "--agentless puts no program on the target, and --agent-dir DIR names another directory for it", windowsDirAdvice},
	{agent.ErrNoBinary, string(sum.FindBinary), binaryAdvice + "; --agentless puts no program on the target", binaryAdvice},
	{agent.ErrNoExec, string(sum.FindNoExec), "--agent-dir DIR names a directory on the target for the agent, and --agentless puts no program there", windowsDirAdvice},
	{agent.ErrNoDir, string(sum.FindDirectory), "--agent-dir DIR names a directory on the target for the agent, and --agentless puts no program there", windowsDirAdvice},
	{agent.ErrQuarantined, "quarantined", "", ""},
	{transport.ErrNoSpace, string(sum.FindSpace), "", ""},
	{agent.ErrHostBusy, string(sum.FindBusy), "", ""},
	{agent.ErrJobRunning, string(sum.FindBusy), "", ""},
	{sum.ErrJournal, "journal", "--journal DIR names another directory for the journal", "--journal DIR names another directory for the journal"},
	{portalloc.ErrExhausted, string(sum.FindTaken), portAdvice, portAdvice},
	{portalloc.ErrBusy, string(sum.FindTaken), portAdvice, portAdvice},
	{portalloc.ErrDisabled, "port-disabled", portAdvice, portAdvice},
	{transport.ErrUnknownIdentity, string(sum.FindUnknown), "--known-hosts FILE names a file with the keys of targets, in which you have the one that this target is known to have (ssh-keyscan prints it)", ""},
	{transport.ErrTrust, string(sum.FindIdentity), "--known-hosts FILE names another file with the keys of targets; replace the one that is recorded only when you know why the target has another", ""},
	{transport.ErrElevation, string(sum.FindRights), loginAdvice, windowsLoginAdvice},
	{transport.ErrAuth, string(sum.FindLogin), loginAdvice, windowsLoginAdvice},
	{transport.ErrBusy, string(sum.FindBusy), "", ""},
	{agent.ErrFirewall, string(sum.FindFirewall), "", ""},
	{transport.ErrTimeout, string(sum.FindTimeout), "--connect-timeout TIME gives a target longer, as ConnectTimeout in ~/.ssh/config, or in that of --ssh-config FILE, does", "--connect-timeout TIME gives a target longer"},
	{transport.ErrUnreachable, string(sum.FindUnreachable), "", ""},
	{transport.ErrConnLost, string(sum.FindConnLost), "", ""},
	{transport.ErrIntegrity, "integrity", "", ""},
	{agent.ErrStart, "no-start", "", ""},
	{transport.ErrRejected, "rejected", "", ""},
	{transport.ErrProtocol, string(sum.FindService), "", ""},
	{errors.ErrUnsupported, string(sum.FindUnsupported), "", ""},
	{fs.ErrPermission, "permission", "", ""},
	{sum.ErrInvalid, string(sum.FindInvalid), "", ""},
	{transport.ErrInvalid, string(sum.FindInvalid), "", ""},
}

const (
	portAdvice         = "--port ROLE=PORT gives a role of the manager another port, and --port ROLE=FIRST-LAST a range"
	noPasswordAdvice   = "--password-file FILE has the password, or the environment variable " + passwordVariable + ", or the file that password_file names in the fleet file"
	loginAdvice        = "--identity FILE names a private key, and --password-file FILE has the password; for sudo, --sudo-password-file FILE"
	windowsLoginAdvice = "--password-file FILE has the password of an administrator, whose domain is given as in \"windows://DOMAIN;user@host\""
	windowsDirAdvice   = "--agent-dir DIR names another directory for the agent, from the Windows directory (the share ADMIN$) on, such as /roundsman, to which administrators alone may write"
	binaryAdvice       = "this program finds no agent for the target's system: it must have been built with one in it (see examples/agentpack), or find Go and be called in a checkout of its source"
)

// classOf returns the class of an error, one of no name where it is of none.
func classOf(err error) class {
	for _, c := range classes {
		if errors.Is(err, c.is) {
			return c
		}
	}
	return class{}
}

// classFor is classOf for a target of a kind: a Windows server in whose share or services a
// login may do nothing has no directory for an agent, and it is not the directory that is
// wrong.
func classFor(err error, kind sum.Kind) class {
	c := classOf(err)
	if kind == sum.Windows && (c.is == agent.ErrNoDir || c.is == fs.ErrPermission) && errors.Is(err, fs.ErrPermission) {
		return class{is: c.is, code: string(sum.FindRights), windows: windowsLoginAdvice}
	}
	return c
}

// codeOf is what an error of a target of a kind, which may be unknown, is called in output for
// programs: as preflight calls the same cause. Where a target is not fit for what is to be
// done, that is the code of the first finding.
func codeOf(err error, kind sum.Kind) string {
	var unfit *sum.PreflightError
	switch {
	case errors.As(err, &unfit) && len(unfit.Findings) > 0:
		return string(unfit.Findings[0].Code)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "stopped"
	}
	c := classFor(err, kind)
	switch c.is {
	case nil, transport.ErrTimeout, transport.ErrUnreachable, transport.ErrConnLost, transport.ErrRejected, transport.ErrProtocol, fs.ErrPermission:
		var te *transport.Error
		if errors.As(err, &te) && te.Op == "dial" {
			return string(sum.ConnectCode(err, kind))
		}
	}
	if c.code != "" {
		return c.code
	}
	return string(sum.FindFailed)
}

// adviceOn returns what can be done by flags about an error of a target of a kind, which
// may be unknown, or "".
func adviceOn(err error, kind sum.Kind) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return ""
	}
	c := classFor(err, kind)
	var inChannel *channel.Error // whose trust is not that of ssh
	switch c.is {
	case transport.ErrTrust, transport.ErrAuth, transport.ErrTimeout:
		if errors.As(err, &inChannel) {
			return ""
		}
	}
	switch {
	case kind == sum.Windows:
		return c.windows
	case fleet.SpeaksRedfish(kind):
		return redfishAdvice(c.is)
	}
	return c.advice
}

// inFlags says by the flags of this program what hints say by fields of Go. It is for
// people alone: nothing is decided by it.
var inFlags = strings.NewReplacer(
	" (Trust.SPKI), an authority (Trust.Roots), or decide on first use (Trust.FirstUse)", " (--pin), an authority (--ca-file), or record it at the first use (--accept-new)",
	" (Trust.SPKI)", " (--pin, or pin in the fleet file)",
	" (Trust.Roots)", " (--ca-file, else those of the system)",
	", or decide on first use (Trust.FirstUse)", "",
	" (Trust.FirstUse)", "",
	": name its key (Trust.HostKeys) or a known_hosts file (Trust.KnownHosts)", ": name a known_hosts file (--known-hosts)",
	" (Trust.HostKeys)", "",
	"Trust.KnownHosts", "--known-hosts",
	", which Options.ConnectTimeout sets", "",
	"Options.IdentityFiles", "--identity",
	" (Options.AgentSocket)", "",
	", or allow that (Options.LegacyAlgorithms) for a target whose key is known", "",
	", or allow that (Options.LegacyAlgorithms)", "",
	" (Options.LegacyAlgorithms)", "",
	"Options.SudoPassword", "--sudo-password-file",
	" (Config.BaseDirs)", " (--agent-dir)",
	"take the port out of Config.Exclude, or give", "give",
	" in Config.Policies", " (--port)",
	"Config.Ports: ", "--port: ",
	"set Config.Journal", "give --journal DIR",
	" (Config.OpenFirewall)", " (--open-firewall)",
	", or work without an agent", ", or work without an agent (--agentless)",
	"Options.NetBIOS tries it", "--netbios tries it",
	"; see Options.Dialect", "",
	"smb.Options.WMI asks", "--wmi asks",
	"Options.WMI asks", "--wmi asks",
	"tell the driver which directory of the target the share is (smb.Options.ShareRoot)", "is the service Server (LanmanServer) of the target in order?",
	": let Config.Way give another address", "",
	": set Config.Way", "",
	": only Config.Way can say where such a target finds the manager", "",
	": Config.Way can say under which address the target finds the manager", "",
	": give Installer.Listen the one to dial", "",
	": see install.Manifest.Sign", ", as examples/agentpack does",
	"set GoBuild.Dir to a checkout", "call this program in a checkout",
	", or have Options.Guardian name another command that calls Guard", "",
	"give the session an agent for the target's system", binaryAdvice,
	"give the password; nothing was dialled", noPasswordAdvice,
	": finish it by Recover", ": finish it by roundsman recover",
	"Options.LegacyTLS allows old ones", "--legacy-tls allows old ones, with a --pin",
	"LegacyTLS takes a pin", "--legacy-tls takes a pin",
	"Options.TPMOverride", "--tpm-override",
	"Options.IgnoreQueue", "--ignore-queue",
	"leave Options.Way empty, or set it to one of these", "leave out --way, or give one of these",
	"Options.Way", "--way",
	"Options.ResetType", "--reset-type",
	" (UpdateOptions.Devices)", "",
	"UpdateOptions.Downgrade", "--downgrade",
	" (UpdateOptions.Publish is nil)", "",
	" (CaptureOptions)", " (--resources and --megabytes allow more)",
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

// checkKinds refuses flags that mean nothing for a kind of target, before anything is
// dialled.
func (f *sessionFlags) checkKinds(list []sum.Target) error {
	if err := f.redfish.checkTargets(list); err != nil {
		return err
	}
	for _, t := range list {
		if t.Kind != sum.Windows {
			continue
		}
		flag := ""
		switch {
		case f.agentless:
			flag = "--agentless"
		case f.sudo:
			flag = "--sudo"
		}
		if flag != "" {
			return usagef("%s is for Linux targets, and %s is a Windows server: leave the flag out, or give the Windows targets a run of their own", flag, targetKey(t))
		}
		for _, dir := range f.agentDirs {
			if err := checkWindowsDir(dir); err != nil {
				return usagef("--agent-dir %s: %w; for a Windows server, such as %s, DIR is given from its Windows directory (the share ADMIN$) on: /roundsman is C:\\Windows\\roundsman", dir, err, targetKey(t))
			}
		}
	}
	return nil
}

// checkWindowsDir looks whether a directory can be one of a share on Windows.
func checkWindowsDir(dir string) error {
	switch {
	case strings.Contains(dir, `\`) || len(dir) > 1 && dir[1] == ':':
		return errors.New("neither drives nor backslashes can be given")
	case !strings.HasPrefix(dir, "/") || dir == "/" || path.Clean(dir) != dir:
		return errors.New("want a slash, then the name of a directory")
	case strings.ContainsAny(dir, `:*?"<>|`):
		return errors.New("a character that Windows does not allow in names")
	}
	return nil
}
