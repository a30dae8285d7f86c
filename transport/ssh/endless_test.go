package ssh

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// endless is a directory without an end, or with one after some entries.
type endless struct{ entries int64 }

func (e endless) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method != "List" {
		return nil, sftp.ErrSSHFxOpUnsupported
	}
	return e, nil
}

func (e endless) ListAt(list []os.FileInfo, offset int64) (int, error) {
	for i := range list {
		if e.entries > 0 && offset+int64(i) >= e.entries {
			return i, sftp.ErrSSHFxEOF
		}
		list[i] = entry(fmt.Sprint(offset + int64(i)))
	}
	return len(list), nil
}

type entry string

func (e entry) Name() string     { return string(e) }
func (entry) Size() int64        { return 1 }
func (entry) Mode() fs.FileMode  { return 0o644 }
func (entry) ModTime() time.Time { return time.Unix(1, 0) }
func (entry) IsDir() bool        { return false }
func (entry) Sys() any           { return nil }

func TestEndlessDirectory(t *testing.T) {
	for _, tt := range []struct {
		entries int64
		want    error
	}{{0, transport.ErrProtocol}, {5000, nil}} {
		near, far := net.Pipe()
		srv := sftp.NewRequestServer(far, sftp.Handlers{FileList: endless{tt.entries}})
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = srv.Serve()
		}()
		in := &meter{r: near}
		client, err := sftp.NewClientPipe(in, near)
		require.NoError(t, err)
		s := &sftpClient{Client: client, in: in}
		for range 2 { // each list has a budget of its own
			list, err := s.readDir(t.Context(), "/", 1<<20)
			require.ErrorIs(t, err, tt.want)
			require.Len(t, list, int(tt.entries))
		}
		require.Empty(t, in.budgets)
		require.NoError(t, client.Close())
		_ = far.Close()
		<-served
	}
}
