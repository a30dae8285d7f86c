package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// execType is the SELinux type of programs that belong to no domain of their own,
// in the reference policy and those made from it.
const execType = "bin_t"

// selinux is how files get and have their labels. That it denied an execution is
// not told by any error; so it is taken for the cause only if it enforces and the
// program has no label of its own but the one that its directory gives to files.
type selinux struct {
	enforce string // file of selinuxfs that has "1" where the policy is enforced
	root    bool
	get     func(file string) (string, error)
	set     func(file, label string) error
}

func thisSELinux() selinux {
	return selinux{enforce: "/sys/fs/selinux/enforce", root: os.Geteuid() == 0, get: getLabel, set: setLabel}
}

// relabel gives a program of ours the type execType, if its label may be the
// cause that systemd cannot execute it. It reports whether it did.
func (s selinux) relabel(file string) (bool, error) {
	mode, err := os.ReadFile(s.enforce)
	if err != nil || !bytes.Equal(bytes.TrimSpace(mode), []byte("1")) || !s.root {
		return false, nil // without SELinux there is no such file
	}
	label, err := s.get(file)
	if err != nil {
		return false, err
	}
	around, err := s.get(filepath.Dir(file))
	if err != nil {
		return false, err
	}
	// user:role:type, and a range where the policy has levels
	fields := strings.SplitN(label, ":", 4)
	if len(fields) < 3 {
		return false, errors.New("SELinux label of an unknown form")
	}
	if fields[2] == execType || fields[2] != labelType(around) {
		return false, nil
	}
	fields[2] = execType
	if err := s.set(file, strings.Join(fields, ":")); err != nil {
		return false, err
	}
	return true, nil
}

func labelType(label string) string {
	if fields := strings.SplitN(label, ":", 4); len(fields) >= 3 {
		return fields[2]
	}
	return ""
}
