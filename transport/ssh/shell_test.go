package ssh_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// posixTools are what the scripts need at the least; neither a tool for SHA-256
// nor stat is among them.
var posixTools = []string{"sh", "cat", "dd", "df", "ls", "mv", "rm", "rmdir", "mkdir", "chmod", "wc", "tr", "tail", "head",
	"env", "kill", "sleep", "printf", "uname", "echo"}

// TestPoorTarget: a target without stat, GNU find and SHA-256 tools still keeps files.
func TestPoorTarget(t *testing.T) {
	t.Parallel()
	srv := server(t, sshtest.Config{NoSFTP: true, Env: []string{"PATH=" + tools(t, posixTools...)}})
	conn := dial(t, endpointOf(srv))
	ctx := t.Context()
	content := bytes.Repeat([]byte("abc"), 100_000)
	name := srv.Home() + "/new\nline"
	res, err := transport.Put(ctx, conn, name, transport.BytesFile("x", content), transport.PutOptions{Mode: 0o640})
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), res.Info.Mode)
	require.EqualValues(t, len(content), res.Info.Size)
	require.NoError(t, transport.Mkdir(ctx, conn, srv.Home()+"/d/e", 0o755))
	list, err := transport.List(ctx, conn, srv.Home())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.True(t, list[0].IsDir())
	require.Equal(t, "new\nline", list[1].Name)

	bad := transport.BytesFile("x", content)
	bad.SHA256[3] ^= 1
	_, err = transport.Put(ctx, conn, srv.Home()+"/bad", bad, transport.PutOptions{})
	require.ErrorIs(t, err, transport.ErrIntegrity)
	entries, err := os.ReadDir(srv.Home())
	require.NoError(t, err)
	require.Len(t, entries, 2, "the partial file was removed")
}

// TestMissingTools: what a target lacks is done in another way, or is said.
func TestMissingTools(t *testing.T) {
	t.Parallel()
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(posixTools), func(name string) bool { return slices.Contains(names, name) })
	}
	with := func(names ...string) []string { return append(slices.Clone(posixTools), names...) }
	large := bytes.Repeat([]byte("0123456789abcdef"), 5<<16+1) // a little more than 5 MiB
	for name, tt := range map[string]struct {
		tools    []string
		put, get error
	}{
		"sha256sum":     {with("sha256sum"), nil, nil},
		"openssl":       {with("openssl"), nil, nil},
		"shasum":        {with("shasum", "perl"), nil, nil},
		"busybox":       {with("busybox"), nil, nil},
		"no hash":       {posixTools, nil, nil},
		"stat and find": {with("stat", "find", "sha256sum"), nil, nil},
		"no df":         {without("df"), nil, nil},
		"no tr":         {without("tr"), nil, nil},
		"no tail":       {without("tail"), nil, errors.ErrUnsupported},
	} {
		for _, size := range []int{0, 1, 70_000, len(large)} {
			t.Run(fmt.Sprintf("%s %d", name, size), func(t *testing.T) {
				t.Parallel()
				srv := server(t, sshtest.Config{NoSFTP: true, Env: []string{"PATH=" + tools(t, tt.tools...)}})
				conn := dial(t, endpointOf(srv))
				file := srv.Home() + "/f"
				_, err := transport.Put(t.Context(), conn, file, transport.BytesFile("x", large[:size]), transport.PutOptions{})
				if tt.put != nil {
					require.ErrorIs(t, err, tt.put)
					return
				}
				require.NoError(t, err)
				res, err := transport.Put(t.Context(), conn, file, transport.BytesFile("x", large[:size]), transport.PutOptions{Mode: 0o640})
				require.NoError(t, err)
				require.Equal(t, fs.FileMode(0o640), res.Info.Mode)
				var got bytes.Buffer
				_, err = transport.Get(t.Context(), conn, file, &got, transport.GetOptions{})
				require.NoError(t, err)
				require.True(t, bytes.Equal(large[:size], got.Bytes()))
				got.Reset()
				_, err = transport.Get(t.Context(), conn, file, &got, transport.GetOptions{Offset: 1})
				if tt.get != nil {
					require.ErrorIs(t, err, tt.get)
				} else {
					require.NoError(t, err)
					require.True(t, bytes.Equal(large[min(1, size):size], got.Bytes()))
				}
				info, err := transport.Stat(t.Context(), conn, file)
				require.NoError(t, err)
				require.EqualValues(t, size, info.Size)
				list, err := transport.List(t.Context(), conn, srv.Home())
				require.NoError(t, err)
				require.Len(t, list, 1, "a partial file is left")
				require.NoError(t, transport.Remove(t.Context(), conn, file))
			})
		}
	}
}

// TestChattyLoginShell: what start files print does not end up in the output.
func TestChattyLoginShell(t *testing.T) {
	shell := writeFile(t, filepath.Join(t.TempDir(), "shell"),
		"#!/bin/sh\necho 'Welcome!'; printf 'no newline'; echo 'Warning' >&2\nexec /bin/sh \"$@\"\n", 0o755)
	srv := server(t, sshtest.Config{Shell: shell})
	conn := dial(t, endpointOf(srv))
	var out, errs bytes.Buffer
	exit, err := transport.Run(t.Context(), conn, transport.Command{
		Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, 7, exit.Code)
	require.Equal(t, "out\n", out.String())
	require.Equal(t, "err\n", errs.String())
	_, err = transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", []byte("y")), transport.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, "y", output(t, conn, "cat", srv.Home()+"/x"))
}

func TestSignalIsTold(t *testing.T) {
	conn := dial(t, endpointOf(server(t, sshtest.Config{})))
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sh", "-c", "kill -9 $$"}})
	require.NoError(t, err)
	require.Equal(t, transport.Exit{Code: -1, Signal: "KILL"}, exit)
}

// TestPutAgain: content that is there already is not sent again, and its mode is
// still set.
func TestPutAgain(t *testing.T) {
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, cfg)
			conn := dial(t, endpointOf(srv))
			file := transport.BytesFile("x", bytes.Repeat([]byte("x"), 100_000))
			_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", file, transport.PutOptions{})
			require.NoError(t, err)
			res, err := transport.Put(t.Context(), conn, srv.Home()+"/x", file, transport.PutOptions{Mode: 0o755})
			require.NoError(t, err)
			require.EqualValues(t, 100_000, res.Kept)
			require.Zero(t, res.Sent)
			require.Equal(t, fs.FileMode(0o755), res.Info.Mode)
		})
	}
}

// TestForeignPartial: a link that somebody laid where the partial file goes is
// not followed.
func TestForeignPartial(t *testing.T) {
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		t.Run(name, func(t *testing.T) {
			cfg.Home = t.TempDir()
			srv := server(t, cfg)
			conn := dial(t, endpointOf(srv))
			file := transport.BytesFile("x", bytes.Repeat([]byte("x"), 100_000))
			// The name is deterministic: learn it from a Put that fails half-way, and
			// whose commands have ended.
			srv.CutAfter(60_000)
			_, err := transport.Put(t.Context(), conn, srv.Home()+"/x", file, transport.PutOptions{})
			require.ErrorIs(t, err, transport.ErrConnLost)
			require.NoError(t, srv.Close())
			srv = server(t, cfg)
			parts, err := filepath.Glob(srv.Home() + "/.x.*.part")
			require.NoError(t, err)
			require.Len(t, parts, 1)
			require.NoError(t, os.Remove(parts[0]))
			victim := writeFile(t, filepath.Join(t.TempDir(), "victim"), "precious", 0o600)
			require.NoError(t, os.Symlink(victim, parts[0]))
			_, err = transport.Put(t.Context(), dial(t, endpointOf(srv)), srv.Home()+"/x", file, transport.PutOptions{})
			require.NoError(t, err)
			got, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "precious", string(got))
			fi, err := os.Lstat(srv.Home() + "/x")
			require.NoError(t, err)
			require.True(t, fi.Mode().IsRegular())
		})
	}
}

func TestFullDisk(t *testing.T) {
	realtest.NeedRoot(t)
	for name, cfg := range map[string]sshtest.Config{"shell": {}, "sftp": {SFTPOnly: true}} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, cfg)
			disk := tmpfs(t, "size=1m")
			conn := dial(t, endpointOf(srv))
			_, err := transport.Put(t.Context(), conn, disk+"/x", transport.BytesFile("x", make([]byte, 4<<20)), transport.PutOptions{})
			require.ErrorIs(t, err, transport.ErrNoSpace)
			require.False(t, transport.Temporary(err))
		})
	}
}

// TestElevation runs against a sudo of our own, which speaks the protocol of the
// real one, with an id that says that the user is not root.
func TestElevation(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	writeFile(t, bin+"/id", "#!/bin/sh\necho 1000\n", 0o755)
	writeFile(t, bin+"/sudo", `#!/bin/sh
case $1 in
-n) [ -n "$NOPASSWD" ] || { echo 'sudo: a password is required' >&2; exit 1; }; shift;;
-S) prompt=$3; shift 3
	if [ -z "$NOPASSWD" ]; then
		n=0
		while :; do
			printf '%s' "$prompt" >&2
			read -r pw || { echo 'sudo: no password was provided' >&2; exit 1; }
			[ "$pw" = sesame ] && break
			n=$((n+1)); [ $n = 3 ] && exit 1
			echo 'Sorry, try again.' >&2
		done
	fi;;
esac
[ "$1" = -- ] && shift
ELEVATED=yes exec "$@"
`, 0o755)
	noSudo := tools(t, posixTools...)
	writeFile(t, noSudo+"/id", "#!/bin/sh\necho 1000\n", 0o755)
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	for _, tt := range []struct {
		name     string
		env      []string
		password string
		want     error
	}{
		{"nopasswd", []string{path, "NOPASSWD=1"}, "", nil},
		{"nopasswd, password given", []string{path, "NOPASSWD=1"}, "sesame", nil},
		{"password", []string{path}, "sesame", nil},
		{"wrong password", []string{path}, "wrong", transport.ErrAuth},
		{"no password", []string{path}, "", transport.ErrAuth},
		{"no sudo", []string{"PATH=" + noSudo}, "", errors.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := server(t, sshtest.Config{Env: tt.env})
			ep := endpointOf(srv)
			ep.Options = ssh.Options{Elevate: ssh.Sudo, SudoPassword: transport.NewSecret(tt.password)}
			conn, err := (&ssh.Transport{}).Dial(t.Context(), ep)
			for _, line := range srv.Commands() {
				require.NotContains(t, line, "sesame", "the password is on the command line")
			}
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				require.NotContains(t, err.Error(), "sesame")
				return
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close(t.Context())) }()
			require.Equal(t, transport.CapFiles|transport.CapRun|transport.CapTunnelTCP, conn.Caps())
			require.Equal(t, "yes\n", output(t, conn, "sh", "-c", "echo $ELEVATED"))
			// The input is the program's, whether sudo asked or not.
			var out bytes.Buffer
			exit, err := transport.Run(t.Context(), conn, transport.Command{
				Argv: []string{"cat"}, Stdin: strings.NewReader("first line\nsecond\n"), Stdout: &out})
			require.NoError(t, err)
			require.Zero(t, exit.Code)
			require.Equal(t, "first line\nsecond\n", out.String())
			_, err = transport.Put(t.Context(), conn, srv.Home()+"/x", transport.BytesFile("x", make([]byte, 200_000)), transport.PutOptions{})
			require.NoError(t, err)
			require.Equal(t, "127.0.0.1", conn.Path().SeenAs.String())
		})
	}
}

func TestElevationNeedsShell(t *testing.T) {
	ep := endpointOf(server(t, sshtest.Config{SFTPOnly: true}))
	ep.Options = ssh.Options{Elevate: ssh.Sudo}
	_, err := (&ssh.Transport{}).Dial(t.Context(), ep)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestManyCommandsAtATime(t *testing.T) {
	srv := server(t, sshtest.Config{})
	ep := endpointOf(srv)
	ep.Options = ssh.Options{MaxSessions: 2}
	conn := dial(t, ep)
	answers := make(chan error, 6)
	for range cap(answers) {
		go func() {
			_, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"sleep", "0.1"}})
			answers <- err
		}()
	}
	for range cap(answers) {
		require.NoError(t, <-answers)
	}
}

// TestStdinThatBlocks: nobody waits for a read that cannot be interrupted, as that
// from a terminal, and none begins once Run has returned.
func TestStdinThatBlocks(t *testing.T) {
	conn, err := (&ssh.Transport{}).Dial(t.Context(), endpointOf(server(t, sshtest.Config{})))
	require.NoError(t, err)
	r, w := io.Pipe()
	exit, err := transport.Run(t.Context(), conn, transport.Command{Argv: []string{"true"}, Stdin: r})
	require.NoError(t, err)
	require.Zero(t, exit)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, w.Close())
}
