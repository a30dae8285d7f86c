package smb

import (
	"fmt"
	"io"
	"io/fs"
	"testing"

	dcerrors "github.com/oiweiwei/go-msrpc/dcerpc/errors"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// pdu is a fragment of a message.
func pdu(typ, flags byte, body int) []byte {
	size := 16 + body
	return append([]byte{5, 0, typ, flags, 0x10, 0, 0, 0, byte(size), byte(size >> 8), 0, 0, 1, 0, 0, 0}, make([]byte, body)...)
}

func TestPDUs(t *testing.T) {
	t.Parallel()
	const first, last, request, auth3 = 1, 2, 0, 16
	var all []byte
	for _, p := range [][]byte{pdu(11, first|last, 100), pdu(request, first, 70), pdu(request, 0, 0), pdu(request, last, 1), pdu(auth3, first|last, 30), pdu(request, first|last, 0)} {
		all = append(all, p...)
	}
	for size := 1; size <= len(all); size++ {
		var p pdus
		n := 0
		for b := all; len(b) > 0; b = b[min(size, len(b)):] {
			n += p.ended(b[:min(size, len(b))])
		}
		require.Equal(t, 3, n, "in pieces of %d", size)
	}
}

// What waits for a response that nobody owes is not sent to the server.
func TestExchange(t *testing.T) {
	t.Parallel()
	s := &answering{asked: make(chan struct{}, 10)}
	e := newExchange(s)
	read := make(chan error, 1)
	go func() {
		buf := make([]byte, 100)
		_, err := io.ReadFull(e, buf[:40])
		if err == nil {
			_, err = e.Read(buf)
		}
		read <- err
	}()
	_, err := e.Write(pdu(0, 3, 24)[:20])
	require.NoError(t, err)
	require.Empty(t, s.asked, "half a request")
	_, err = e.Write(pdu(0, 3, 24)[20:])
	require.NoError(t, err)
	<-s.asked
	require.NoError(t, e.Close())
	require.ErrorIs(t, <-read, io.EOF)
	require.Empty(t, s.asked, "one response was owed")
	require.True(t, s.closed)
}

// answering is a server that has a response to every read.
type answering struct {
	asked  chan struct{}
	closed bool
}

func (a *answering) Read(b []byte) (int, error) {
	a.asked <- struct{}{}
	return copy(b, pdu(2, 3, 24)), nil
}
func (a *answering) Write(b []byte) (int, error) { return len(b), nil }
func (a *answering) Close() error                { a.closed = true; return nil }

func FuzzPDUs(f *testing.F) {
	f.Add(append(pdu(0, 1, 3), pdu(0, 2, 0)...), 7)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		at = max(0, min(at, len(b)))
		var whole, parts pdus
		n := whole.ended(b)
		if m := parts.ended(b[:at]) + parts.ended(b[at:]); m != n || whole.left != parts.left || len(whole.head) != len(parts.head) {
			t.Fatalf("%d messages in one piece, %d in two", n, m)
		}
	})
}

// The status of a fault, which nobody signs, is not the result of an operation.
func TestFaults(t *testing.T) {
	t.Parallel()
	for status, want := range map[uint32]error{5: fs.ErrPermission, 1825: transport.ErrAuth, 1060: transport.ErrRejected, 1062: transport.ErrRejected} {
		err := rpcError(fmt.Errorf("response: %w", &dcerrors.Error{Value: status}))
		require.ErrorIs(t, err, want, "%d", status)
	}
	require.True(t, refusesPipe(rpcError(&dcerrors.Error{Value: uint32(1764)})))
}
