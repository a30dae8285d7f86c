package agent

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
)

// systemCreated is when the process System was created, in units of 100 ns since 1601:
// it is in the list of processes, which every user may read. Where no such process is
// listed, as under Wine, it is when the system began to count its time.
func systemCreated() string {
	for size := uint32(256 << 10); size <= 64<<20; size *= 2 {
		buf := make([]uint64, size/8) // aligned
		var n uint32
		err := windows.NtQuerySystemInformation(windows.SystemProcessInformation, unsafe.Pointer(&buf[0]), size, &n)
		if err == windows.STATUS_INFO_LENGTH_MISMATCH {
			continue
		}
		if err != nil {
			return ""
		}
		for at := uint32(0); at+uint32(unsafe.Sizeof(windows.SYSTEM_PROCESS_INFORMATION{})) <= size; {
			p := (*windows.SYSTEM_PROCESS_INFORMATION)(unsafe.Pointer(uintptr(unsafe.Pointer(&buf[0])) + uintptr(at)))
			if p.UniqueProcessID == firstProcess && p.CreateTime > 0 {
				return strconv.FormatInt(p.CreateTime, 10)
			}
			if p.NextEntryOffset == 0 {
				break
			}
			at += p.NextEntryOffset
		}
		break
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
