// Package version orders version strings by a named scheme.
//
// The same text means different things to different systems: "1.10" is newer
// than "1.9" for every scheme here, but "1.0~rc1" is older than "1.0" for
// Debian, "1.0^git1" is newer than "1.0" for RPM, and "U30 v2.36 (07/16/2020)"
// has an order only for HPE firmware. A caller therefore always names the
// scheme, and the package never guesses one:
//
//	n, err := version.Compare(version.Deb, installed, offered)
//	switch {
//	case errors.Is(err, version.ErrIncomparable):
//		// skip it: err says why, and names both versions
//	case n < 0:
//		// offered is newer
//	}
//
// # Schemes
//
// [Deb] follows deb-version(7): [epoch:]upstream[-revision]. It is stricter
// than dpkg where dpkg only warns: the upstream version starts with a digit and
// holds only the characters that the manual page allows.
//
// [RPM] is [epoch:]version[-release] as rpm itself compares it, tilde and caret
// included. A missing epoch is 0. Releases are compared only when both versions
// have one, as rpm does for dependencies, so "1.2" equals "1.2-3".
//
// [Numeric] is 1 to 16 decimal numbers separated by dots, with an optional
// leading "v", and nothing else: "7", "1.2.3", "v1.2" and "1.02" are accepted;
// "1.2-rc1", "1.2a", "1..2", "+1" and "1.2.x" are not. Each number is compared
// as a number, so leading zeros do not count, and missing numbers are zero:
// "1.2" equals "1.2.0" and "1.02".
//
// [HPE] takes the forms that HPE firmware inventories, component manifests and
// switch command lines use. Its rules are at [HPE].
//
// # Order
//
// Within one scheme "older than" is antisymmetric and transitive for all
// versions that can be compared with each other. A result of 0 means that
// nothing in the two strings says which is newer; under RPM and HPE it is not
// an equivalence, since "1.2" is as new as both "1.2-3" and "1.2-4".
//
// No version may be longer than [MaxLen] bytes, nor hold a run of more than 18
// digits. Spaces around a version are ignored. All functions are safe for
// concurrent use.
package version
