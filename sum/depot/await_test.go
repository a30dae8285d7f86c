package depot_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// onPort is a listener of pipes that says it has another port.
type onPort struct {
	*pipes
	port string
}

func (p onPort) Addr() net.Addr { return address("[::]:" + p.port) }

// waiting is a depot on a false clock, on ports 63001 and 63002.
type waiting struct {
	*testing.T
	depot *depot.Depot
	plain *pipes
	offer *depot.Offer
}

func testWaiting(t *testing.T, f func(w waiting)) {
	synctest.Test(t, func(t *testing.T) {
		cert, err := depot.NewCertificate("x")
		require.NoError(t, err)
		w := waiting{t, depot.New(depot.Options{}), newPipes(), nil}
		served := serve(t, w.depot, onPort{w.plain, "63001"})
		servedTLS := goServe(t, func() error {
			return w.depot.ServeTLS(onPort{newPipes(), "63002"}, &tls.Config{Certificates: []tls.Certificate{cert}})
		})
		synctest.Wait()
		w.offer, err = w.depot.Offer(depot.File{File: transport.BytesFile("ilo5.bin", []byte("content")), Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}})
		require.NoError(t, err)
		f(w)
		require.NoError(t, w.depot.Close(t.Context()))
		<-served
		<-servedTLS
	})
}

// giveUp waits in vain and returns what is said then.
func (w waiting) giveUp() string {
	w.Helper()
	start := time.Now()
	err := w.offer.Await(w.Context(), time.Minute)
	require.ErrorIs(w, err, depot.ErrNotRequested)
	require.Equal(w, time.Minute, time.Since(start))
	var de *depot.Error
	require.ErrorAs(w, err, &de)
	require.Equal(w, "ilo5.bin", de.File)
	require.Contains(w, err.Error(), "within 1m0s")
	require.Contains(w, err.Error(), "10.1.2.3/32")
	require.Contains(w, err.Error(), "TCP port 63001 (HTTP)")
	require.Contains(w, err.Error(), "TCP port 63002 (HTTPS)")
	return err.Error()
}

func TestAwaitNothing(t *testing.T) {
	testWaiting(t, func(w waiting) {
		// Others that find nothing tell nothing.
		answer(t, w.plain.dial("10.9.9.9:1"), "GET", "/")
		said := w.giveUp()
		require.Contains(t, said, "nothing came from 10.1.2.3/32")
		require.Contains(t, said, "in the direction from the target to the manager")
		require.NotContains(t, said, "10.9.9.9")
		require.Empty(t, w.offer.Refused())
		// It still can come.
		answer(t, w.plain.dial("10.1.2.3:1"), "HEAD", w.offer.Path)
		require.NoError(t, w.offer.Await(w.Context(), 0))
	})
}

// TestAwaitAttached: a listener counts from Attach on, before anybody serves it.
func TestAwaitAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := depot.New(depot.Options{})
		ln := newPipes()
		run := d.Attach(onPort{ln, "63001"}, nil)
		o, err := d.Offer(depot.File{File: transport.BytesFile("a", []byte("content")), Allow: loopback})
		require.NoError(t, err)
		err = o.Await(t.Context(), 0)
		require.ErrorIs(t, err, depot.ErrNotRequested)
		require.ErrorContains(t, err, "nothing came from 127.0.0.0/8, which may fetch it, to the manager's TCP port 63001 (HTTP)")
		served := goServe(t, run)
		answer(t, ln.dial("127.0.0.1:1"), "GET", o.Path)
		require.NoError(t, o.Await(t.Context(), 0))
		require.NoError(t, d.Close(t.Context()))
		<-served
	})
}

// TestAwaitRefused: the target comes through NAT or a proxy.
func TestAwaitRefused(t *testing.T) {
	testWaiting(t, func(w waiting) {
		for i := range 12 {
			for range 2 {
				answer(t, w.plain.dial(fmt.Sprintf("192.0.2.%d:1", i)), "GET", w.offer.Path)
			}
		}
		answer(t, w.plain.dial("198.51.100.1:1"), "GET", "/p/"+depot.NewToken()+"/ilo5.bin")
		said := w.giveUp()
		require.Contains(t, said, "192.0.2.0, 192.0.2.1, 192.0.2.2")
		require.Contains(t, said, "refused")
		require.Contains(t, said, "NAT")
		require.Len(t, w.offer.Refused(), 8)
		require.NotContains(t, said, "198.51.100.1")
	})
}

// TestAwaitConnected: the network lets the target through, but it asks for
// something else, or does not like the certificate.
func TestAwaitConnected(t *testing.T) {
	testWaiting(t, func(w waiting) {
		answer(t, w.plain.dial("10.1.2.3:1"), "GET", "/old/path")
		c := w.plain.dial("[::ffff:10.1.2.3]:2")
		_, _ = io.WriteString(c, "\x16\x03\x01")
		c.Close()
		said := w.giveUp()
		require.Contains(t, said, "2 connections")
		require.Contains(t, said, "certificate")
		require.NotContains(t, said, "firewall")
	})
}

// TestAwaitSoon: it returns when the request comes, and not later.
func TestAwaitSoon(t *testing.T) {
	testWaiting(t, func(w waiting) {
		done := make(chan error)
		go func() { done <- w.offer.Await(w.Context(), time.Hour) }()
		time.Sleep(time.Minute)
		start := time.Now()
		answer(t, w.plain.dial("10.1.2.3:1"), "GET", w.offer.Path)
		require.NoError(t, <-done)
		require.Zero(t, time.Since(start))
	})
}

func TestAwaitEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(w waiting, cancel func())
		want error
	}{
		"context": {func(_ waiting, cancel func()) { cancel() }, context.Canceled},
		"release": {func(w waiting, _ func()) { _, _ = w.offer.Release(w.Context()); _, _ = w.offer.Release(w.Context()) }, depot.ErrWithdrawn},
		"close":   {func(w waiting, _ func()) { _ = w.depot.Close(w.Context()) }, depot.ErrWithdrawn},
	} {
		t.Run(name, func(t *testing.T) {
			testWaiting(t, func(w waiting) {
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				done := make(chan error)
				go func() { done <- w.offer.Await(ctx, time.Hour) }()
				synctest.Wait()
				tt.end(w, cancel)
				err := <-done
				require.ErrorIs(t, err, tt.want)
				require.NotErrorIs(t, err, depot.ErrNotRequested)
			})
		})
	}
}

// TestAwaitNowhere: what keeps the target away is here.
func TestAwaitNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := depot.New(depot.Options{})
		o, err := d.Offer(depot.File{File: transport.BytesFile("a", nil), Allow: loopback})
		require.NoError(t, err)
		err = o.Await(t.Context(), time.Second)
		require.ErrorIs(t, err, depot.ErrNotRequested)
		require.ErrorContains(t, err, "does not listen")
		require.NoError(t, d.Close(t.Context()))
	})
}
