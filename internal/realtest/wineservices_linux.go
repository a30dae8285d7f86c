package realtest

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
	"testing"
	"time"
)

// WineServices are the service control manager and the named pipes of a Wine, by a
// helper program that runs there. They are a backend of smbtest.Services. As long as the
// helper runs, Wine lets services run. It is safe for concurrent use, but for Reboot.
type WineServices struct {
	w       *Wine
	program string // the helper

	mu      sync.Mutex
	helper  *exec.Cmd
	life    io.Closer // the helper runs as long as it is open
	addr    string    // empty while Wine does not run
	token   string
	running map[string]bool // programs that keep was done to
}

// WinError is an error code of Windows.
type WinError uint32

func (e WinError) Error() string { return fmt.Sprintf("win32 error %d", uint32(e)) }

// Win32 returns the code.
func (e WinError) Win32() uint32 { return uint32(e) }

// Is makes what is not there fs.ErrNotExist.
func (e WinError) Is(target error) bool { return target == fs.ErrNotExist && e == 2 }

// Services starts the helper.
func (w *Wine) Services(t testing.TB) *WineServices {
	t.Helper()
	s := &WineServices{w: w, program: filepath.Join(w.Dir, "winehelper.exe"), running: make(map[string]bool)}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", s.program, "github.com/roundsman-go/roundsman/internal/realtest/winehelper")
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// start starts the helper, and waits until it answers.
func (s *WineServices) start() error {
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
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	timer.Stop()
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

func (s *WineServices) stop() {
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
func (s *WineServices) Down() error {
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
func (s *WineServices) Up() error {
	if err := s.w.startServer(); err != nil {
		return err
	}
	return s.start()
}

// The messages of the helper, whose source says what they mean.
type (
	wineRequest struct {
		Token, Op, Name, Display, Command string
		Start                             uint32
		Handle                            uint64
		Args                              []string
	}
	wineReply struct {
		Code      uint32
		Handle    uint64
		Status    [9]uint32
		Names     []string
		Processes []WineProcess
	}
)

// WineProcess is a process of Wine.
type WineProcess struct {
	PID     uint32
	Program string // as Windows names it
}

// ask sends a request. The connection is for a pipe, and else to be closed.
func (s *WineServices) ask(ctx context.Context, req wineRequest) (net.Conn, wineReply, error) {
	s.mu.Lock()
	addr := s.addr
	req.Token = s.token
	s.mu.Unlock()
	var r wineReply
	if addr == "" {
		return nil, r, WinError(1115) // ERROR_SHUTDOWN_IN_PROGRESS
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
		err = WinError(r.Code)
	}
	if err != nil {
		_ = c.Close()
		return nil, r, err
	}
	return c, r, nil
}

func (s *WineServices) do(req wineRequest) (wineReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, r, err := s.ask(ctx, req)
	if err == nil {
		_ = c.Close()
	}
	return r, err
}

// CreateService creates a service with a process of its own.
func (s *WineServices) CreateService(name, display, command string, startType uint32) (handle uint64, err error) {
	r, err := s.do(wineRequest{Op: "create", Name: name, Display: display, Command: command, Start: startType})
	return r.Handle, err
}

// OpenService opens a service.
func (s *WineServices) OpenService(name string) (handle uint64, err error) {
	r, err := s.do(wineRequest{Op: "open", Name: name})
	return r.Handle, err
}

// CloseService closes a handle of a service.
func (s *WineServices) CloseService(handle uint64) error {
	_, err := s.do(wineRequest{Op: "close", Handle: handle})
	return err
}

// StartService starts a service.
func (s *WineServices) StartService(handle uint64, args []string) error {
	_, err := s.do(wineRequest{Op: "start", Handle: handle, Args: args})
	return err
}

// StopService asks a service to stop.
func (s *WineServices) StopService(handle uint64) error {
	_, err := s.do(wineRequest{Op: "stop", Handle: handle})
	return err
}

// DeleteService marks a service for deletion.
func (s *WineServices) DeleteService(handle uint64) error {
	_, err := s.do(wineRequest{Op: "delete", Handle: handle})
	return err
}

// QueryService returns a SERVICE_STATUS_PROCESS.
func (s *WineServices) QueryService(handle uint64) ([9]uint32, error) {
	r, err := s.do(wineRequest{Op: "query", Handle: handle})
	return r.Status, err
}

// Names lists the services whose names begin with a prefix.
func (s *WineServices) Names(prefix string) ([]string, error) {
	r, err := s.do(wineRequest{Op: "list"})
	var out []string
	for _, name := range r.Names {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out, err
}

// Processes lists what runs there.
func (s *WineServices) Processes() ([]WineProcess, error) {
	r, err := s.do(wineRequest{Op: "processes"})
	return r.Processes, err
}

// DialPipe opens a named pipe, by its name without \\.\pipe\. One that nobody serves is
// fs.ErrNotExist.
func (s *WineServices) DialPipe(ctx context.Context, name string) (net.Conn, error) {
	c, _, err := s.ask(ctx, wineRequest{Op: "pipe", Name: name})
	return c, err
}

// Use reports whether a program runs, by the path that it has there. As long as it does,
// nobody there can delete it or write to it: it is asked again until it does not.
func (s *WineServices) Use(program string) bool {
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
func (s *WineServices) Kill(pid uint32) error {
	_, err := s.do(wineRequest{Op: "kill", Handle: uint64(pid)})
	return err
}
