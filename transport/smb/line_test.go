package smb

import (
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"net"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// message is a message of a server with a valid header.
func message(command uint16, status, flags uint32, body []byte) []byte {
	m := make([]byte, headerSize, headerSize+len(body))
	copy(m, "\xfeSMB")
	le := binary.LittleEndian
	le.PutUint16(m[4:], headerSize)
	le.PutUint32(m[8:], status)
	le.PutUint16(m[12:], command)
	le.PutUint32(m[16:], flags)
	le.PutUint64(m[24:], 7)  // MessageId
	le.PutUint64(m[32:], 11) // AsyncId
	le.PutUint64(m[40:], 13) // SessionId
	return append(m, body...)
}

func framed(m []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
}

// wire is a connection from which what is given can be read. What belongs to the set-up
// of the session it reads when that was asked for.
type wire struct {
	net.Conn
	l      *line
	frames [][]byte
	asks   bool
}

func (w *wire) Read(p []byte) (int, error) {
	for len(w.frames) > 0 && len(w.frames[0]) == 0 {
		w.frames = w.frames[1:]
		w.ask()
	}
	if len(w.frames) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.frames[0])
	w.frames[0] = w.frames[0][n:]
	return n, nil
}

// ask sends the request for the frame that comes next.
func (w *wire) ask() {
	if !w.asks || len(w.frames) == 0 || len(w.frames[0]) < 4+headerSize {
		return
	}
	_, _ = w.l.Write(framed(message(frame(w.frames[0][4:]).command(), 0, 0, []byte("body"))))
}

func (w *wire) Write(p []byte) (int, error) { return len(p), nil }
func (w *wire) Close() error                { return nil }

// through reads all that the library gets to see of a server, within a session that is
// set up, or before.
func through(g *greeting, greeted bool, frames ...[]byte) ([]byte, *line, error) {
	w := &wire{asks: !greeted}
	for _, f := range frames {
		w.frames = append(w.frames, bytes.Clone(f))
	}
	l := newLine(w, g)
	w.l, l.granted, l.greeted = l, greeted, greeted
	w.ask()
	out, err := io.ReadAll(l)
	return out, l, err
}

const interimFlags = flagAsync | 1

func TestLinePassesMessagesOn(t *testing.T) {
	t.Parallel()
	read := framed(message(8, 0, flagSigned|1, bytes.Repeat([]byte("x"), 300_000)))
	secret := framed(append([]byte("\xfdSMB"), make([]byte, transformSize-4+headerSize)...))
	out, l, err := through(&greeting{cipher: true}, true, []byte{sessionKeepAlive, 0, 0, 0}, read, secret, read)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bytes.Join([][]byte{read, secret, read}, nil), out))
	require.Less(t, l.silence(), time.Minute)
	require.ErrorIs(t, l.ended(), io.EOF)
}

// An interim reply comes with another message in front of it.
func TestLineInterim(t *testing.T) {
	t.Parallel()
	in := message(8, statusPending, interimFlags, []byte("12345678"))
	out, _, err := through(&greeting{cipher: true}, true, framed(in))
	require.NoError(t, err)
	require.Len(t, out, 4+headerSize+len(in))
	require.EqualValues(t, headerSize+len(in), binary.BigEndian.Uint32(out))
	notice, reply := frame(out[4:4+headerSize]), frame(out[4+headerSize:])
	le := binary.LittleEndian
	require.EqualValues(t, headerSize, notice.next())
	require.EqualValues(t, uint64(1<<64-1), le.Uint64(notice[24:]))
	require.EqualValues(t, 13, le.Uint64(notice[40:]), "the library looks whether it is its session")
	require.Zero(t, le.Uint64(reply[40:]), "and of the second asks no signature")
	require.EqualValues(t, 7, le.Uint64(reply[24:]))
	require.EqualValues(t, 11, le.Uint64(reply[32:]))
	require.Equal(t, in[headerSize:], []byte(reply[headerSize:]))

	// One that is signed is passed on as it is, and so is what is no interim reply.
	for _, in := range [][]byte{
		message(8, statusPending, interimFlags|flagSigned, []byte("12345678")),
		message(8, statusPending, 1, nil), message(8, 0, interimFlags, nil),
	} {
		out, _, err := through(&greeting{cipher: true}, true, framed(in))
		require.NoError(t, err)
		require.Equal(t, framed(in), out)
	}
}

// What would bring the library down ends the line.
func TestLineRefuses(t *testing.T) {
	t.Parallel()
	next := message(8, 0, 0, make([]byte, 64))
	binary.LittleEndian.PutUint32(next[20:], 1<<30)
	odd := message(8, 0, 0, nil)
	odd[4] = 65
	for what, in := range map[string][]byte{
		"short":                framed(message(8, 0, 0, nil)[:63]),
		"empty":                framed(nil),
		"huge":                 {0, 0xff, 0xff, 0xff},
		"another type":         {0x84, 0, 0, 6},
		"SMB 1":                framed(append([]byte("\xffSMB"), make([]byte, 100)...)),
		"next command":         framed(next),
		"size of header":       framed(odd),
		"short and encrypted":  framed(append([]byte("\xfdSMB"), make([]byte, 80)...)),
		"long greeting":        framed(message(commandNegotiate, 0, 0, make([]byte, maxGreeting))),
		"long interim reply":   framed(message(8, statusPending, interimFlags, make([]byte, maxGreeting))),
		"no compressed either": framed(append([]byte("\xfcSMB"), make([]byte, 100)...)),
	} {
		out, l, err := through(&greeting{cipher: true}, true, in)
		var bad *errFrame
		require.ErrorAs(t, err, &bad, what)
		require.Empty(t, out, what)
		require.ErrorAs(t, l.ended(), &bad, what)
	}
	// While the session is set up nothing comes but what was asked for, once; and then
	// nothing of that kind.
	sealed := framed(append([]byte("\xfdSMB"), make([]byte, 200)...))
	granted := framed(message(commandSessionSetup, 0, 1, make([]byte, 8)))
	another := bytes.Clone(granted)
	another[4+24]++ // its MessageId
	g := &greeting{cipher: true}
	for what, in := range map[string]struct {
		g       *greeting
		greeted bool
		frames  [][]byte
	}{
		"reply":                   {g, false, [][]byte{framed(message(8, 0, 0, nil))}},
		"encrypted before":        {g, false, [][]byte{sealed}},
		"encrypted without a key": {new(greeting), true, [][]byte{sealed}},
		"granted late":            {g, true, [][]byte{granted}},
		"negotiate late":          {g, true, [][]byte{framed(message(commandNegotiate, 0, 1, make([]byte, 64)))}},
		"another dialect":         {&greeting{offered: SMB311}, false, [][]byte{framed(message(commandNegotiate, 0, 1, make([]byte, 64)))}},
	} {
		_, l, err := through(in.g, in.greeted, in.frames...)
		var bad *errFrame
		require.ErrorAs(t, err, &bad, what)
		require.ErrorAs(t, l.ended(), &bad, what)
	}
	// What was not asked for, by its MessageId or at all.
	for _, asked := range [][]byte{granted, nil} {
		w := &wire{frames: [][]byte{bytes.Clone(another)}}
		l := newLine(w, new(greeting))
		w.l = l
		if asked != nil {
			_, err := l.Write(asked)
			require.NoError(t, err)
		}
		_, err := io.ReadAll(l)
		require.ErrorContains(t, err, "nobody waits for")
	}
	early := &wire{frames: [][]byte{bytes.Clone(granted), bytes.Clone(sealed)}}
	l := newLine(early, &greeting{cipher: true})
	_, err := l.Write(granted)
	require.NoError(t, err)
	_, err = io.ReadAll(l)
	require.ErrorContains(t, err, "no key", "the library does not use the session yet")

	// The library uses the session as soon as it sends anything else.
	w := &wire{frames: [][]byte{bytes.Clone(granted)}}
	l = newLine(w, new(greeting))
	w.l = l
	for _, b := range granted { // in pieces
		_, err := l.Write([]byte{b})
		require.NoError(t, err)
	}
	_, err = io.ReadAll(l)
	require.NoError(t, err)
	done, _ := l.setUp()
	require.False(t, done)
	_, err = l.Write(framed(message(3, 0, 0, []byte("tree connect"))))
	require.NoError(t, err)
	done, _ = l.setUp()
	require.True(t, done)

	_, _, err = through(&greeting{cipher: true}, true, framed(message(8, 0, 0, []byte("abc")))[:66])
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// Of what the library is refused the codes are kept that it loses.
func TestLineKeepsCodes(t *testing.T) {
	t.Parallel()
	ask := func(id byte, name string) []byte {
		body := make([]byte, 56)
		u := utf16.Encode([]rune(name))
		binary.LittleEndian.PutUint16(body[44:], headerSize+56)
		binary.LittleEndian.PutUint16(body[46:], uint16(2*len(u)))
		for _, c := range u {
			body = binary.LittleEndian.AppendUint16(body, c)
		}
		m := message(commandCreate, 0, 0, body)
		m[24] = id
		return framed(m)
	}
	answer := func(id byte, status, flags uint32) []byte {
		m := message(commandCreate, status, flags, make([]byte, 9))
		m[24] = id
		return framed(m)
	}
	w := &wire{frames: [][]byte{
		answer(1, statusPending, interimFlags), answer(2, statusPathNotFound, 1), answer(1, statusAccessDenied, 1), answer(3, 0, 1),
		answer(9, statusNameNotFound, 1), answer(4, statusSharing, 1),
	}}
	l := newLine(w, new(greeting))
	l.granted, l.greeted = true, true
	for i, name := range []string{`größe\x`, "b", "c", "d"} {
		for _, b := range ask(byte(i+1), name) { // in pieces
			_, err := l.Write([]byte{b})
			require.NoError(t, err)
		}
	}
	short := message(commandCreate, 0, 0, make([]byte, 10))
	long := message(commandCreate, 0, 0, bytes.Repeat([]byte{0xff}, 56))
	_, err := l.Write(append(framed(short), framed(long)...))
	require.NoError(t, err)
	_, err = io.ReadAll(l)
	require.NoError(t, err)
	code := func(name string, class error) uint32 { return status(l.openings.explain(name, class)) }
	require.Zero(t, code("b", fs.ErrPermission), "it is of another class")
	require.EqualValues(t, statusAccessDenied, code(`größe\x`, fs.ErrPermission))
	require.Zero(t, code(`größe\x`, fs.ErrPermission), "it is told once")
	require.Zero(t, code("c", fs.ErrNotExist))
	require.Zero(t, code("d", fs.ErrNotExist))
	require.EqualValues(t, statusCollision, code("", fs.ErrExist))
	require.NoError(t, l.openings.explain("b", nil))
	require.Empty(t, l.openings.said)
	require.Empty(t, l.openings.asked)
}

// The codes of what may not be removed or renamed are kept, under the name with which the
// file was opened.
func TestLineKeepsCodesOfRemovals(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	l := newLine(&wire{}, new(greeting))
	var id byte
	ask := func(command uint16, body []byte) byte {
		id++
		m := message(command, 0, 0, body)
		m[24] = id
		_, err := l.Write(framed(m))
		require.NoError(t, err)
		return id
	}
	answer := func(command uint16, id byte, code uint32, body []byte) {
		m := message(command, code, 1, body)
		m[24] = id
		l.Conn = &wire{frames: [][]byte{framed(m)}}
		got, err := io.ReadAll(l)
		require.NoError(t, err)
		require.Equal(t, framed(m), got, "the library gets it as it is")
	}
	l.granted, l.greeted = true, true
	file := func(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }
	open := func(name string, n byte) {
		body := make([]byte, 56)
		le.PutUint16(body[44:], headerSize+56)
		le.PutUint16(body[46:], uint16(2*len(name)))
		for _, c := range name {
			body = le.AppendUint16(body, uint16(c))
		}
		reply := make([]byte, 88)
		copy(reply[64:], file(n))
		answer(commandCreate, ask(commandCreate, body), 0, reply)
	}
	set := func(n, class byte, code uint32) {
		body := make([]byte, 33)
		body[2], body[3] = 1, class
		copy(body[16:], file(n))
		answer(commandSetInfo, ask(commandSetInfo, body), code, make([]byte, 9))
	}
	shut := func(n byte) {
		body := make([]byte, 24)
		copy(body[8:], file(n))
		answer(commandClose, ask(commandClose, body), 0, make([]byte, 60))
	}
	code := func(name string, class error) uint32 { return status(l.openings.explain(name, class)) }

	open("runs", 1)
	open("other", 2)
	set(1, fileDispositionInformation, statusCannotDelete)
	set(2, fileRenameInformation, statusAccessDenied)
	set(1, fileDispositionInformation, statusAccessDenied) // after it
	require.EqualValues(t, statusCannotDelete, code("runs", fs.ErrPermission))
	require.Zero(t, code("runs", fs.ErrPermission), "it is told once")
	require.EqualValues(t, statusAccessDenied, code("other", fs.ErrPermission))
	set(1, fileDispositionInformation, 0)
	require.Zero(t, code("runs", fs.ErrPermission))
	set(1, fileDispositionInformation, statusCannotDelete)
	require.NoError(t, l.openings.explain("runs", nil), "a second try went well")
	require.Zero(t, code("runs", fs.ErrPermission))
	set(2, 4, statusAccessDenied) // of something else
	require.Zero(t, code("other", fs.ErrPermission))
	shut(1)
	set(1, fileDispositionInformation, statusCannotDelete)
	require.Zero(t, code("runs", fs.ErrPermission), "it is not open")
	open("again", 1)
	set(1, fileDispositionInformation, statusCannotDelete)
	require.EqualValues(t, statusCannotDelete, code("again", fs.ErrPermission))

	// What is too short, or another reply, says nothing.
	answer(commandCreate, ask(commandCreate, make([]byte, 56)), 0, make([]byte, 10))
	answer(commandClose, ask(commandClose, make([]byte, 2)), 0, make([]byte, 2))
	answer(commandSetInfo, ask(commandSetInfo, make([]byte, 20)), statusCannotDelete, make([]byte, 2))
	answer(commandCreate, ask(commandSetInfo, make([]byte, 33)), statusCannotDelete, make([]byte, 2))
	require.Empty(t, l.openings.asked)
	require.Empty(t, l.openings.said)
	require.Len(t, l.openings.open, 2)
	for n := range 3 * maxOpenings {
		name := make([]byte, 16)
		le.PutUint32(name, uint32(n))
		l.openings.open = bounded(l.openings.open)
		l.openings.open[fileID(name)] = ""
	}
	require.LessOrEqual(t, len(l.openings.open), maxOpenings)
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	var g greeting
	le := binary.LittleEndian
	negotiate := make([]byte, 64)
	le.PutUint16(negotiate[2:], 3)
	le.PutUint16(negotiate[4:], 0x311)
	copy(negotiate[8:], "0123456789abcdef")
	booted := time.Date(2026, 3, 1, 10, 0, 0, 500, time.UTC)
	now := time.Now().Add(-time.Hour)
	le.PutUint64(negotiate[40:], uint64(now.UnixNano()/100)+116444736000000000)
	le.PutUint64(negotiate[48:], uint64(booted.UnixNano()/100)+116444736000000000)
	token := challenge(map[uint16]string{1: "DB1", 2: "LAB", 3: "db1.lab.example"})
	ask := append(make([]byte, 8), token...)
	le.PutUint16(ask[4:], headerSize+8)
	le.PutUint16(ask[6:], uint16(len(token)))
	granted := make([]byte, 8)
	le.PutUint16(granted[2:], 4)

	out, l, err := through(&g, false, framed(message(commandNegotiate, 0, 1, negotiate)),
		framed(message(commandSessionSetup, statusMoreProcessing, 1, ask)), framed(message(commandSessionSetup, 0, flagSigned|1, granted)))
	require.NoError(t, err)
	require.Len(t, out, 3*(4+headerSize)+64+len(ask)+8)
	require.True(t, l.granted)
	require.Equal(t, greeting{dialect: 0x311, mustSign: true, guid: "30313233343536373839616263646566", booted: booted,
		build: "10.0.20348", computer: "DB1", dns: "db1.lab.example", domain: "LAB", encrypted: true, sessionSetUp: true}, g)

	// A server that takes anybody in as a guest, whatever the password, signs nothing.
	for flags := range uint16(4) {
		le.PutUint16(granted[2:], flags)
		_, _, err := through(new(greeting), false, framed(message(commandSessionSetup, 0, 1, granted)))
		if flags == 0 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, transport.ErrAuth)
	}
	for what, in := range map[string][]byte{
		"negotiate":    message(commandNegotiate, 0, 1, negotiate[:63]),
		"setup":        message(commandSessionSetup, 0, 1, granted[:7]),
		"outside":      message(commandSessionSetup, statusMoreProcessing, 1, ask[:len(ask)-1]),
		"below header": message(commandSessionSetup, statusMoreProcessing, 1, []byte{9, 0, 0, 0, 1, 0, 1, 0}),
	} {
		_, _, err := through(new(greeting), false, framed(in))
		var bad *errFrame
		require.ErrorAs(t, err, &bad, what)
	}
	// What time it is there is known where it is known when it was asked.
	timed := greeting{began: time.Now()}
	_, _, err = through(&timed, false, framed(message(commandNegotiate, 0, 1, negotiate)))
	require.NoError(t, err)
	require.InDelta(t, -time.Hour, timed.clock.Skew, float64(timed.clock.Within+time.Since(now.Add(time.Hour))))
	asked := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	require.Equal(t, transport.Clock{Skew: 9 * time.Second, Within: time.Second + tick},
		clockAt(asked.Add(10*time.Second), asked, asked.Add(2*time.Second)))
	require.Zero(t, clockAt(time.Time{}, asked, asked))
	require.True(t, fileTime(0).IsZero())
	require.True(t, fileTime(1<<63).IsZero())
}

// challenge is a CHALLENGE_MESSAGE within some token.
func challenge(names map[uint16]string) []byte {
	le := binary.LittleEndian
	m := make([]byte, 56)
	copy(m, "NTLMSSP\x00\x02")
	le.PutUint32(m[20:], 0x02000000)
	m[48], m[49] = 10, 0
	le.PutUint16(m[50:], 20348)
	var pairs []byte
	for id := uint16(1); id < 4; id++ {
		u := utf16.Encode([]rune(names[id]))
		pairs = le.AppendUint16(le.AppendUint16(pairs, id), uint16(2*len(u)))
		for _, c := range u {
			pairs = le.AppendUint16(pairs, c)
		}
	}
	pairs = append(pairs, 0, 0, 0, 0)
	le.PutUint16(m[40:], uint16(len(pairs)))
	le.PutUint32(m[44:], 56)
	return append([]byte("\xa1\x81\x90"), append(m, pairs...)...)
}

func FuzzLine(f *testing.F) {
	f.Add(framed(message(8, 0, 1, []byte("abc"))), true)
	f.Add(framed(message(8, statusPending, interimFlags, []byte("12345678"))), true)
	f.Add(framed(message(commandNegotiate, 0, 1, make([]byte, 64))), false)
	token := challenge(map[uint16]string{1: "DB1"})
	ask := append([]byte{9, 0, 0, 0, headerSize + 8, 0, byte(len(token)), 0}, token...)
	f.Add(framed(message(commandSessionSetup, statusMoreProcessing, 1, ask)), false)
	f.Fuzz(func(t *testing.T, in []byte, greeted bool) {
		var g greeting
		out, _, _ := through(&g, greeted, in)
		// What the library gets can be taken apart without going beyond it.
		for len(out) >= 4 {
			size := int(binary.BigEndian.Uint32(out))
			if size > len(out)-4 {
				return // the end of the input
			}
			if size < headerSize {
				t.Fatalf("a message of %d bytes", size)
			}
			m := frame(out[4 : 4+size])
			out = out[4+size:]
			if string(m[:4]) == "\xfdSMB" {
				continue
			}
			if n := int(m.next()); n != 0 && (n != headerSize || size < n+headerSize) {
				t.Fatalf("the next message of %d bytes is at %d", size, n)
			}
		}
	})
}
