//go:build unix

package ssh_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
)

// TestGetFromATargetThatFloods: the limit holds whatever runs as head there.
func TestGetFromATargetThatFloods(t *testing.T) {
	bin := t.TempDir()
	writeFile(t, bin+"/head", "#!/bin/sh\nexec dd if=/dev/zero bs=1048576 count=32 2>/dev/null\n", 0o755)
	conn := dial(t, endpointOf(server(t, sshtest.Config{Env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}})))
	f := writeFile(t, t.TempDir()+"/f", "0123456789abcdef", 0o644)
	var buf bytes.Buffer
	n, err := transport.Get(t.Context(), conn, f, &buf, transport.GetOptions{Limit: 10})
	require.ErrorIs(t, err, transport.ErrProtocol)
	require.EqualValues(t, 10, n)
	require.Equal(t, 10, buf.Len())
}
