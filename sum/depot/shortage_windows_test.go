package depot_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/depot"
)

// TestShortagesOfWindows has the numbers that Winsock gives, from winsock2.h, and
// those of CreateFile, from winerror.h.
func TestShortagesOfWindows(t *testing.T) {
	for _, number := range []syscall.Errno{10024, 10055, 4, 8} {
		found := false
		for _, s := range depot.Shortages() {
			found = found || s == os.NewSyscallError("accept", number).(*os.SyscallError).Err
		}
		require.True(t, found, "%d", number)
	}
}
