package agent

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lookAtProcess tells one process from a later one with the same number: by the time
// of its start, in clock ticks since the boot (field 22 of proc(5), stat). It is
// "" when there is no such process, or only its zombie. An error is that this could
// not be found out.
func lookAtProcess(pid int) (start string, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		// It may be there, and hidden (proc(5), hidepid).
		if unix.Kill(pid, 0) == unix.ESRCH {
			return "", nil
		}
	}
	if err != nil {
		return "", err
	}
	// The second field is the program's name in parentheses, and may hold any.
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return "", io.ErrUnexpectedEOF
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", nil
	}
	return fields[19], nil
}

// pidNamespace is the number of this process's PID namespace (namespaces(7)), or "".
func pidNamespace() string {
	link, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(link, "pid:["), "]")
}

// bootID differs after every boot.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// spareReader gives a pipe a second reader and more room, for a program that must
// go on writing when the first reader is gone. It is nil where that fails.
func spareReader(r *os.File) *os.File {
	conn, err := r.SyscallConn() // Fd would make r blocking, and its deadlines useless
	if err != nil {
		return nil
	}
	var spare *os.File
	conn.Control(func(fd uintptr) {
		unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) // less will do too
		spare, _ = os.Open("/proc/self/fd/" + strconv.Itoa(int(fd)))
	})
	return spare
}

// logTo makes agent.log the standard output and error of this process.
func logTo(h home) error {
	log, err := os.OpenFile(h.path(LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(log.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}
