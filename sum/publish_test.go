package sum_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// offers notes where a session offers payloads. With forget, its driver never
// gives an offer back.
type offers struct {
	forget bool
	// before, if set, is called with Publish before the driver's Update.
	before func(context.Context, func(context.Context, transport.PublishRequest) (transport.Published, error)) error

	mu   sync.Mutex
	urls []string
	more sync.Cond
}

func newOffers(l *lab) *offers {
	o := &offers{}
	o.more.L = &o.mu
	l.decorate = func(tr transport.Transport) transport.Transport { return offering{tr, o} }
	return o
}

// wait returns the URLs once there are n of them.
func (o *offers) wait(n int) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.urls) < n {
		o.more.Wait()
	}
	return append([]string(nil), o.urls...)
}

func (o *offers) note(url string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.urls = append(o.urls, url)
	o.more.Broadcast()
}

type offering struct {
	transport.Transport
	o *offers
}

func (t offering) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	conn, err := t.Transport.Dial(ctx, ep)
	if err != nil {
		return nil, err
	}
	return &offeringConn{transport.Forward{Conn: conn}, t.o}, nil
}

type offeringConn struct {
	transport.Forward
	o *offers
}

func (c *offeringConn) Update(ctx context.Context, p transport.Payload, opts transport.UpdateOptions) (transport.Result, error) {
	publish := opts.Publish
	opts.Publish = func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
		pub, err := publish(ctx, r)
		if err != nil {
			return pub, err
		}
		c.o.note(pub.URL)
		if c.o.forget {
			pub.Release = func(context.Context) (int64, error) { return 0, nil }
		}
		return pub, nil
	}
	if c.o.before != nil {
		if err := c.o.before(ctx, publish); err != nil {
			return transport.Result{}, err
		}
	}
	return c.Forward.Update(ctx, p, opts)
}

// fetch asks for a URL as the device does and returns status and body.
func fetch(t *testing.T, url string) (int, []byte) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, body
}

// holdFetch has the first reading of the component's payload wait for release,
// or for the end of the depot. fetching is closed when it has come.
func holdFetch(c *component.Component, release <-chan struct{}) (fetching <-chan struct{}) {
	f := &c.Payload.Files[0]
	open, come := f.Open, make(chan struct{})
	var once sync.Once
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		var err error
		once.Do(func() {
			close(come)
			select {
			case <-release:
			case <-ctx.Done():
				err = ctx.Err()
			}
		})
		if err != nil {
			return nil, err
		}
		return open(ctx)
	}
	return come
}

// TestOfferWithdrawn: a payload is on offer while its update lasts and not a
// moment longer, also where the driver forgets to give it back.
func TestOfferWithdrawn(t *testing.T) {
	for name, forget := range map[string]bool{"by the driver": false, "by the session": true} {
		for end, flash := range map[string]transporttest.Flash{"updated": {}, "failed": {Fail: transport.Code{Space: "x", Value: "1"}}} {
			t.Run(name+"/"+end, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, pull)
				offered := newOffers(l)
				offered.forget = forget
				c := l.component("7.0", 100_000)
				s := l.open()
				n := l.nodes(s)[0]
				w := l.begin(n, plan(t, n, c, sum.PlanOptions{}), c, flash)
				url := offered.wait(1)[0]
				status, body := fetch(t, url)
				require.Equal(t, http.StatusOK, status)
				require.EqualValues(t, c.Payload.Size(), len(body))
				out, err := w.end()
				require.NoError(t, err)
				require.Len(t, out, 1)
				require.Equal(t, flash.Fail.IsZero(), out[0].Kind.OK(), "%+v", out[0])
				status, _ = fetch(t, url)
				require.Equal(t, http.StatusNotFound, status)
				l.clean(s)
			})
		}
	}
}

// TestOfferWithdrawnByRecovery: an update that was stopped leaves its payload on
// offer, for the device may be fetching. However it is settled later in the
// session, the offer goes with it.
func TestOfferWithdrawnByRecovery(t *testing.T) {
	for _, tt := range []struct {
		name string
		lie  bool // the device does not get to the version
		have bool // the component is at hand
		opts sum.DeployOptions
		want sum.OutcomeKind
	}{
		{"resumed", false, true, sum.DeployOptions{}, sum.Updated},
		{"read back", false, false, sum.DeployOptions{}, sum.Updated},
		{"abandoned", true, false, sum.DeployOptions{Abandon: true}, sum.Unverified},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, pull)
			offered := newOffers(l)
			c := l.component("7.0", 100_000)
			release, begun := make(chan struct{}), make(chan struct{})
			fetching := holdFetch(c, release)
			s := l.open()
			n := l.nodes(s)[0]
			at := l.at[n.Target().Name]
			at.NextFlash(transporttest.Flash{Lie: tt.lie, Begun: begun})
			p := plan(t, n, c, sum.PlanOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-fetching
				cancel()
			}()
			_, err := sum.Deploy(ctx, n, p, one(c), sum.DeployOptions{})
			require.ErrorIs(t, err, context.Canceled)
			close(release)
			<-begun
			require.Eventually(t, func() bool { return l.applied(n.Target().Name) == 1 }, time.Minute, time.Millisecond)
			url := offered.wait(1)[0]
			status, _ := fetch(t, url)
			require.Equal(t, http.StatusOK, status, "nobody has settled the update")

			var comps []*component.Component
			if tt.have {
				comps = one(c)
			}
			rec, err := sum.Recover(t.Context(), n, tt.opts, comps...)
			require.NoError(t, err)
			require.Len(t, rec.Outcomes, 1)
			require.Equal(t, tt.want, rec.Outcomes[0].Kind, "%+v", rec.Outcomes[0])
			status, _ = fetch(t, url)
			require.Equal(t, http.StatusNotFound, status)
			l.clean(s)
		})
	}
}

// TestPullLineLost: a device that fetches when the line to it is lost goes on
// fetching; the update that is resumed offers the payload where it was.
func TestPullLineLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, pull)
	offered := newOffers(l)
	c := l.component("7.0", 100_000)
	release := make(chan struct{})
	fetching := holdFetch(c, release)
	s := l.open()
	n := l.nodes(s)[0]
	go func() {
		<-fetching
		l.at[n.Target().Name].Cut()
		offered.wait(2)
		close(release)
	}()
	soon, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	out, err := sum.Deploy(soon, n, plan(t, n, c, sum.PlanOptions{}), one(c), sum.DeployOptions{})
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
	urls := offered.wait(2)
	require.Len(t, urls, 2)
	require.Equal(t, urls[0], urls[1])
	require.Equal(t, 1, l.applied(n.Target().Name))
	l.clean(s)
}

// TestPullManagerDies: the device goes on asking where the dead manager had its
// payload. The next one finds token and port in the journal and offers it there.
func TestPullManagerDies(t *testing.T) {
	for _, second := range []string{"recover", "deploy"} {
		t.Run(second, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, pull)
			offered := newOffers(l)
			c := l.component("7.0", 100_000)
			fetching := holdFetch(c, nil)
			s := l.open()
			n := l.nodes(s)[0]
			p := plan(t, n, c, sum.PlanOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = sum.Deploy(ctx, n, p, one(c), sum.DeployOptions{})
			}()
			<-fetching
			s.Abandon()
			cancel()
			<-done

			s = l.open()
			n = l.nodes(s)[0]
			soon, stop := context.WithTimeout(t.Context(), time.Minute) // elsewhere the device would never find it
			defer stop()
			var out []sum.Outcome
			if second == "recover" {
				rec, err := sum.Recover(soon, n, sum.DeployOptions{}, c)
				require.NoError(t, err)
				out = rec.Outcomes
			} else {
				var err error
				out, err = sum.Deploy(soon, n, p, one(c), sum.DeployOptions{})
				require.NoError(t, err)
			}
			require.Len(t, out, 1)
			require.Equal(t, sum.Updated, out[0].Kind, "%+v", out[0])
			require.True(t, out[0].Recovered)
			urls := offered.wait(2)
			require.Len(t, urls, 2)
			require.Equal(t, urls[0], urls[1])
			require.Equal(t, 1, l.applied(n.Target().Name))
			status, _ := fetch(t, urls[0])
			require.Equal(t, http.StatusNotFound, status)
			l.clean(s)
		})
	}
}

// TestPullOddName: a file name that means something in a URL reaches the device
// all the same.
func TestPullOddName(t *testing.T) {
	t.Parallel()
	l := newLab(t, pull)
	s := l.open()
	n := l.nodes(s)[0]
	c := l.component("7.0", 100)
	c.Payload.Files[0].Name = "fw#1 100%.bin"
	o := deploy(t, n, c)
	require.Equal(t, sum.Updated, o.Kind, "%+v", o)
	l.clean(s)
}

// TestToldEarly: that a device does not come for its payload is reported while
// the update waits.
func TestToldEarly(t *testing.T) {
	l := newLab(t, pull)
	l.patience = time.Millisecond
	offered := newOffers(l)
	c := l.component("7.0", 100_000)
	told := make(chan sum.Event, 8)
	offered.before = func(ctx context.Context, publish func(context.Context, transport.PublishRequest) (transport.Published, error)) error {
		// The fake asks at once for what it is told; it is not told this one.
		if _, err := publish(ctx, transport.PublishRequest{File: c.Payload.Files[0], Key: "another"}); err != nil {
			return err
		}
		select {
		case e := <-told:
			require.Equal(t, c.Name, e.Component)
			require.Contains(t, e.Text, "from the target to the manager")
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s := l.open()
	n := l.nodes(s)[0]
	out, err := sum.Deploy(t.Context(), n, plan(t, n, c, sum.PlanOptions{}), one(c), sum.DeployOptions{Events: func(e sum.Event) {
		if e.Phase == "fetch" {
			told <- e
		}
	}})
	require.NoError(t, err)
	require.True(t, out[0].Kind.OK(), "%+v", out[0])
	require.Contains(t, l.logs.String(), "has not asked for its payload")
	l.clean(s)
}
