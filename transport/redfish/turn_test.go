package redfish_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/roundsman-go/roundsman/transport/transporttest"
	"github.com/stretchr/testify/require"
)

// An iLO that answers a push by an empty 400 fetches the image itself, where it is proven
// that it took nothing: the mark of an earlier upload stands, it did nothing, and it was not
// reset. Else nothing is sent by another way, as it would be written twice.
func TestPushAnsweredByNothing(t *testing.T) {
	const unknown, applied, failed = transport.VerdictUnknown, transport.VerdictApplied, transport.VerdictFailed
	push := redfishtest.Fault{Kind: redfishtest.EmptyError, Path: "/cgi-bin/uploadFile", Times: 1}
	took, early := push, push
	took.Kind, took.Status = redfishtest.AnswersOtherwise, 400
	early.Kind, early.Status, early.Bytes = redfishtest.EarlyAnswer, 400, 100_000
	broke := redfishtest.Fault{Kind: redfishtest.Refuses, Status: 502, Path: "/cgi-bin/uploadFile", Times: 1}
	again := redfishtest.Fault{Kind: redfishtest.Unauthorized, Method: "GET", Path: "/redfish/v1/UpdateService", Skip: 1, Times: 1}
	for name, c := range map[string]struct {
		fault    redfishtest.Fault
		other    *redfishtest.Fault
		earlier  bool // there was an upload before
		reset    bool // it tells when it was reset
		opts     redfish.Options
		unserved bool
		taken    bool // the port of the server
		fetched  bool
		want     transport.Verdict
	}{
		"nothing arrived":               {fault: push, earlier: true, fetched: true, want: applied},
		"nothing arrived, and it tells": {fault: push, earlier: true, reset: true, fetched: true, want: applied},
		"no mark":                       {fault: push, want: unknown},
		"it took it":                    {fault: took, earlier: true, want: applied},
		"another answer":                {fault: broke, earlier: true, want: unknown},
		"no server":                     {fault: push, earlier: true, unserved: true, want: unknown},
		"another way is prescribed":     {fault: push, earlier: true, opts: redfish.Options{Way: redfish.WayHPEPush}, want: unknown},
		"another session":               {fault: push, other: &again, earlier: true, want: unknown},
		"another session, and it tells": {fault: push, other: &again, earlier: true, reset: true, fetched: true, want: applied},
		"before the end of the request": {fault: early, fetched: true, want: applied},
		"no port":                       {fault: push, earlier: true, taken: true, want: unknown},
		"before the end, and no port":   {fault: early, taken: true, want: failed},
		"before the end, and no server": {fault: early, unserved: true, want: failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := simulator(t, redfishtest.Config{Profile: redfishtest.ILO6, LastResetTime: c.reset})
			if c.earlier {
				_, err := try(t, srv, "4", redfish.Options{}, nil)
				require.NoError(t, err)
			}
			flashes := len(srv.Flashes())
			device := deviceOf(t, srv, "4")
			faults := []*redfishtest.Injected{srv.Inject(c.fault)}
			pub, err := transporttest.NewPublisher("")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, pub.Close()) })
			var r recorder
			c.opts.SettleTimeout = 300 * time.Millisecond
			res, err := try(t, srv, "4", c.opts, func(p *transport.Payload, o *transport.UpdateOptions) {
				p.Version, p.Files = "100.2", []transport.File{srv.Firmware("4").Image("image.bin", "100.2", 8<<20)}
				o.Devices = []string{device}
				o.Checkpoint = func(ctx context.Context, s transport.State) error {
					if s.Sent && c.other != nil && len(faults) == 1 { // while the update is followed
						faults = append(faults, srv.Inject(*c.other))
					}
					return r.keep(ctx, s)
				}
				switch {
				case c.unserved:
				case c.taken:
					o.Publish = func(context.Context, transport.PublishRequest) (transport.Published, error) {
						return transport.Published{}, errors.New("the port is taken")
					}
				default:
					o.Publish = pub.Publish
				}
			})
			require.NoError(t, err)
			for _, f := range faults {
				require.Equal(t, 1, f.Hits())
			}
			require.Equal(t, c.want, res.Verdict, "%+v", res)
			fetches, writes := 0, 0
			if c.fetched {
				fetches = 1
			}
			if c.want == applied {
				writes = 1
			}
			require.Equal(t, fetches, srv.Count("POST", "/redfish/v1/UpdateService/Actions/Oem/Hpe/HpeiLOUpdateServiceExt.AddFromUri"))
			require.Len(t, srv.Flashes(), flashes+writes, "written once")
			require.Equal(t, c.taken, strings.Contains(res.Text, "the port is taken"), res.Text)
			if c.want == failed {
				require.False(t, r.last().Sent)
				require.Contains(t, res.Text, "before the end of the request")
			}
			if !c.fetched {
				require.Contains(t, string(r.last().Data), `"way":"hpe-push"`)
				return
			}
			// A manager that dies when it has turned goes on by the way that it has chosen.
			var turned *transport.State
			for _, s := range r.states {
				if s.Phase == "begin" {
					turned = &s
				}
			}
			require.Contains(t, string(turned.Data), `"way":"add-from-uri"`)
		})
	}
}
