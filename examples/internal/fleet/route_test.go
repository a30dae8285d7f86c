package fleet

import (
	"errors"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/stretchr/testify/require"
)

// TestRoute: the configuration says where a target is and which way leads there.
func TestRoute(t *testing.T) {
	t.Parallel()
	c := home(t, `
Host db1
    HostName db1.example.com
    Port 2222
Host web
    ProxyJump jump1,root@jump2:2200
Host jump1
    HostName 192.0.2.9
    ProxyJump outer
Host odd
    ProxyCommand nc %h %p
`, "")
	r, err := New(c)
	require.NoError(t, err)
	for _, tt := range []struct {
		target sum.Target
		want   sum.Route
	}{
		{sum.Target{Kind: sum.Linux, Address: "db1"}, sum.Route{Address: "db1.example.com:2222"}},
		{sum.Target{Kind: sum.Linux, Address: "db1:22"}, sum.Route{Address: "db1.example.com:22"}},
		{sum.Target{Kind: sum.Linux, Address: "fe80::1%eth0"}, sum.Route{Address: "[fe80::1%eth0]:22"}},
		{sum.Target{Kind: sum.Linux, Address: "web"}, sum.Route{Address: "web:22", Via: []string{"outer:22", "192.0.2.9:22", "jump2:2200"}}},
		{sum.Target{Kind: sum.ILO, Address: "db1"}, sum.Route{}},
		{sum.Target{Kind: sum.Local}, sum.Route{}},
	} {
		got, err := r.Route(tt.target)
		require.NoError(t, err)
		require.Equal(t, tt.want, got, "%v", tt.target)
	}
	_, err = r.Route(sum.Target{Kind: sum.Linux, Address: "odd"})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
