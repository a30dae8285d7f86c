package transporttest_test

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// personalities makes one target of each kind; those with several have one entry
// for each role.
var personalities = map[string]func() (*transporttest.Fake, *transporttest.Target){
	"shell-server":   transporttest.NewShellServer,
	"service-server": transporttest.NewServiceServer,
	"push-device":    transporttest.NewPushDevice,
	"pull-device":    transporttest.NewPullDevice,
	"host-group/login": func() (*transporttest.Fake, *transporttest.Target) {
		f, login, _ := transporttest.NewHostGroup(3)
		return f, login
	},
	"host-group/host": func() (*transporttest.Fake, *transporttest.Target) {
		f, _, hosts := transporttest.NewHostGroup(3)
		return f, hosts[1]
	},
	"enclosure": func() (*transporttest.Fake, *transporttest.Target) {
		f, oa, _ := transporttest.NewEnclosure()
		return f, oa
	},
	"enclosure/device-bay": func() (*transporttest.Fake, *transporttest.Target) {
		f, _, bays := transporttest.NewEnclosure()
		return f, bays[0]
	},
	"enclosure/interconnect-bay": func() (*transporttest.Fake, *transporttest.Target) {
		f, _, bays := transporttest.NewEnclosure()
		return f, bays[3]
	},
}

func retry(t transport.Transport) transport.Transport {
	return transport.Retry(t, transport.RetryOptions{Tries: 3, Base: time.Millisecond, Max: time.Millisecond})
}

func limit(t transport.Transport) transport.Transport {
	return transport.Limit(t, transport.LimitOptions{Dials: 1, Conns: 4, Calls: 3})
}

func logTo(t transport.Transport) transport.Transport {
	return transport.Log(t, slog.New(slog.NewJSONHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

var decorators = map[string]func(transport.Transport) transport.Transport{
	"none":  func(t transport.Transport) transport.Transport { return t },
	"retry": retry,
	"limit": limit,
	"log":   logTo,
	"all":   func(t transport.Transport) transport.Transport { return logTo(retry(limit(t))) },
}

// TestConformance runs the suite over each personality and each decorator, over several at
// a time but for what must be alone.
func TestConformance(t *testing.T) {
	for personality, make := range personalities {
		for decorator, decorate := range decorators {
			t.Run(personality+"/"+decorator, func(t *testing.T) {
				fake, target := make()
				h := target.Harness()
				h.Transport = decorate(h.Transport)
				ran := 0
				cases := func(alone bool) {
					for _, c := range transporttest.Cases(h) {
						if c.Alone != alone {
							continue
						}
						t.Run(c.Name, func(t *testing.T) {
							if reason := h.Skip[c.Name]; reason != "" {
								t.Skip(reason)
							}
							require.NoError(t, c.Run(t.Context(), h))
							ran++
						})
					}
				}
				cases(true)
				require.Equal(t, 1, ran, "the case that counts goroutines")
				t.Parallel()
				cases(false)
				require.Greater(t, ran, 20)
				require.NoError(t, fake.Close())
				require.Empty(t, target.Leftovers())
				require.Zero(t, fake.OpenConns())
			})
		}
	}
}
