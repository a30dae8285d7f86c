package depot

import (
	"bytes"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

// FuzzRequest asks for a file of any name with any range: whatever comes is a
// part of the file, counted exactly.
func FuzzRequest(f *testing.F) {
	f.Add("a.bin", "bytes=0-9")
	f.Add("a b%2F#?.bin", "bytes=5-")
	f.Add("a", "bytes=0-1,3-4, 90-")
	f.Add("a", "bytes=-0,")
	want := []byte("0123456789abcdefghijklmnopqrstuvwxyz")
	f.Fuzz(func(t *testing.T, name, rng string) {
		d := New(Options{})
		o, err := d.Offer(File{File: transport.BytesFile(name, want), Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}})
		if err != nil {
			require.ErrorIs(t, err, transport.ErrInvalid)
			return
		}
		u, err := url.ParseRequestURI(o.Path)
		require.NoError(t, err)
		req := httptest.NewRequest("GET", "/", nil) // from 192.0.2.1:1234
		req.URL = u
		req.Header.Set("Range", rng)
		w := httptest.NewRecorder()
		d.handle(w, req)
		body := w.Body.Bytes()
		switch w.Code {
		case 200:
			require.Equal(t, want, body)
			require.EqualValues(t, len(want), o.Sent())
		case 206:
			if w.Header().Get("Content-Range") != "" {
				require.True(t, bytes.Contains(want, body))
				require.EqualValues(t, len(body), o.Sent())
			} else {
				require.LessOrEqual(t, o.Sent(), int64(len(want)))
			}
		case 416:
			require.Zero(t, o.Sent())
		default:
			t.Fatalf("status %d", w.Code)
		}
		_, err = o.Release(t.Context())
		require.NoError(t, err)
		require.NoError(t, d.Close(t.Context()))
	})
}
