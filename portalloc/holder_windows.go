package portalloc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// findHolders fills in the holders of the ports that are keys of the map, from
// GetExtendedTcpTable (iphlpapi.h).
func findHolders(ctx context.Context, ports map[uint16][]Holder) error {
	if len(ports) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var socks []socket
	for _, t := range []struct {
		family uintptr
		layout rowLayout
	}{{windows.AF_INET, row4}, {windows.AF_INET6, row6}} {
		table, err := tcpTable(t.family)
		if errors.Is(err, windows.ERROR_NOT_SUPPORTED) {
			continue // no such family
		}
		if err != nil {
			return err
		}
		socks = append(socks, t.layout.parse(table, ports)...)
	}
	programs := make(map[int]string)
	for _, s := range foremost(socks) {
		h := Holder{PID: int(s.owner), UID: s.uid, State: s.state}
		if h.PID != 0 {
			name, known := programs[h.PID]
			if !known {
				name = program(h.PID)
				programs[h.PID] = name
			}
			h.Program = name
		}
		if !slices.Contains(ports[s.port], h) {
			ports[s.port] = append(ports[s.port], h)
		}
	}
	return nil
}

// tcpTable returns the table of one family with the owners of its sockets.
func tcpTable(family uintptr) ([]byte, error) {
	const ownerPIDAll = 5 // TCP_TABLE_OWNER_PID_ALL of TCP_TABLE_CLASS
	get := windows.NewLazySystemDLL("iphlpapi.dll").NewProc("GetExtendedTcpTable")
	if err := get.Find(); err != nil {
		return nil, err
	}
	size := uint32(16 << 10)
	for range 8 { // the table may grow between two calls
		table := make([]byte, size)
		r, _, _ := get.Call(uintptr(unsafe.Pointer(&table[0])), uintptr(unsafe.Pointer(&size)), 0, family, ownerPIDAll, 0)
		switch err := syscall.Errno(r); err {
		case windows.NO_ERROR:
			return table[:min(int(size), len(table))], nil
		case windows.ERROR_INSUFFICIENT_BUFFER:
			size += 4 << 10
		default:
			return nil, fmt.Errorf("GetExtendedTcpTable: %w", err)
		}
	}
	return nil, fmt.Errorf("GetExtendedTcpTable: %w", windows.ERROR_INSUFFICIENT_BUFFER)
}

// rowLayout has the offsets of the fields, all of 4 bytes, in a row of a table.
type rowLayout struct{ size, state, port, pid int }

var (
	row4 = rowLayout{size: 24, state: 0, port: 8, pid: 20}   // MIB_TCPROW_OWNER_PID
	row6 = rowLayout{size: 56, state: 48, port: 20, pid: 52} // MIB_TCP6ROW_OWNER_PID
)

// tcpStates are the numbers of MIB_TCP_STATE, tcpmib.h.
var tcpStates = [...]string{1: "CLOSED", "LISTEN", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1",
	"FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT", "CLOSED"}

// parse returns the rows whose local port is wanted.
func (l rowLayout) parse(table []byte, wanted map[uint16][]Holder) []socket {
	if len(table) < 4 {
		return nil
	}
	n := binary.LittleEndian.Uint32(table)
	var socks []socket
	for row := range slices.Chunk(table[4:], l.size) {
		if n == 0 || len(row) < l.size {
			break
		}
		n--
		port := binary.BigEndian.Uint16(row[l.port:]) // in network order, in the low half
		if _, ok := wanted[port]; !ok {
			continue
		}
		s := socket{port: port, uid: -1, owner: uint64(binary.LittleEndian.Uint32(row[l.pid:]))}
		if number := binary.LittleEndian.Uint32(row[l.state:]); int(number) < len(tcpStates) {
			s.state = tcpStates[number]
		}
		if s.state == "" {
			s.state = "UNKNOWN"
		}
		socks = append(socks, s)
	}
	return socks
}

// program returns the name of the process's file, or "" where this process may
// not know it.
func program(pid int) string {
	const system = 4 // the kernel: http.sys and the like
	if pid == system {
		return "System"
	}
	p, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return ""
	}
	defer windows.CloseHandle(p)
	var name [windows.MAX_LONG_PATH]uint16
	n := uint32(len(name))
	if err := windows.QueryFullProcessImageName(p, 0, &name[0], &n); err != nil {
		return ""
	}
	return filepath.Base(windows.UTF16ToString(name[:n]))
}
