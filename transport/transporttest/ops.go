package transporttest

import (
	"bytes"
	"context"
	"io"
	"path"

	"github.com/roundsman-go/roundsman/transport"
)

// op is one call on a connection, in a form in which it does little.
type op struct {
	name  string
	needs transport.Caps
	// harmless: changes nothing, even when it is carried out
	harmless bool
	call     func(ctx context.Context, conn transport.Conn) error
}

// ops returns every call that package transport knows. Those of capabilities
// that the harness does not have must fail.
func (e *env) ops() []op {
	small := transport.BytesFile("payload", []byte("small"))
	file := path.Join(e.Dir, "conformance-none")
	svc := e.Service
	svc.Name += "-none"
	tunnel := func(network, addr string) func(context.Context, transport.Conn) error {
		return func(ctx context.Context, conn transport.Conn) error {
			c, err := transport.Dial(ctx, conn, network, addr)
			if err == nil {
				c.Close()
			}
			return err
		}
	}
	return []op{
		{"identify", 0, true, func(ctx context.Context, c transport.Conn) error {
			_, err := c.Identify(ctx)
			return err
		}},
		{"stat", transport.CapFiles, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Stat(ctx, c, e.Dir)
			return err
		}},
		{"list", transport.CapFiles, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.List(ctx, c, e.Dir)
			return err
		}},
		{"mkdir", transport.CapFiles, false, func(ctx context.Context, c transport.Conn) error {
			return transport.Mkdir(ctx, c, file, 0o755)
		}},
		{"put", transport.CapFiles, false, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Put(ctx, c, file, small, transport.PutOptions{})
			return err
		}},
		{"get", transport.CapFiles, false, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Get(ctx, c, file, io.Discard, transport.GetOptions{})
			return err
		}},
		{"remove", transport.CapFiles, false, func(ctx context.Context, c transport.Conn) error {
			return transport.Remove(ctx, c, file)
		}},
		{"run", transport.CapRun, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Run(ctx, c, transport.Command{Argv: e.Programs.Cat(), Stdin: bytes.NewReader(nil)})
			return err
		}},
		{"create service", transport.CapServices, false, func(ctx context.Context, c transport.Conn) error {
			return transport.CreateService(ctx, c, svc)
		}},
		{"start service", transport.CapServices, false, func(ctx context.Context, c transport.Conn) error {
			return transport.StartService(ctx, c, svc.Name)
		}},
		{"query service", transport.CapServices, false, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.QueryService(ctx, c, svc.Name)
			return err
		}},
		{"stop service", transport.CapServices, false, func(ctx context.Context, c transport.Conn) error {
			return transport.StopService(ctx, c, svc.Name)
		}},
		{"delete service", transport.CapServices, false, func(ctx context.Context, c transport.Conn) error {
			return transport.DeleteService(ctx, c, svc.Name)
		}},
		{"tunnel unix", transport.CapTunnelUnix, false, tunnel("unix", "/nonexistent/socket")},
		{"tunnel tcp", transport.CapTunnelTCP, false, tunnel("tcp", "127.0.0.1:1")},
		{"tunnel pipe", transport.CapTunnelPipe, false, tunnel("pipe", "nonexistent")},
		{"children", transport.CapChildren, true, func(ctx context.Context, c transport.Conn) error {
			for _, err := range transport.Children(ctx, c) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"inventory", transport.CapInventory, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.ReadInventory(ctx, c)
			return err
		}},
		{"update", transport.CapUpdate, false, func(ctx context.Context, c transport.Conn) error {
			p := transport.Payload{Name: "none", Version: "0", Files: []transport.File{small}}
			if e.Updates != nil && e.Updates.Next != nil {
				p = e.Updates.Next()
			}
			_, err := transport.Update(ctx, c, p, transport.UpdateOptions{
				Checkpoint: func(context.Context, transport.State) error { return nil },
				Publish: func(context.Context, transport.PublishRequest) (transport.Published, error) {
					return transport.Published{URL: "http://192.0.2.1/", Release: func(context.Context) (int64, error) { return 0, nil }}, nil
				},
			})
			return err
		}},
		{"undo", transport.CapUndo, false, func(ctx context.Context, c transport.Conn) error {
			return transport.Undo(ctx, c, transport.State{})
		}},
		{"space", transport.CapSpace, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.Space(ctx, c, e.Dir)
			return err
		}},
		{"clock", transport.CapClock, true, func(ctx context.Context, c transport.Conn) error {
			_, err := transport.ReadClock(ctx, c)
			return err
		}},
		{"reboot", transport.CapReboot, false, func(ctx context.Context, c transport.Conn) error {
			return transport.Reboot(ctx, c, transport.RebootOptions{})
		}},
	}
}

// offered returns the calls that the harness's capabilities allow.
func (e *env) offered() []op {
	var out []op
	for _, o := range e.ops() {
		if e.Caps.Has(o.needs) {
			out = append(out, o)
		}
	}
	return out
}

func (e *env) requests() int64 {
	if e.Requests == nil {
		return 0
	}
	return e.Requests()
}
