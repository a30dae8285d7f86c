package agent

import (
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// labelName is the extended attribute in which SELinux keeps a file's label.
const labelName = "security.selinux"

func getLabel(file string) (string, error) {
	buf := make([]byte, 4096) // the page that the kernel limits a context to
	n, err := unix.Lgetxattr(file, labelName, buf)
	if err != nil {
		return "", &fs.PathError{Op: "getxattr", Path: file, Err: err}
	}
	return strings.TrimRight(string(buf[:n]), "\x00"), nil
}

func setLabel(file, label string) error {
	if err := unix.Lsetxattr(file, labelName, append([]byte(label), 0), 0); err != nil {
		return &fs.PathError{Op: "setxattr", Path: file, Err: err}
	}
	return nil
}
