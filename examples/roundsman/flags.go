package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/spf13/cobra"
)

// sessionFlags are the flags of every command that talks to targets.
type sessionFlags struct {
	json             bool
	fleet            string
	journal          string
	parallel         int
	agentDirs        []string
	lease            time.Duration
	keepLogs         time.Duration
	connectTimeout   time.Duration
	ports            []string
	identities       []string
	knownHosts       []string
	sshConfig        string
	passwordFile     string
	agentless        bool
	generation       string
	portPerTarget    bool
	firstPorts       bool
	openFirewall     bool
	noPreflight      bool // deploy's alone
	sudo             bool
	sudoPasswordFile string
	verbose          bool
	wmi              bool // inventory's alone
	netbios          bool
	redfish          redfishFlags

	passwordFiles map[string]string // of the fleet file, by target
}

// add adds them all.
func (f *sessionFlags) add(cmd *cobra.Command) {
	f.addTargets(cmd)
	f.addAgent(cmd)
}

// addTargets adds those that say which targets, and how they are reached.
func (f *sessionFlags) addTargets(cmd *cobra.Command) {
	s := cmd.Flags()
	s.BoolVar(&f.json, "json", false, "write one JSON object a line")
	s.StringVar(&f.fleet, "fleet", "", "YAML `FILE` with further targets, and the names of files with their passwords (password_file)")
	s.StringVar(&f.journal, "journal", "", "`DIR` of the journal (in the user's state directory)")
	s.IntVar(&f.parallel, "parallel", 0, "`N` targets are worked on at a time (32)")
	s.StringArrayVar(&f.agentDirs, "agent-dir", nil, "`DIR` on the target below which the agent may live, on Windows from the Windows directory on, such as /roundsman; can be repeated")
	s.StringArrayVar(&f.identities, "identity", nil, "private key `FILE`, instead of those OpenSSH would use; can be repeated")
	s.StringArrayVar(&f.knownHosts, "known-hosts", nil, "known_hosts `FILE`, instead of those OpenSSH would use; can be repeated")
	s.StringVar(&f.sshConfig, "ssh-config", "", "`FILE` instead of ~/.ssh/config and the system's; \"none\" reads neither")
	s.Var((*waitTime)(&f.connectTimeout), "connect-timeout", "`TIME` that a target may take to be reached (ConnectTimeout of OpenSSH's configuration, else 30s)")
	s.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password for targets that refuse the keys, and for Windows servers")
	s.BoolVar(&f.netbios, "netbios", false, "reach Windows servers by NetBIOS, too: by port 139 where 445 cannot be reached, and names that are not found otherwise by UDP port 137")
	s.BoolVar(&f.sudo, "sudo", false, "do everything on Linux targets under sudo")
	s.StringVar(&f.sudoPasswordFile, "sudo-password-file", "", "`FILE` with the password for sudo (the login password)")
	f.redfish.addTrust(cmd)
	s.BoolVarP(&f.verbose, "verbose", "v", false, "show every call and what installers print")
}

// addAgent adds those that are about agents and the conversation with them.
func (f *sessionFlags) addAgent(cmd *cobra.Command) {
	s := cmd.Flags()
	s.Var((*span)(&f.lease), "lease", "`TIME` that an agent stays when the manager is silent (15m)")
	s.Var((*keepTime)(&f.keepLogs), "keep-logs", "`TIME` that the logs of runs that are over stay on a target, those of other managers among them, such as 2d or 48h, or forever (30d, and never less for records of jobs)")
	s.StringArrayVar(&f.ports, "port", nil, "`ROLE=PORT` of the manager, or ROLE=FIRST-LAST; can be repeated. Roles: "+portRoleNames)
	s.BoolVar(&f.agentless, "agentless", false, "put no program on Linux targets: do everything by commands")
	s.StringVar(&f.generation, "generation", string(sum.Current), "`GENERATION`: current, inside the one connection, or classic, over ports 60000, 61000, 62286 and up (HP SUM 4 to 6)")
	s.BoolVar(&f.portPerTarget, "port-per-target", false, "classic: a port from 61000 up for each target, not one for all")
	s.BoolVar(&f.firstPorts, "first-ports", false, "classic: stay at the ports of the first contact, for firewalls that know no others; one manager at a time, as the target has one such port")
	s.BoolVar(&f.openFirewall, "open-firewall", false, "let targets through this host's firewall to the ports that they need, and with --generation classic this host through theirs, while the ports are in use")
}

const sessionHelp = `A TARGET is a URL such as linux://root@db1, "windows://LAB;ops@db2" (an
administrator, of the domain LAB; in quotes, as a shell takes ; for the end of the
command), or local: for this host. Keys, known_hosts, the agent and ~/.ssh/config
are found as OpenSSH finds them, for Linux targets. Of iLOs and others that speak
Redfish (ilo://ops@ilo-db1, superdome-flex://, redfish://) the key is in the file
of --pins, is recorded there by --accept-new, is named by --pin, or has an authority.
A fleet file can say it of each: pin, ca_file, accept_new, legacy_tls and profile, and
way, tpm_override, ignore_queue and recovery_set for updates; that comes before flags.
A password comes from the file that password_file names in the fleet file, from
--password-file, from ROUNDSMAN_PASSWORD (for sudo: ROUNDSMAN_SUDO_PASSWORD), or from
a prompt on a terminal, once for each user name.`

// ownPasswords reads the passwords of targets that have one of their own. Many may share
// a file.
func (a *app) ownPasswords(f *sessionFlags) (map[string]transport.Secret, error) {
	out, read := map[string]transport.Secret{}, map[string]transport.Secret{}
	for t, name := range f.passwordFiles {
		secret, known := read[name]
		if !known {
			var err error
			if secret, err = a.password(name, ""); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", f.fleet, t, err)
			}
			read[name] = secret
		}
		out[t] = secret
	}
	return out, nil
}

// passwords reads the passwords that need no prompt.
func (a *app) passwords(f *sessionFlags) (login, sudo transport.Secret, err error) {
	if login, err = a.password(f.passwordFile, passwordVariable); err != nil {
		return
	}
	sudo, err = a.password(f.sudoPasswordFile, sudoPasswordVariable)
	return
}

// maxPassword bounds a password file, in bytes.
const maxPassword = 4096

// password reads a secret from the first line of a file, or else from the
// environment.
func (a *app) password(file, variable string) (transport.Secret, error) {
	if file == "" {
		return transport.NewSecret(a.getenv(variable)), nil
	}
	fh, err := os.Open(file)
	if err != nil {
		return transport.Secret{}, usageError{fmt.Errorf("password file: %w", err)}
	}
	defer fh.Close()
	data, err := io.ReadAll(io.LimitReader(fh, maxPassword+1))
	if err != nil {
		return transport.Secret{}, usageError{fmt.Errorf("password file: %w", err)}
	}
	text, err := fleet.Text(data)
	if err != nil {
		return transport.Secret{}, usagef("password file %s: %w", file, err)
	}
	line, rest, _ := strings.Cut(text, "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" || len(data) > maxPassword || strings.TrimSpace(rest) != "" {
		return transport.Secret{}, usagef("password file %s: want one line of at most %d bytes", file, maxPassword)
	}
	return transport.NewSecret(line), nil
}

// targets collects the targets of the command line and of the fleet file.
func (f *sessionFlags) targets(args []string) ([]sum.Target, error) {
	var out []sum.Target
	if f.fleet != "" {
		file, err := fleet.ReadFile(f.fleet)
		if err != nil {
			return nil, usageError{err}
		}
		out, f.passwordFiles, f.redfish.own = file.Targets, file.PasswordFiles, file.Redfish
	}
	seen := map[string]bool{}
	for _, t := range out {
		seen[t.String()], seen[targetKey(t)] = true, true
	}
	for _, arg := range args {
		t, err := sum.ParseTarget(arg)
		if err != nil {
			return nil, usageError{err}
		}
		if err := fleet.Check(t); err != nil {
			return nil, usageError{err}
		}
		if seen[t.String()] {
			return nil, usagef("target %s is given twice", t)
		}
		seen[t.String()] = true
		out = append(out, t)
	}
	return out, f.checkKinds(out)
}

var errNoTargets = usagef("no target: give TARGET..., such as linux://root@db1 or local: (this host), or --fleet FILE")

// isTarget reports whether an argument is meant as a target, and not as a path.
func isTarget(arg string) bool {
	return strings.Contains(arg, "://") || arg == "local:" || arg == "local"
}

// splitArgs tells targets from paths: "--component *.deb linux://db1" gives the
// shell's second file as an argument.
func splitArgs(components, args []string) (paths, targets []string) {
	paths = append(paths, components...)
	for _, arg := range args {
		if isTarget(arg) || len(components) == 0 {
			targets = append(targets, arg)
		} else {
			paths = append(paths, arg)
		}
	}
	return paths, targets
}

// absolute makes paths independent of the working directory, so that a plan can
// be applied from another one.
func absolute(paths []string) ([]string, error) {
	out := make([]string, len(paths))
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		out[i] = abs
	}
	return out, nil
}

// isUsage reports whether an error is the caller's mistake.
func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}
