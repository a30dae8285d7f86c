package agentless

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
)

// TestCheckDirectories: what the script says of base directories, in the shells that
// targets have.
func TestCheckDirectories(t *testing.T) {
	shells := [][]string{{realtest.Need(t, "dash")}, {realtest.Need(t, "bash")}, {realtest.Need(t, "busybox"), "sh"}}
	for _, shell := range shells {
		t.Run(filepath.Base(shell[0]), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
			require.NoError(t, os.Symlink("nowhere", dir+"/link"))
			bases := []string{dir + "/not/there", "relative", dir + "/file/base", dir + "/link/base"}
			out, err := exec.Command(shell[0], append(shell[1:], append([]string{"-c", checkScript, "sh", "none"}, bases...)...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			require.Len(t, lines, len(bases), "%s", out)
			require.Regexp(t, `^dir [0-9]+ ok$`, lines[0])
			require.Equal(t, "dir ? it is no absolute path", lines[1])
			require.Regexp(t, `^dir [0-9]+ `+dir+`/file is not a directory$`, lines[2])
			require.Regexp(t, `^dir .* `+dir+`/link is not a directory$`, lines[3])
		})
	}
}

// TestCheckReadOnly: a file system that is mounted read-only is not a matter of rights,
// whatever root's shell says of those.
func TestCheckReadOnly(t *testing.T) {
	realtest.NeedRoot(t)
	unshare := realtest.Need(t, "unshare")
	for _, shell := range [][]string{{realtest.Need(t, "dash")}, {realtest.Need(t, "bash")}, {realtest.Need(t, "busybox"), "sh"}} {
		t.Run(filepath.Base(shell[0]), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.MkdirAll(dir+"/ro/there", 0o700))
			bases := []string{dir + "/ro/there/not", dir + "/ro", dir + "/rw"}
			const mount = `mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@"`
			argv := append([]string{"--mount", "sh", "-ec", mount, "sh", dir + "/ro"}, shell...)
			out, err := exec.Command(unshare, append(append(argv, "-c", checkScript, "sh", "none"), bases...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			facts := agent.Facts{Free: -1}
			require.NoError(t, parseFacts(&facts, out, bases))
			require.Len(t, facts.Unfit, 2, "%s", out)
			for i, err := range facts.Unfit {
				require.ErrorIs(t, err, syscall.EROFS)
				require.EqualError(t, err, bases[i]+": read-only file system mounted at \""+dir+"/ro\"")
			}
			require.Equal(t, dir+"/rw", facts.Dir)
		})
	}
}

// TestCheckFree: how much is free, in whatever way df says so.
func TestCheckFree(t *testing.T) {
	const head = "Filesystem           1024-blocks    Used Available Capacity Mounted on\n"
	long := "/dev/mapper/" + strings.Repeat("vg-lv", 30)
	for name, x := range map[string]struct{ said, free string }{
		"usual":              {head + "/dev/sda1   123456  3456    120000      3% /var\n", "120000"},
		"full":               {head + "/dev/sda1   123456  123456    0      100% /var\n", "0"},
		"long name":          {head + long + " 123456  3456    120000      3% /var\n", "120000"},
		"long name, wrapped": {head + long + "\n                     123456  3456    120000      3% /var\n", "120000"},
		"spaces":             {head + "//nas/1 2 share   123456  3456    120000      3% /mnt/1 2\n", "120000"},
		"no disk":            {head + "proc  0  0  0  - /proc\n", "?"},
		"no disk, busybox":   {head + "proc  0  0  0  0% /proc\n", "?"},
		"nothing":            {"", "?"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			require.NoError(t, os.WriteFile(bin+"/said", []byte(x.said), 0o600))
			require.NoError(t, os.WriteFile(bin+"/df", []byte("#!/bin/sh\nexec cat "+bin+"/said\n"), 0o700))
			for _, sed := range [][]string{{realtest.Need(t, "sed")}, {realtest.Need(t, "busybox"), "sed"}} {
				require.NoError(t, os.WriteFile(bin+"/sed", []byte("#!/bin/sh\nexec "+strings.Join(sed, " ")+" \"$@\"\n"), 0o700))
				cmd := exec.Command("sh", "-c", checkScript, "sh", "none", bin)
				cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Equal(t, "dir "+x.free+" ok\n", string(out))
			}
		})
	}
	t.Run("busybox", func(t *testing.T) {
		bin := t.TempDir()
		require.NoError(t, os.Symlink(realtest.Need(t, "busybox"), bin+"/df"))
		cmd := exec.Command("sh", "-c", checkScript, "sh", "none", bin)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Regexp(t, `^dir [0-9]+ ok\n$`, string(out))
	})
}
