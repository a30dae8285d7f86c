package main

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// A redfishPhase is where the manager is killed.
type redfishPhase struct {
	name string
	// prepare makes the phase last, if need be.
	prepare *redfishtest.Fault
	reached func(l *redfishLab) bool
	pull    bool // where images are fetched
	push    bool // where they are sent
}

var redfishPhases = []redfishPhase{
	{name: "inventory", push: true, pull: true, reached: func(l *redfishLab) bool { return l.srv.Sessions() > 0 }},
	{name: "in mid-upload", push: true,
		prepare: &redfishtest.Fault{Kind: redfishtest.StallAt, Method: http.MethodPost, Bytes: 512 << 10, Delay: time.Hour},
		reached: func(l *redfishLab) bool { return l.fault.Hits() > 0 }},
	{name: "not yet fetched", pull: true,
		prepare: &redfishtest.Fault{Kind: redfishtest.NeverPulls, Delay: 2 * time.Second},
		reached: func(l *redfishLab) bool { return l.started() }},
	{name: "while it writes", push: true, pull: true, reached: func(l *redfishLab) bool { return l.started() && len(l.srv.Flashes()) == 0 }},
	{name: "written", push: true, pull: true, reached: func(l *redfishLab) bool { return len(l.srv.Flashes()) > 0 }},
	{name: "reset", push: true, pull: true, reached: func(l *redfishLab) bool { return l.srv.Resets() > 0 }},
}

// started reports whether a request for an update has been answered. Logins, and the
// subscription to events, change nothing.
func (l *redfishLab) started() bool {
	return slices.ContainsFunc(l.srv.Requests(), func(r redfishtest.Request) bool {
		path := strings.ToLower(r.Path)
		return r.Method == http.MethodPost && r.Status/100 == 2 && !strings.Contains(path, "sessions") && !strings.Contains(path, "subscriptions") && (!l.queued || strings.Contains(path, "updatetaskqueue") || strings.Contains(path, "installset.invoke"))
	})
}

// TestRedfishKilled kills the program with SIGKILL in each phase of an update, and
// continues with recover and with another deploy. Nothing is written twice.
func TestRedfishKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		kind sum.Kind
		cfg  redfishtest.Config
		way  string
		pull bool
	}{
		{"iLO by push", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5, IPv6: true}, "hpe-push", false},
		{"iLO by pull", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5, IPv6: true}, "add-from-uri", true},
		{"iLO by its queue", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5}, "queue", false},
		{"iLO by an install set", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5}, "install-set", false},
		{"Superdome Flex", sum.SuperdomeFlex, redfishtest.Config{Profile: redfishtest.RMC, IPv6: true}, "", true},
		{"any, by push to targets", sum.Redfish, redfishtest.Config{PushTargets: true}, "http-push", false},
		{"any, by push", sum.Redfish, redfishtest.Config{}, "", false},
		{"any, by pull", sum.Redfish, redfishtest.Config{IPv6: true}, "simple-update", true},
	} {
		for _, ph := range redfishPhases {
			if tt.pull && !ph.pull || !tt.pull && !ph.push {
				continue
			}
			t.Run(tt.name+"/"+ph.name, func(t *testing.T) {
				t.Parallel()
				cfg := tt.cfg
				cfg.Pace = 100 * time.Millisecond
				l := newRedfishLab(t, tt.kind, cfg)
				require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
				comp := l.component(l.srv.Inventory()[0].Image("new.bin", "9.99", 1<<20), l.hardware("bmc"), "9.99")
				l.queued = tt.way == "queue" || tt.way == "install-set" // the upload alone writes nothing
				args := append([]string{"deploy", "--component", comp, l.target}, redfishPorts...)
				if tt.way != "" {
					args = append(args, "--way", tt.way)
				}
				if ph.prepare != nil {
					l.fault = l.srv.Inject(*ph.prepare)
				}
				cmd := l.command(args...)
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				require.NoError(t, cmd.Start())
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
				defer cancel()
				err := l.srv.Await(ctx, func() bool { return ph.reached(l) })
				require.NoError(t, cmd.Process.Kill())
				require.Error(t, cmd.Wait())
				require.NoError(t, err, said.String())
				if l.fault != nil {
					l.fault.Remove()
				}

				status := l.run(append([]string{"recover"}, redfishPorts...)...)
				t.Logf("recover: %d\n%s", status, l.output)
				require.Contains(t, []int{exitFine, exitFailed, exitUnverified}, status, l.output)
				require.Equal(t, exitFine, l.run(args...), l.output)
				require.Contains(t, []any{"Updated", "NotNeeded"}, l.of("outcome")[0]["outcome"], l.output)
				l.writtenOnce()
				require.Equal(t, "9.99", l.srv.Inventory()[0].Version)
				require.Equal(t, exitFine, l.run(append([]string{"recover"}, redfishPorts...)...), l.output)
				require.EqualValues(t, 0, l.of("summary")[0]["targets"], "nothing is left to do")
				l.leavesNothing()
			})
		}
	}
}
