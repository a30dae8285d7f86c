package install

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// endless is a target whose logs have no end, and that does not heed limits.
type endless struct {
	transport.Conn
	transport.FileStore
	short map[string]string // except these
	lost  string            // and this one, which ends in a lost connection
	asked []string
}

func (e *endless) Caps() transport.Caps { return transport.CapFiles }

func (e *endless) Get(_ context.Context, name string, w io.Writer, _ transport.GetOptions) (int64, error) {
	e.asked = append(e.asked, name)
	if name == e.lost {
		return 0, &transport.Error{Op: "get", Kind: transport.ErrConnLost}
	}
	if s, ok := e.short[name]; ok {
		n, err := io.WriteString(w, s)
		return int64(n), err
	}
	var total int64
	for range 1000 {
		n, err := w.Write(make([]byte, 64))
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, errors.New("nobody stopped this log")
}

type logFile struct{ bytes.Buffer }

func (*logFile) Close() error { return nil }

func TestLogsEndSomewhere(t *testing.T) {
	var got map[string]*logFile
	create := func(name string) (io.WriteCloser, error) {
		got[name] = &logFile{}
		return got[name], nil
	}
	conn := &endless{short: map[string]string{"/x/b": "short", "/x/full": string(make([]byte, 100))}}
	got = map[string]*logFile{}
	err := copyLogs(t.Context(), conn, []string{"/x/a", "/x/b", "/x/full"}, create, 100, 1000)
	require.ErrorIs(t, err, errLogTooLong)
	require.ErrorContains(t, err, "/x/a: only its first 100 bytes")
	require.NotContains(t, err.Error(), "/x/full")
	require.Equal(t, 100, got["a"].Len())
	require.Equal(t, "short", got["b"].String(), "one long log does not keep the others back")
	require.Equal(t, 100, got["full"].Len())

	conn.asked, got = nil, map[string]*logFile{}
	err = copyLogs(t.Context(), conn, []string{"/x/1", "/x/2", "/x/3", "/x/4", "/x/5"}, create, 100, 250)
	require.ErrorIs(t, err, errLogTooLong)
	require.ErrorContains(t, err, "the logs after it were not copied")
	require.Equal(t, []string{"/x/1", "/x/2", "/x/3"}, conn.asked)
	require.Equal(t, 50, got["3"].Len())

	conn.lost = "/x/c"
	err = copyLogs(t.Context(), conn, []string{"/x/b", "/x/c", "/x/d"}, create, 100, 1000)
	require.ErrorIs(t, err, transport.ErrConnLost)
	require.NoError(t, copyLogs(t.Context(), conn, []string{"/x/b"}, create, 100, 1000))
}
