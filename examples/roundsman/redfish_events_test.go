package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestRedfishEvents: a target that fetches its image posts events of the update to the
// manager, an iLO over http and a Superdome Flex over https; and no subscription outlasts
// the update, nor, once that has been recovered, a manager that was killed.
func TestRedfishEvents(t *testing.T) {
	t.Parallel()
	const subscriptions = "/redfish/v1/EventService/Subscriptions"
	for _, tt := range []struct {
		name   string
		kind   sum.Kind
		cfg    redfishtest.Config
		way    []string
		scheme string
	}{
		{"iLO", sum.ILO, redfishtest.Config{Profile: redfishtest.ILO5}, []string{"--way", "add-from-uri"}, "http://127.0.0.1:2"},
		{"Superdome Flex", sum.SuperdomeFlex, redfishtest.Config{Profile: redfishtest.RMC}, nil, "https://127.0.0.1:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Pace = 100 * time.Millisecond
			l := newRedfishLab(t, tt.kind, tt.cfg)
			require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
			comp := l.component(l.srv.Inventory()[0].Image("new.bin", "9.99", 1<<20), l.hardware("bmc"), "9.99")
			args := append(append([]string{"deploy", "--component", comp, l.target}, redfishPorts...), tt.way...)

			// It does not end by itself when nobody answers any more.
			l.srv.Inject(redfishtest.Fault{Kind: redfishtest.Refuses, Method: "POST", Path: subscriptions, Status: 400, Times: 1})
			hold := l.srv.Inject(redfishtest.Fault{Kind: redfishtest.Hold})
			cmd := l.command(args...)
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			require.NoError(t, cmd.Start())
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			err := l.srv.Await(ctx, func() bool { return hold.Hits() > 0 })
			left := l.srv.Subscriptions()
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.NoError(t, err, said.String())
			require.Len(t, left, 1, said.String())
			require.True(t, strings.HasPrefix(left[0], tt.scheme), left[0])
			require.Equal(t, left, l.srv.Subscriptions(), "the manager is dead")
			hold.Remove()

			require.Contains(t, []int{exitFine, exitFailed, exitUnverified}, l.run(append([]string{"recover"}, redfishPorts...)...), l.output)
			require.Empty(t, l.srv.Subscriptions(), l.output)
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Empty(t, l.srv.Subscriptions(), l.output)
			l.writtenOnce()

			// Another version, and nobody is killed.
			before := l.srv.Count("POST", subscriptions)
			args[2] = l.component(l.srv.Inventory()[0].Image("new.bin", "10.01", 1<<20), l.hardwareOf(t, "bmc"), "10.01")
			require.Equal(t, exitFine, l.run(args...), l.output)
			require.Equal(t, before+1, l.srv.Count("POST", subscriptions))
			require.Empty(t, l.srv.Subscriptions(), l.output)
			require.NotContains(t, l.output, "posts no events")
			require.Contains(t, l.output, `"phase":"events","text":"TaskEvent.`)
		})
	}
}

// hardwareOf is hardware, of a new inventory.
func (l *redfishLab) hardwareOf(t *testing.T, class string) string {
	t.Helper()
	require.Equal(t, exitFine, l.run("inventory", l.target), l.output)
	return l.hardware(class)
}
