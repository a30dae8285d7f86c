package version

import (
	"regexp"
	"strings"

	hashicorp "github.com/hashicorp/go-version"
	debversion "github.com/knqyf263/go-deb-version"
	rpmversion "github.com/knqyf263/go-rpm-version"
)

// debSyntax is deb-version(7). The library also lets in letters and digits
// beyond ASCII, the underscore and an empty revision, and dpkg does not.
var debSyntax = regexp.MustCompile(`^(?:[0-9]{1,9}:)?[0-9][A-Za-z0-9.+~:-]*$`)

var debRevision = regexp.MustCompile(`-[A-Za-z0-9.+~]+$`)

type debForm struct{ v debversion.Version }

func parseDeb(s string) (form, error) {
	if !debSyntax.MatchString(s) {
		return nil, ErrSyntax
	}
	if strings.Contains(s, "-") && !debRevision.MatchString(s) {
		return nil, ErrSyntax
	}
	v, err := debversion.NewVersion(s)
	if err != nil {
		return nil, ErrSyntax
	}
	return debForm{v}, nil
}

func (a debForm) compare(f form) (int, error) {
	return sign(a.v.Compare(f.(debForm).v)), nil
}

// rpmSyntax is what rpm accepts for the fields of a package. The library takes
// anything, and reads an epoch that is no number as 0.
var rpmSyntax = regexp.MustCompile(`^(?:([0-9]{1,9}):)?([A-Za-z0-9._+~^]+)(?:-([A-Za-z0-9._+~^]+))?$`)

type rpmForm struct{ epoch, version, release string }

func parseRPM(s string) (form, error) {
	m := rpmSyntax.FindStringSubmatch(s)
	if m == nil {
		return nil, ErrSyntax
	}
	return rpmForm{m[1], m[2], m[3]}, nil
}

func (a rpmForm) compare(f form) (int, error) {
	b := f.(rpmForm)
	both := a.release != "" && b.release != ""
	return sign(a.library(both).Compare(b.library(both))), nil
}

func (a rpmForm) library(release bool) rpmversion.Version {
	s := a.version
	if release {
		s += "-" + a.release
	}
	if a.epoch != "" {
		s = a.epoch + ":" + s
	}
	return rpmversion.NewVersion(s)
}

// numericSyntax leaves out the suffixes that the library would read as
// pre-releases and build data.
var numericSyntax = regexp.MustCompile(`^v?[0-9]+(?:\.[0-9]+){0,15}$`)

type numericForm struct{ v *hashicorp.Version }

func parseNumeric(s string) (form, error) {
	if !numericSyntax.MatchString(s) {
		return nil, ErrSyntax
	}
	v, err := hashicorp.NewVersion(s)
	if err != nil {
		return nil, ErrSyntax
	}
	return numericForm{v}, nil
}

func (a numericForm) compare(f form) (int, error) {
	return sign(a.v.Compare(f.(numericForm).v)), nil
}
