package smb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// brittle is a line that breaks instead of sending one more request.
type brittle struct {
	net.Conn
	left *atomic.Int64 // writes; below 0: any number
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.left.Load() >= 0 && b.left.Add(-1) < 0 {
		b.left.Store(0)
		_ = b.Conn.Close()
		return 0, errors.New("the cable is pulled")
	}
	return b.Conn.Write(p)
}

// There is no moment at which a Put that ends, with the manager or its line, leaves
// neither the old file nor the new one.
func TestPutEndsAnywhere(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]smbtest.Config{"signing": {}, "encryption": {Encryption: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, cfg)
			processes := smbdChildren(t, srv)
			require.NoError(t, os.Mkdir(filepath.Join(srv.Admin(), "d"), 0o700))
			const file = "d/setup.exe"
			conn := dial(t, endpoint(srv))
			files := func() []string {
				entries, err := os.ReadDir(filepath.Join(srv.Admin(), "d"))
				require.NoError(t, err)
				var names []string
				for _, e := range entries {
					names = append(names, e.Name())
				}
				return names
			}
			short := transport.BytesFile("setup.exe", []byte("a file that does not come"))
			short.Open = transport.BytesFile("setup.exe", nil).Open
			aside := 0
			for at := int64(0); ; at += 2 { // a request takes two writes
				_, err := transport.Put(t.Context(), conn, file, transport.BytesFile("setup.exe", []byte("old")), transport.PutOptions{})
				require.NoError(t, err)
				require.Equal(t, []string{"setup.exe"}, files())

				before := processes()
				left := new(atomic.Int64)
				left.Store(-1)
				dying, err := (&smb.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					return &brittle{c, left}, err
				}}).Dial(t.Context(), endpoint(srv))
				require.NoError(t, err)
				_, err = dying.Identify(t.Context()) // which asks what is asked once alone
				require.NoError(t, err)
				serving := processes()
				maps.DeleteFunc(serving, func(pid string, _ bool) bool { return before[pid] })
				require.NotEmpty(t, serving)
				left.Store(at)
				_, err = transport.Put(t.Context(), dying, file, transport.BytesFile("setup.exe", []byte("new")), transport.PutOptions{})
				complete := left.Load() > 0
				require.NoError(t, dying.Close(context.Background()))
				if err != nil {
					require.ErrorIs(t, err, transport.ErrConnLost)
				}
				left.Store(0)
				// The server has everything open until it notices that the line has ended.
				require.Eventually(t, func() bool {
					for pid := range processes() {
						if serving[pid] {
							return false
						}
					}
					return true
				}, time.Minute, 5*time.Millisecond)
				if _, err := os.Stat(filepath.Join(srv.Admin(), "d", "setup.exe")); err != nil {
					aside++
				}

				// Whatever was left, the next Put finds it, also one that fails.
				_, err = transport.Put(t.Context(), conn, file, short, transport.PutOptions{})
				require.ErrorIs(t, err, transport.ErrIntegrity)
				var got bytes.Buffer
				_, err = transport.Get(t.Context(), conn, file, &got, transport.GetOptions{})
				require.NoError(t, err, "after %d writes: %v", at, files())
				require.Contains(t, []string{"old", "new"}, got.String())
				parts, err := filepath.Glob(filepath.Join(srv.Admin(), "d", ".*.part"))
				require.NoError(t, err)
				for _, p := range parts { // which a later Put of the same would continue
					require.NoError(t, os.Remove(p))
				}
				if complete {
					require.Equal(t, "new", got.String())
					break
				}
			}
			require.Positive(t, aside, "it was ended between the two renames")
		})
	}
}

// smbdChildren has the processes below a server's smbd, which has one for each connection.
func smbdChildren(t *testing.T, srv *smbtest.Server) func() map[string]bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	conf := []byte("\x00" + filepath.Join(configDir(t, srv), "smb.conf") + "\x00")
	for _, file := range files {
		children := filepath.Join(filepath.Dir(file), "task", filepath.Base(filepath.Dir(file)), "children")
		of := func() map[string]bool {
			pids := map[string]bool{}
			b, err := os.ReadFile(children)
			if err == nil { // else it has ended
				for _, pid := range strings.Fields(string(b)) {
					pids[pid] = true
				}
			}
			return pids
		}
		// The first of them is the one that has others.
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, conf) && len(of()) > 0 {
			return of
		}
	}
	require.Fail(t, "there is no smbd")
	return nil
}

// A program that runs gives its name to the new one, and goes when it has ended. What is
// in the way of that is tried again for a while.
func TestPutOverRunningProgram(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	put := func(content string) {
		t.Helper()
		res, err := transport.Put(t.Context(), conn, "agent.exe", transport.BytesFile("agent.exe", []byte(content)), transport.PutOptions{})
		require.NoError(t, err)
		require.EqualValues(t, len(content), res.Sent)
		b, err := os.ReadFile(filepath.Join(srv.Admin(), "agent.exe"))
		require.NoError(t, err)
		require.Equal(t, content, string(b))
	}
	others := func() (out []string) {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(srv.Admin(), ".*"))
		require.NoError(t, err)
		for _, f := range found {
			require.Contains(t, f, ".agent.exe.")
			require.Contains(t, f, ".old-")
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			out = append(out, string(b))
		}
		return out
	}
	put("first")
	first, err := srv.Execute("ADMIN$", "agent.exe")
	require.NoError(t, err)
	put("second")
	require.Equal(t, []string{"first"}, others())
	second, err := srv.Execute("ADMIN$", "agent.exe")
	require.NoError(t, err)
	put("third")
	require.ElementsMatch(t, []string{"first", "second"}, others())
	err = transport.Remove(t.Context(), conn, "agent.exe")
	require.NoError(t, err)
	put("fourth")
	require.NoError(t, first())
	put("fifth")
	require.Equal(t, []string{"second"}, others())
	require.NoError(t, second())
	put("sixth")
	require.Empty(t, others())
}

// What a server says of a missing file comes with the error, whatever is asked.
func TestMissingCode(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]smbtest.Config{"signing": {}, "encryption": {Encryption: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, cfg)
			conn := dial(t, endpoint(srv))
			ctx := t.Context()
			for file, code := range map[string]string{"none": "0xC0000034", "none/none": "0xC000003A", "größe": "0xC0000034"} {
				for what, f := range map[string]func() error{
					"stat":   func() error { _, err := transport.Stat(ctx, conn, file); return err },
					"list":   func() error { _, err := transport.List(ctx, conn, file); return err },
					"get":    func() error { _, err := transport.Get(ctx, conn, file, io.Discard, transport.GetOptions{}); return err },
					"remove": func() error { return transport.Remove(ctx, conn, file) },
				} {
					err := f()
					require.ErrorIs(t, err, fs.ErrNotExist, what)
					require.Equal(t, transport.Code{Space: "ntstatus", Value: code}, transport.CodeOf(err), "%s %s", what, file)
					require.ErrorContains(t, err, code)
				}
			}
			_, err := transport.Put(ctx, conn, "none/x", transport.BytesFile("x", nil), transport.PutOptions{})
			require.Equal(t, "0xC000003A", transport.CodeOf(err).Value)
			_, err = transport.Put(ctx, conn, "file", transport.BytesFile("x", nil), transport.PutOptions{})
			require.NoError(t, err)
			err = transport.Mkdir(ctx, conn, "file", 0o700)
			require.ErrorIs(t, err, fs.ErrExist)
			require.NoError(t, os.WriteFile(filepath.Join(srv.Dir("ro"), "x"), []byte("x"), 0o600))
			ep := endpoint(srv)
			ep.Options = smb.Options{Share: "ro"}
			err = transport.Mkdir(ctx, dial(t, ep), "dir", 0o700)
			require.ErrorIs(t, err, fs.ErrPermission)
			if !cfg.Encryption { // where it cannot be seen which of two it was
				require.Equal(t, "0xC0000022", transport.CodeOf(err).Value, err)
			}
		})
	}
}

// What a Put that was cut off left of an older file does not come back when the file has
// been put again, or removed.
func TestOldFileStaysAway(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	conn := dial(t, endpoint(srv))
	old := filepath.Join(srv.Admin(), smb.AsidePrefix("setup.exe")+"ABCDEFGH")
	file := transport.BytesFile("setup.exe", []byte("new"))
	put := func() (transport.PutResult, error) {
		return transport.Put(t.Context(), conn, "setup.exe", file, transport.PutOptions{})
	}
	_, err := put()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(old, []byte("ancient"), 0o600))
	res, err := put()
	require.NoError(t, err)
	require.EqualValues(t, 3, res.Kept, "it was there")
	require.NoFileExists(t, old)

	require.NoError(t, os.WriteFile(old, []byte("ancient"), 0o600))
	require.NoError(t, transport.Remove(t.Context(), conn, "setup.exe"))
	require.NoFileExists(t, old)
	file.Open = transport.BytesFile("setup.exe", nil).Open
	_, err = put()
	require.ErrorIs(t, err, transport.ErrIntegrity)
	_, err = transport.Stat(t.Context(), conn, "setup.exe")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Two managers that put something at the same place at once both succeed, and leave one of
// the two files, whole, and nothing else.
func TestManagersPutAtOnce(t *testing.T) {
	t.Parallel()
	srv := serve(t, smbtest.Config{})
	dir := filepath.Join(srv.Admin(), "d")
	require.NoError(t, os.Mkdir(dir, 0o700))
	conns := []transport.Conn{dial(t, endpoint(srv)), dial(t, endpoint(srv))}
	for round := range 60 {
		switch round % 3 {
		case 1: // there was no file
			require.NoError(t, os.Remove(filepath.Join(dir, "setup.exe")))
		case 2: // a manager has ended between its two renames
			require.NoError(t, os.Rename(filepath.Join(dir, "setup.exe"), filepath.Join(dir, smb.AsidePrefix("setup.exe")+"ABCDEFGH")))
		}
		var contents []string
		errs := make(chan error, len(conns))
		start := make(chan struct{})
		for i, conn := range conns {
			content := strings.Repeat(fmt.Sprintf("round %d of manager %d\n", round, i), 1000+round*i)
			contents = append(contents, content)
			go func() {
				<-start
				_, err := transport.Put(t.Context(), conn, "d/setup.exe", transport.BytesFile("setup.exe", []byte(content)), transport.PutOptions{})
				errs <- err
			}()
		}
		close(start)
		for range conns {
			require.NoError(t, <-errs, "round %d", round)
		}
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1, "round %d: %v", round, entries)
		b, err := os.ReadFile(filepath.Join(dir, "setup.exe"))
		require.NoError(t, err)
		require.Contains(t, contents, string(b))
	}
}

// A program that runs cannot be removed, and the error has the code that says so, as far as
// it can be seen.
func TestRemoveRunningProgram(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]smbtest.Config{"signing": {}, "encryption": {Encryption: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, cfg)
			conn := dial(t, endpoint(srv))
			_, err := transport.Put(t.Context(), conn, "agent.exe", transport.BytesFile("agent.exe", []byte("x")), transport.PutOptions{})
			require.NoError(t, err)
			release, err := srv.Execute("ADMIN$", "agent.exe")
			require.NoError(t, err)
			err = transport.Remove(t.Context(), conn, "agent.exe")
			require.ErrorIs(t, err, fs.ErrPermission)
			require.ErrorContains(t, err, "or it runs")
			if !cfg.Encryption {
				require.ErrorIs(t, err, transport.ErrBusy)
				require.Equal(t, transport.Code{Space: "ntstatus", Value: "0xC0000121"}, transport.CodeOf(err))
				require.ErrorContains(t, err, "0xC0000121")
			}
			require.NoError(t, release())
			require.NoError(t, transport.Remove(t.Context(), conn, "agent.exe"))
		})
	}
}
