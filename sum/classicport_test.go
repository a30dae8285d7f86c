package sum_test

import (
	"context"
	"fmt"
	"net"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// dropped starts agents that cannot be reached at the port on which they listen.
type dropped struct {
	agent.Installer
	port int
}

func (w dropped) Start(ctx context.Context, _ transport.Conn, opts agent.StartOptions) (agent.Agent, error) {
	if err := opts.Opened(ctx, agent.Place{ID: opts.ID, Dir: path.Join("/var/lib/roundsman", opts.ID), Addr: fmt.Sprintf("[::]:%d", w.port)}); err != nil {
		return nil, err
	}
	return nil, &agent.Error{Op: "start", Target: opts.Target, Kind: transport.ErrUnreachable, Err: &transport.Error{
		Op: "dial the agent", Target: opts.Target, Path: fmt.Sprintf("10.0.0.7:%d", w.port), Kind: transport.ErrUnreachable,
		Err: net.UnknownNetworkError("dropped"), Hint: "firewalls must let the manager through"}}
}

// TestFirstPortTaken: where another agent has the first port, it is that which is to
// blame, and not a firewall that knows no other.
func TestFirstPortTaken(t *testing.T) {
	const here = "/var/lib/roundsman/0123456789abcdef"
	ready := func(port, pid int) string {
		return fmt.Sprintf(`{"version":1,"network":"tcp","addr":"[::]:%d","pid":%d}`, port, pid)
	}
	for name, tt := range map[string]struct {
		port  int
		files map[string]string
		want  []string
		not   string
	}{
		"by another manager": {port: 62287, files: map[string]string{here + "/ready.json": ready(62286, 77), "/proc/77/stat": "77"},
			want: []string{"TCP port 62286 of the target is taken by the agent in " + here + " (process 77), of another manager or of a killed run", "listens on 62287", "one manager at a time"}, not: "firewalls must let"},
		"by one that is dead": {port: 62287, files: map[string]string{here + "/ready.json": ready(62286, 77)},
			want: []string{"is taken, and not by an agent below /var/lib/roundsman"}},
		"by something else": {port: 62287, files: map[string]string{here + "/ready.json": ready(62290, 77), "/proc/77/stat": "77"},
			want: []string{"is taken, and not by an agent below /var/lib/roundsman"}},
		"by nobody": {port: 62286, files: map[string]string{here + "/ready.json": ready(62286, 77), "/proc/77/stat": "77"},
			want: []string{"firewalls must let the manager through"}, not: "is taken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newFakeClassicLab(t, sum.ClassicOptions{Stay: true})
			at := l.at[l.targets[0].Name]
			for file, content := range tt.files {
				require.NoError(t, at.WriteFile(file, []byte(content)))
			}
			edit := l.config
			l.config = func(c *sum.Config) {
				edit(c)
				c.Installer = dropped{l.agents, tt.port}
			}
			s := l.open()
			_, err := sum.Inventory(t.Context(), l.nodes(s)[0])
			require.ErrorIs(t, err, transport.ErrUnreachable)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			if tt.not != "" {
				require.NotContains(t, err.Error(), tt.not)
			}
			_ = s.Close(context.Background())
		})
	}
}

// TestFirstPortTakenOnWindows: of an agent there its service says whether it lives.
func TestFirstPortTakenOnWindows(t *testing.T) {
	const here = "/var/lib/roundsman/0123456789abcdef"
	for name, tt := range map[string]struct {
		create, start bool
		want          string
	}{
		"alive":   {true, true, "is taken by the agent in " + here},
		"stopped": {true, false, "(netstat -ano on the target says by what)"},
		"gone":    {false, false, "(netstat -ano on the target says by what)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, classic := newLab(t, "a server with services only"), newFakeClassicLab(t, sum.ClassicOptions{Stay: true})
			l.ports, l.way, l.config = classic.ports, classic.way, classic.config
			at := l.at[l.targets[0].Name]
			require.NoError(t, at.WriteFile(here+"/ready.json", []byte(`{"version":1,"network":"tcp","addr":"[::]:62286","pid":77}`)))
			conn, err := l.fake.Dial(t.Context(), at.Endpoint())
			require.NoError(t, err)
			service := agent.ServiceName("0123456789abcdef")
			at.OnService(func(transport.ServiceConfig) bool { return true }, func(ctx context.Context, _ *transporttest.Target, _ transport.ServiceConfig, _ []string) transport.Code {
				<-ctx.Done()
				return transport.Code{}
			})
			if tt.create {
				require.NoError(t, transport.CreateService(t.Context(), conn, transport.ServiceConfig{Name: service, Argv: []string{`C:\x.exe`}}))
			}
			if tt.start {
				require.NoError(t, transport.StartService(t.Context(), conn, service))
			}
			require.NoError(t, conn.Close(t.Context()))
			edit := l.config
			l.config = func(c *sum.Config) {
				edit(c)
				c.Installer = dropped{l.agents, 62287}
			}
			s := l.open()
			_, err = sum.Inventory(t.Context(), l.nodes(s)[0])
			require.ErrorContains(t, err, tt.want)
			_ = s.Close(context.Background())
		})
	}
}
