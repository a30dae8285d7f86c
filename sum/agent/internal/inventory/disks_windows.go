package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Control codes of ntddstor.h.
const (
	ioctlStorageQueryProperty   = 0x2d1400
	ioctlStorageGetDeviceNumber = 0x2d1080
)

var physicalDrive = regexp.MustCompile(`^PhysicalDrive([0-9]{1,9})$`)

// disks asks each disk for its identity and firmware. The disks are opened for neither
// reading nor writing.
func disks(ctx context.Context, out *finds) {
	names, err := driveNames()
	if err != nil {
		out.problem("%v", err)
		return
	}
	onPnP := diskNumbers(ctx, out)
	b, err := readSMBIOS()
	if err != nil {
		out.problem("names of onboard devices: %v", err)
	}
	var found []windowsDisk
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		disk := onPnP[name]
		disk.name = name
		if disk.says, err = askDisk(name); err != nil {
			out.problem("%s: %v", name, err)
			continue
		}
		found = append(found, disk)
	}
	for _, d := range diskDevices(found, b.onboard) {
		out.device(d)
	}
}

// driveNames lists the disks by their names below \\.\, in the order of the numbers.
func driveNames() ([]string, error) {
	for size := 64 << 10; size <= 16<<20; size *= 2 {
		buf := make([]uint16, size)
		n, err := windows.QueryDosDevice(nil, &buf[0], uint32(size))
		if err == windows.ERROR_INSUFFICIENT_BUFFER {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("QueryDosDevice", err)
		}
		var names []string
		for name := range strings.SplitSeq(windows.UTF16ToString(slash(buf[:n])), "/") {
			if physicalDrive.MatchString(name) {
				names = append(names, name)
			}
		}
		slices.SortFunc(names, func(a, b string) int { return driveNumber(a) - driveNumber(b) })
		return names[:min(len(names), maxDevices)], nil
	}
	return nil, fmt.Errorf("names of devices: %w", errTooLong)
}

// slash puts slashes, which no name has, for the zeros between names.
func slash(names []uint16) []uint16 {
	for i, c := range names {
		if c == 0 {
			names[i] = '/'
		}
	}
	return names
}

func driveNumber(name string) int {
	n, _ := strconv.Atoi(physicalDrive.FindStringSubmatch(name)[1])
	return n
}

// diskNumbers returns the devices of the disks, and what those hang from.
func diskNumbers(ctx context.Context, out *finds) map[string]windowsDisk {
	if _, err := procedure("cfgmgr32.dll", "CM_Get_Device_Interface_List_SizeW"); err != nil {
		out.problem("devices of disks: %v", err) // x/sys would panic
		return nil
	}
	all := plugAndPlay(ctx, out)
	byInstance := map[string]pnpDevice{}
	for _, p := range all {
		byInstance[strings.ToUpper(p.instance)] = p
	}
	diskInterface := windows.GUID{Data1: 0x53f56307, Data2: 0xb6bf, Data3: 0x11d0, Data4: [8]byte{0x94, 0xf2, 0x00, 0xa0, 0xc9, 0x1e, 0xfb, 0x8b}}
	found := map[string]windowsDisk{}
	for _, p := range all {
		if !strings.EqualFold(p.setupClass, "DiskDrive") {
			continue
		}
		paths, err := windows.CM_Get_Device_Interface_List(p.instance, &diskInterface, 0)
		if err != nil {
			out.problem("%s: %v", p.instance, err)
			continue
		}
		for _, path := range paths {
			n, err := diskNumber(path)
			if err != nil {
				out.problem("%s: %v", p.instance, err)
				continue
			}
			found["PhysicalDrive"+strconv.FormatUint(uint64(n), 10)] = windowsDisk{dev: p, parent: byInstance[strings.ToUpper(p.parent)]}
		}
	}
	return found
}

func diskNumber(path string) (uint32, error) {
	h, err := openDevice(path)
	if err != nil {
		return 0, err
	}
	defer windows.CloseHandle(h)
	var number struct{ deviceType, number, partition uint32 } // STORAGE_DEVICE_NUMBER
	var n uint32
	err = windows.DeviceIoControl(h, ioctlStorageGetDeviceNumber, nil, 0, (*byte)(unsafe.Pointer(&number)), uint32(unsafe.Sizeof(number)), &n, nil)
	return number.number, os.NewSyscallError("IOCTL_STORAGE_GET_DEVICE_NUMBER", err)
}

func askDisk(name string) (storageDevice, error) {
	h, err := openDevice(`\\.\` + name)
	if err != nil {
		return storageDevice{}, err
	}
	defer windows.CloseHandle(h)
	query := struct{ property, kind, parameters uint32 }{} // STORAGE_PROPERTY_QUERY of StorageDeviceProperty
	buf := make([]byte, 16<<10)
	var n uint32
	err = windows.DeviceIoControl(h, ioctlStorageQueryProperty, (*byte)(unsafe.Pointer(&query)), uint32(unsafe.Sizeof(query)), &buf[0], uint32(len(buf)), &n, nil)
	if err != nil && !errors.Is(err, windows.ERROR_MORE_DATA) {
		return storageDevice{}, os.NewSyscallError("IOCTL_STORAGE_QUERY_PROPERTY", err)
	}
	return parseStorageDevice(buf[:min(n, uint32(len(buf)))])
}

// openDevice opens a device only to ask about it.
func openDevice(path string) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return windows.InvalidHandle, err
	}
	h, err := windows.CreateFile(name, 0, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
	return h, os.NewSyscallError("CreateFile", err)
}
