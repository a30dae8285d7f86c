package depot_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// TestRenew: an offer that is made again is for those who were allowed and those
// who are now, reads the files as they are given now, and goes on counting.
func TestRenew(t *testing.T) {
	testCrowd(t, depot.Options{}, func(c *crowd) {
		gone := func(context.Context) (io.ReadSeekCloser, error) { return nil, errors.New("the directory was removed") }
		f := transport.BytesFile("dir/a", []byte("content"))
		stale := f
		stale.Open = gone
		v4, v6 := []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}, []netip.Prefix{netip.MustParsePrefix("2001:db8::3/128")}
		o, err := c.depot.Offer(depot.File{File: stale, Allow: v4})
		require.NoError(c, err)
		require.Equal(c, 500, c.ask(c.connect("10.1.2.3"), o.Path))
		require.Equal(c, 404, c.ask(c.connect("2001:db8::3"), o.Path))
		require.NoError(c, o.Renew(v6, f))
		require.NoError(c, o.Renew(v6, f))
		require.Equal(c, 200, c.ask(c.connect("10.1.2.3"), o.Path))
		require.Equal(c, 200, c.ask(c.connect("2001:db8::3"), o.Path))
		require.Equal(c, 404, c.ask(c.connect("10.1.2.4"), o.Path))

		for name, files := range map[string][]transport.File{
			"content": {transport.BytesFile("dir/a", []byte("CONTENT"))}, "length": {transport.BytesFile("dir/a", nil)},
			"name": {transport.BytesFile("dir/b", []byte("content"))}, "none": nil, "more": {f, transport.BytesFile("b", nil)},
		} {
			require.ErrorIs(c, o.Renew([]netip.Prefix{netip.MustParsePrefix("10.1.2.4/32")}, files...), depot.ErrChanged, name)
		}
		require.ErrorIs(c, o.Renew([]netip.Prefix{{}}, f), transport.ErrInvalid)
		require.Equal(c, 404, c.ask(c.connect("10.1.2.4"), o.Path))
		n, err := o.Release(c.Context())
		require.NoError(c, err)
		require.EqualValues(c, 14, n)
		require.ErrorIs(c, o.Renew(v6, f), depot.ErrWithdrawn)

		// Nobody is allowed anything any more: nine are too many for a stranger.
		first := c.connect("2001:db8::3")
		for range 8 {
			c.connect("2001:db8::3")
		}
		require.False(c, c.open(first))

		tree := []transport.File{transport.BytesFile("index.xml", []byte("<x/>")), transport.BytesFile("vib/a", []byte("vib"))}
		broken := slices.Clone(tree)
		broken[1].Open = gone
		o, err = c.depot.OfferTree(depot.Tree{Name: "t", Files: broken, Allow: v4})
		require.NoError(c, err)
		slices.Reverse(tree)
		require.NoError(c, o.Renew(nil, tree...))
		require.Equal(c, 200, c.ask(c.connect("10.1.2.3"), o.FilePath("vib/a")))
	})
}

// TestRenewWhileFetched has requests and renewals at the same time.
func TestRenewWhileFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Over pipes client and server can hand the processor to each other for so
		// long that no connection is noted as idle.
		d, ln := depot.New(depot.Options{ConnsPerOffer: 200}), newPipes()
		served := serve(t, d, ln)
		f := transport.BytesFile("a", []byte("content"))
		o, err := d.Offer(depot.File{File: f, Allow: loopback})
		require.NoError(t, err)
		renewed := make(chan struct{})
		go func() {
			defer close(renewed)
			for i := range 100 {
				if err := o.Renew([]netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)}, f); err != nil {
					t.Error(err)
				}
			}
		}()
		for range 100 {
			status, _, body := answer(t, ln.dial("127.0.0.1:1"), "GET", o.Path)
			require.Equal(t, 200, status)
			require.Equal(t, "content", body)
		}
		<-renewed
		_ = o.Await(t.Context(), 0)
		require.NoError(t, d.Close(t.Context()))
		<-served
	})
}
