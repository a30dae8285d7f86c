package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// dirMark stands for the job's directory in its arguments.
const dirMark = "{dir}"

// Environment reports whether an agent lets a job set the environment variable
// name. What a job's program gets without that is PATH with the sbin
// directories, HOME, LANG=C.UTF-8, DEBIAN_FRONTEND=noninteractive, and TMPDIR,
// which is the job's directory.
//
// Allowed are LANG, LANGUAGE and LC_*, TZ, TERM; what makes package managers
// keep quiet: DEBIAN_FRONTEND, DEBIAN_PRIORITY, DEBCONF_*, APT_LISTCHANGES_*,
// NEEDRESTART_*, UCF_*; and any name that begins with RM_, which is for
// components to use. Everything else, above all what changes how programs are
// found, loaded or traced, is refused.
func Environment(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	switch name {
	case "LANG", "LANGUAGE", "TZ", "TERM", "DEBIAN_FRONTEND", "DEBIAN_PRIORITY":
		return true
	}
	for _, prefix := range []string{"LC_", "DEBCONF_", "APT_LISTCHANGES_", "NEEDRESTART_", "UCF_", "RM_"} {
		if len(name) > len(prefix) && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func checkEnv(env []string) error {
	for _, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || strings.ContainsRune(value, 0) {
			// The value may be a secret, and so may be anything without "=".
			return fmt.Errorf("an environment variable is not NAME=value")
		}
		if !Environment(name) {
			return fmt.Errorf("environment variable %q is not one that a job may set", name)
		}
	}
	return nil
}

// jobEnv is the environment of a job's program. Later entries win.
func jobEnv(dir string, extra []string) []string {
	env := append(baseEnv(), tempEnv(dir)...)
	for _, e := range extra {
		name, _, _ := strings.Cut(e, "=")
		env = slices.DeleteFunc(env, func(have string) bool { return isVariable(have, name) })
		env = append(env, e)
	}
	return env
}

// searchPath completes a search path by the directories of defaultPath, on Windows before
// the others, as it searches itself, and drops relative ones, which would let the working
// directory decide what is run.
func searchPath(have string) string {
	var dirs []string
	lists := [][]string{filepath.SplitList(have), filepath.SplitList(defaultPath())}
	if ownPathFirst {
		slices.Reverse(lists)
	}
	for _, d := range slices.Concat(lists...) {
		if filepath.IsAbs(d) && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

// lookPath finds a program by its name in path, whatever the PATH of this
// process is.
func lookPath(name, path string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		for _, base := range executables(name) {
			file := filepath.Join(dir, base)
			if fi, err := os.Stat(file); err == nil && isExecutable(fi) {
				return file, nil
			}
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}
