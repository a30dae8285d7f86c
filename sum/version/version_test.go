package version

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// no marks pairs that must be incomparable.
const no = 99

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		scheme Scheme
		a, b   string
		want   int
		reason error
	}{
		{Deb, "1.0", "1.0", 0, nil},
		{Deb, " 1.0\n", "1.0", 0, nil},
		{Deb, "1.9", "1.10", -1, nil},
		{Deb, "1.0~rc1", "1.0", -1, nil},
		{Deb, "1.0-1", "1.0-1+deb12u1", -1, nil},
		{Deb, "2:1.0-1", "1:9.9-9", 1, nil},
		{Deb, "1.0", "1.0-0", 0, nil},
		{Deb, "2.10-3", "2.10-2", 1, nil},
		{Deb, "1.0_1", "2", no, ErrSyntax},
		{Deb, "1.0-", "2", no, ErrSyntax},
		{Deb, "a1", "2", no, ErrSyntax},
		{Deb, "1.é", "2", no, ErrSyntax},
		{Deb, "x:1", "2", no, ErrSyntax},
		{Deb, "1 2", "2", no, ErrSyntax},
		{Deb, "", "2", no, ErrSyntax},
		{Deb, "2", "", no, ErrSyntax},
		{Deb, "1.1234567890123456789", "1", no, ErrSyntax},

		{RPM, "1.2.3-4.el9", "1.2.3-5.el9", -1, nil},
		{RPM, "1.10-1", "1.9-1", 1, nil},
		{RPM, "1:1.0-1", "2.0-1", 1, nil},
		{RPM, "0:1.0-1", "1.0-1", 0, nil},
		{RPM, "1.2", "1.2-3", 0, nil},
		{RPM, "1.0~rc1-1", "1.0-1", -1, nil},
		{RPM, "1.0^git1-1", "1.0-1", 1, nil},
		{RPM, "1.0^git1-1", "1.0.1-1", -1, nil},
		{RPM, "1.05", "1.5", 0, nil},
		{RPM, "1-2-3", "1", no, ErrSyntax},
		{RPM, "one:1", "1", no, ErrSyntax},
		{RPM, "1.0-", "1", no, ErrSyntax},

		{Numeric, "1.2.3", "v1.2.3", 0, nil},
		{Numeric, "v1.2", "1.2.0", 0, nil},
		{Numeric, "1.02", "1.2", 0, nil},
		{Numeric, "1.2.0.0.0", "1.2", 0, nil},
		{Numeric, "1.2.0.0.1", "1.2", 1, nil},
		{Numeric, "7", "7.0.1", -1, nil},
		{Numeric, "1.10", "1.9", 1, nil},
		{Numeric, "999999999999999999", "999999999999999998", 1, nil},
		{Numeric, "1.2-rc1", "1.2", no, ErrSyntax},
		{Numeric, "1.2+5", "1.2", no, ErrSyntax},
		{Numeric, "1.2a", "1.2", no, ErrSyntax},
		{Numeric, "1..2", "1.2", no, ErrSyntax},
		{Numeric, "V1", "1", no, ErrSyntax},
		{Numeric, "-1", "1", no, ErrSyntax},

		{HPE, "2.46", "2.78", -1, nil},
		{HPE, "2.9", "2.10", -1, nil},
		{HPE, "8.45.0.0", "08.45.00.00", 0, nil},
		{HPE, "8.45", "08.45.00.00", 0, nil},
		{HPE, "10.54.7", "10.54.13", -1, nil},
		{HPE, "16.26.0112", "16.26.112", 0, nil},
		{HPE, "2.96 Aug 17 2023", "2.78 Dec 13 2017", 1, nil},
		{HPE, "1.40 Dec 13 2017", "1.40 Feb 18  2016", 1, nil},
		{HPE, "1.40 Dec 13 2017", "1.40", 0, nil},
		{HPE, "iLO 5 v2.78", "2.96 Aug 17 2023", -1, nil},
		{HPE, "iLO 5 v2.78", "ilo 5 V2.78", 0, nil},
		{HPE, "iLO 4 v2.78", "iLO 5 v2.78", no, ErrFamily},
		{HPE, "U30 v2.36 (07/16/2020)", "U30 v2.90 (07/20/2023)", -1, nil},
		{HPE, "U30 v2.36 (07/16/2020)", "U30 v2.36 (07/17/2020)", -1, nil},
		{HPE, "U30 v2.36 (07/16/2020)", "2.36_07-16-2020", 0, nil},
		{HPE, "U30 v2.36 (07/16/2020)", "U32 v2.36 (07/16/2020)", no, ErrFamily},
		{HPE, "P89 2.30 09/13/2016", "v2.30 (09/13/2016)", 0, nil},
		{HPE, "P89 2.30 09/13/2016", "U30 2.30 09/13/2016", no, ErrFamily},
		{HPE, "2.36_07-16-2020 (B)", "2.36_07-16-2020 (C)", -1, nil},
		{HPE, "1.1.4(B)", "1.1.4(C)", -1, nil},
		{HPE, "1.1.4(B)", "1.1.4 (B)", 0, nil},
		{HPE, "1.1.4(B)", "1.1.4", 0, nil},
		{HPE, "1.1.4(B)", "1.1.5", -1, nil},
		{HPE, "2023.09.01 (C)", "2023.10.00 (A)", -1, nil},
		{HPE, "16.5.0 Build 53", "16.5.0 Build 9", 1, nil},
		{HPE, "16.5.0 Build 53", "16.5.0", 0, nil},
		{HPE, "0x2A", "0x31", -1, nil},
		{HPE, "0x0D", "0xd", 0, nil},
		{HPE, "0x31", "3.1", no, ErrForm},
		{HPE, "P70 07/01/2015", "P70 05/21/2018", -1, nil},
		{HPE, "P70 07/01/2015", "2015.07.01 (B)", 0, nil},
		{HPE, "P70 07/01/2015", "2019.05.24 (A)", -1, nil},
		{HPE, "2019.05.24", "P70 07/01/2015", 1, nil},
		{HPE, "P70 07/01/2015", "2.30", no, ErrForm},
		{HPE, "P70 07/01/2015", "2019.02.30", no, ErrForm},
		{HPE, "P70 07/01/2015", "P71 07/01/2015", no, ErrFamily},
		{HPE, "HPD5", "HPD7", -1, nil},
		{HPE, "HPD5 (C)", "HPD5", 0, nil},
		{HPE, "HPD5(B)", "HPD5 (C)", -1, nil},
		{HPE, "HPD5", "HPG6", no, ErrFamily},
		{HPE, "SN05", "SN06", -1, nil},
		{HPE, "H3L7", "H3L7", 0, nil},
		{HPE, "H3L7", "H3L6", 1, nil},
		{HPE, "HPDA", "HPD9", no, ErrSyntax},
		{HPE, "HPDA", "hpda ", 0, nil},
		{HPE, "HPD5", "2.46", no, ErrForm},
		{HPE, "FOS v8.2.2b", "v8.2.2", 1, nil},
		{HPE, "v8.2.2a", "v8.2.2b", -1, nil},
		{HPE, "v7.4.1e", "v7.4.1e1", -1, nil},
		{HPE, "v8.2.2b", "v8.2.3", -1, nil},
		{HPE, "7", "8 (B)", -1, nil},
		{HPE, "iLO 5", "iLO 6", no, ErrSyntax},
		{HPE, "1.2 0", "1.2 0", 0, nil},
		{HPE, "1.2 0", "1.2 1", no, ErrSyntax},
		{HPE, "2.36_13-16-2020", "2.36", no, ErrSyntax},
		{HPE, "2.36 (B) (C)", "2.36", no, ErrSyntax},
		{HPE, "2.36 Jan 1 2020 Jan 2 2020", "2.36", no, ErrSyntax},
		{HPE, "N/A", "2.36", no, ErrSyntax},
		{HPE, "", "", no, ErrSyntax},

		{"semver", "1", "1", no, ErrScheme},
		{"", "1", "1", no, ErrScheme},
	} {
		t.Run(string(c.scheme)+" "+c.a+" "+c.b, func(t *testing.T) {
			n, err := Compare(c.scheme, c.a, c.b)
			m, errBack := Compare(c.scheme, c.b, c.a)
			if c.want != no {
				require.NoError(t, err)
				require.NoError(t, errBack)
				require.Equal(t, c.want, n)
				require.Equal(t, -c.want, m)
				return
			}
			require.ErrorIs(t, err, ErrIncomparable)
			require.ErrorIs(t, errBack, ErrIncomparable)
			require.ErrorIs(t, err, c.reason)
			require.ErrorIs(t, errBack, c.reason)
			require.Zero(t, n)
			var e *Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, []string{string(c.scheme), c.a, c.b}, []string{string(e.Scheme), e.A, e.B})
		})
	}
}

func TestErrorNamesSchemeAndVersions(t *testing.T) {
	_, err := Compare(HPE, "U30 v2.36", "P89 v2.36")
	require.EqualError(t, err,
		`versions cannot be compared: "U30 v2.36" and "P89 v2.36", scheme "hpe": versions of different families`)
	_, err = Parse(Deb, "a1")
	require.EqualError(t, err, `version "a1", scheme "deb": not a version of this scheme`)
	require.NotErrorIs(t, err, ErrIncomparable, "nothing was compared")
	_, err = Compare(Deb, strings.Repeat("1", 1<<20), "1")
	require.Less(t, len(err.Error()), 600, "a hostile version must not fill the log")
}

func TestParse(t *testing.T) {
	for _, scheme := range Schemes() {
		require.True(t, scheme.Known())
		a, err := Parse(scheme, "1.2 ")
		require.NoError(t, err)
		b, err := Parse(scheme, "1.3")
		require.NoError(t, err)
		n, err := a.Compare(b)
		require.NoError(t, err)
		require.Equal(t, -1, n)
		require.Equal(t, scheme, a.Scheme())
		require.Equal(t, "1.2 ", a.String())
		require.True(t, Valid(scheme, "1.2"))
		require.False(t, Valid(scheme, "?"))
		_, err = a.Compare(Version{})
		require.ErrorIs(t, err, ErrIncomparable)
		_, err = Version{}.Compare(a)
		require.ErrorIs(t, err, ErrScheme)
	}
	deb, err := Parse(Deb, "1")
	require.NoError(t, err)
	rpm, err := Parse(RPM, "1")
	require.NoError(t, err)
	_, err = deb.Compare(rpm)
	require.ErrorIs(t, err, ErrScheme, "1 is not 1 when the schemes differ")
	require.False(t, Scheme("semver").Known())
}
