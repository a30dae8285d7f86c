package portalloc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tcpStates are the kernel's numbers, include/net/tcp_states.h.
var tcpStates = map[string]string{
	"01": "ESTABLISHED", "02": "SYN-SENT", "03": "SYN-RECEIVED", "04": "FIN-WAIT-1",
	"05": "FIN-WAIT-2", "06": "TIME-WAIT", "07": "CLOSED", "08": "CLOSE-WAIT",
	"09": "LAST-ACK", "0A": "LISTEN", "0B": "CLOSING", "0C": "SYN-RECEIVED",
}

// findHolders fills in the holders of the ports that are keys of the map.
func findHolders(ctx context.Context, ports map[uint16][]Holder) error {
	if len(ports) == 0 {
		return nil
	}
	var socks []socket
	for _, table := range []string{"tcp", "tcp6"} {
		// The calling thread's namespace counts; the process's own may differ.
		f, err := os.Open("/proc/thread-self/net/" + table)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return err
		}
		err = parseSockets(f, func(s socket) bool {
			if _, wanted := ports[s.port]; wanted {
				socks = append(socks, s)
			}
			return ctx.Err() == nil
		})
		f.Close()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	socks = foremost(socks)
	owners, err := findOwners(ctx, socks)
	for _, s := range socks {
		h := Holder{UID: s.uid, State: s.state}
		if pid := owners[s.owner]; pid != 0 {
			h.PID, h.Program = pid, program(pid)
		}
		if !slices.Contains(ports[s.port], h) {
			ports[s.port] = append(ports[s.port], h)
		}
	}
	return err
}

// parseSockets calls use for every line of /proc/net/tcp or tcp6 (proc_net_tcp in
// the kernel's documentation) that can be read, until it returns false.
func parseSockets(r io.Reader, use func(socket) bool) error {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		// sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if !ok || err != nil {
			continue // the heading
		}
		uid, err := strconv.Atoi(f[7])
		inode, err2 := strconv.ParseUint(f[9], 10, 64)
		if err != nil || err2 != nil {
			continue
		}
		state, ok := tcpStates[f[3]]
		if !ok {
			state = "state " + f[3]
		}
		if !use(socket{port: uint16(port), state: state, uid: uid, owner: inode}) {
			return nil
		}
	}
	return sc.Err()
}

// findOwners looks for the processes that have the sockets open.
func findOwners(ctx context.Context, socks []socket) (map[uint64]int, error) {
	missing := make(map[uint64]bool)
	for _, s := range socks {
		if s.owner != 0 {
			missing[s.owner] = true
		}
	}
	owners := make(map[uint64]int)
	if len(missing) == 0 {
		return owners, nil
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return owners, err
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return owners, ctx.Err()
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // ended, or another user's
		}
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			number, ok := strings.CutPrefix(link, "socket:[")
			if !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
			if err != nil || !missing[inode] {
				continue
			}
			owners[inode] = pid
			delete(missing, inode)
			if len(missing) == 0 {
				return owners, nil
			}
		}
	}
	return owners, nil
}

func program(pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return "unknown program"
	}
	return strings.TrimSpace(string(b))
}
