package version_test

import (
	"errors"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/version"
)

func ExampleCompare() {
	for _, c := range []struct {
		scheme             version.Scheme
		installed, offered string
	}{
		{version.Deb, "2.10-2", "2.10-3"},
		{version.RPM, "1.0~rc1-1", "1.0-1"},
		{version.Numeric, "v1.02", "1.2.0"},
		{version.HPE, "U30 v2.36 (07/16/2020)", "2.90_07-20-2023"},
		{version.HPE, "U30 v2.36 (07/16/2020)", "P89 v2.90 (07/20/2023)"},
	} {
		n, err := version.Compare(c.scheme, c.installed, c.offered)
		switch {
		case errors.Is(err, version.ErrIncomparable):
			fmt.Println(err)
		case n < 0:
			fmt.Println(c.offered, "is newer than", c.installed)
		default:
			fmt.Println(c.offered, "is not needed")
		}
	}
	// Output:
	// 2.10-3 is newer than 2.10-2
	// 1.0-1 is newer than 1.0~rc1-1
	// 1.2.0 is not needed
	// 2.90_07-20-2023 is newer than U30 v2.36 (07/16/2020)
	// versions cannot be compared: "U30 v2.36 (07/16/2020)" and "P89 v2.90 (07/20/2023)", scheme "hpe": versions of different families
}
