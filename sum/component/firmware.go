package component

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cavaliergopher/rpm"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// Tags of rpmtag.h that list the files of a package.
const (
	tagDirIndexes = 1116
	tagBaseNames  = 1117
)

// installSetup installs a package whose own installation flashes nothing, and then
// runs the setup program that it brought along. What fails before that ends with
// the status that stands for failure in the setup program's own profile.
//
//	sh -c installSetup sh PACKAGE PROGRAM [ARGUMENT...]
const installSetup = `rpm -U --replacepkgs --oldpackage "$1" || exit 3
program=$2; shift 2
cd "${program%/*}" || exit 3
exec "$program" -s "$@"`

// Where HPE's packages of firmware for Linux put the setup program. The .scexe is
// the form that SPPs have had since 2015; it calls the setup program beside the
// images, which older and some newer packages bring alone.
var (
	scexePath = regexp.MustCompile(`^/usr/lib/[a-z0-9_-]+/(hp-)?scexe-compat/[A-Za-z0-9_.-]+\.scexe$`)
	setupPath = regexp.MustCompile(`^/usr/lib/[a-z0-9_-]+-linux-gnu/[A-Za-z0-9_.+~-]+/(hp)?setup$`)
)

// setupProgram returns the setup program of one of HPE's packages of firmware, or
// "" if it is another package.
func setupProgram(p *rpm.Package) string {
	dirs := p.Header.GetTag(tagDirnames).StringSlice()
	indexes := p.Header.GetTag(tagDirIndexes).Int64Slice()
	var scexe, setup string
	for i, name := range p.Header.GetTag(tagBaseNames).StringSlice() {
		if i >= len(indexes) || indexes[i] < 0 || indexes[i] >= int64(len(dirs)) {
			break
		}
		full := path.Join(dirs[indexes[i]], name)
		switch {
		case scexePath.MatchString(full) && (scexe == "" || strings.Contains(scexe, "/hp-scexe-compat/")):
			scexe = full
		case setupPath.MatchString(full) && (setup == "" || path.Base(full) == "setup"):
			setup = full
		}
	}
	if scexe != "" {
		return scexe
	}
	return setup
}

// withSetup makes the component of a package that carries program the one that
// flashes: the version of the package is not the version of a device, so that it
// matches nothing until a [ManifestName] says what it is for.
func (c *Component) withSetup(program string) {
	c.Match = Match{}
	c.Install = []string{"sh", "-c", installSetup, "sh", "./" + c.Payload.Files[0].Name, program, Force}
	c.RewriteArgs, c.DowngradeArgs = []string{"-f"}, []string{"-f"}
	c.Profile = agent.ProfileHPELinux
}

// fromPackage lets a description leave out how its only file is installed, where
// that is a package.
func (m *manifest) fromPackage(root *os.Root) error {
	if m.Install != nil || len(m.Files) != 1 || !onServers(m.Kinds) || !validFileName(m.Files[0].Name) {
		return nil
	}
	name := m.Files[0].Name
	if fi, err := root.Stat(name); err != nil || !fi.Mode().IsRegular() {
		return nil // what is wrong with the files is told of all of them together
	}
	f, err := root.Open(name)
	if err != nil {
		return nil // what is wrong with the files is told of all of them together
	}
	defer f.Close()
	c, err := readPackage(f)
	if errors.Is(err, errNoPackage) {
		return nil
	}
	if err != nil {
		return at(filepath.Join(root.Name(), name), err)
	}
	if m.Profile != agent.ProfileNone || m.RewriteArgs != nil || m.DowngradeArgs != nil {
		return bad("install", errors.New("missing"), "the package says how it is installed where profile, rewrite_args and downgrade_args are left to it, too")
	}
	own := "./" + c.Payload.Files[0].Name
	for _, arg := range c.Install {
		if arg == own {
			arg = "./" + name
		}
		m.Install = append(m.Install, arg)
	}
	m.Profile, m.RewriteArgs, m.DowngradeArgs = c.Profile, c.RewriteArgs, c.DowngradeArgs
	m.NoKill = m.NoKill || c.NoKill
	if m.TimeoutSeconds == 0 {
		m.TimeoutSeconds = int64(c.Timeout.Seconds())
	}
	return nil
}
