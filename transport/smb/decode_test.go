package smb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
	"github.com/oiweiwei/go-msrpc/ndr"
	"github.com/stretchr/testify/require"
)

// reply is a fragment of a server.
func reply(typ, flags byte, body []byte, auth int) []byte {
	size := 16 + len(body)
	b := append([]byte{5, 0, typ, flags, 0x10, 0, 0, 0, byte(size), byte(size >> 8), byte(auth), byte(auth >> 8), 1, 0, 0, 0}, body...)
	return b
}

// asked is a type of message that one of the server's answers.
func asked(reply byte) byte {
	switch reply {
	case pduBindAck, pduBindNak:
		return pduBind
	case pduAlterResp:
		return pduAlter
	}
	return pduRequest
}

// TestAnswers has a server answer what it was not asked.
func TestAnswers(t *testing.T) {
	t.Parallel()
	replies := map[byte][]byte{
		pduResponse: reply(pduResponse, 3, make([]byte, 24), 0), pduFault: reply(pduFault, 3, append(make([]byte, 8), 5, 0, 0, 0, 0, 0, 0, 0), 0),
		pduBindAck: reply(pduBindAck, 3, append([]byte{0xB8, 0x10, 0xB8, 0x10}, make([]byte, 30)...), 0),
		pduBindNak: reply(pduBindNak, 3, []byte{8, 0, 1, 5, 0}, 0), pduAlterResp: reply(pduAlterResp, 3, make([]byte, 34), 0),
	}
	good := map[byte][]byte{pduBind: {pduBindAck, pduBindNak}, pduAlter: {pduAlterResp, pduFault}, pduRequest: {pduResponse, pduFault}}
	for request, answers := range good {
		for typ, b := range replies {
			var a arriving
			a.ended(b)
			require.Error(t, a.bad, "%d, and nothing was asked", typ)
			a = arriving{}
			a.expect(1, request)
			if !slices.Contains(answers, typ) {
				a.ended(b)
				require.Error(t, a.bad, "%d to %d", typ, request)
				continue
			}
			require.Equal(t, 1, a.ended(b))
			require.NoError(t, a.bad, "%d to %d", typ, request)
			a.ended(b)
			require.Error(t, a.bad, "%d to %d, for the second time", typ, request)
		}
	}
}

func TestArriving(t *testing.T) {
	t.Parallel()
	ack := append([]byte{0xB8, 0x10, 0xB8, 0x10}, make([]byte, 30)...)
	sealed := make([]byte, 8+16+8+16)
	for what, x := range map[string]struct {
		b      []byte
		sealed bool
		good   bool
	}{
		"ack":                  {reply(pduBindAck, 3, ack, 0), false, true},
		"ack, sealed":          {reply(pduBindAck, 3, append(ack, make([]byte, 40)...), 30), true, true},
		"ack, small buffers":   {reply(pduBindAck, 3, make([]byte, 34), 0), false, false},
		"ack, no seal":         {reply(pduBindAck, 3, append(ack, make([]byte, 40)...), 30), false, false},
		"response":             {reply(pduResponse, 3, make([]byte, 24), 0), false, true},
		"response, short":      {reply(pduResponse, 3, make([]byte, 7), 0), false, false},
		"response, sealed":     {reply(pduResponse, 3, sealed, 16), true, true},
		"response, no seal":    {reply(pduResponse, 3, sealed, 0), true, false},
		"response, seal":       {reply(pduResponse, 3, sealed, 16), false, false},
		"response, other seal": {reply(pduResponse, 3, sealed, 12), true, false},
		"response, cut seal":   {reply(pduResponse, 3, sealed[:31], 16), true, false},
		"fault":                {reply(pduFault, 3, append(make([]byte, 8), 5, 0, 0, 0, 0, 0, 0, 0), 0), true, true},
		"fault of nothing":     {reply(pduFault, 3, make([]byte, 16), 0), true, false},
		"shutdown":             {reply(17, 3, nil, 0), true, false},
		"nak":                  {reply(pduBindNak, 3, []byte{8, 0, 1, 5, 0}, 0), true, true},
		"request":              {reply(0, 3, make([]byte, 24), 0), false, false},
		"big-endian":           {append([]byte{5, 0, pduResponse, 3, 0}, reply(pduResponse, 3, make([]byte, 24), 0)[5:]...), false, false},
		"large":                {reply(pduResponse, 3, make([]byte, maxFragment), 0), false, false},
	} {
		for size := 1; size <= 40; size += 13 {
			a := arriving{sealed: x.sealed}
			a.expect(1, asked(x.b[2]))
			n := 0
			for b := x.b; len(b) > 0; b = b[min(size, len(b)):] {
				n += a.ended(b[:min(size, len(b))])
			}
			if !x.good {
				require.Error(t, a.bad, what)
				continue
			}
			require.NoError(t, a.bad, what)
			require.Equal(t, 1, n, what)
		}
	}
	endless := arriving{owed: 1}
	part := reply(pduResponse, 0, make([]byte, 4000), 0)
	for range maxReply/len(part) + 1 {
		endless.ended(part)
	}
	require.Error(t, endless.bad)
}

func FuzzArriving(f *testing.F) {
	f.Add(reply(pduResponse, 3, make([]byte, 24), 0), 7, false)
	f.Add(reply(pduBindAck, 3, make([]byte, 34), 16), 17, true)
	f.Fuzz(func(t *testing.T, b []byte, at int, sealed bool) {
		at = max(0, min(at, len(b)))
		whole := arriving{sealed: sealed}
		if len(b) > 2 {
			whole.expect(2, asked(b[2]))
		}
		parts := whole
		n := whole.ended(b)
		if m := parts.ended(b[:at]) + parts.ended(b[at:]); m != n || (whole.bad == nil) != (parts.bad == nil) {
			t.Fatalf("%d messages in one piece, %d in two", n, m)
		}
	})
}

// spoilt is an operation whose response does what hostile ones can.
type spoilt struct {
	dcerpc.Operation
	read func(r ndr.Reader) error
}

func (s spoilt) UnmarshalNDRResponse(_ context.Context, r ndr.Reader) error { return s.read(r) }

func TestCareful(t *testing.T) {
	t.Parallel()
	decode := func(read func(r ndr.Reader) error) error {
		r := ndr.NDR20(make([]byte, 64))
		_ = carefulOp{spoilt{read: read}}.UnmarshalNDRResponse(context.Background(), r)
		return r.Err()
	}
	require.NoError(t, decode(func(ndr.Reader) error { return nil }))
	require.ErrorContains(t, decode(func(ndr.Reader) error { panic("type assertion") }), "type assertion")
	lost := errors.New("not told to the reader")
	require.ErrorIs(t, decode(func(ndr.Reader) error { return lost }), lost)
	// What a pointer leads to is read with the same care.
	err := decode(func(r ndr.Reader) error {
		return r.Unmarshal(context.Background(), ndr.UnmarshalNDRFunc(func(_ context.Context, r ndr.Reader) error {
			if _, ok := r.(carefulReader); !ok {
				return errors.New("careless")
			}
			return nil
		}))
	})
	require.NoError(t, err)
	require.Equal(t, maxElements, carefulReader{endless{}}.Len())
}

type endless struct{ ndr.Reader }

func (endless) Len() int { return 1 << 40 }

// instance is an object of WMI as go-msrpc encodes it.
func instance(t testing.TB, props ...*wmio.Property) []byte {
	cls := wmio.Class{Name: "Win32_Thing", Derivation: []string{"CIM_Thing"}}
	inst := &wmio.Instance{ClassName: "Win32_Thing"}
	for i, p := range props {
		cls.Properties = append(cls.Properties, &wmio.Property{Name: p.Name, Order: uint16(i), Nullable: true, Value: wmio.Value{Type: p.Value.Type}})
		inst.Properties = append(inst.Properties, p)
	}
	inst.CurrentClass = cls
	b, err := wmio.Marshal(&wmio.Object{Instance: inst, Decoration: &wmio.Decoration{ServerName: "DB1", Namespace: `root\cimv2`}})
	require.NoError(t, err)
	return b
}

func thing(t testing.TB) []byte {
	p := func(name string, typ wmio.CIMType, v any) *wmio.Property {
		return &wmio.Property{Name: name, Nullable: v == nil, Value: wmio.Value{Type: typ, Value: v}}
	}
	return instance(t, p("Plain", wmio.String, "abc"), p("Wide", wmio.String, "日本\x1b語"), p("Null", wmio.String, nil),
		p("List", wmio.StringArray, []string{"one", "größe"}), p("Yes", wmio.Bool, true), p("U8", wmio.Uint8, uint8(7)),
		p("S32", wmio.Int32, int32(-5)), p("U64", wmio.Uint64, uint64(1)<<60), p("When", wmio.DateTime, "20200716000000.000000+000"))
}

func TestDecodeObject(t *testing.T) {
	t.Parallel()
	all := []string{"Plain", "Wide", "Null", "List", "Yes", "U8", "S32", "U64", "When", "None"}
	r, err := decodeObject(thing(t), all...)
	require.NoError(t, err)
	require.Equal(t, row{"Plain": {"abc"}, "Wide": {"日本語"}, "List": {"one", "größe"}, "Yes": {"true"}, "U8": {"7"}, "S32": {"-5"},
		"U64": {"1152921504606846976"}, "When": {"20200716000000.000000+000"}}, r)
	require.Equal(t, len("abc")+len("日本語")+len("onegröße"), row{"a": r["Plain"], "b": r["Wide"], "c": r["List"]}.size())
	r, err = decodeObject(thing(t), "U8")
	require.NoError(t, err)
	require.Equal(t, row{"U8": {"7"}}, r, "of what was not asked for nothing is read")
	b := thing(t)
	for n := range b {
		_, err := decodeObject(b[:n], all...)
		require.Error(t, err, n)
	}
}

// Of a long text no more is read than is kept: thousands of values may lead to it.
func TestLongText(t *testing.T) {
	t.Parallel()
	for wide, width := range []int{1, 2} {
		long := append([]byte{byte(wide)}, bytes.Repeat([]byte("x\x00")[:width], 1<<20)...)
		c := cursor{b: long}
		require.Len(t, c.text(), maxText)
		require.Len(t, c.b, len(long)-1-width*maxText)
		c = cursor{b: append(long, 0, 0, 7)}
		c.skipText()
		require.False(t, c.bad)
		require.Equal(t, byte(7), c.b[len(c.b)-1])
		require.LessOrEqual(t, len(c.b), 2)
	}
}

func TestManyTexts(t *testing.T) {
	t.Parallel()
	w := &wmiSession{}
	r := row{"HardwareID": slices.Repeat([]string{strings.Repeat("x", maxText)}, maxTexts)}
	for range maxRowsSize / r.size() {
		require.NoError(t, w.keep(r))
	}
	require.Error(t, w.keep(r))
}

func FuzzDecodeObject(f *testing.F) {
	f.Add(thing(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeObject(b, "Plain", "Wide", "Null", "List", "Yes", "U8", "S32", "U64", "When")
		if err != nil {
			return
		}
		for name, values := range r {
			if len(values) > maxTexts {
				t.Fatalf("%d values", len(values))
			}
			for _, v := range values {
				if len(v) > maxText || len(name) > maxText {
					t.Fatalf("a text of %d bytes", len(v))
				}
			}
		}
	})
}

func FuzzReferences(f *testing.F) {
	f.Add([]byte("MEOW\x01\x00\x00\x00"), uint16(3))
	f.Add([]byte{2, 0, 1, 0, 7, 2, 0, 0x13, 0x88, 1, 0, 9, 4, 0, 1, 2, 3, 4}, uint16(0))
	f.Fuzz(func(_ *testing.T, b []byte, offset uint16) {
		p := &dcom.InterfacePointer{Data: b}
		_, _ = reference(p)
		_, _ = custom(p)
		_ = towerPort(b)
		_ = regValue(uint32(offset%8), b)
		words := make([]uint16, len(b)/2)
		for i := range words {
			words[i] = binary.LittleEndian.Uint16(b[2*i:])
		}
		_, _ = bindingPort(&dcom.DualStringArray{StringArray: words, SecurityOffset: offset})
	})
}

func TestPorts(t *testing.T) {
	t.Parallel()
	port := func(s string) uint16 {
		words := []uint16{7}
		for _, r := range s {
			words = append(words, uint16(r))
		}
		words = append(words, 0, 0)
		p, _ := bindingPort(&dcom.DualStringArray{StringArray: words, SecurityOffset: uint16(len(words))})
		return p
	}
	require.EqualValues(t, 49670, port("db1.lab.example[49670]"))
	require.EqualValues(t, 49670, port("[2001:db8::1][49670]"))
	for _, bad := range []string{"", "db1", "db1[]", "db1[0]", "db1[65536]", "db1[-1]", "]"} {
		require.Zero(t, port(bad), bad)
	}
	require.EqualValues(t, 0x1388, towerPort([]byte{1, 0, 1, 0, 7, 2, 0, 0x13, 0x88}))
	require.Zero(t, towerPort([]byte{1, 0, 1, 0, 7, 2, 0, 0x13}))
	require.Zero(t, towerPort([]byte{255, 255}))
}
