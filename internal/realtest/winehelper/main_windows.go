package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "service" {
		runEcho(os.Args[2])
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_ALL_ACCESS)
	if err != nil {
		fmt.Fprintln(os.Stderr, "service control manager:", err)
		os.Exit(1)
	}
	h := helper{manager: manager, token: os.Args[1], names: new(sync.Map), told: new(sync.Map)}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				os.Exit(1)
			}
			go h.serve(c)
		}
	}()
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

type helper struct {
	manager windows.Handle
	token   string
	names   *sync.Map // of services, by handle
	told    *sync.Map // names of services that were told to stop since they were started
}

func (h helper) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	var req Request
	if err != nil || json.Unmarshal(line, &req) != nil || req.Token != h.token {
		return
	}
	if req.Op == "pipe" {
		h.pipe(c, in, req.Name)
		return
	}
	var r Reply
	if err := h.do(req, &r); err != nil {
		r.Code = code(err)
	}
	answer(c, r)
}

func answer(c net.Conn, r Reply) {
	data, _ := json.Marshal(r)
	_, _ = c.Write(append(data, '\n'))
}

// code is the number of an error of Windows.
func code(err error) uint32 {
	var e windows.Errno
	if errors.As(err, &e) {
		return uint32(e)
	}
	fmt.Fprintln(os.Stderr, err)
	return uint32(windows.ERROR_GEN_FAILURE)
}

func (h helper) do(req Request, r *Reply) error {
	service := windows.Handle(req.Handle)
	switch req.Op {
	case "create":
		// Windows refuses a display name that is the name of another service. Wine does not.
		if !strings.EqualFold(req.Name, req.Display) {
			if other, err := windows.OpenService(h.manager, text(req.Display), windows.SERVICE_QUERY_STATUS); err == nil {
				_ = windows.CloseServiceHandle(other)
				return windows.ERROR_DUPLICATE_SERVICE_NAME
			}
		}
		s, err := windows.CreateService(h.manager, text(req.Name), text(req.Display), windows.SERVICE_ALL_ACCESS, windows.SERVICE_WIN32_OWN_PROCESS,
			req.Start, windows.SERVICE_ERROR_NORMAL, text(req.Command), nil, nil, nil, nil, nil)
		r.Handle = uint64(s)
		h.names.Store(s, req.Name)
		return err
	case "open":
		s, err := windows.OpenService(h.manager, text(req.Name), windows.SERVICE_ALL_ACCESS)
		r.Handle = uint64(s)
		h.names.Store(s, req.Name)
		return err
	case "close":
		return windows.CloseServiceHandle(service)
	case "start":
		var args []*uint16
		for _, a := range req.Args {
			args = append(args, text(a))
		}
		if name, ok := h.names.Load(service); ok {
			h.told.Delete(name)
		}
		return windows.StartService(service, uint32(len(args)), unsafe.SliceData(args))
	case "stop":
		if err := status(service, r); err != nil {
			return err
		}
		if r.Status[1] == windows.SERVICE_STOPPED {
			return windows.ERROR_SERVICE_NOT_ACTIVE
		}
		return h.stop(service, r.Status)
	case "delete":
		return windows.DeleteService(service)
	case "query":
		return status(service, r)
	case "list":
		return h.list(r)
	case "processes":
		return processes(r)
	case "kill":
		p, err := windows.OpenProcess(windows.PROCESS_TERMINATE, false, uint32(req.Handle))
		if err != nil {
			return err
		}
		defer windows.CloseHandle(p)
		return windows.TerminateProcess(p, 1)
	}
	return windows.ERROR_INVALID_FUNCTION
}

// stop sends the control, but once. Of a service that is told a second time before it has
// said that it stops, Wine 8 ends the process, where Windows only tells it again; and what
// that process was just saying makes Wine take it for one that runs.
func (h helper) stop(service windows.Handle, st [9]uint32) error {
	name, ok := h.names.Load(service)
	if !ok {
		return windows.ERROR_INVALID_HANDLE
	}
	if _, told := h.told.LoadOrStore(name, true); told {
		if st[1] == windows.SERVICE_STOP_PENDING {
			return windows.ERROR_SERVICE_CANNOT_ACCEPT_CTRL
		}
		return nil
	}
	err := windows.ControlService(service, windows.SERVICE_CONTROL_STOP, new(windows.SERVICE_STATUS))
	if err != nil {
		h.told.Delete(name)
	}
	return err
}

// status has the state of a service. Wine does not notice that the process of one has
// ended without a word, as Windows does.
func status(service windows.Handle, r *Reply) error {
	var needed uint32
	err := windows.QueryServiceStatusEx(service, windows.SC_STATUS_PROCESS_INFO, (*byte)(unsafe.Pointer(&r.Status)), uint32(unsafe.Sizeof(r.Status)), &needed)
	if pid := r.Status[7]; err == nil && pid != 0 && !alive(pid) {
		r.Status = [9]uint32{r.Status[0], windows.SERVICE_STOPPED, 0, uint32(windows.ERROR_PROCESS_ABORTED)}
	}
	return err
}

// alive reports whether a process runs.
func alive(pid uint32) bool {
	p, err := windows.OpenProcess(windows.SYNCHRONIZE, false, pid)
	if err != nil {
		return false
	}
	defer windows.CloseHandle(p)
	event, err := windows.WaitForSingleObject(p, 0)
	return err != nil || event != windows.WAIT_OBJECT_0
}

func text(s string) *uint16 {
	p, err := windows.UTF16PtrFromString(s)
	if err != nil {
		return nil
	}
	return p
}

// list names all services.
func (h helper) list(r *Reply) error {
	buf := make([]byte, 256<<10)
	var needed, n uint32
	if err := windows.EnumServicesStatusEx(h.manager, windows.SC_ENUM_PROCESS_INFO, windows.SERVICE_WIN32, windows.SERVICE_STATE_ALL,
		&buf[0], uint32(len(buf)), &needed, &n, nil, nil); err != nil {
		return err
	}
	for _, s := range unsafe.Slice((*windows.ENUM_SERVICE_STATUS_PROCESS)(unsafe.Pointer(&buf[0])), n) {
		r.Names = append(r.Names, windows.UTF16PtrToString(s.ServiceName))
	}
	return nil
}

// processes lists what runs.
func processes(r *Reply) error {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(snapshot)
	e := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	for err = windows.Process32First(snapshot, &e); err == nil; err = windows.Process32Next(snapshot, &e) {
		p := Process{PID: e.ProcessID, Program: windows.UTF16ToString(e.ExeFile[:])}
		if h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, e.ProcessID); err == nil {
			name := make([]uint16, windows.MAX_LONG_PATH)
			n := uint32(len(name))
			if windows.QueryFullProcessImageName(h, 0, &name[0], &n) == nil {
				p.Program = windows.UTF16ToString(name[:n])
			}
			_ = windows.CloseHandle(h)
		}
		r.Processes = append(r.Processes, p)
	}
	if err == windows.ERROR_NO_MORE_FILES {
		err = nil
	}
	return err
}

// pipe opens a pipe and moves what comes from one side to the other until either is at
// its end.
func (h helper) pipe(c net.Conn, in io.Reader, name string) {
	p, err := open(`\\.\pipe\` + name)
	if err != nil {
		answer(c, Reply{Code: code(err)})
		return
	}
	answer(c, Reply{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, p.reader())
		_ = c.Close() // ends the other direction
	}()
	_, _ = io.Copy(p.writer(), in)
	_ = windows.CancelIoEx(p.h, nil)
	_ = c.Close()
	<-done
	_ = windows.CloseHandle(p.h)
}

// pipe is an open of a named pipe whose two directions do not wait for each other.
type pipe struct{ h windows.Handle }

// open opens a pipe as the server for SMB does, and waits for an instance as long as a
// client would.
func open(name string) (pipe, error) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h, err := windows.CreateFile(text(name), windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_OVERLAPPED, 0)
		if err == nil {
			return pipe{h}, nil
		}
		if err != windows.ERROR_PIPE_BUSY || time.Now().After(end) {
			return pipe{}, err
		}
	}
}

type (
	pipeReader struct{ p pipe }
	pipeWriter struct{ p pipe }
)

func (p pipe) reader() io.Reader { return pipeReader{p} }
func (p pipe) writer() io.Writer { return pipeWriter{p} }

func (r pipeReader) Read(b []byte) (int, error) {
	n, err := r.p.do(func(o *windows.Overlapped) error { return windows.ReadFile(r.p.h, b, nil, o) })
	if err != nil || n == 0 {
		return n, io.EOF
	}
	return n, nil
}

func (w pipeWriter) Write(b []byte) (int, error) {
	return w.p.do(func(o *windows.Overlapped) error { return windows.WriteFile(w.p.h, b, nil, o) })
}

// do does an operation to its end.
func (p pipe) do(begin func(o *windows.Overlapped) error) (int, error) {
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return 0, err
	}
	defer windows.CloseHandle(event)
	o := &windows.Overlapped{HEvent: event}
	if err := begin(o); err != nil && err != windows.ERROR_IO_PENDING {
		return 0, err
	}
	var n uint32
	err = windows.GetOverlappedResult(p.h, o, &n, true)
	return int(n), err
}
