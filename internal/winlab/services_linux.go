package winlab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Services are the service control manager and the named pipes of a Wine, by a
// helper program that runs there. They are a backend of smbtest.Services. As long as the
// helper runs, Wine lets services run. It is safe for concurrent use, but for Reboot.
type Services struct {
	w       *Wine
	program string // the helper

	mu      sync.Mutex
	helper  *exec.Cmd
	life    io.Closer // the helper runs as long as it is open
	addr    string    // empty while Wine does not run
	token   string
	running map[string]bool // programs that keep was done to
}

// Error is an error code of Windows.
type Error uint32

func (e Error) Error() string { return fmt.Sprintf("win32 error %d", uint32(e)) }

// Win32 returns the code.
func (e Error) Win32() uint32 { return uint32(e) }

// Is makes what is not there fs.ErrNotExist.
func (e Error) Is(target error) bool { return target == fs.ErrNotExist && e == 2 }

// Services builds the helper, with the go command, and starts it. What it returns is to be
// closed before w is.
func (w *Wine) Services(ctx context.Context) (*Services, error) {
	s := &Services{w: w, program: filepath.Join(w.Dir, "winehelper.exe"), running: make(map[string]bool)}
	if err := Build(ctx, s.program, helperPackage); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

const helperPackage = "github.com/roundsman-go/roundsman/internal/realtest/winehelper"

// Build builds a program for windows/amd64 from a package of this module, which the
// current directory must be in.
func Build(ctx context.Context, program, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", pkg, err, out)
	}
	return nil
}

// start starts the helper, and waits until it answers. The context is for that alone.
func (s *Services) start(ctx context.Context) error {
	token := rand.Text()
	cmd := s.w.Command(context.Background(), s.program, token)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// What hangs is ended, so that the read ends.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	stop()
	if err != nil {
		_ = in.Close()
		_ = cmd.Wait()
		return fmt.Errorf("the helper that runs under Wine: %w: %s", err, errs.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.helper, s.life, s.token = cmd, in, token
	s.addr = net.JoinHostPort("127.0.0.1", strings.TrimSpace(line))
	return nil
}

// Close ends the helper, and with it services that run.
func (s *Services) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helper == nil {
		return
	}
	_ = s.life.Close()
	_ = s.helper.Wait() // kills nothing: Wine ends what does not end by itself
	s.helper, s.addr = nil, ""
}

// Down ends everything that runs there, as the loss of power does, and Up starts Wine
// again. What was registered, such as services, stays.
func (s *Services) Down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helper == nil {
		return nil
	}
	s.addr = ""
	// The server kills all processes, and writes the registry.
	if err := s.w.server.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	<-s.w.ended
	err := s.w.endProcesses()
	_ = s.life.Close()
	_ = s.helper.Wait()
	s.helper = nil
	for file := range s.running {
		err = errors.Join(err, keep(file, false))
	}
	clear(s.running)
	return err
}

// Up starts Wine again after Down.
func (s *Services) Up() error {
	if err := s.w.startServer(); err != nil {
		return err
	}
	return s.start(context.Background())
}

// The messages of the helper, whose source says what they mean.
type (
	request struct {
		Token, Op, Name, Display, Command string
		Start                             uint32
		Handle                            uint64
		Args                              []string
	}
	reply struct {
		Code      uint32
		Handle    uint64
		Status    [9]uint32
		Names     []string
		Processes []Process
	}
)

// Process is a process of Wine.
type Process struct {
	PID     uint32
	Program string // as Windows names it
}

// ask sends a request. The connection is for a pipe, and else to be closed.
func (s *Services) ask(ctx context.Context, req request) (net.Conn, reply, error) {
	s.mu.Lock()
	addr := s.addr
	req.Token = s.token
	s.mu.Unlock()
	var r reply
	if addr == "" {
		return nil, r, Error(1115) // ERROR_SHUTDOWN_IN_PROGRESS
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, r, err
	}
	undo := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer undo()
	data, _ := json.Marshal(req)
	if _, err = c.Write(append(data, '\n')); err == nil {
		// Byte by byte: what follows the line is the pipe's.
		var line []byte
		for b := make([]byte, 1); err == nil && b[0] != '\n'; line = append(line, b...) {
			_, err = io.ReadFull(c, b)
		}
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
	}
	if err == nil && r.Code != 0 {
		err = Error(r.Code)
	}
	if err != nil {
		_ = c.Close()
		return nil, r, err
	}
	return c, r, nil
}

func (s *Services) do(req request) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, r, err := s.ask(ctx, req)
	if err == nil {
		_ = c.Close()
	}
	return r, err
}

// CreateService creates a service with a process of its own.
func (s *Services) CreateService(name, display, command string, startType uint32) (handle uint64, err error) {
	r, err := s.do(request{Op: "create", Name: name, Display: display, Command: command, Start: startType})
	return r.Handle, err
}

// OpenService opens a service.
func (s *Services) OpenService(name string) (handle uint64, err error) {
	r, err := s.do(request{Op: "open", Name: name})
	return r.Handle, err
}

// CloseService closes a handle of a service.
func (s *Services) CloseService(handle uint64) error {
	_, err := s.do(request{Op: "close", Handle: handle})
	return err
}

// StartService starts a service.
func (s *Services) StartService(handle uint64, args []string) error {
	_, err := s.do(request{Op: "start", Handle: handle, Args: args})
	return err
}

// StopService asks a service to stop.
func (s *Services) StopService(handle uint64) error {
	_, err := s.do(request{Op: "stop", Handle: handle})
	return err
}

// DeleteService marks a service for deletion.
func (s *Services) DeleteService(handle uint64) error {
	_, err := s.do(request{Op: "delete", Handle: handle})
	return err
}

// QueryService returns a SERVICE_STATUS_PROCESS.
func (s *Services) QueryService(handle uint64) ([9]uint32, error) {
	r, err := s.do(request{Op: "query", Handle: handle})
	return r.Status, err
}

// Names lists the services whose names begin with a prefix.
func (s *Services) Names(prefix string) ([]string, error) {
	r, err := s.do(request{Op: "list"})
	var out []string
	for _, name := range r.Names {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out, err
}

// Processes lists what runs there.
func (s *Services) Processes() ([]Process, error) {
	r, err := s.do(request{Op: "processes"})
	return r.Processes, err
}

// DialPipe opens a named pipe, by its name without \\.\pipe\. One that nobody serves is
// fs.ErrNotExist.
func (s *Services) DialPipe(ctx context.Context, name string) (net.Conn, error) {
	c, _, err := s.ask(ctx, request{Op: "pipe", Name: name})
	return c, err
}

// Use reports whether a program runs, by the path that it has there. As long as it does,
// nobody there can delete it or write to it: it is asked again until it does not.
func (s *Services) Use(program string) bool {
	file := s.w.HostPath(program)
	if file == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr == "" {
		return false
	}
	runs := s.w.mapped(file)
	if runs != s.running[file] {
		if err := keep(file, runs); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return runs
		}
		if s.running[file] = runs; !runs {
			delete(s.running, file)
		}
	}
	return runs
}

// Kill ends a process as nothing can prevent, by its number there.
func (s *Services) Kill(pid uint32) error {
	_, err := s.do(request{Op: "kill", Handle: uint64(pid)})
	return err
}
