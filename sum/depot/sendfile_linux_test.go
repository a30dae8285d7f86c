package depot_test

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// TestSendfileSyscalls counts what the kernel was asked to send by itself: the
// whole file but the piece that goes out with the head of the answer.
func TestSendfileSyscalls(t *testing.T) {
	strace := realtest.Need(t, "strace")
	const size = 8 << 20
	payload := memoryFile(t, size)
	trace := filepath.Join(t.TempDir(), "trace")
	_, addr, path, stop := startJob(t, job{File: payload}, strace, "-f", "-qq", "-e", "trace=sendfile,write", "-o", trace)
	n, err := fetch(addr, path, nil, io.Discard, make([]byte, 64<<10))
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	stop()
	said, err := os.ReadFile(trace)
	require.NoError(t, err)
	sum := func(call string) (sum int) {
		for _, m := range regexp.MustCompile(call+`(?:\(| resumed>).*\) *= ([0-9]+)`).FindAllSubmatch(said, -1) {
			n, err := strconv.Atoi(string(m[1]))
			require.NoError(t, err)
			sum += n
		}
		return sum
	}
	require.Greater(t, sum("sendfile"), size-4096)
	require.Positive(t, sum("write"), "the trace is good for nothing")
	require.Less(t, sum("write"), 8192, "the head of the answer, and what the process says")
}
