package sum

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzFileName: whatever a target is called, or calls its files, becomes one
// element of a path that stays in its directory on every system.
func FuzzFileName(f *testing.F) {
	for _, s := range []string{
		"", ".", "..", "...", "/", "../..", "a/../b", `..\..\x`, `C:\Windows`, "c:", "a\x00b", "-rf", "~", "~root", "a\nb", ".ssh",
		"linux://root@[fe80::1%25eth0]:22/bay 1", "サーバー", "\xff\xfe", "a%2F..", "CON", "agent.log", "NUL.txt:x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := fileName(s)
		require.NotContains(t, []string{"", ".", ".."}, name)
		require.Equal(t, filepath.Base(name), name)
		require.Equal(t, filepath.Join("dir", name), "dir"+string(filepath.Separator)+name)
		require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@%"))
		require.NotEqual(t, byte('.'), name[0], "it would be hidden")
	})
}

func TestFileName(t *testing.T) {
	for in, want := range map[string]string{
		"db1":                    "db1",
		"linux://root@db1:2222":  "linux%3A%2F%2Froot@db1%3A2222",
		"":                       "%",
		"..":                     "%2E%2E",
		"../../etc/passwd":       "%2E.%2F..%2Fetc%2Fpasswd",
		`\\host\share`:           "%5C%5Chost%5Cshare",
		"東京":                     "%E6%9D%B1%E4%BA%AC",
		"agent.log":              "agent.log",
		"0123456789abcdef.jsonl": "0123456789abcdef.jsonl",
	} {
		require.Equal(t, want, fileName(in))
	}
}
