package channel

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReplayWindow(t *testing.T) {
	var w replayWindow
	require.False(t, w.accept(0))
	for _, seq := range []uint64{1, 3, 2, 70} {
		require.True(t, w.accept(seq), seq)
		require.False(t, w.accept(seq), seq)
	}
	require.False(t, w.accept(3), "already seen, and out of the window")
	require.False(t, w.accept(6), "64 behind")
	require.True(t, w.accept(7), "63 behind")
	require.True(t, w.accept(70+64))
	require.False(t, w.accept(70))
	require.True(t, w.accept(71))
	require.True(t, w.accept(^uint64(0)))
	require.False(t, w.accept(^uint64(0)))
	require.True(t, w.accept(^uint64(0)-63))
}

func TestAuthHeaderHasOneForm(t *testing.T) {
	good := auth{epoch: randomHex(epochLen), seq: 18446744073709551615, nonce: randomHex(nonceLen), mac: randomHex(macLen)}
	got, err := parseAuth(good.String())
	require.NoError(t, err)
	require.Equal(t, good, got)
	s := auth{epoch: strings.Repeat("a", epochLen), seq: 7, nonce: strings.Repeat("b", nonceLen), mac: strings.Repeat("c", macLen)}.String()
	for _, change := range [][2]string{
		{"v1 ", "v2 "}, {"v1 ", "V1 "}, {"v1 ", ""}, {"s=7", "s=07"}, {"s=7", "s=0"}, {"s=7", "s=-7"}, {"s=7", "s=+7"}, {"s=7", "s=18446744073709551616"},
		{"e=a", "e=A"}, {"e=a", "e="}, {"b=exporter", "b=cert"}, {"b=exporter", "b=none"}, {",m=", ", m="}, {"m=c", "m=cc"}, {"n=b", "n=g"},
	} {
		_, err := parseAuth(strings.Replace(s, change[0], change[1], 1))
		require.ErrorIs(t, err, ErrMalformed, change)
	}
	_, err = parseAuth(s + ",x=1")
	require.ErrorIs(t, err, ErrMalformed)
}

// TestMACCoversEverything changes one thing at a time.
func TestMACCoversEverything(t *testing.T) {
	k := authKeys{request: secret("request"), response: secret("response")}
	a := auth{epoch: "e", seq: 1, nonce: "n"}
	h := http.Header{headerContentRange: {"bytes 0-1/2"}}
	seen := map[string]bool{}
	add := func(mac string) {
		require.Len(t, mac, macLen)
		require.False(t, seen[mac], "two different messages have one MAC")
		seen[mac] = true
	}
	add(k.macRequest(a, "POST", "/soap", h, "d"))
	add(k.macRequest(a, "PUT", "/soap", h, "d"))
	add(k.macRequest(a, "POST", "/soap?", h, "d"))
	add(k.macRequest(a, "POST", "/soap", h, "x"))
	add(k.macRequest(a, "POS", "T/soap", h, "d"))
	add(k.macRequest(auth{epoch: "f", seq: 1, nonce: "n"}, "POST", "/soap", h, "d"))
	add(k.macRequest(auth{epoch: "e", seq: 2, nonce: "n"}, "POST", "/soap", h, "d"))
	add(k.macRequest(auth{epoch: "e", seq: 1, nonce: "m"}, "POST", "/soap", h, "d"))
	for _, name := range boundHeaders {
		add(k.macRequest(a, "POST", "/soap", http.Header{name: {"v"}}, "d"))
		add(k.macRequest(a, "POST", "/soap", http.Header{name: {"v", "v"}}, "d"))
	}
	add(k.macResponse(a, 200, h, "d"))
	add(k.macResponse(a, 400, h, "d"))
	other := authKeys{request: k.response, response: k.request}
	add(other.macRequest(a, "POST", "/soap", h, "d"))
}

func FuzzAuthHeader(f *testing.F) {
	f.Add(auth{epoch: randomHex(epochLen), seq: 9, nonce: randomHex(nonceLen), mac: randomHex(macLen)}.String())
	f.Add("v1 e=,s=1,n=,b=exporter,m=")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAuth(s)
		if err == nil && a.String() != s {
			t.Fatalf("%q is another form of %q", s, a)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes */0", "bytes */9", "bytes 5-2/9", "bytes 0-9223372036854775807/9223372036854775807", "bytes +1-2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err != nil {
			return
		}
		if r.start < 0 || r.start > r.end || r.end > r.size {
			t.Fatalf("%q: %+v", s, r)
		}
		if r.String() != s {
			t.Fatalf("%q is another form of %q", s, r)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=0-")
	f.Fuzz(func(t *testing.T, s string) {
		if off, err := parseRange(s); err == nil && off < 0 {
			t.Fatal(off)
		}
	})
}
