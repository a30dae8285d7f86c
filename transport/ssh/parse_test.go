package ssh

import (
	"io/fs"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseRecords(t *testing.T) {
	recs, err := parseRecords("x 81a4 5 1700000000 a b\nc\x00f d755 4096 1700000000.5000000000 .d\x00" +
		"l -rwsr-xr-T 7 0 suid\x00l crw-rw---- 5, 0 null\x00x a1ff 3 -5 link\x00f f4755 1 1.0 s\x00")
	require.NoError(t, err)
	require.Len(t, recs, 6)
	require.Equal(t, record{mode: 0o644, size: 5, modTime: time.Unix(1700000000, 0), name: "a b\nc"}, recs[0])
	require.Equal(t, record{mode: fs.ModeDir | 0o755, size: 4096, modTime: time.Unix(1700000000, 500_000_000), name: ".d"}, recs[1])
	require.Equal(t, record{mode: fs.ModeSetuid | fs.ModeSticky | 0o754, size: 7, name: "suid"}, recs[2])
	require.Equal(t, record{mode: fs.ModeDevice | fs.ModeCharDevice | 0o660, name: "null"}, recs[3])
	require.Equal(t, fs.ModeSymlink|0o777, recs[4].mode)
	require.Equal(t, fs.ModeSetuid|0o755, recs[5].mode)
}

func TestParseRecordsRefuses(t *testing.T) {
	for _, bad := range []string{
		"x 81a4 5 0 a", "\x00", "x 81a4 5 0 \x00", "x 81a4 5 0 a/b\x00", "y 81a4 5 0 a\x00", "x zz 5 0 a\x00", "x 81a4 -1 0 a\x00",
		"f  5 0 a\x00", "f f9 5 0 a\x00", "l drwx 5 0 a\x00", "l -rwxrwxrwz 5 0 a\x00", "x 81a4 5 then a\x00",
		"x 81a4 99999999999999999999 0 a\x00", "x 81a4 5 99999999999999999 a\x00", "x 81a4 5 0.x a\x00",
	} {
		_, err := parseRecords(bad)
		require.ErrorIs(t, err, errRecord, "%q", bad)
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add("x 81a4 5 1700000000 a b\nc\x00f d755 4096 1700000000.5 .d\x00")
	f.Add("l -rwsr-xr-T 7 0 suid\x00")
	f.Fuzz(func(t *testing.T, s string) {
		recs, err := parseRecords(s)
		if err != nil {
			require.Empty(t, recs)
			return
		}
		require.Len(t, recs, strings.Count(s, "\x00"))
		for _, r := range recs {
			require.GreaterOrEqual(t, r.size, int64(0))
			require.NotEmpty(t, r.name)
			require.NotContains(t, r.name, "/")
		}
	})
}

func TestOSRelease(t *testing.T) {
	m := osRelease("# comment\nPRETTY_NAME=\"Red \\\"Hat\\\" 9\"\nID='rhel'\nBROKEN\nVERSION_ID=9\n")
	require.Equal(t, map[string]string{"PRETTY_NAME": `Red "Hat" 9`, "ID": "rhel", "VERSION_ID": "9"}, m)
}

func TestArch(t *testing.T) {
	for machine, want := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "ppc64le": "ppc64le", "": "", "vax": "vax"} {
		require.Equal(t, want, goarch(machine))
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add("host\x00Linux\x006.1\x00x86_64\x00id\x00\x00\x00\x00\x00PRETTY_NAME=\"x\"\n")
	f.Fuzz(func(t *testing.T, s string) {
		id := identityOf(strings.Split(s, "\x00"))
		require.Equal(t, strings.ToLower(id.OS), id.OS)
	})
}

func TestPathOf(t *testing.T) {
	require.Equal(t, "10.0.0.9", pathOf(nowhere{}, "10.0.0.9 40000 10.0.0.7 22").SeenAs.String())
	p := pathOf(nowhere{}, "::ffff:10.0.0.9 40000 fe80::1%eth0 22")
	require.Equal(t, "10.0.0.9", p.SeenAs.String())
	require.Equal(t, "fe80::1/128", p.CallbackFrom[0].String())
	require.False(t, p.Local.IsValid())
	require.False(t, pathOf(nowhere{}, "UNKNOWN 65535 UNKNOWN 65535").SeenAs.IsValid())
	require.False(t, pathOf(nowhere{}, "").SeenAs.IsValid())
}

// nowhere is a connection without addresses, as a tunnel is.
type nowhere struct{ net.Conn }

func (nowhere) LocalAddr() net.Addr  { return tunnelAddr{} }
func (nowhere) RemoteAddr() net.Addr { return tunnelAddr{} }
