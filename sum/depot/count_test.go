package depot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
	"github.com/roundsman-go/roundsman/transport"
)

// TestSentIsNeverTooLow: a client that has everything finds everything counted,
// or a driver would take a finished fetch for a broken one.
func TestSentIsNeverTooLow(t *testing.T) {
	want := content(70_000)
	f, _ := diskFile(t, "a", want)
	l := newLab(t)
	for range 200 {
		o := l.offer(f)
		_, body := l.do("GET", o.Path)
		sent, err := o.Release(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, len(body), sent)
	}
}

// TestInterrupted breaks a transfer off: the count is what went out, and the
// next request goes on from there.
func TestInterrupted(t *testing.T) {
	const size = 64 << 20
	want := content(size)
	onDisk, _ := diskFile(t, "a", want)
	for name, f := range map[string]transport.File{"memory": transport.BytesFile("a", want), "disk": onDisk} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			o := l.offer(f)
			c, err := net.Dial("tcp", l.addr)
			require.NoError(t, err)
			_, err = io.WriteString(c, "GET "+o.Path+" HTTP/1.0\r\n\r\n")
			require.NoError(t, err)
			<-o.Requested()
			const got = 1 << 20
			_, err = io.CopyN(io.Discard, c, got)
			require.NoError(t, err)
			require.NoError(t, c.Close())

			require.NoError(t, l.depot.Close(t.Context()), "joins the transfer")
			sent, err := o.Release(t.Context())
			require.NoError(t, err, "that a client goes away is no fault of the payload")
			require.Greater(t, sent, int64(got/2))
			require.Less(t, sent, int64(size))
			require.Contains(t, l.logs.String(), "transfer broke off")
		})
	}
}

// TestReleaseLetsTransfersEnd: the target may still need what it is fetching.
func TestReleaseLetsTransfersEnd(t *testing.T) {
	want := content(32 << 20)
	l := newLab(t)
	o, err := l.depot.Offer(depot.File{File: transport.BytesFile("a", want), Key: "k", Allow: loopback})
	require.NoError(t, err)
	res, err := l.client.Get("http://" + l.addr + o.Path)
	require.NoError(t, err)
	defer res.Body.Close()
	sent, err := o.Release(t.Context())
	require.NoError(t, err)
	require.Less(t, sent, int64(len(want)))
	again, err := l.depot.Offer(depot.File{File: transport.BytesFile("a", want), Key: "k", Allow: loopback})
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, body))
	require.EqualValues(t, len(want), o.Sent())
	require.Zero(t, again.Sent(), "counted for the offer under which it began")
}

// spy is a connection that looks at what is copied to it.
type spy struct {
	*net.TCPConn
	saw func(io.Reader)
}

func (s spy) ReadFrom(r io.Reader) (int64, error) {
	s.saw(r)
	return s.TCPConn.ReadFrom(r)
}

type spyListener struct {
	net.Listener
	saw func(io.Reader)
}

func (l spyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return spy{c.(*net.TCPConn), l.saw}, nil
}

// TestSendfile: the connection gets to see the file itself, behind one limit, as
// sendfile needs it (net.sendFile), for whole files and for ranges.
func TestSendfile(t *testing.T) {
	var mu sync.Mutex
	files, others := 0, 0
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := newLabOn(t, spyListener{ln, func(r io.Reader) {
		mu.Lock()
		defer mu.Unlock()
		if lr, ok := r.(*io.LimitedReader); ok {
			if _, ok := lr.R.(*os.File); ok {
				files++
				return
			}
		}
		others++
	}})
	want := content(1 << 20)
	f, _ := diskFile(t, "a", want)
	o := l.offer(f)
	for _, header := range [][]string{nil, {"Range", "bytes=1000-"}} {
		mu.Lock()
		files = 0
		mu.Unlock()
		_, body := l.do("GET", o.Path, header...)
		require.True(t, bytes.HasSuffix(want, body))
		mu.Lock()
		require.GreaterOrEqual(t, files, 4, "in chunks of 256 KiB")
		require.Zero(t, others)
		mu.Unlock()
	}
	require.EqualValues(t, 2*len(want)-1000, o.Sent())
}

// TestOpenFails: the target gets a 500, the operator the reason, and once the
// payload can be read all is well.
func TestOpenFails(t *testing.T) {
	broken := errors.New("share is gone")
	f := transport.BytesFile("a.bin", []byte("content"))
	open := f.Open
	var mu sync.Mutex
	fail := broken
	f.Open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if fail != nil {
			return nil, fail
		}
		return open(ctx)
	}
	l := newLab(t)
	o := l.offer(f)
	res, body := l.do("GET", o.Path)
	require.Equal(t, 500, res.StatusCode)
	require.NotContains(t, string(body), "share", "the reason is not for the network")
	require.Empty(t, res.Header.Get("ETag"))
	require.Zero(t, o.Sent())
	<-o.Requested()
	require.Eventually(t, func() bool { _, err := o.Release(t.Context()); return err != nil }, patience, tick)
	_, err := o.Release(t.Context())
	require.ErrorIs(t, err, broken)
	var de *depot.Error
	require.ErrorAs(t, err, &de)
	require.Equal(t, "a.bin", de.File)

	o = l.offer(f)
	l.do("HEAD", o.Path)
	mu.Lock()
	fail = nil
	mu.Unlock()
	_, body = l.do("GET", o.Path)
	require.Equal(t, "content", string(body))
	require.NoError(t, l.depot.Close(t.Context()))
	_, err = o.Release(t.Context())
	require.NoError(t, err, "the last request went well")
	require.Contains(t, l.logs.String(), "level=ERROR")
	require.Contains(t, l.logs.String(), broken.Error())
}

// TestLengthHasChanged: the file on the disk is not the one that was described.
func TestLengthHasChanged(t *testing.T) {
	for name, change := range map[string]int64{"shorter": 50_000, "longer": 150_000} {
		t.Run(name, func(t *testing.T) {
			f, onDisk := diskFile(t, "a.bin", content(100_000))
			l := newLab(t)
			o := l.offer(f)
			require.NoError(t, os.Truncate(onDisk, change))
			for _, method := range []string{"GET", "HEAD"} {
				res, _ := l.do(method, o.Path)
				require.Equal(t, 500, res.StatusCode)
			}
			require.Zero(t, o.Sent())
			require.NoError(t, l.depot.Close(t.Context()))
			_, err := o.Release(t.Context())
			require.ErrorIs(t, err, depot.ErrChanged)
			require.Contains(t, l.logs.String(), "level=ERROR")
		})
	}
}

// TestShrinksWhileSent cuts the file while it goes out, by sendfile and otherwise.
func TestShrinksWhileSent(t *testing.T) {
	const size = 64 << 20
	for name, newLab := range map[string]func(*testing.T) *lab{"http": newLab, "https": newTLSLab} {
		t.Run(name, func(t *testing.T) {
			f, onDisk := diskFile(t, "a.bin", content(size))
			l := newLab(t)
			o := l.offer(f)
			res, err := l.client.Get(l.scheme + "://" + l.addr + o.Path)
			require.NoError(t, err)
			defer res.Body.Close()
			require.EqualValues(t, size, res.ContentLength)
			require.NoError(t, os.Truncate(onDisk, 100))
			n, err := io.Copy(io.Discard, res.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "the client must see that something is missing")
			require.Less(t, n, int64(size))
			require.NoError(t, l.depot.Close(t.Context()))
			sent, err := o.Release(t.Context())
			require.ErrorIs(t, err, depot.ErrChanged)
			require.Equal(t, n, sent)
			require.Contains(t, l.logs.String(), "level=ERROR")
		})
	}
}

// flawed has the length that it should have, and fails after half of it.
type flawed struct {
	io.ReadSeeker
	left int
	err  error
}

func (f *flawed) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, f.err
	}
	n, err := f.ReadSeeker.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

func (f *flawed) Close() error { return nil }

// flawedFile is a file on a disk with a bad block.
type flawedFile struct {
	*os.File
	flawed
}

func (f *flawedFile) Read(p []byte) (int, error)                { return f.flawed.Read(p) }
func (f *flawedFile) Seek(off int64, whence int) (int64, error) { return f.flawed.Seek(off, whence) }
func (f *flawedFile) Close() error                              { return f.File.Close() }

// TestReadFailsHTTPS: there files are read, and not sent by the kernel.
func TestReadFailsHTTPS(t *testing.T) {
	want := content(600_000)
	broken := errors.New("bad block")
	for name, tt := range map[string]struct{ err, is error }{"error": {broken, broken}, "end": {io.EOF, depot.ErrChanged}} {
		t.Run(name, func(t *testing.T) {
			f, onDisk := diskFile(t, "a.bin", want)
			f.Open = func(context.Context) (io.ReadSeekCloser, error) {
				file, err := os.Open(onDisk)
				return &flawedFile{file, flawed{bytes.NewReader(want), 300_000, tt.err}}, err
			}
			l := newTLSLab(t)
			o := l.offer(f)
			_, body, err := l.try(http.MethodGet, o.Path)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Less(t, len(body), len(want))
			require.NoError(t, l.depot.Close(t.Context()))
			sent, err := o.Release(t.Context())
			require.ErrorIs(t, err, tt.is)
			require.EqualValues(t, 300_000, sent)
		})
	}
}

func TestReadFails(t *testing.T) {
	want := content(600_000)
	broken := errors.New("bad block")
	for _, tt := range []struct {
		name      string
		err, is   error
		rangeHead string
	}{
		{"error", broken, broken, ""},
		{"end", io.EOF, depot.ErrChanged, ""},
		{"error in several ranges", broken, broken, "bytes=0-9,100-599999"},
		{"end in several ranges", io.EOF, depot.ErrChanged, "bytes=0-9,100-599999"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := transport.BytesFile("a.bin", want)
			f.Open = func(context.Context) (io.ReadSeekCloser, error) {
				return &flawed{bytes.NewReader(want), 300_000, tt.err}, nil
			}
			l := newLab(t)
			o := l.offer(f)
			header := []string{}
			if tt.rangeHead != "" {
				header = []string{"Range", tt.rangeHead}
			}
			_, body, err := l.try(http.MethodGet, o.Path, header...)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Less(t, len(body), len(want))
			require.NoError(t, l.depot.Close(t.Context()))
			sent, err := o.Release(t.Context())
			require.ErrorIs(t, err, tt.is)
			require.EqualValues(t, 300_000, sent)
		})
	}
}
