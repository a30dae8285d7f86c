package redfish_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// zeros is a large file that is in no memory.
type zeros struct{ size, at int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.at == z.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.size-z.at))
	clear(p[:n])
	z.at += int64(n)
	return n, nil
}

func (z *zeros) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += z.at
	case io.SeekEnd:
		off += z.size
	}
	if off < 0 {
		return 0, errors.New("a negative position")
	}
	z.at = off
	return off, nil
}

func (z *zeros) Close() error { return nil }

func zeroFile(t testing.TB, name string, size int64) transport.File {
	f := transport.File{Name: name, Size: size, Open: func(context.Context) (io.ReadSeekCloser, error) { return &zeros{size: size}, nil }}
	h := sha256.New()
	_, err := io.CopyBuffer(h, struct{ io.Reader }{&zeros{size: size}}, make([]byte, 1<<20))
	require.NoError(t, err)
	h.Sum(f.SHA256[:0])
	return f
}

// TestPushInLittleMemory pushes 1 GiB. The heap is that of the manager and of the
// service together.
func TestPushInLittleMemory(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("a measurement, and 1 GiB: not with the race detector, nor where time is short")
	}
	t.Run("multipart", func(t *testing.T) { pushLarge(t, newService(t, nil), "MultipartHttpPushUri") })
	t.Run("hpe-push", func(t *testing.T) {
		s := newService(t, nil)
		s.asILO(obj{"State": "Idle"})
		pushLarge(t, s, "HttpPushUri")
	})
}

func pushLarge(t *testing.T, s *service, property string) {
	s.edit("/redfish/v1/UpdateService", func(o obj) { o[property] = "/push" })
	got := int64(0)
	s.handle("POST /push", func(w http.ResponseWriter, r *http.Request) {
		m, err := r.MultipartReader()
		if err != nil {
			return
		}
		for {
			p, err := m.NextRawPart()
			if err != nil {
				break
			}
			n, _ := io.Copy(io.Discard, p)
			got += n
		}
		s.edit("/redfish/v1/UpdateService/FirmwareInventory/BMC", func(o obj) { o["Version"] = "2.00" })
	})
	const size = 1 << 30
	p := transport.Payload{Name: "bmc", Version: "2.00", Files: []transport.File{zeroFile(t, "a.bin", size)}}
	conn := dial(t, s.endpoint())
	runtime.GC()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		top, m := uint64(0), runtime.MemStats{}
		for {
			runtime.ReadMemStats(&m)
			top = max(top, m.HeapAlloc)
			select {
			case <-stop:
				peak <- top
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	res, err := transport.Update(t.Context(), conn, p, transport.UpdateOptions{})
	close(stop)
	top := <-peak
	require.NoError(t, err)
	require.Equal(t, transport.VerdictApplied, res.Verdict, "%+v", res)
	require.Greater(t, got, int64(size))
	t.Logf("peak heap %d KiB for %d MiB", top>>10, size>>20)
	require.Less(t, top, uint64(32<<20))
}
