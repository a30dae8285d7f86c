package winlab_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/internal/winlab"
)

// TestServices: services and pipes of a Wine, before and after it has lost its power.
func TestServices(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it makes a prefix of Wine")
	}
	t.Parallel()
	w := realtest.NewWine(t)
	s := w.Services(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(err, target error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Fatalf("got %v, want %v", err, target)
		}
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	for _, pid := range w.Processes() {
		if pgid, err := syscall.Getpgid(pid); err == nil && pgid == syscall.Getpgrp() {
			t.Fatalf("an interrupt from the terminal would reach process %d", pid)
		}
	}
	var h uint64
	// state is what the service control manager says: SERVICE_STOPPED is 1.
	state := func() [9]uint32 {
		t.Helper()
		st, err := s.QueryService(h)
		check(err)
		return st
	}
	dir := filepath.Join(w.Admin(), "roundsman")
	check(os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "echo.exe")
	data, err := os.ReadFile(s.Program())
	check(err)
	check(os.WriteFile(file, data, 0o700))
	const program = `C:\Windows\roundsman\echo.exe`
	if got := w.HostPath(program); got != file {
		t.Fatalf("%s is %s", program, got)
	}
	if s.Use(program) {
		t.Fatal("it runs before it was started")
	}

	h, err = s.CreateService("echo", "", `"`+program+`" service echo`, 3)
	check(err)
	_, err = s.CreateService("echo", "", "x", 3)
	want(err, winlab.Error(1073)) // ERROR_SERVICE_EXISTS
	_, err = s.CreateService("other", "echo", "x", 3)
	want(err, winlab.Error(1078)) // ERROR_DUPLICATE_SERVICE_NAME
	_, err = s.DialPipe(t.Context(), "echo")
	want(err, fs.ErrNotExist)
	for _, kill := range []bool{false, true} {
		check(s.StartService(h, []string{"a", "b"}))
		await("it does not run", func() bool { return state()[1] == 4 })
		c, err := s.DialPipe(t.Context(), "echo")
		check(err)
		_, err = io.WriteString(c, "hello")
		check(err)
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
		check(err)
		if string(got) != "hello" {
			t.Fatalf("%q", got)
		}
		if !s.Use(program) {
			t.Fatal("its program is not in use")
		}
		if err := os.Remove(file); err == nil {
			t.Fatal("a program that runs was deleted")
		}
		exit := [2]uint32{1066, 7} // ERROR_SERVICE_SPECIFIC_ERROR
		if kill {
			exit = [2]uint32{1067, 0} // ERROR_PROCESS_ABORTED
			check(s.Kill(state()[7]))
		} else {
			check(s.StopService(h))
		}
		await("it does not stop", func() bool { return state()[1] == 1 })
		if st := state(); [2]uint32(st[3:5]) != exit {
			t.Fatalf("status %v", st)
		}
		want(s.StopService(h), winlab.Error(1062)) // ERROR_SERVICE_NOT_ACTIVE
		if _, err = io.ReadFull(c, got); err == nil {
			t.Fatal("the pipe is still there")
		}
		_ = c.Close()
		_, err = s.DialPipe(t.Context(), "echo")
		want(err, fs.ErrNotExist)
		await("the program is in use", func() bool { return !s.Use(program) })
	}

	// Told twice, it stops once, and in its own time.
	check(s.StartService(h, []string{"linger"}))
	await("it does not run", func() bool { return state()[1] == 4 })
	c, err := s.DialPipe(t.Context(), "echo")
	check(err)
	check(s.StopService(h))
	check(s.StopService(h))
	if st := state(); st[1] != 4 {
		t.Fatalf("status %v", st)
	}
	check(c.Close())
	await("it does not stop", func() bool { return state()[1] == 1 })
	if st := state(); [2]uint32(st[3:5]) != [2]uint32{1066, 7} {
		t.Fatalf("status %v", st)
	}

	check(s.StartService(h, nil))
	check(s.Down())
	if left := w.Processes(); len(left) > 0 {
		t.Fatal(left)
	}
	_, err = s.QueryService(h)
	want(err, winlab.Error(1115)) // ERROR_SHUTDOWN_IN_PROGRESS
	check(s.Up())
	names, err := s.Names("ec")
	check(err)
	if len(names) != 1 || names[0] != "echo" {
		t.Fatal(names)
	}
	h, err = s.OpenService("echo")
	check(err)
	if st := state(); st[1] != 1 {
		t.Fatalf("status %v", st)
	}
	check(s.DeleteService(h))
	check(s.CloseService(h))
	_, err = s.OpenService("echo")
	want(err, winlab.Error(1060)) // ERROR_SERVICE_DOES_NOT_EXIST
	check(os.Remove(file))
}
