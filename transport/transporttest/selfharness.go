package transporttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/roundsman-go/roundsman/transport"
)

// Harness returns a harness for the fake itself, as this target shows it. With
// another Transport in it, the suite tries a decorator:
//
//	h := target.Harness()
//	h.Transport = myDecorator(h.Transport)
//	err := transporttest.Conformance(ctx, h)
//
// It scripts the programs and the service that the suite needs.
func (t *Target) Harness() Harness {
	h := Harness{
		Transport: t.f,
		Endpoint:  t.Endpoint(),
		Caps:      t.cfg.Caps,
		Cut:       t.Cut,
		Stall:     func() func() { return t.Inject(Fault{Do: Stall, Times: -1}).Release },
		Requests:  t.f.Requests,
		Skip:      map[string]string{},
	}
	wrong := t.Endpoint()
	wrong.Credentials.Password = transport.NewSecret("wrong-" + wrong.Credentials.Password.Reveal())
	h.WrongSecret = &wrong
	other := t.Endpoint()
	other.Trust = transport.Trust{HostKeys: []string{hostKey("somebody else")}}
	h.WrongTrust = &other
	h.Dir = "/var/tmp"
	if t.cfg.Windows {
		h.Dir = "/Temp"
		h.Names = []string{"two words", "single'quote", "$HOME", "-rf", "größe-日本語", ".hidden", "UPPER", "a;b&c", "%41", "(paren){brace}"}
		if t.cfg.Caps.Has(transport.CapFiles) {
			h.Skip["files/mode"] = "Windows has no permission bits"
		}
	}
	for _, c := range t.cfg.Children {
		h.Children = append(h.Children, c.Object)
	}
	if t.cfg.Caps.Has(transport.CapFiles) {
		_ = t.fs.mkdir(h.Dir, 0o755) // else the first case says what is wrong
	}
	if t.cfg.Caps.Has(transport.CapRun) {
		h.Programs = t.conformancePrograms()
	}
	if t.cfg.Caps.Has(transport.CapServices) {
		h.Service = transport.ServiceConfig{Name: "conformance", DisplayName: "Conformance Suite", Argv: []string{`C:\Windows\Temp\conformance.exe`}}
		t.OnService(func(cfg transport.ServiceConfig) bool { return cfg.Argv[0] == h.Service.Argv[0] },
			func(ctx context.Context, _ *Target, _ transport.ServiceConfig, _ []string) transport.Code {
				<-ctx.Done()
				return transport.Code{Space: "win32", Value: "0"}
			})
	}
	if t.cfg.Caps&(transport.CapTunnelUnix|transport.CapTunnelTCP|transport.CapTunnelPipe) != 0 {
		var n atomic.Int64
		h.Listen = func(network string) (net.Listener, string, error) {
			addr := map[string]string{"unix": "/run/conformance-%d", "tcp": "127.0.0.1:%d", "pipe": "conformance-%d"}[network]
			addr = fmt.Sprintf(addr, 20000+n.Add(1))
			l, err := t.Listen(network, addr)
			return l, addr, err
		}
	}
	if t.cfg.Caps.Has(transport.CapUpdate) && len(t.cfg.Devices) > 0 {
		var n atomic.Int64
		device := t.cfg.Devices[0].ID
		h.Updates = &Updates{
			Device:    device,
			Pull:      t.cfg.Pull,
			Applied:   func() int { return len(t.Applied()) },
			Leftovers: t.Leftovers,
			Activate:  func(a transport.Activation) error { t.Activate(a); return nil },
			Next:      func() transport.Payload { return payload(device, fmt.Sprintf("100.%d", n.Add(1))) },
		}
	}
	return h
}

// payload makes up an image and its signature.
func payload(device, version string) transport.Payload {
	image := append([]byte(version+"\n"), pattern(100_000)...)
	return transport.Payload{Name: device, Version: version, Files: []transport.File{
		transport.BytesFile("image.bin", image),
		transport.BytesFile("image.bin.sig", []byte("signature of "+version)),
	}}
}

// conformancePrograms scripts what the suite runs.
func (t *Target) conformancePrograms() Programs {
	done := func(err error) transport.Exit {
		if err != nil {
			return transport.Exit{Code: 1}
		}
		return transport.Exit{}
	}
	alive := &liveSet{}
	t.OnRun(Argv("args", "..."), func(_ context.Context, p *Process) transport.Exit {
		var b bytes.Buffer
		for _, a := range p.Argv[1:] {
			b.WriteString(a + "\x00")
		}
		_, err := b.WriteTo(p.Stdout)
		return done(err)
	})
	t.OnRun(Argv("cat"), func(_ context.Context, p *Process) transport.Exit {
		_, err := io.Copy(p.Stdout, p.Stdin)
		return done(err)
	})
	t.OnRun(Argv("errs"), func(_ context.Context, p *Process) transport.Exit {
		_, err := io.Copy(p.Stderr, p.Stdin)
		return done(err)
	})
	t.OnRun(Argv("exit", "*"), func(_ context.Context, p *Process) transport.Exit {
		code, _ := strconv.Atoi(p.Argv[1])
		return transport.Exit{Code: code}
	})
	t.OnRun(Argv("env", "*"), func(_ context.Context, p *Process) transport.Exit {
		_, err := io.WriteString(p.Stdout, p.Getenv(p.Argv[1]))
		return done(err)
	})
	t.OnRun(Argv("zeros", "*"), func(_ context.Context, p *Process) transport.Exit {
		n, err := strconv.ParseInt(p.Argv[1], 10, 64)
		for block := make([]byte, chunk); n > 0 && err == nil; n -= int64(len(block)) {
			_, err = p.Stdout.Write(block[:min(n, int64(len(block)))])
		}
		return done(err)
	})
	t.OnRun(Argv("sleep"), func(ctx context.Context, p *Process) transport.Exit {
		alive.add(p.PID)
		defer alive.remove(p.PID)
		w := bufio.NewWriter(p.Stdout)
		fmt.Fprintln(w, p.PID)
		if err := w.Flush(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return done(err)
		}
		<-ctx.Done()
		return transport.Exit{Code: -1, Signal: "TERM"}
	})
	t.OnRun(Argv("alive", "*"), func(_ context.Context, p *Process) transport.Exit {
		if id, err := strconv.Atoi(p.Argv[1]); err == nil && alive.has(id) {
			return transport.Exit{}
		}
		return transport.Exit{Code: 1}
	})
	t.OnRun(Argv("/nonexistent/program"), Answer("", "no such program\n", 127))
	return Programs{
		Args:  func(args ...string) []string { return append([]string{"args"}, args...) },
		Cat:   func() []string { return []string{"cat"} },
		Errs:  func() []string { return []string{"errs"} },
		Exit:  func(code int) []string { return []string{"exit", strconv.Itoa(code)} },
		Env:   func(name string) []string { return []string{"env", name} },
		Zeros: func(n int64) []string { return []string{"zeros", itoa(n)} },
		Sleep: func() []string { return []string{"sleep"} },
		Alive: func(id string) []string { return []string{"alive", id} },
	}
}

// liveSet is the set of programs that run.
type liveSet struct {
	mu   sync.Mutex
	pids map[int]bool
}

func (l *liveSet) add(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pids == nil {
		l.pids = map[int]bool{}
	}
	l.pids[pid] = true
}

func (l *liveSet) remove(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pids, pid)
}

func (l *liveSet) has(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pids[pid]
}
