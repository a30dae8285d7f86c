package smbtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// smbd is a running smbd with its children.
type smbd struct {
	addr string
	init *exec.Cmd
	life io.Closer // as long as it is open, smbd runs
	out  bytes.Buffer
}

// initScript is the first process of smbd's process namespace. It reads until the
// test process closes the pipe or ends, in whatever way; then it kills every
// other process of the namespace and removes the directory. What is mounted for
// smbd, which has a mount namespace of its own, is gone by then. smbd may do all that
// root may but change files of others (CAP_FOWNER, capabilities(7)): see execute.
const initScript = `
{ unshare --mount --propagation private setpriv --bounding-set -fowner "$1" -F --no-process-group -s "$2/smb.conf" -l "$2/log" </dev/null; : >"$2/ended"; } &
read -r _
kill -KILL -1
wait
rm -rf "$2" || rm -rf "$2"
`

// startSMBD starts smbd in dir and waits until it listens.
func startSMBD(cfg Config, dir string) (*smbd, error) {
	program, err := findSMBD()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("smbtest: smbd needs root rights: %w", errors.ErrUnsupported)
	}
	addr, release, err := reservePort(netip.MustParseAddr(cfg.loopback()))
	if err != nil {
		return nil, fmt.Errorf("smbtest: no port for smbd: %w", err)
	}
	defer release()
	if err := os.WriteFile(filepath.Join(dir, "smb.conf"), []byte(cfg.conf(dir, int(addr.Port()))), 0o600); err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	s := &smbd{addr: addr.String()}
	s.init = exec.Command("/bin/sh", "-c", initScript, "smbtest", program, dir)
	s.init.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + dir}
	s.init.Dir = "/"
	s.init.Stdout, s.init.Stderr = &s.out, &s.out
	s.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		Setpgid:    true, // an interrupt from the terminal is the test's alone
	}
	if s.life, err = s.init.StdinPipe(); err != nil {
		return nil, fmt.Errorf("smbtest: %w", err)
	}
	if err := s.init.Start(); err != nil {
		return nil, fmt.Errorf("smbtest: start smbd in a process namespace: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
			return s, nil
		}
		_, ended := os.Stat(filepath.Join(dir, "ended"))
		if ended == nil || time.Now().After(deadline) {
			log := tail(filepath.Join(dir, "log", "smbd"))
			stopErr := s.stop()
			return nil, fmt.Errorf("smbtest: smbd does not listen (%w); it says:\n%s%s", errors.Join(err, stopErr), s.out.String(), log)
		}
	}
}

// stop ends smbd and waits until every process of it is gone.
func (s *smbd) stop() error {
	_ = s.life.Close()
	timeout := time.AfterFunc(30*time.Second, func() { _ = s.init.Process.Kill() }) // and with it the namespace
	defer timeout.Stop()
	if err := s.init.Wait(); err != nil {
		return fmt.Errorf("smbtest: end of smbd: %w\n%s", err, s.out.String())
	}
	return nil
}

// pin keeps a file from being removed or changed by smbd, and by smbd alone: it is
// not writable, and a read-only mount of its own, in smbd's mount namespace,
// keeps it that way.
func (s *smbd) pin(path string) (release func() error, err error) {
	pid := s.pid()
	if pid == "" {
		return nil, errors.New("smbd does not run")
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	inside := func(script string) error {
		out, err := exec.Command("nsenter", "-t", pid, "-m", "sh", "-c", script, "sh", path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("in smbd's mount namespace: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	}
	if err := os.Chmod(path, fi.Mode().Perm()&^0o222); err != nil {
		return nil, err
	}
	if err := inside(`mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"`); err != nil {
		return nil, errors.Join(err, os.Chmod(path, fi.Mode().Perm()))
	}
	return func() error {
		return errors.Join(inside(`umount -l "$1"`), os.Chmod(path, fi.Mode().Perm()))
	}, nil
}

// nobody is an account that owns no file of smbd's.
const nobody = 65534

// execute keeps a file from being removed by smbd: it has the read-only attribute, which
// smbd cannot take away, as the file is somebody else's.
func execute(path string) (release func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(os.NewSyscallError("fstat", err), f.Close())
	}
	set := func(owner int, mode uint32) error {
		return errors.Join(f.Chown(owner, -1), os.NewSyscallError("fchmod", unix.Fchmod(int(f.Fd()), mode)))
	}
	mode := st.Mode & 0o7777
	undo := func() error { return errors.Join(set(int(st.Uid), mode), f.Close()) }
	if err := set(nobody, mode&^0o222); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// pid is a process in smbd's mount namespace, as seen from outside, or "".
func (s *smbd) pid() string {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return ""
	}
	for queue := []string{fmt.Sprint(s.init.Process.Pid)}; len(queue) > 0; queue = queue[1:] {
		if theirs, err := os.Readlink("/proc/" + queue[0] + "/ns/mnt"); err == nil && theirs != ours {
			return queue[0]
		}
		children, _ := os.ReadFile("/proc/" + queue[0] + "/task/" + queue[0] + "/children")
		queue = append(queue, strings.Fields(string(children))...)
	}
	return ""
}

func findSMBD() (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin", "/usr/local/samba/sbin") {
		p := filepath.Join(dir, "smbd")
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("smbtest: there is no smbd on this machine (Debian: apt-get install samba): %w", errors.ErrUnsupported)
}

// reservePort takes a port for a program that binds it with SO_REUSEPORT, as smbd
// does: until release nobody else is given it, and nobody is connected to it
// before the program listens.
func reservePort(ip netip.Addr) (_ netip.AddrPort, release func(), err error) {
	family := unix.AF_INET
	var any unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if ip.Is6() {
		family, any = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return netip.AddrPort{}, nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, any); err != nil {
		return netip.AddrPort{}, nil, os.NewSyscallError("bind", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, nil, os.NewSyscallError("getsockname", err)
	}
	port := 0
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = sa.Port
	case *unix.SockaddrInet6:
		port = sa.Port
	}
	return netip.AddrPortFrom(ip, uint16(port)), func() { _ = unix.Close(fd) }, nil
}

// tail returns the last lines of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
