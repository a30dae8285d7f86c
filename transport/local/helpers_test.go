package local_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
)

// helpers are what a copy of the test program does instead of testing, when its
// first argument is "helper:" and one of the names.
func helpers() map[string]func(args []string) error {
	out := map[string]func(args []string) error{
		"args": func(args []string) error {
			_, err := io.WriteString(os.Stdout, strings.Join(append(args, ""), "\x00"))
			return err
		},
		"cat":  func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err },
		"errs": func([]string) error { _, err := io.Copy(os.Stderr, os.Stdin); return err },
		"exit": func(args []string) error {
			code, err := strconv.Atoi(args[0])
			if err == nil {
				os.Exit(code)
			}
			return err
		},
		"env": func(args []string) error { _, err := io.WriteString(os.Stdout, os.Getenv(args[0])); return err },
		"put": putHalf,
		"zeros": func(args []string) error {
			n, err := strconv.Atoi(args[0])
			if err == nil {
				_, err = os.Stdout.Write(make([]byte, n))
			}
			return err
		},
		"sleep": func([]string) error {
			_, err := fmt.Println(os.Getpid())
			time.Sleep(10 * time.Minute)
			return err
		},
	}
	maps.Copy(out, systemHelpers())
	return out
}

// helper is a command that runs one of the helpers.
func helper(name string, args ...string) []string {
	return append([]string{os.Args[0], "helper:" + name}, args...)
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if name, ok := strings.CutPrefix(os.Args[1], "helper:"); ok {
			if err := helpers()[name](os.Args[2:]); err != nil {
				_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

func dial(t *testing.T) transport.Conn {
	t.Helper()
	return dialWith(t, &local.Transport{})
}

func dialWith(t *testing.T, tr transport.Transport) transport.Conn {
	t.Helper()
	conn, err := tr.Dial(t.Context(), transport.Endpoint{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// await polls until cond holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 5*time.Millisecond, what)
}

// tempDir is a directory of the test, as the driver names it.
func tempDir(t *testing.T) string {
	return "/" + strings.TrimPrefix(filepath.ToSlash(t.TempDir()), "/")
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(onDisk(dir))
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// content is large enough to be interrupted, and no block of it is like another.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16) ^ byte(i>>8)*3 ^ byte(i)*7
	}
	return b
}

// pausing is a file that calls at once when so many bytes of it were read.
func pausing(name string, data []byte, after int, at func()) transport.File {
	f := transport.BytesFile(name, data)
	f.Open = func(context.Context) (io.ReadSeekCloser, error) {
		return &pausingReader{Reader: bytes.NewReader(data), after: after, at: sync.OnceFunc(at)}, nil
	}
	return f
}

type pausingReader struct {
	*bytes.Reader
	after int
	at    func()
}

func (r *pausingReader) Read(p []byte) (int, error) {
	if at := int(r.Size()) - r.Len(); at >= r.after {
		r.at()
	} else if len(p) > r.after-at {
		p = p[:r.after-at]
	}
	return r.Reader.Read(p)
}

func (r *pausingReader) Close() error { return nil }

// interruptedPut leaves a partial file and returns its path.
func interruptedPut(t *testing.T, conn transport.Conn, name string, data []byte) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := transport.Put(ctx, conn, name, pausing("f", data, len(data)/2, cancel), transport.PutOptions{})
	require.ErrorIs(t, err, context.Canceled)
	dir := name[:strings.LastIndexByte(name, '/')]
	for _, n := range names(t, dir) {
		if strings.HasSuffix(n, ".part") {
			return dir + "/" + n
		}
	}
	t.Fatal("no partial file was left")
	return ""
}

// ctx is for helpers, which have no test.
func ctx() context.Context { return context.Background() }
