package local_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestIdentifyAsOverSSH: the same host has the same identity, whichever way it is
// asked.
func TestIdentifyAsOverSSH(t *testing.T) {
	srv, err := sshtest.NewServer(sshtest.Config{User: "ops", Password: "secret"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	over, err := (&ssh.Transport{}).Dial(t.Context(), transport.Endpoint{
		Address:     srv.Addr(),
		Credentials: transport.Credentials{User: "ops", Password: transport.NewSecret("secret")},
		Trust:       transport.Trust{HostKeys: []string{srv.AuthorizedHostKey()}},
	})
	require.NoError(t, err)
	want, err := over.Identify(t.Context())
	require.NoError(t, err)
	require.NoError(t, over.Close(t.Context()))
	got, err := dial(t).Identify(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NotEmpty(t, got.BootID)
	require.NotEmpty(t, got.Version)
}

// TestIdentifyOfAMadeUpHost reads firmware tables and an os-release as no machine
// of a test has them.
func TestIdentifyOfAMadeUpHost(t *testing.T) {
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"sys_vendor": "HPE\n", "product_name": "ProLiant DL380 Gen10\n", "product_serial": "CZ1234ABCD \n",
		"product_uuid": "30373237-3132-4D32-3236-303330304A43\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o400))
	}
	release := filepath.Join(dir, "os-release")
	require.NoError(t, os.WriteFile(release, []byte("# PRETTY_NAME=no\nNAME=x\nPRETTY_NAME=\"The \\\"Lab\\\" \\$OS\"\n"), 0o644))
	cmd := exec.Command(unshare, "--mount", "--uts", "sh", "-ec",
		`hostname made-up.example; mount --bind "$1" /sys/class/dmi/id; mount --bind "$2" /etc/os-release; exec "$0" helper:identify`,
		os.Args[0], dir, release)
	if _, err := os.Stat("/sys/class/dmi/id"); err != nil {
		// A machine without firmware tables: there is nothing to put them over.
		cmd = exec.Command(unshare, "--mount", "--uts", "sh", "-ec",
			`hostname made-up.example; mount -t tmpfs none /sys/class; mkdir -p /sys/class/dmi/id; mount --bind "$1" /sys/class/dmi/id; mount --bind "$2" /etc/os-release; exec "$0" helper:identify`,
			os.Args[0], dir, release)
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `made-up.example|HPE|ProLiant DL380 Gen10|CZ1234ABCD|30373237-3132-4d32-3236-303330304a43|linux|The "Lab" $OS`, strings.TrimSpace(string(out)))
}

// systemHelpers are the helpers for Linux.
func systemHelpers() map[string]func([]string) error {
	return map[string]func([]string) error{"identify": identify, "limits": limits}
}

func identify([]string) error {
	conn, err := (&local.Transport{}).Dial(ctx(), transport.Endpoint{})
	if err != nil {
		return err
	}
	id, err := conn.Identify(ctx())
	fmt.Println(strings.Join([]string{id.Name, id.Vendor, id.Product, id.Serial, id.UUID, id.OS, id.Version}, "|"))
	return errors.Join(err, conn.Close(ctx()))
}

// TestLimits meets a full file system, a read-only one and a user without rights,
// in a mount namespace of its own.
func TestLimits(t *testing.T) {
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	dir, err := os.MkdirTemp("", "local-limits-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755)) // for the user without rights
	cmd := exec.Command(unshare, "--mount", "sh", "-ec", `
		mkdir "$1/full" "$1/ro" "$1/closed"
		mount -t tmpfs -o size=1m none "$1/full"
		mount -t tmpfs none "$1/ro"; echo x >"$1/ro/f"; mount -o remount,ro "$1/ro"
		chmod 700 "$1/closed"
		exec "$0" helper:limits "$1"`, os.Args[0], dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "all as it should be", strings.TrimSpace(string(out)))
}

// limits meets the bounds of file systems and rights below the directory that it is
// given.
func limits(args []string) error {
	dir := args[0]
	conn, err := (&local.Transport{}).Dial(ctx(), transport.Endpoint{})
	if err != nil {
		return err
	}
	want := func(what string, err, kind error) error {
		if !errors.Is(err, kind) {
			return fmt.Errorf("%s: %v, want %v", what, err, kind)
		}
		return nil
	}
	put := func(name string, n int) error {
		_, err := transport.Put(ctx(), conn, dir+"/"+name, transport.BytesFile("f", content(n)), transport.PutOptions{})
		return err
	}
	var errs []error
	check := func(what string, err, kind error) { errs = append(errs, want(what, err, kind)) }
	check("a file that does not fit", put("full/f", large), transport.ErrNoSpace)
	_, err = os.Stat(dir + "/full/f")
	check("half of it under its name", err, fs.ErrNotExist)
	check("put onto a read-only file system", put("ro/f", 100), fs.ErrPermission)
	check("mkdir on a read-only file system", transport.Mkdir(ctx(), conn, dir+"/ro/d", 0o700), fs.ErrPermission)
	check("remove on a read-only file system", transport.Remove(ctx(), conn, dir+"/ro/f"), fs.ErrPermission)
	check("remove of a mount", transport.Remove(ctx(), conn, dir+"/ro"), transport.ErrBusy)

	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		return err
	}
	check("put where one may not", put("f", 100), fs.ErrPermission)
	check("put below a closed directory", put("closed/f", 100), fs.ErrPermission)
	_, err = transport.List(ctx(), conn, dir+"/closed")
	check("list of a closed directory", err, fs.ErrPermission)
	_, err = transport.Get(ctx(), conn, "/etc/shadow", os.Stdout, transport.GetOptions{})
	check("get of the passwords", err, fs.ErrPermission)
	_, err = transport.Run(ctx(), conn, transport.Command{Argv: []string{"/etc/passwd"}})
	check("run of what is no program", err, fs.ErrPermission)
	if err := errors.Join(append(errs, conn.Close(ctx()))...); err != nil {
		return err
	}
	fmt.Println("all as it should be")
	return nil
}
