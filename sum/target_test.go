package sum_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]sum.Target{
		"linux://root@db1:22":          {Kind: sum.Linux, User: "root", Address: "db1:22"},
		"linux://db1":                  {Kind: sum.Linux, Address: "db1"},
		"LINUX://db1":                  {Kind: sum.Linux, Address: "db1"},
		"linux://root@[2001:db8::1]":   {Kind: sum.Linux, User: "root", Address: "2001:db8::1"},
		"linux://[fe80::1%25eth0]:22":  {Kind: sum.Linux, Address: "[fe80::1%eth0]:22"},
		"vmware://vcenter/host-17":     {Kind: sum.VMware, Address: "vcenter", Object: "host-17"},
		"windows://DOMAIN;user@host":   {Kind: sum.Windows, User: "DOMAIN;user", Address: "host"},
		"linux://user%40realm@host":    {Kind: sum.Linux, User: "user@realm", Address: "host"},
		"superdome-flex://rmc.example": {Kind: sum.SuperdomeFlex, Address: "rmc.example"},
		"local:":                       {Kind: sum.Local},
	} {
		got, err := sum.ParseTarget(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
		again, err := sum.ParseTarget(got.String())
		require.NoError(t, err, got.String())
		require.Equal(t, got, again, "String of %q must read back", in)
	}
}

func TestParseTargetRefuses(t *testing.T) {
	for _, in := range []string{
		"linux://2001:db8::7:2222", "linux://::1", "", "db1", "ssh://db1", "linux://", "linux://root@", "linux://a b", "linux://root:hunter2@db1", "linux://root%3Ahunter2@db1"} {
		_, err := sum.ParseTarget(in)
		require.ErrorIs(t, err, sum.ErrInvalid, in)
		var e *sum.Error
		require.True(t, errors.As(err, &e), in)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("linux://root@db1:22")
	f.Add("vmware://u@[::1%25eth0]:443/host%2F1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := sum.ParseTarget(s)
		if err != nil {
			require.ErrorIs(t, err, sum.ErrInvalid)
			return
		}
		again, err := sum.ParseTarget(got.String())
		require.NoError(t, err, "%q became %q", s, got.String())
		require.Equal(t, got, again)
	})
}

// TestTargetSamePlace: one place has one name in journals, however it is written.
func TestTargetSamePlace(t *testing.T) {
	l := newLab(t, server)
	s := l.open()
	t.Cleanup(func() { require.NoError(t, s.Close(t.Context())) })
	for _, same := range [][2]string{{"192.0.2.7", "192.0.2.7:22"}, {"db1", "DB1:22"}, {"2001:db8::7", "[2001:DB8::7]:22"}} {
		_, err := s.Node(sum.Target{Kind: sum.Linux, User: "root", Address: same[0]})
		require.NoError(t, err)
		_, err = s.Node(sum.Target{Kind: sum.Linux, User: "ops", Address: same[1]})
		require.ErrorIs(t, err, sum.ErrInvalid, "%v", same)
	}
	for _, other := range []string{"192.0.2.7:2222", "db2"} {
		_, err := s.Node(sum.Target{Kind: sum.Linux, User: "ops", Address: other})
		require.NoError(t, err)
	}
}
