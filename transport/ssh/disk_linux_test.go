package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
)

// diskWays are the ways in which files are kept: the shell beside SFTP, without
// it, with the tools of busybox, each of these as root by sudo, and SFTP alone.
func diskWays(t *testing.T) (*host, map[string]func(t *testing.T) transport.Conn) {
	realtest.Need(t, "sudo")
	realtest.Need(t, "busybox")
	h := newHost(t)
	h.server(2222)
	h.server(2223, internalSFTP, "ForceCommand internal-sftp")
	h.server(2224, "Subsystem sftp /usr/lib/openssh/sftp-server", "ForceCommand /usr/lib/openssh/sftp-server")
	h.server(2225, "PermitUserEnvironment yes")
	h.Run("sh", "-c", "mkdir "+busyboxTools+" && busybox --install -s "+busyboxTools+" && ln -s /bin/sudo /bin/busybox "+busyboxTools)
	h.user("keeper", "/bin/bash", nil)
	h.user("keeper-busybox", h.program("busybox"), map[string]string{".ssh/environment": "PATH=" + busyboxTools + "\n"})
	h.write("/etc/sudoers.d/test", `Defaults:keeper-busybox secure_path=`+busyboxTools+`
keeper,keeper-busybox ALL=(ALL) NOPASSWD: ALL
`, 0o440)
	at := func(user, port string, opts ssh.Options) func(t *testing.T) transport.Conn {
		return func(t *testing.T) transport.Conn {
			ep := h.endpoint(user, opts)
			ep.Address += port
			return dialWith(t, h.transport(), ep)
		}
	}
	sudo := ssh.Options{Elevate: ssh.Sudo}
	return h, map[string]func(t *testing.T) transport.Conn{
		"shell": at("keeper", "", ssh.Options{}), "shell alone": at("keeper", ":2222", ssh.Options{}),
		"busybox":        at("keeper-busybox", ":2225", ssh.Options{}),
		"shell" + bySudo: at("keeper", "", sudo), "busybox" + bySudo: at("keeper-busybox", ":2225", sudo),
		"sftp alone": at("keeper", ":2223", ssh.Options{}), "sftp-server alone": at("keeper", ":2224", ssh.Options{}),
	}
}

// bySudo ends the names of the ways that make root of the user.
const bySudo = " by sudo"

func putIt(t *testing.T, conn transport.Conn, name string, content []byte) (transport.PutResult, error) {
	return transport.Put(t.Context(), conn, name, transport.BytesFile("x", content), transport.PutOptions{Mode: 0o755})
}

func getIt(t *testing.T, conn transport.Conn, name string) ([]byte, error) {
	var b bytes.Buffer
	_, err := transport.Get(t.Context(), conn, name, &b, transport.GetOptions{})
	return b.Bytes(), err
}

// TestDiskErrors: every way to fail has its sentinel, says where and why, and
// leaves nothing behind.
func TestDiskErrors(t *testing.T) {
	t.Parallel()
	h, ways := diskWays(t)
	h.Run("sh", "-c", `set -e
install -d -m 777 /srv/t && cd /srv/t
install -d -m 755 closed && echo x >closed/f && install -d closed/d && chmod 777 closed/d && chmod 755 closed
install -d -m 700 hidden && echo x >hidden/f
install -d -m 1777 sticky && echo x >sticky/f && chmod 666 sticky/f
echo x >unreadable && chmod 000 unreadable
install -d -m 777 ro && mount -t tmpfs -o mode=777 none ro && echo x >ro/f && mkdir ro/d && chmod 777 ro/d && mount -o remount,ro ro
install -d -m 777 noinodes && mount -t tmpfs -o mode=777,nr_inodes=3 none noinodes && echo x >noinodes/f && echo x >noinodes/g
install -d -m 777 busy && install -d -m 777 busy/mount && mount -t tmpfs -o mode=777 none busy/mount
ln -s loop2 loop1 && ln -s loop1 loop2 && ln -s nowhere dangling && ln -s /etc/hostname link && ln -s closed/f toclosed
install -d -m 777 full && mount -t tmpfs -o mode=777,size=4k none full && head -c 4096 /dev/zero >full/f
echo x >file && chmod 666 file && install -d -m 777 dir && echo x >dir/f
`)
	long := strings.Repeat("n", 300)
	small := []byte("content")
	// Partial files are left where they belong.
	tree := func() string {
		return h.Run("find", "/srv/t", "-regex", `.*\.[0-9a-f]+\.part`, "-o", "-type", "f", "-printf", "%p %m %s\n", "-o", "-printf", "%p %y %m\n")
	}
	before := tree()
	put := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error {
			_, err := putIt(t, conn, name, small)
			return err
		}
	}
	get := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error {
			_, err := getIt(t, conn, name)
			return err
		}
	}
	stat := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error {
			_, err := transport.Stat(t.Context(), conn, name)
			return err
		}
	}
	list := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error {
			_, err := transport.List(t.Context(), conn, name)
			return err
		}
	}
	mkdir := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error { return transport.Mkdir(t.Context(), conn, name, 0o755) }
	}
	remove := func(name string) func(*testing.T, transport.Conn) error {
		return func(t *testing.T, conn transport.Conn) error { return transport.Remove(t.Context(), conn, name) }
	}
	// What root may do nevertheless is not asked of root.
	denied := func(name string) bool {
		return strings.HasPrefix(name, "closed/") || strings.HasPrefix(name, "hidden") || strings.HasPrefix(name, "sticky/") || name == "unreadable"
	}
	rows := []struct {
		op, name string
		call     func(name string) func(*testing.T, transport.Conn) error
		want     error
	}{
		{"put", "closed/new", put, fs.ErrPermission},
		{"put", "closed/f", put, fs.ErrPermission},
		{"put", "hidden/new", put, fs.ErrPermission},
		{"put", "sticky/f", put, fs.ErrPermission},
		{"put", "ro/new", put, fs.ErrPermission},
		{"put", "ro/f", put, fs.ErrPermission},
		{"put", "no/such/dir", put, fs.ErrNotExist},
		{"put", "file/under", put, fs.ErrNotExist},
		{"put", "dangling/x", put, fs.ErrNotExist},
		{"put", "loop1/x", put, fs.ErrNotExist},
		{"put", "dir", put, fs.ErrExist},
		{"put", long, put, transport.ErrRejected},
		{"put", "noinodes/new", put, transport.ErrNoSpace},
		{"put", "full/new", put, transport.ErrNoSpace},
		{"get", "no", get, fs.ErrNotExist},
		{"get", "file/under", get, fs.ErrNotExist},
		{"get", "dangling", get, fs.ErrNotExist},
		{"get", "loop1", get, fs.ErrNotExist},
		{"get", "unreadable", get, fs.ErrPermission},
		{"get", "hidden/f", get, fs.ErrPermission},
		{"get", "dir", get, fs.ErrExist},
		{"stat", "no", stat, fs.ErrNotExist},
		{"stat", "hidden/f", stat, fs.ErrPermission},
		{"stat", "file/under", stat, fs.ErrNotExist},
		{"stat", "loop1/x", stat, fs.ErrNotExist},
		{"stat", long, stat, transport.ErrRejected},
		{"get", long, get, transport.ErrRejected},
		{"remove", long, remove, transport.ErrRejected},
		{"list", "no", list, fs.ErrNotExist},
		{"list", "hidden", list, fs.ErrPermission},
		{"list", "file", list, transport.ErrRejected},
		{"list", "dangling", list, fs.ErrNotExist},
		{"list", "loop1", list, fs.ErrNotExist},
		{"mkdir", "closed/new", mkdir, fs.ErrPermission},
		{"mkdir", "ro/new/deep", mkdir, fs.ErrPermission},
		{"mkdir", "file", mkdir, fs.ErrExist},
		{"mkdir", "dangling", mkdir, fs.ErrExist},
		{"mkdir", "noinodes/new", mkdir, transport.ErrNoSpace},
		{"mkdir", long, mkdir, transport.ErrRejected},
		{"remove", "no", remove, fs.ErrNotExist},
		{"remove", "closed/f", remove, fs.ErrPermission},
		{"remove", "closed/d", remove, fs.ErrPermission},
		{"remove", "sticky/f", remove, fs.ErrPermission},
		{"remove", "hidden/f", remove, fs.ErrPermission},
		{"remove", "ro/f", remove, fs.ErrPermission},
		{"remove", "ro/d", remove, fs.ErrPermission},
		{"remove", "dir", remove, fs.ErrExist},
		{"remove", "busy/mount", remove, transport.ErrRejected},
	}
	for way, dial := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			conn := dial(t)
			for _, r := range rows {
				if denied(r.name) && strings.HasSuffix(way, bySudo) {
					continue
				}
				t.Run(r.op+" "+fmt.Sprintf("%.40s", r.name), func(t *testing.T) {
					name := "/srv/t/" + r.name
					err := r.call(name)(t, conn)
					require.ErrorIs(t, err, r.want)
					var te *transport.Error
					require.ErrorAs(t, err, &te)
					require.Equal(t, r.op, te.Op)
					require.Equal(t, name, te.Path)
					require.False(t, transport.Temporary(err))
				})
			}
		})
	}
	t.Cleanup(func() {
		require.Equal(t, before, tree(), "something was left behind, or changed")
	})
}

// TestDiskSpecials: files that are not what they seem.
func TestDiskSpecials(t *testing.T) {
	t.Parallel()
	h, ways := diskWays(t)
	h.Run("sh", "-c", `set -e
install -d -m 777 /srv/noexec && mount -t tmpfs -o mode=777,noexec none /srv/noexec
truncate -s 8M /srv/sparse && printf end >>/srv/sparse
ln -s /etc/hostname /srv/link`)
	for way, dial := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			conn := dial(t)
			version, err := getIt(t, conn, "/proc/version")
			require.NoError(t, err)
			require.Contains(t, string(version), "Linux version", "a file of size 0 that is not empty")
			b, err := getIt(t, conn, "/srv/link")
			require.NoError(t, err)
			require.NotEmpty(t, b)
			info, err := transport.Stat(t.Context(), conn, "/srv/link")
			require.NoError(t, err)
			require.Equal(t, fs.ModeSymlink, info.Mode.Type())
			b, err = getIt(t, conn, "/srv/sparse")
			require.NoError(t, err)
			require.Len(t, b, 8<<20+3)
			require.Equal(t, "end", string(bytes.TrimLeft(b, "\x00")))

			name := "/srv/noexec/" + strings.ReplaceAll(way, " ", "-")
			_, err = putIt(t, conn, name, []byte("#!/bin/sh\nexit 3\n"))
			require.NoError(t, err)
			if conn.Caps().Has(transport.CapRun) {
				exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{name}})
				require.NoError(t, err)
				require.Equal(t, transport.Exit{Code: 126}, exit, "it cannot be executed there")
				exit, err = transport.Run(t.Context(), conn, transport.Command{Argv: []string{"/srv"}})
				require.NoError(t, err)
				require.Equal(t, transport.Exit{Code: 126}, exit)
			}
		})
	}
}

// TestFullDiskGoesOn: what a full disk has taken is continued when there is room.
func TestFullDiskGoesOn(t *testing.T) {
	t.Parallel()
	h, ways := diskWays(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 6<<16) // 6 MiB
	i := 0
	for way, dial := range ways {
		i++
		dir := fmt.Sprintf("/srv/full%d", i)
		h.Run("sh", "-c", "install -d "+dir+" && mount -t tmpfs -o mode=777,size=4m none "+dir)
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			h := h.on(t)
			conn := dial(t)
			_, err := putIt(t, conn, dir+"/f", content)
			require.ErrorIs(t, err, transport.ErrNoSpace)
			require.False(t, transport.Temporary(err))
			left := strings.Fields(h.Run("find", dir, "-mindepth", "1", "-printf", "%f\n"))
			require.Len(t, left, 1, "more is left than the partial file")
			require.Regexp(t, `^\.f\.[0-9a-f]{16}\.part$`, left[0])
			h.Run("mount", "-o", "remount,size=16m", dir)
			res, err := putIt(t, conn, dir+"/f", content)
			require.NoError(t, err)
			require.Positive(t, res.Kept)
			require.EqualValues(t, len(content), res.Kept+res.Sent)
			got, err := getIt(t, conn, dir+"/f")
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got))
		})
	}
}

// TestQuota takes a subvolume of Btrfs whose quota is used up while its file
// system has room. (The kernels of many test machines have no other quotas.)
func TestQuota(t *testing.T) {
	t.Parallel()
	mkfs, btrfs := realtest.Need(t, "mkfs.btrfs"), realtest.Need(t, "btrfs")
	h, ways := diskWays(t)
	h.Run("sh", "-c", "truncate -s 200M /tmp/disk.img && "+mkfs+" -q /tmp/disk.img && mkdir /srv/quota")
	if out, err := h.Command(context.Background(), "mount", "-o", "loop", "/tmp/disk.img", "/srv/quota").CombinedOutput(); err != nil {
		realtest.Missing(t, "Btrfs in a file (loop devices): "+string(out))
	}
	t.Cleanup(func() { h.Run("umount", "-d", "/srv/quota") })
	h.Run(btrfs, "quota", "enable", "/srv/quota")
	h.Run("sh", "-c", btrfs+" quota rescan -w /srv/quota || :") // one may be under way
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)  // 3 MiB
	i := 0
	for way, dial := range ways {
		i++
		dir := fmt.Sprintf("/srv/quota/%d", i)
		t.Run(way, func(t *testing.T) {
			h := h.on(t)
			h.Run(btrfs, "subvolume", "create", dir)
			h.Run(btrfs, "qgroup", "limit", "1M", dir)
			h.Run("chmod", "777", dir)
			conn := dial(t)
			_, err := putIt(t, conn, dir+"/f", content)
			require.ErrorIs(t, err, transport.ErrNoSpace)
			require.Contains(t, err.Error(), "quota")
			require.Len(t, strings.Fields(h.Run("find", dir, "-mindepth", "1")), 1, "more is left than the partial file")
			h.Run(btrfs, "qgroup", "limit", "16M", dir)
			res, err := putIt(t, conn, dir+"/f", content)
			require.NoError(t, err)
			require.Positive(t, res.Kept)
		})
	}
}

// TestFileSizeLimit: a limit of the login shell's on the size of files is told
// from a full disk.
func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.server(2222)
	h.user("limited", "/bin/bash", map[string]string{".bashrc": "ulimit -f 512\n"}) // KiB
	ep := h.endpoint("limited", ssh.Options{})
	ep.Address += ":2222"
	conn := dialWith(t, h.transport(), ep)
	_, err := putIt(t, conn, "/home/limited/f", make([]byte, 4<<20))
	require.ErrorIs(t, err, transport.ErrRejected)
	require.False(t, errors.Is(err, transport.ErrNoSpace))
	require.Equal(t, "exit", transport.CodeOf(err).Space)
	require.Contains(t, err.Error(), "/home/limited/f")
}

// TestFileChangesWhileRead: a file that is replaced while it is read is read as it
// was; one that grows or shrinks is no failure, and no end.
func TestFileChangesWhileRead(t *testing.T) {
	t.Parallel()
	h, ways := diskWays(t)
	for way, dial := range ways {
		t.Run(way, func(t *testing.T) {
			conn := dial(t)
			h.Run("sh", "-c", "install -d -m 777 /srv/r; cd /srv/r; head -c 12000000 /dev/zero | tr '\\0' a >f")
			replaced := false
			var b bytes.Buffer
			n, err := transport.Get(t.Context(), conn, "/srv/r/f", writer(func(p []byte) (int, error) {
				if !replaced {
					replaced = true
					h.Run("sh", "-c", "cd /srv/r; head -c 1000 /dev/zero | tr '\\0' b >g; mv g f")
				}
				return b.Write(p)
			}), transport.GetOptions{})
			require.NoError(t, err)
			require.EqualValues(t, 12_000_000, n)
			require.Empty(t, bytes.Trim(b.Bytes(), "a"))

			h.Run("sh", "-c", "cd /srv/r; head -c 12000000 /dev/zero | tr '\\0' a >f")
			shrunk := false
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			n, err = transport.Get(ctx, conn, "/srv/r/f", writer(func(p []byte) (int, error) {
				if !shrunk {
					shrunk = true
					h.Run("truncate", "-s", "10", "/srv/r/f")
				}
				return len(p), nil
			}), transport.GetOptions{})
			require.NoError(t, err)
			require.Less(t, n, int64(12_000_000))
		})
	}
}
