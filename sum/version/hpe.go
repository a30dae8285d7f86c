package version

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hpeShape tells apart the forms that have no order with one another.
type hpeShape int

const (
	hpeNumbers hpeShape = iota
	hpeDateOnly
	hpeHex
	hpeCode
)

// hpeForm is an HPE version in its parts. A part that the text lacks is zero,
// or -1 for the build number.
type hpeForm struct {
	shape    hpeShape
	family   string  // upper case
	numbers  []int64 // without trailing zeros; one number for hpeHex and hpeCode
	patch    byte    // Fabric OS patch letter
	patchNum int64
	build    int64
	revision byte
	date     time.Time
}

const hpeFamily = `(?:([A-Za-z][A-Za-z0-9]*(?: [A-Za-z0-9]+){0,3}) )?`

var (
	hpeHexRE  = regexp.MustCompile(`^0[xX]([0-9A-Fa-f]{1,15})$`)
	hpeDateRE = regexp.MustCompile(`^` + hpeFamily + `([0-9]{1,2}/[0-9]{1,2}/[0-9]{4}|\([0-9]{1,2}/[0-9]{1,2}/[0-9]{4}\))(.*)$`)
	hpeNumRE  = regexp.MustCompile(`^` + hpeFamily + `[vV]?([0-9]+(?:\.[0-9]+){0,15})(?:([a-z])([0-9]{0,4}))?(.*)$`)
	hpeCodeRE = regexp.MustCompile(`^([A-Z][A-Z0-9]{2})([0-9])([^A-Za-z0-9].*)?$`)

	// What may follow, each at most once and in any order.
	hpeBuildRE    = regexp.MustCompile(`^ [Bb]uild ([0-9]+)`)
	hpeRevisionRE = regexp.MustCompile(`^ ?\(([A-Z])\)`)
	hpeDigitsRE   = regexp.MustCompile(`^(?:[ _]([0-9]{1,2}[/-][0-9]{1,2}[/-][0-9]{4})| \(([0-9]{1,2}/[0-9]{1,2}/[0-9]{4})\))`)
	hpeMonthRE    = regexp.MustCompile(`^ ([A-Z][a-z]{2} [0-9]{1,2} [0-9]{4})`)
)

func parseHPE(s string) (form, error) {
	s = strings.Join(strings.Fields(s), " ")
	v := hpeForm{build: -1}
	if m := hpeHexRE.FindStringSubmatch(s); m != nil {
		n, err := strconv.ParseInt(m[1], 16, 64)
		if err != nil {
			return nil, ErrSyntax
		}
		v.shape, v.numbers = hpeHex, trimZeros([]int64{n})
		return v, nil
	}
	if m := hpeDateRE.FindStringSubmatch(s); m != nil {
		v.shape, v.family = hpeDateOnly, strings.ToUpper(m[1])
		if !v.setDate("1/2/2006", strings.Trim(m[2], "()")) || !v.trailer(m[3]) {
			return nil, ErrSyntax
		}
		return v, nil
	}
	if m := hpeNumRE.FindStringSubmatch(s); m != nil {
		// One number behind a name is a product, such as "iLO 5".
		if m[1] != "" && !strings.Contains(m[2], ".") {
			return nil, ErrSyntax
		}
		v.family = strings.ToUpper(m[1])
		for _, part := range strings.Split(m[2], ".") {
			n, err := strconv.ParseInt(part, 10, 64)
			if err != nil {
				return nil, ErrSyntax
			}
			v.numbers = append(v.numbers, n)
		}
		v.numbers = trimZeros(v.numbers)
		if m[3] != "" {
			v.patch = m[3][0]
			v.patchNum, _ = strconv.ParseInt("0"+m[4], 10, 64)
		}
		if !v.trailer(m[5]) {
			return nil, ErrSyntax
		}
		return v, nil
	}
	if m := hpeCodeRE.FindStringSubmatch(s); m != nil {
		v.shape, v.family, v.numbers = hpeCode, m[1], trimZeros([]int64{int64(m[2][0] - '0')})
		if !v.trailer(m[3]) {
			return nil, ErrSyntax
		}
		return v, nil
	}
	return nil, ErrSyntax
}

// trailer reads what follows the version proper, and reports whether all of it
// was understood.
func (v *hpeForm) trailer(s string) bool {
	for s != "" {
		if m := hpeBuildRE.FindStringSubmatch(s); m != nil && v.build < 0 {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				return false
			}
			v.build, s = n, s[len(m[0]):]
		} else if m := hpeRevisionRE.FindStringSubmatch(s); m != nil && v.revision == 0 {
			v.revision, s = m[1][0], s[len(m[0]):]
		} else if m := hpeDigitsRE.FindStringSubmatch(s); m != nil {
			if !v.setDate("1/2/2006", strings.ReplaceAll(m[1]+m[2], "-", "/")) {
				return false
			}
			s = s[len(m[0]):]
		} else if m := hpeMonthRE.FindStringSubmatch(s); m != nil {
			if !v.setDate("Jan 2 2006", m[1]) {
				return false
			}
			s = s[len(m[0]):]
		} else {
			return false
		}
	}
	return true
}

// setDate reports false for a second date, and for one that no calendar has.
func (v *hpeForm) setDate(layout, s string) bool {
	t, err := time.Parse(layout, s)
	if err != nil || t.IsZero() || !v.date.IsZero() {
		return false
	}
	v.date = t
	return true
}

func (a hpeForm) compare(f form) (int, error) {
	b := f.(hpeForm)
	if a.shape != b.shape {
		if a.shape == hpeDateOnly {
			b = b.asDate()
		} else if b.shape == hpeDateOnly {
			a = a.asDate()
		}
		if a.shape != b.shape {
			return 0, ErrForm
		}
	}
	if a.family != "" && b.family != "" && a.family != b.family {
		return 0, ErrFamily
	}
	if a.shape == hpeDateOnly {
		if n := a.date.Compare(b.date); n != 0 {
			return n, nil
		}
	}
	if n := cmp.Or(
		slices.Compare(a.numbers, b.numbers),
		cmp.Compare(a.patch, b.patch),
		cmp.Compare(a.patchNum, b.patchNum),
	); n != 0 {
		return n, nil
	}
	// Going on after a part that only one version has would let two versions be
	// ordered by what a third contradicts: see the package's test of transitivity.
	for _, part := range []struct {
		inA, inB bool
		n        int
	}{
		{a.build >= 0, b.build >= 0, cmp.Compare(a.build, b.build)},
		{a.revision != 0, b.revision != 0, cmp.Compare(a.revision, b.revision)},
		{!a.date.IsZero(), !b.date.IsZero(), a.date.Compare(b.date)},
	} {
		if part.inA != part.inB {
			return 0, nil
		}
		if part.inA && part.n != 0 {
			return part.n, nil
		}
	}
	return 0, nil
}

// asDate reads three numbers such as 2019.05.24 as the date that is a version.
// It returns v unchanged when they are none.
func (v hpeForm) asDate() hpeForm {
	if v.shape != hpeNumbers || v.patch != 0 || v.build >= 0 || len(v.numbers) != 3 || !v.date.IsZero() {
		return v
	}
	y, m, d := v.numbers[0], v.numbers[1], v.numbers[2]
	if y < 1990 || y > 2099 || m < 1 || m > 12 || d < 1 || d > 31 {
		return v
	}
	t := time.Date(int(y), time.Month(m), int(d), 0, 0, 0, 0, time.UTC)
	if t.Day() != int(d) {
		return v
	}
	v.shape, v.numbers, v.date = hpeDateOnly, nil, t
	return v
}

// trimZeros makes numbers that differ only in trailing zeros the same.
func trimZeros(n []int64) []int64 {
	for len(n) > 0 && n[len(n)-1] == 0 {
		n = n[:len(n)-1]
	}
	return n
}

// sameText reports whether two strings are the same but for case and spacing.
func sameText(a, b string) bool {
	if len(a) > MaxLen || len(b) > MaxLen {
		return false
	}
	fa, fb := strings.Fields(a), strings.Fields(b)
	return len(fa) > 0 && strings.EqualFold(strings.Join(fa, " "), strings.Join(fb, " "))
}
