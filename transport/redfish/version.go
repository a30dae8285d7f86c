package redfish

import (
	"regexp"
	"strconv"
	"strings"
)

// dotted is the part of a version that has an order: numbers between dots, as in
// "2.46 Oct 15 2021", "U30 v2.36 (07/16/2020)" or "v1.2".
var dotted = regexp.MustCompile(`(^|[\s_v])([0-9]{1,18}(\.[0-9]{1,18}){1,15})`)

// compare orders two versions. ok is false where nothing in them says which is newer, or
// that they are equal.
// It is the driver's second look, at what a plan has decided by the scheme of the
// component.
func compare(a, b string) (order int, ok bool) {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if a == b {
		return 0, a != ""
	}
	am, bm := dotted.FindStringSubmatchIndex(a), dotted.FindStringSubmatchIndex(b)
	if am == nil || bm == nil {
		return 0, false
	}
	// What stands before the numbers names the family: "U30" is not "A40".
	if fa, fb := family(a[:am[4]]), family(b[:bm[4]]); fa != "" && fb != "" && fa != fb {
		return 0, false
	}
	as, bs := strings.Split(a[am[4]:am[5]], "."), strings.Split(b[bm[4]:bm[5]], ".")
	for i := range max(len(as), len(bs)) {
		var x, y int64
		if i < len(as) {
			x, _ = strconv.ParseInt(as[i], 10, 64)
		}
		if i < len(bs) {
			y, _ = strconv.ParseInt(bs[i], 10, 64)
		}
		if x != y {
			if x < y {
				return -1, true
			}
			return 1, true
		}
	}
	// "2.9.0-rc1" is not "2.9.0", and which is newer nothing says.
	return 0, suffix(a[am[5]:]) == suffix(b[bm[5]:])
}

// suffix is what follows the numbers directly, as the letter of "8.2.2b"; the date of
// "2.46 Oct 15 2021" does not.
func suffix(after string) string {
	if i := strings.IndexAny(after, " \t([{,;"); i >= 0 {
		after = after[:i]
	}
	return strings.ToLower(strings.TrimRight(after, ".:"))
}

func family(before string) string {
	before = strings.TrimSpace(strings.TrimRight(strings.TrimSpace(before), "vV"))
	if i := strings.LastIndexByte(before, ' '); i >= 0 {
		before = before[i+1:]
	}
	return strings.ToUpper(before)
}

// same reports whether an installed version is the one of a payload.
func same(installed, want string) bool {
	order, ok := compare(installed, want)
	return ok && order == 0
}
