package firewall

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// self is this process as an owner.
func self(run string) (Owner, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return Owner{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Owner{}, err
	}
	// The second field, the program's name, is in parentheses and can have any
	// characters; what follows its last one begins with field 3.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return Owner{}, fmt.Errorf("/proc/self/stat has %d fields after the name", len(fields))
	}
	return Owner{Run: run, PID: os.Getpid(), Start: fields[19] + "." + strings.TrimSpace(string(boot))}, nil
}

// parseOwner reads what String wrote. A boot ID has hyphens of its own.
func parseOwner(s string) (Owner, bool) {
	parts := strings.SplitN(s, "-", 3)
	if len(parts) != 3 || !runName.MatchString(parts[0]) {
		return Owner{}, false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 || parts[2] == "" {
		return Owner{}, false
	}
	return Owner{Run: parts[0], PID: pid, Start: parts[2]}, true
}
