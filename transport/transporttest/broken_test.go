package transporttest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// The drivers of this file are broken, each in its own way, and the suite must
// find it: it proves that the cases can fail.

// dialFunc is a Transport.
type dialFunc func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error)

func (d dialFunc) Dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	return d(ctx, ep)
}

// wrap breaks every connection of a transport.
func wrap(f func(c transport.Conn) transport.Conn) func(transport.Transport, transport.Endpoint) transport.Transport {
	return func(t transport.Transport, _ transport.Endpoint) transport.Transport {
		return dialFunc(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
			c, err := t.Dial(ctx, ep)
			if err != nil {
				return nil, err
			}
			return f(c), nil
		})
	}
}

// broken overrides single calls of a connection.
type broken struct {
	transport.Forward
	caps        func() transport.Caps
	identify    func(ctx context.Context) (transport.Identity, error)
	closeConn   func(ctx context.Context) error
	stat        func(ctx context.Context, name string) (transport.FileInfo, error)
	list        func(ctx context.Context, dir string) ([]transport.FileInfo, error)
	put         func(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error)
	get         func(ctx context.Context, name string, w io.Writer, o transport.GetOptions) (int64, error)
	run         func(ctx context.Context, cmd transport.Command) (transport.Exit, error)
	create      func(ctx context.Context, cfg transport.ServiceConfig) error
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	children    func(ctx context.Context) iter.Seq2[transport.Child, error]
	update      func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error)
	undo        func(ctx context.Context, s transport.State) error
	reboot      func(ctx context.Context, o transport.RebootOptions) error
	space       func(ctx context.Context, dir string) (int64, error)
	clock       func(ctx context.Context) (transport.Clock, error)
}

func (b *broken) Caps() transport.Caps {
	if b.caps != nil {
		return b.caps()
	}
	return b.Conn.Caps()
}

func (b *broken) Identify(ctx context.Context) (transport.Identity, error) {
	if b.identify != nil {
		return b.identify(ctx)
	}
	return b.Conn.Identify(ctx)
}

func (b *broken) Close(ctx context.Context) error {
	if b.closeConn != nil {
		return b.closeConn(ctx)
	}
	return b.Conn.Close(ctx)
}

func (b *broken) Stat(ctx context.Context, name string) (transport.FileInfo, error) {
	if b.stat != nil {
		return b.stat(ctx, name)
	}
	return b.Forward.Stat(ctx, name)
}

func (b *broken) List(ctx context.Context, dir string) ([]transport.FileInfo, error) {
	if b.list != nil {
		return b.list(ctx, dir)
	}
	return b.Forward.List(ctx, dir)
}

func (b *broken) Put(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error) {
	if b.put != nil {
		return b.put(ctx, name, f, o)
	}
	return b.Forward.Put(ctx, name, f, o)
}

func (b *broken) Get(ctx context.Context, name string, w io.Writer, o transport.GetOptions) (int64, error) {
	if b.get != nil {
		return b.get(ctx, name, w, o)
	}
	return b.Forward.Get(ctx, name, w, o)
}

func (b *broken) Run(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
	if b.run != nil {
		return b.run(ctx, cmd)
	}
	return b.Forward.Run(ctx, cmd)
}

func (b *broken) CreateService(ctx context.Context, cfg transport.ServiceConfig) error {
	if b.create != nil {
		return b.create(ctx, cfg)
	}
	return b.Forward.CreateService(ctx, cfg)
}

func (b *broken) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if b.dialContext != nil {
		return b.dialContext(ctx, network, addr)
	}
	return b.Forward.DialContext(ctx, network, addr)
}

func (b *broken) Children(ctx context.Context) iter.Seq2[transport.Child, error] {
	if b.children != nil {
		return b.children(ctx)
	}
	return b.Forward.Children(ctx)
}

func (b *broken) Update(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
	if b.update != nil {
		return b.update(ctx, p, o)
	}
	return b.Forward.Update(ctx, p, o)
}

func (b *broken) Undo(ctx context.Context, s transport.State) error {
	if b.undo != nil {
		return b.undo(ctx, s)
	}
	return b.Forward.Undo(ctx, s)
}

func (b *broken) Reboot(ctx context.Context, o transport.RebootOptions) error {
	if b.reboot != nil {
		return b.reboot(ctx, o)
	}
	return b.Forward.Reboot(ctx, o)
}

func (b *broken) Space(ctx context.Context, dir string) (int64, error) {
	if b.space != nil {
		return b.space(ctx, dir)
	}
	return b.Forward.Space(ctx, dir)
}

func (b *broken) Clock(ctx context.Context) (transport.Clock, error) {
	if b.clock != nil {
		return b.clock(ctx)
	}
	return b.Forward.Clock(ctx)
}

// breaks makes a broken driver of a function that overrides calls.
func breaks(f func(c transport.Conn, b *broken)) func(transport.Transport, transport.Endpoint) transport.Transport {
	return wrap(func(c transport.Conn) transport.Conn {
		b := &broken{Forward: transport.Forward{Conn: c}}
		f(c, b)
		return b
	})
}

// hiding is the decorator that package transport warns of: it embeds the
// interface and so loses every capability.
type hiding struct{ transport.Conn }

func TestConformanceFindsBrokenDrivers(t *testing.T) {
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for _, tt := range []struct {
		name   string
		make   func() (*transporttest.Fake, *transporttest.Target)
		driver func(transport.Transport, transport.Endpoint) transport.Transport
		cases  []string // each must fail
	}{
		{"hides its capabilities", transporttest.NewShellServer,
			wrap(func(c transport.Conn) transport.Conn { return hiding{c} }),
			[]string{"conn/caps"}},
		{"loses a capability", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.caps = func() transport.Caps { return c.Caps() &^ transport.CapRun }
		}), []string{"conn/caps"}},
		{"claims a capability", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.caps = func() transport.Caps { return c.Caps() | transport.CapServices }
		}), []string{"conn/caps"}},
		{"ignores contexts", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.identify = func(ctx context.Context) (transport.Identity, error) { return c.Identify(context.WithoutCancel(ctx)) }
		}), []string{"conn/cancelled", "conn/cancel-waiting"}},
		{"hides the context's error", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.identify = func(ctx context.Context) (transport.Identity, error) {
				id, err := c.Identify(ctx)
				if ctx.Err() != nil {
					err = &transport.Error{Op: "identify", Target: "shell.example", Kind: transport.ErrTimeout}
				}
				return id, err
			}
		}), []string{"conn/cancelled", "conn/cancel-waiting"}},
		{"a cancelled call kills the connection", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.identify = func(ctx context.Context) (transport.Identity, error) {
				if ctx.Err() != nil {
					defer c.Close(context.Background())
				}
				return c.Identify(ctx)
			}
		}), []string{"conn/cancelled"}},
		{"returns errors without a type", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.stat = func(ctx context.Context, name string) (transport.FileInfo, error) {
				fi, err := transport.Stat(ctx, c, name)
				var te *transport.Error
				if errors.As(err, &te) {
					err = te.Kind
				}
				return fi, err
			}
		}), []string{"files/missing", "conn/cancelled"}},
		{"names another target in its errors", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.stat = func(ctx context.Context, name string) (transport.FileInfo, error) {
				fi, err := transport.Stat(ctx, c, name)
				var te *transport.Error
				if errors.As(err, &te) {
					te.Target = "198.51.100.1:22"
				}
				return fi, err
			}
		}), []string{"files/missing"}},
		{"puts the password into errors", transporttest.NewShellServer,
			func(tr transport.Transport, _ transport.Endpoint) transport.Transport {
				return dialFunc(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
					c, err := tr.Dial(ctx, ep)
					var te *transport.Error
					if errors.As(err, &te) {
						te.Err = fmt.Errorf("tried %s with %s", ep.Credentials.User, ep.Credentials.Password.Reveal())
					}
					return c, err
				})
			}, []string{"dial/wrong-secret", "dial/wrong-trust", "dial/empty-trust"}},
		{"trusts everybody", transporttest.NewShellServer,
			func(tr transport.Transport, good transport.Endpoint) transport.Transport {
				return dialFunc(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
					ep.Trust = good.Trust
					return tr.Dial(ctx, ep)
				})
			}, []string{"dial/wrong-trust", "dial/empty-trust", "dial/first-use"}},
		{"asks about a changed identity", transporttest.NewShellServer,
			func(tr transport.Transport, good transport.Endpoint) transport.Transport {
				return dialFunc(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
					if ep.Trust.FirstUse != nil {
						ep.Trust = transport.Trust{FirstUse: ep.Trust.FirstUse}
					}
					return tr.Dial(ctx, ep)
				})
			}, []string{"dial/first-use"}},
		{"takes any options", transporttest.NewShellServer,
			func(tr transport.Transport, _ transport.Endpoint) transport.Transport {
				return dialFunc(func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
					ep.Options = nil
					return tr.Dial(ctx, ep)
				})
			}, []string{"dial/foreign-options"}},
		{"leaks a goroutine", transporttest.NewShellServer, wrap(func(c transport.Conn) transport.Conn {
			go func() { <-stop }()
			return c
		}), []string{"goroutines"}},
		{"cannot be closed twice", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			closed := false
			b.closeConn = func(ctx context.Context) error {
				if closed {
					return &transport.Error{Op: "close", Kind: transport.ErrClosed}
				}
				closed = true
				return c.Close(ctx)
			}
		}), []string{"conn/close"}},
		{"does not close with an ended context", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.closeConn = func(ctx context.Context) error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return c.Close(ctx)
			}
		}), []string{"conn/close"}},
		{"does not close", transporttest.NewShellServer, breaks(func(_ transport.Conn, b *broken) {
			b.closeConn = func(context.Context) error { return nil }
		}), []string{"conn/use-after-close", "tunnel-unix/conn-close"}},
		{"panics", transporttest.NewShellServer, breaks(func(_ transport.Conn, b *broken) {
			b.identify = func(context.Context) (transport.Identity, error) { panic("oops") }
		}), []string{"conn/identify", "conn/cancelled"}},
		{"says what it likes of itself", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.identify = func(ctx context.Context) (transport.Identity, error) {
				id, err := c.Identify(ctx)
				id.BootID = fmt.Sprint(time.Now().UnixNano())
				return id, err
			}
		}), []string{"conn/identify"}},

		{"leaves half a file under the final name", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.put = func(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error) {
				half := transport.BytesFile("half", []byte("half of it"))
				if _, err := transport.Put(ctx, c, name, half, o); err != nil {
					return transport.PutResult{}, err
				}
				return transport.Put(ctx, c, name, f, o)
			}
		}), []string{"files/overwrite", "files/integrity", "files/resume", "files/source-fails", "files/cancel"}},
		{"does not resume", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.put = func(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error) {
				list, _ := transport.List(ctx, c, path.Dir(name))
				for _, fi := range list {
					if strings.HasSuffix(fi.Name, ".part") {
						_ = transport.Remove(ctx, c, path.Join(path.Dir(name), fi.Name))
					}
				}
				return transport.Put(ctx, c, name, f, o)
			}
		}), []string{"files/resume", "files/resume-over-old", "files/cancel"}},
		{"does not verify", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.put = func(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error) {
				if f.Open != nil {
					if r, err := f.Open(ctx); err == nil {
						content, err := io.ReadAll(r)
						r.Close()
						if err == nil {
							f = transport.BytesFile(f.Name, content)
						}
					}
				}
				return transport.Put(ctx, c, name, f, o)
			}
		}), []string{"files/integrity", "files/wrong-size"}},
		{"forgets modes", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.put = func(ctx context.Context, name string, f transport.File, o transport.PutOptions) (transport.PutResult, error) {
				o.Mode = 0o644
				return transport.Put(ctx, c, name, f, o)
			}
		}), []string{"files/mode"}},
		{"lists in any order", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.list = func(ctx context.Context, dir string) ([]transport.FileInfo, error) {
				list, err := transport.List(ctx, c, dir)
				slices.Reverse(list)
				return list, err
			}
		}), []string{"files/list", "files/names"}},

		{"drops the exit status", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.run = func(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
				_, err := transport.Run(ctx, c, cmd)
				return transport.Exit{}, err
			}
		}), []string{"run/exit-code"}},
		{"makes an error of the exit status", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.run = func(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
				exit, err := transport.Run(ctx, c, cmd)
				if err == nil && exit.Code != 0 {
					err = fmt.Errorf("exit status %d", exit.Code)
				}
				return exit, err
			}
		}), []string{"run/exit-code", "run/stdin-unread"}},
		{"splits arguments at spaces", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.run = func(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
				cmd.Argv = strings.Fields(strings.Join(cmd.Argv, " "))
				return transport.Run(ctx, c, cmd)
			}
		}), []string{"run/arguments"}},
		{"waits for standard input", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.run = func(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
				if cmd.Stdin != nil {
					input, _ := io.ReadAll(cmd.Stdin)
					cmd.Stdin = strings.NewReader(string(input))
				}
				return transport.Run(ctx, c, cmd)
			}
		}), []string{"run/stdin-unread", "run/dial-command"}},
		{"lets cancelled programs run on", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.run = func(ctx context.Context, cmd transport.Command) (transport.Exit, error) {
				if cmd.Argv[0] != "sleep" {
					return transport.Run(ctx, c, cmd)
				}
				go func() { _, _ = transport.Run(context.WithoutCancel(ctx), c, cmd) }()
				<-ctx.Done()
				return transport.Exit{}, &transport.Error{Op: "run", Target: "shell.example", Kind: ctx.Err()}
			}
		}), []string{"run/cancel-kills"}},
		{"tunnels end with the context", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.dialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := transport.Dial(ctx, c, network, addr)
				if err == nil {
					context.AfterFunc(ctx, func() { nc.Close() })
				}
				return nc, err
			}
		}), []string{"tunnel-unix/echo"}},
		{"sends more than the limit", transporttest.NewShellServer, breaks(func(c transport.Conn, b *broken) {
			b.get = func(ctx context.Context, name string, w io.Writer, o transport.GetOptions) (int64, error) {
				o.Limit = min(o.Limit, 0)
				return transport.Get(ctx, c, name, w, o)
			}
		}), []string{"files/range"}},
		{"creates services twice", transporttest.NewServiceServer, breaks(func(c transport.Conn, b *broken) {
			b.create = func(ctx context.Context, cfg transport.ServiceConfig) error {
				err := transport.CreateService(ctx, c, cfg)
				if errors.Is(err, transport.ErrInvalid) || ctx.Err() != nil {
					return err
				}
				return nil
			}
		}), []string{"services/lifecycle"}},

		{"forgets a child", func() (*transporttest.Fake, *transporttest.Target) {
			f, login, _ := transporttest.NewHostGroup(3)
			return f, login
		}, breaks(func(c transport.Conn, b *broken) {
			b.children = func(ctx context.Context) iter.Seq2[transport.Child, error] {
				return func(yield func(transport.Child, error) bool) {
					n := 0
					for child, err := range transport.Children(ctx, c) {
						if n++; n == 3 || !yield(child, err) {
							return
						}
					}
				}
			}
		}), []string{"children/all"}},
		{"ends its children silently", func() (*transporttest.Fake, *transporttest.Target) {
			f, login, _ := transporttest.NewHostGroup(3)
			return f, login
		}, breaks(func(c transport.Conn, b *broken) {
			b.children = func(ctx context.Context) iter.Seq2[transport.Child, error] {
				return func(yield func(transport.Child, error) bool) {
					for child, err := range transport.Children(ctx, c) {
						if err != nil || !yield(child, nil) {
							return
						}
					}
				}
			}
		}), []string{"children/cancel", "conn/cancelled"}},

		{"sends an update twice", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				if o.Resume != nil {
					o.Resume, o.Rewrite = nil, true
				}
				return transport.Update(ctx, c, p, o)
			}
		}), []string{"update/manager-dies", "update/cut-in-flash", "update/cancel-in-flash", "update/unknown-state"}},
		{"goes on when a checkpoint failed", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				if keep := o.Checkpoint; keep != nil {
					o.Checkpoint = func(ctx context.Context, s transport.State) error {
						_ = keep(ctx, s)
						return nil
					}
				}
				return transport.Update(ctx, c, p, o)
			}
		}), []string{"update/checkpoint-fails", "update/manager-dies", "undo/leftovers"}},
		{"makes no checkpoints", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				o.Checkpoint = nil
				return transport.Update(ctx, c, p, o)
			}
		}), []string{"update/checkpoints", "update/manager-dies"}},
		{"checkpoints after the request", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				keep := o.Checkpoint
				var held []transport.State
				o.Checkpoint = func(_ context.Context, s transport.State) error {
					held = append(held, s)
					return nil
				}
				res, err := transport.Update(ctx, c, p, o)
				for _, s := range held {
					if keep != nil && err == nil {
						err = keep(ctx, s)
					}
				}
				return res, err
			}
		}), []string{"update/checkpoints", "update/checkpoint-fails"}},
		{"believes every state", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				if o.Resume != nil && (o.Resume.Version != 1 || o.Resume.Driver != "transporttest") {
					o.Resume = nil
				}
				return transport.Update(ctx, c, p, o)
			}
		}), []string{"update/unknown-state"}},
		{"claims what is not so", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				if ctx.Err() != nil {
					return transport.Update(ctx, c, p, o)
				}
				return transport.Result{Verdict: transport.VerdictApplied}, nil
			}
		}), []string{"update/applied", "update/not-needed", "update/integrity", "update/unknown-device"}},
		{"never takes an offer back", transporttest.NewPullDevice, breaks(func(c transport.Conn, b *broken) {
			b.update = func(ctx context.Context, p transport.Payload, o transport.UpdateOptions) (transport.Result, error) {
				if publish := o.Publish; publish != nil {
					o.Publish = func(ctx context.Context, r transport.PublishRequest) (transport.Published, error) {
						pub, err := publish(ctx, r)
						pub.Release = func(context.Context) (int64, error) { return 0, nil }
						return pub, err
					}
				}
				return transport.Update(ctx, c, p, o)
			}
		}), []string{"update/publish"}},
		{"undoes nothing", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.undo = func(context.Context, transport.State) error { return nil }
		}), []string{"undo/leftovers", "undo/unknown-state"}},
		{"has room everywhere", transporttest.NewServiceServer, breaks(func(_ transport.Conn, b *broken) {
			b.space = func(context.Context, string) (int64, error) { return 1 << 30, nil }
		}), []string{"space/room"}},
		{"has a clock that runs away", transporttest.NewServiceServer, breaks(func(_ transport.Conn, b *broken) {
			var ahead time.Duration
			b.clock = func(context.Context) (transport.Clock, error) {
				ahead += time.Hour
				return transport.Clock{Skew: ahead}, nil
			}
		}), []string{"clock/sane"}},
		{"does not reboot", transporttest.NewPushDevice, breaks(func(c transport.Conn, b *broken) {
			b.reboot = func(context.Context, transport.RebootOptions) error { return nil }
		}), []string{"reboot/boot-id", "reboot/invalid"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range tt.cases {
				fake, target := tt.make()
				h := target.Harness()
				h.Patience = 300 * time.Millisecond
				h.Transport = tt.driver(h.Transport, h.Endpoint)
				require.Error(t, caseNamed(t, h, name).Run(t.Context(), h), "case %s did not find it", name)
				_ = fake.Close() // a broken driver may leave anything
			}
		})
	}
}

func caseNamed(t *testing.T, h transporttest.Harness, name string) transporttest.Case {
	t.Helper()
	for _, c := range transporttest.Cases(h) {
		if c.Name == name {
			return c
		}
	}
	require.FailNow(t, "no case named "+name)
	panic("unreachable")
}

// TestHarnessLeavesNothingOut: what a harness does not say is an error, not a
// case that silently passes.
func TestHarnessLeavesNothingOut(t *testing.T) {
	for name, tt := range map[string]struct {
		make  func() (*transporttest.Fake, *transporttest.Target)
		drop  func(h *transporttest.Harness)
		cases []string
	}{
		"WrongSecret":           {transporttest.NewShellServer, func(h *transporttest.Harness) { h.WrongSecret = nil }, []string{"dial/wrong-secret"}},
		"WrongTrust":            {transporttest.NewShellServer, func(h *transporttest.Harness) { h.WrongTrust = nil }, []string{"dial/wrong-trust"}},
		"Dir":                   {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Dir = "" }, []string{"files/sizes"}},
		"Listen":                {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Listen = nil }, []string{"tunnel-tcp/echo", "tunnel-unix/nobody-listens"}},
		"Cut":                   {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Cut = nil }, []string{"conn/cut", "files/resume", "run/cut"}},
		"Stall":                 {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Stall = nil }, []string{"conn/cancel-waiting", "dial/stalled"}},
		"Service":               {transporttest.NewServiceServer, func(h *transporttest.Harness) { h.Service.Name = "" }, []string{"services/lifecycle"}},
		"Updates":               {transporttest.NewPushDevice, func(h *transporttest.Harness) { h.Updates = nil }, []string{"update/applied", "undo/leftovers"}},
		"Leftovers":             {transporttest.NewPushDevice, func(h *transporttest.Harness) { h.Updates.Leftovers = nil }, []string{"undo/leftovers"}},
		"unknown skip":          {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Skip["no/such"] = "because" }, []string{"harness"}},
		"skip without a reason": {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Skip["run/exit-code"] = "" }, []string{"harness"}},
		"Transport":             {transporttest.NewShellServer, func(h *transporttest.Harness) { h.Transport = nil }, []string{"harness", "dial/good"}},
	} {
		t.Run(name, func(t *testing.T) {
			fake, target := tt.make()
			h := target.Harness()
			tt.drop(&h)
			for _, c := range tt.cases {
				require.Error(t, caseNamed(t, h, c).Run(t.Context(), h), "case %s", c)
			}
			require.NoError(t, fake.Close())
		})
	}
}

func TestConformanceNamesItsCases(t *testing.T) {
	fake, target := transporttest.NewPushDevice()
	defer fake.Close()
	h := target.Harness()
	h.Transport = breaks(func(_ transport.Conn, b *broken) {
		b.reboot = func(context.Context, transport.RebootOptions) error { return nil }
	})(h.Transport, h.Endpoint)
	h.Patience = 300 * time.Millisecond
	h.Skip["reboot/boot-id"] = "shown elsewhere"
	err := transporttest.Conformance(t.Context(), h)
	require.ErrorContains(t, err, "reboot/invalid: ")
	require.NotContains(t, err.Error(), "reboot/boot-id")
	require.NotContains(t, err.Error(), "update/")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, transporttest.Conformance(ended, h), context.Canceled)
}
