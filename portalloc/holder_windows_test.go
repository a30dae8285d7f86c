package portalloc

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// programName is the name of this program, and of the helpers.
func programName(t *testing.T) string {
	self, err := os.Executable()
	require.NoError(t, err)
	return filepath.Base(self)
}

// tellsOwners: Wine shows the sockets of others without their process.
func tellsOwners() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() != nil
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func TestParseTables(t *testing.T) {
	wanted := map[uint16][]Holder{80: nil, 63001: nil}
	// State, local address and port, remote address and port, process.
	table := unhex(t, "03000000"+
		"02000000 00000000 00500000 00000000 00000000 2c030000"+
		"02000000 00000000 00510000 00000000 00000000 2d030000"+
		"0b000000 0100007f f6190000 0100007f c0010000 00000000")
	want := []socket{{port: 80, state: "LISTEN", uid: -1, owner: 812}, {port: 63001, state: "TIME-WAIT", uid: -1}}
	require.Equal(t, want, row4.parse(table, wanted))
	require.Equal(t, want[:1], row4.parse(table[:len(table)-1], wanted), "a row that is cut off")
	table[0] = 1
	require.Equal(t, want[:1], row4.parse(table, wanted), "the number of rows counts")
	require.Empty(t, row4.parse(table[:3], wanted))

	// Local address, scope and port, remote address, scope and port, state, process.
	zero := strings.Repeat("00", 16)
	table = unhex(t, "01000000"+zero+"00000000 f6190000"+zero+"00000000 00000000 63000000 04000000")
	require.Equal(t, []socket{{port: 63001, state: "UNKNOWN", uid: -1, owner: 4}}, row6.parse(table, wanted))
	require.Equal(t, "System", program(4))
}

func FuzzParseTables(f *testing.F) {
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		wanted := map[uint16][]Holder{0: nil}
		require.LessOrEqual(t, len(row4.parse(b, wanted)), len(b)/row4.size)
		require.LessOrEqual(t, len(row6.parse(b, wanted)), len(b)/row6.size)
	})
}
