package version

import (
	"cmp"
	"strings"
)

// MaxLen is the greatest length of a version in bytes.
const MaxLen = 256

// maxDigits bounds a run of digits, so that every number fits an int64 and the
// libraries below cannot overflow.
const maxDigits = 18

// Scheme names a set of rules by which versions are ordered. Its value is what
// component descriptions hold.
type Scheme string

const (
	// Deb is the order of Debian packages, deb-version(7).
	Deb Scheme = "deb"
	// RPM is the order of RPM packages, rpm-version(7).
	RPM Scheme = "rpm"
	// Numeric is plain dotted numbers.
	Numeric Scheme = "numeric"

	// HPE is the order of HPE firmware and of the components that carry it.
	// These forms are known; any may be followed by a revision letter in
	// parentheses, as "1.1.4(B)" or "2023.09.01 (C)":
	//
	//	2.46  08.45.00.00  20.5.13         dotted numbers, with or without "v"
	//	8.2.2b  7.4.1e1                    ... with a patch letter (Fabric OS)
	//	16.5.0 Build 53                    ... with a build number
	//	2.96 Aug 17 2023                   ... with a date (iLO, Onboard Administrator)
	//	U30 v2.36 (07/16/2020)             ... with a ROM family and a date (system ROM)
	//	P89 2.30 09/13/2016                ... the same as SMBIOS tells it
	//	2.36_07-16-2020                    ... the same as a component tells it
	//	iLO 5 v2.78  FOS v8.2.2b           ... with the name of the product
	//	P70 07/01/2015                     a date that is the version (ROMs before Gen9)
	//	0x31                               a hexadecimal number (programmable logic)
	//	HPD5  SN06                         a drive code: three characters and a digit
	//
	// Two versions are compared so:
	//
	//   - A family ("U30", "iLO 5", the first three characters of a drive code)
	//     that both have must be the same, whatever its case; otherwise they are
	//     incomparable. A family that only one has is ignored: a component for
	//     U30 says "2.36" where the server says "U30 v2.36".
	//   - Numbers are compared as numbers, missing ones as zero: "8.45" equals
	//     "08.45.00.00". Equal numbers leave it to the patch letter; none is
	//     older than "a".
	//   - Equal so far, they are compared by build number, then by revision
	//     letter, then by date, in this order, until one decides or until one of
	//     the versions lacks what the other has. The latter makes them equal: a
	//     revision letter belongs to the package and not to the firmware in it,
	//     so a device never reports one, and "5.61(D)" on a device that has
	//     "5.61" is not an update.
	//   - A date that is the version is compared with another such date, or with
	//     three dotted numbers that read as year, month and day.
	//   - Dotted numbers, hexadecimal numbers and drive codes are incomparable
	//     with one another.
	//   - Two strings of no known form are equal when they are the same but for
	//     case and spacing, and incomparable otherwise.
	HPE Scheme = "hpe"
)

// Schemes returns all schemes, in alphabetical order.
func Schemes() []Scheme { return []Scheme{Deb, HPE, Numeric, RPM} }

// Known reports whether s is one of the schemes of this package.
func (s Scheme) Known() bool {
	switch s {
	case Deb, RPM, Numeric, HPE:
		return true
	}
	return false
}

// Version is a version that was understood under a scheme. The zero Version is
// comparable with nothing.
type Version struct {
	scheme Scheme
	text   string
	form   form
}

// form is what a scheme made of a string. The argument of compare is always
// from the same scheme.
type form interface {
	compare(form) (int, error)
}

// Parse reads s under a scheme. Its error is an [*Error] for which
// errors.Is(err, [ErrScheme]) or errors.Is(err, [ErrSyntax]) holds.
func Parse(scheme Scheme, s string) (Version, error) {
	f, err := parse(scheme, strings.TrimSpace(s))
	if err != nil {
		return Version{}, &Error{Scheme: scheme, A: s, Reason: err}
	}
	return Version{scheme: scheme, text: s, form: f}, nil
}

// Valid reports whether s can be parsed under a scheme.
func Valid(scheme Scheme, s string) bool {
	_, err := Parse(scheme, s)
	return err == nil
}

// Scheme returns the scheme under which the version was parsed.
func (v Version) Scheme() Scheme { return v.scheme }

// String returns the text from which the version was parsed.
func (v Version) String() string { return v.text }

// Compare returns -1 if v is older than w, +1 if it is newer, and 0 if neither
// is known to be newer. Its error is an [*Error] for which
// errors.Is(err, [ErrIncomparable]) holds: the schemes differ, or the scheme
// cannot order the two.
func (v Version) Compare(w Version) (int, error) {
	fail := func(reason error) (int, error) {
		return 0, &Error{Scheme: v.scheme, A: v.text, B: w.text, Compared: true, Reason: reason}
	}
	if v.form == nil || w.form == nil || v.scheme != w.scheme {
		return fail(ErrScheme)
	}
	n, err := v.form.compare(w.form)
	if err != nil {
		return fail(err)
	}
	return n, nil
}

// Compare returns -1 if a is older than b under a scheme, +1 if it is newer,
// and 0 if neither is known to be newer. When they cannot be ordered it returns
// 0 and an [*Error] for which errors.Is(err, [ErrIncomparable]) holds; ErrScheme,
// ErrSyntax, ErrFamily and ErrForm tell the reasons apart.
func Compare(scheme Scheme, a, b string) (int, error) {
	fail := func(reason error) (int, error) {
		return 0, &Error{Scheme: scheme, A: a, B: b, Compared: true, Reason: reason}
	}
	if scheme == HPE && sameText(a, b) {
		return 0, nil
	}
	fa, err := parse(scheme, strings.TrimSpace(a))
	if err != nil {
		return fail(err)
	}
	fb, err := parse(scheme, strings.TrimSpace(b))
	if err != nil {
		return fail(err)
	}
	n, err := fa.compare(fb)
	if err != nil {
		return fail(err)
	}
	return n, nil
}

func parse(scheme Scheme, s string) (form, error) {
	if !scheme.Known() {
		return nil, ErrScheme
	}
	if s == "" || len(s) > MaxLen || longDigits(s) {
		return nil, ErrSyntax
	}
	switch scheme {
	case Deb:
		return parseDeb(s)
	case RPM:
		return parseRPM(s)
	case Numeric:
		return parseNumeric(s)
	default:
		return parseHPE(s)
	}
}

// longDigits reports a run of decimal digits that might not fit an int64.
func longDigits(s string) bool {
	run := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			run = 0
			continue
		}
		if run++; run > maxDigits {
			return true
		}
	}
	return false
}

// sign reduces a library's result to -1, 0 or +1.
func sign(n int) int { return cmp.Compare(n, 0) }
