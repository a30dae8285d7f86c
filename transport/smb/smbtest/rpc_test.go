package smbtest

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// bindPDU is a bind for svcctl over NDR.
func bindPDU() pdu {
	b := []byte{0xb8, 0x10, 0xb8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0}
	return pdu{typ: pduBind, flags: flagFirst | flagLast, call: 1, body: append(append(b, svcctlSyntax[:]...), ndrSyntax[:]...)}
}

// requestPDU is a request on the context of bindPDU.
func requestPDU(flags byte, op uint16, stub []byte) pdu {
	return pdu{typ: pduRequest, flags: flags, call: 2, body: append([]byte{0, 0, 0, 0, 7, 0, byte(op), byte(op >> 8)}, stub...)}
}

// openStub is an ROpenSCManagerW for everything, of no machine and no database.
var openStub = []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x3f, 0, 0x0f, 0}

func newTestAssociation() (*association, *scm, *bytes.Buffer) {
	out, c := new(bytes.Buffer), &scm{services: new(Services)}
	return newAssociation(out, c.dispatch), c, out
}

func TestRPC(t *testing.T) {
	answer := func(out *bytes.Buffer) pdu {
		p, err := readPDU(out)
		require.NoError(t, err)
		return p
	}
	whole := byte(flagFirst | flagLast)

	a, c, out := newTestAssociation()
	require.NoError(t, a.handle(requestPDU(whole, 15, openStub)))
	require.Equal(t, byte(pduFault), answer(out).typ, "a request without a bind")
	require.NoError(t, a.handle(bindPDU()))
	require.Equal(t, byte(pduBindAck), answer(out).typ)
	require.True(t, a.accepted[7])
	require.NoError(t, a.handle(requestPDU(whole, 15, openStub)))
	p := answer(out)
	require.Equal(t, byte(pduResponse), p.typ)
	require.Len(t, p.body, 8+20+4)
	require.Equal(t, make([]byte, 4), p.body[28:])
	require.Equal(t, 1, c.services.Handles())

	// In fragments, of which none is answered before the last.
	require.NoError(t, a.handle(requestPDU(flagFirst, 15, openStub[:5])))
	require.NoError(t, a.handle(requestPDU(0, 15, openStub[5:8])))
	require.Zero(t, out.Len())
	require.NoError(t, a.handle(requestPDU(flagLast, 15, openStub[8:])))
	require.Equal(t, byte(pduResponse), answer(out).typ)
	require.Equal(t, 2, c.services.Handles())
	c.runDown()
	require.Zero(t, c.services.Handles())

	for op, status := range map[uint16][]byte{15: {0xf7, 6, 0, 0}, 7: {2, 0, 1, 0x1c}, 10: {2, 0, 1, 0x1c}, 999: {2, 0, 1, 0x1c}} {
		require.NoError(t, a.handle(requestPDU(whole, op, bytes.Repeat([]byte{1}, 3))))
		p := answer(out)
		require.Equal(t, byte(pduFault), p.typ)
		if op != 7 { // whose handle is read before it is found to be missing
			require.Equal(t, status, p.body[8:12], "operation %d", op)
		}
	}

	// Refusals: another interface, another transfer syntax, authentication.
	for i, result := range map[int]byte{16: 1, 36: 2} {
		a, _, out := newTestAssociation()
		p := bindPDU()
		p.body[i]++
		require.NoError(t, a.handle(p))
		b := answer(out).body
		require.Equal(t, []byte{2, 0, result, 0}, b[len(b)-24:len(b)-20])
		require.Empty(t, a.accepted)
	}
	a, _, out = newTestAssociation()
	p = bindPDU()
	p.auth = 8
	require.NoError(t, a.handle(p))
	require.Equal(t, byte(pduBindNak), answer(out).typ)
	require.ErrorIs(t, a.handle(pdu{typ: 99}), errPDU)
	require.ErrorIs(t, a.handle(requestPDU(flagLast, 15, openStub)), errPDU, "a last fragment without a first")
	require.NoError(t, a.handle(requestPDU(flagFirst, 15, nil)))
	for range maxStub / 60000 {
		require.NoError(t, a.handle(requestPDU(0, 15, make([]byte, 60000))))
	}
	require.ErrorIs(t, a.handle(requestPDU(0, 15, make([]byte, 60000))), errPDU, "a request without an end")
}

// TestRespond: an answer that is longer than a fragment comes in several.
func TestRespond(t *testing.T) {
	a, _, out := newTestAssociation()
	p := bindPDU()
	p.body[2], p.body[3] = 0, 5 // 1280
	require.NoError(t, a.handle(p))
	out.Reset()
	want := make([]byte, 5000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	require.NoError(t, a.respond(want))
	var got []byte
	for i := 0; ; i++ {
		require.Less(t, i, 10)
		p, err := readPDU(out)
		require.NoError(t, err)
		require.LessOrEqual(t, headerSize+len(p.body), 1280)
		require.Equal(t, i == 0, p.flags&flagFirst != 0)
		got = append(got, p.body[8:]...)
		if p.flags&flagLast != 0 {
			break
		}
	}
	require.Equal(t, want, got)
	require.Zero(t, out.Len())
}

// FuzzRPC leaves out NDR, which is go-msrpc's.
func FuzzRPC(f *testing.F) {
	f.Add(append(bindPDU().bytes(), requestPDU(flagFirst|flagLast, 15, openStub).bytes()...))
	f.Add(append(bindPDU().bytes(), requestPDU(flagFirst|flagLast|flagObject, 15, make([]byte, 5000)).bytes()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		a := newAssociation(&out, func(_ int, stub []byte) ([]byte, uint32) { return stub, 0 })
		for r := bytes.NewReader(b); ; {
			p, err := readPDU(r)
			if err != nil || a.handle(p) != nil {
				break
			}
		}
		for out.Len() > 0 {
			if _, err := readPDU(&out); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestGreet(t *testing.T) {
	try := func(request []byte) ([]byte, error) {
		near, far := net.Pipe()
		defer near.Close()
		done := make(chan error, 1)
		go func() { done <- greet(far); _ = far.Close() }()
		go func() { _, _ = near.Write(request) }()
		reply, _ := io.ReadAll(near)
		return reply, <-done
	}
	reply, err := try([]byte("\x00\x00\x00\x0aNPAM\x07\x00\x00\x00xx"))
	require.NoError(t, err)
	require.Len(t, reply, 36)
	require.Equal(t, "\x00\x00\x00\x20NPAM\x07\x00\x00\x00\x07\x00\x00\x00\x01\x00", string(reply[:18]))
	for _, bad := range []string{"\x00\x00\x00\x0aNPAX\x07\x00\x00\x00xx", "\x00\x00\x00\x07NPAM\x07\x00\x00\x00xx", "\x7f\x00\x00\x0aNPAM\x07\x00\x00\x00xx"} {
		_, err := try([]byte(bad))
		require.Error(t, err)
	}
}

func FuzzCalledName(f *testing.F) {
	f.Add([]byte("\x20" + "CKFDENECFDEFFCFGEFFCCACACACACACA" + "\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { _ = calledName(b) })
}

func TestCalledName(t *testing.T) {
	require.Equal(t, "*SMBSERVER", calledName([]byte("\x20"+"CKFDENECFDEFFCFGEFFCCACACACACACA"+"\x00")))
	require.Empty(t, calledName([]byte("\x20"+"ckFDENECFDEFFCFGEFFCCACACACACACA"+"\x00")))
	require.Empty(t, calledName([]byte("\x20CK")))
}

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string][]string{
		``:                               nil,
		`  `:                             nil,
		`a.exe`:                          {`a.exe`},
		`C:\Program Files\a.exe b`:       {`C:\Program`, `Files\a.exe`, `b`},
		`"C:\Program Files\a.exe" b "c"`: {`C:\Program Files\a.exe`, `b`, `c`},
		`"a\" b`:                         {`a\`, `b`},
		`a "b c"d  e`:                    {`a`, `b cd`, `e`},
		`a "b""c"`:                       {`a`, `b"c`},
		`a ""`:                           {`a`, ``},
		`a b\c\\d\`:                      {`a`, `b\c\\d\`},
		`a "b\\" c`:                      {`a`, `b\`, `c`},
		`a b\"c \\\"d`:                   {`a`, `b"c`, `\"d`},
		"a\tb":                           {`a`, `b`},
	} {
		require.Equal(t, want, splitCommand(line), "%s", line)
	}
}

func FuzzSplitCommand(f *testing.F) {
	f.Add(`"a b" c\"d "e\\" ""`)
	f.Fuzz(func(t *testing.T, line string) { _ = splitCommand(line) })
}

func TestPath(t *testing.T) {
	s := &Server{dir: "/x"}
	for native, want := range map[string]string{
		`C:\Windows\Temp\a b.exe`:      "/x/shares/admin/Temp/a b.exe",
		`c:/windows`:                   "/x/shares/admin",
		`%SystemRoot%\a.exe`:           "/x/shares/admin/a.exe",
		`%windir%\a.exe`:               "/x/shares/admin/a.exe",
		`\SystemRoot\a.exe`:            "/x/shares/admin/a.exe",
		`D:\files\a`:                   "/x/shares/files/a",
		`\\host\admin$\a\b`:            "/x/shares/admin/a/b",
		`\\host\IPC$\a`:                "",
		`C:\Windows2\a`:                "",
		`E:\a`:                         "",
		`C:\Windows\..\..\..\..\etc\x`: "",
		`\\host\ro\..\..\x`:            "",
	} {
		require.Equal(t, want, s.Path(native), "%s", native)
	}
}
