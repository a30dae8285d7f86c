package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/go-ole/go-ole"
	"github.com/go-ole/go-ole/oleutil"
	"golang.org/x/sys/windows"
)

// system is this host's own firewall.
func system(ctx context.Context, o Options) (Driver, error) {
	if !windows.GetCurrentProcessToken().IsElevated() {
		e := &Error{FrontEnd: Windows, Kind: ErrPermission}
		if len(o.Rules) == 0 {
			e.Hint = "run as administrator"
		}
		return nil, e
	}
	owner, err := self(o.Run)
	if err != nil {
		return nil, err
	}
	app, err := program()
	if err != nil {
		return nil, err
	}
	return newDefender(ctx, o, owner, app, alive, enter)
}

// program is the path of this program's file as the firewall has it: where it was
// started through a link, what that leads to.
func program() (string, error) {
	name, err := os.Executable()
	if err != nil {
		return "", err
	}
	if final, err := finalPath(name); err == nil {
		name = final
	} // else, as on a volume without a letter, the name that it was started by has to do
	return plainPath(name), nil
}

// finalPath is the path of a file without links, subst drives and short names.
func finalPath(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const normalizedDOS = 0 // FILE_NAME_NORMALIZED, VOLUME_NAME_DOS
	path := make([]uint16, windows.MAX_LONG_PATH)
	n, err := windows.GetFinalPathNameByHandle(windows.Handle(f.Fd()), &path[0], uint32(len(path)), normalizedDOS)
	if err != nil || n == 0 || n >= uint32(len(path)) {
		return "", errors.Join(fmt.Errorf("the path of %s has %d characters", name, n), err)
	}
	return windows.UTF16ToString(path[:n]), nil
}

// found is what front ends there are.
func found(context.Context) []FrontEnd { return []FrontEnd{Windows} }

// self is this process as an owner.
func self(run string) (Owner, error) {
	start, err := creation(windows.CurrentProcess())
	if err != nil {
		return Owner{}, fmt.Errorf("when this process began: %w", err)
	}
	return Owner{Run: run, PID: os.Getpid(), Start: start}, nil
}

// creation is when a process began.
func creation(process windows.Handle) (string, error) {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(process, &created, &exited, &kernel, &user); err != nil {
		return "", os.NewSyscallError("GetProcessTimes", err)
	}
	return strconv.FormatUint(uint64(created.HighDateTime)<<32|uint64(created.LowDateTime), 10), nil
}

// alive reports whether an owner lives. One whose process cannot be looked at is
// taken to live.
func alive(o Owner) (bool, error) {
	process, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION|windows.SYNCHRONIZE, false, uint32(o.PID))
	switch {
	case errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		return false, nil // no process has the number
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return true, nil
	case err != nil:
		return true, os.NewSyscallError("OpenProcess", err)
	}
	defer windows.CloseHandle(process)
	start, err := creation(process)
	if err != nil || start != o.Start {
		return err != nil, err
	}
	// A process that somebody has a handle of keeps its number after its end.
	event, err := windows.WaitForSingleObject(process, 0)
	if err != nil {
		return true, os.NewSyscallError("WaitForSingleObject", err)
	}
	return event != windows.WAIT_OBJECT_0, nil
}

// detach keeps an interrupt of the console, which is for this process, from the
// guardian, and a window from the screen.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_NO_WINDOW}
}

// oleServer is COM in a thread.
type oleServer struct{}

// enter makes the goroutine's thread one of the multithreaded apartment, for good:
// Go ends it with the goroutine.
func enter() (comServer, error) {
	runtime.LockOSThread()
	err := ole.CoInitializeEx(0, ole.COINIT_MULTITHREADED)
	if e := (*ole.OleError)(nil); errors.As(err, &e) && e.Code() == 1 { // S_FALSE: it was one already
		err = nil
	}
	if err != nil {
		return nil, oleError("CoInitializeEx", err)
	}
	return oleServer{}, nil
}

func (oleServer) end() { ole.CoUninitialize() }

func (oleServer) create(progID string) (comObject, error) {
	unknown, err := oleutil.CreateObject(progID)
	if err != nil {
		return nil, oleError(progID, err)
	}
	defer unknown.Release()
	dispatch, err := unknown.QueryInterface(ole.IID_IDispatch)
	if err != nil {
		return nil, oleError(progID, err)
	}
	return &oleObject{dispatch}, nil
}

type oleObject struct{ *ole.IDispatch }

func (o *oleObject) retain()  { o.AddRef() }
func (o *oleObject) release() { o.Release() }

func (o *oleObject) get(name string, args ...any) (any, error) {
	return value(name)(oleutil.GetProperty(o.IDispatch, name, args...))
}

func (o *oleObject) call(name string, args ...any) (any, error) {
	for i, a := range args {
		if other, ok := a.(*oleObject); ok {
			args[i] = other.IDispatch
		}
	}
	return value(name)(oleutil.CallMethod(o.IDispatch, name, args...))
}

func (o *oleObject) put(name string, v any) error {
	result, err := oleutil.PutProperty(o.IDispatch, name, v)
	if result != nil {
		_ = result.Clear()
	}
	return oleError(name, err)
}

func (o *oleObject) each(f func(comObject) error) error {
	v, err := o.GetProperty("_NewEnum")
	if err != nil {
		return oleError("_NewEnum", err)
	}
	defer v.Clear()
	unknown := v.ToIUnknown()
	if unknown == nil {
		return fmt.Errorf("_NewEnum is of type %s", v.VT)
	}
	enum, err := unknown.IEnumVARIANT(ole.IID_IEnumVariant)
	if err != nil {
		return oleError("_NewEnum", err)
	}
	defer enum.Release()
	return walk(func() (comObject, uint32) { return element(enum) }, f)
}

// element is the next one of an enumeration, or nil and why not. One that is not an
// object is none.
func element(enum *ole.IEnumVARIANT) (comObject, uint32) {
	v, n, err := enum.Next(1)
	if n == 1 {
		if dispatch := v.ToIDispatch(); dispatch != nil {
			return &oleObject{dispatch}, 0 // what was in the variant is now the object's
		}
		_ = v.Clear()
		return nil, codeTypeMismatch
	}
	if e := (*ole.OleError)(nil); errors.As(err, &e) {
		return nil, uint32(e.Code())
	}
	return nil, 0
}

// value takes what is in a variant. An object is the caller's.
func value(name string) func(*ole.VARIANT, error) (any, error) {
	return func(v *ole.VARIANT, err error) (any, error) {
		if err != nil {
			return nil, oleError(name, err)
		}
		if dispatch := v.ToIDispatch(); dispatch != nil {
			return &oleObject{dispatch}, nil
		}
		defer v.Clear()
		switch v.VT {
		case ole.VT_I4, ole.VT_INT:
			return int32(v.Val), nil
		case ole.VT_EMPTY, ole.VT_NULL:
			return "", nil // a text that was never set
		}
		return v.Value(), nil
	}
}

func oleError(what string, err error) error {
	e := (*ole.OleError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	code := uint32(e.Code())
	if info, ok := e.SubError().(ole.EXCEPINFO); ok && info.SCODE() != 0 {
		code = info.SCODE() // Invoke itself says only that there was an exception
	}
	return &comError{what: what, code: code, text: syscall.Errno(code).Error()}
}
