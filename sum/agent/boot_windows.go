package agent

import (
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
)

// eachProcess calls yield for the processes of this host until that returns false. Every
// user may read that list.
func eachProcess(yield func(p *windows.SYSTEM_PROCESS_INFORMATION) bool) error {
	for size := uint32(256 << 10); ; size *= 2 {
		buf := make([]uint64, size/8) // aligned
		var n uint32
		err := windows.NtQuerySystemInformation(windows.SystemProcessInformation, unsafe.Pointer(&buf[0]), size, &n)
		if err == windows.STATUS_INFO_LENGTH_MISMATCH && size < 64<<20 {
			continue
		}
		if err != nil {
			return os.NewSyscallError("NtQuerySystemInformation", err)
		}
		for at := uint32(0); at+uint32(unsafe.Sizeof(windows.SYSTEM_PROCESS_INFORMATION{})) <= size; {
			p := (*windows.SYSTEM_PROCESS_INFORMATION)(unsafe.Pointer(uintptr(unsafe.Pointer(&buf[0])) + uintptr(at)))
			if !yield(p) || p.NextEntryOffset == 0 {
				break
			}
			at += p.NextEntryOffset
		}
		return nil
	}
}

// listedProcess is lookAtProcess by the list of processes, for one that may not be opened.
func listedProcess(pid int) (start string, err error) {
	err = eachProcess(func(p *windows.SYSTEM_PROCESS_INFORMATION) bool {
		if p.UniqueProcessID != uintptr(pid) {
			return true
		}
		if p.NumberOfThreads > 0 { // else it has ended, and somebody has a handle of it
			start = strconv.FormatInt(p.CreateTime, 10)
		}
		return false
	})
	return start, err
}

// systemCreated is when the process System was created, in units of 100 ns since 1601.
// Where no such process is listed, as under Wine, it is when the system began to count
// its time.
func systemCreated() (created string) {
	err := eachProcess(func(p *windows.SYSTEM_PROCESS_INFORMATION) bool {
		if p.UniqueProcessID != firstProcess || p.CreateTime <= 0 {
			return true
		}
		created = strconv.FormatInt(p.CreateTime, 10)
		return false
	})
	if err != nil || created != "" {
		return created
	}
	// SYSTEM_TIMEOFDAY_INFORMATION.
	var t struct {
		boot, now, bias int64
		zone, reserved  uint32
		bootBias, sleep uint64
	}
	var n uint32
	if err := windows.NtQuerySystemInformation(windows.SystemTimeOfDayInformation, unsafe.Pointer(&t), uint32(unsafe.Sizeof(t)), &n); err != nil || t.boot == 0 {
		return ""
	}
	// Both move when the clock is set.
	return strconv.FormatInt(t.boot-int64(t.bootBias), 10)
}
