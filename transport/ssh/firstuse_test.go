package ssh_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/roundsman-go/roundsman/transport/ssh/sshtest"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

func seen(t *testing.T, addr string) transport.SeenIdentity {
	key, _ := newKey(t, "")
	return transport.SeenIdentity{Address: addr, Type: key.PublicKey().Type(), Key: key.PublicKey().Marshal(),
		Fingerprint: xssh.FingerprintSHA256(key.PublicKey())}
}

// TestAcceptNew: what was recorded is what the target is held to, with the file
// that was not there before.
func TestAcceptNew(t *testing.T) {
	srv := server(t, sshtest.Config{})
	file := filepath.Join(t.TempDir(), "known_hosts")
	ep := endpointOf(srv)
	ep.Trust = transport.Trust{KnownHosts: []string{file}, FirstUse: ssh.AcceptNew(file)}
	dial(t, ep)
	fi, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, fi.Mode().Perm())

	ep.Trust.FirstUse = nil
	dial(t, ep)
	other := endpointOf(server(t, sshtest.Config{}))
	proxy := newProxy(t, other.Address)
	other.Trust = transport.Trust{KnownHosts: []string{file}, FirstUse: ssh.AcceptNew(file)}
	dial(t, other)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(content), "\n"))

	// Under a name that is recorded somebody else answers.
	writeFile(t, file, string(content)+strings.Replace(strings.SplitAfter(string(content), "\n")[0],
		srv.Addr()[strings.LastIndex(srv.Addr(), ":"):], proxy.ln.Addr().String()[strings.LastIndex(proxy.ln.Addr().String(), ":"):], 1), 0o600)
	other.Address = proxy.ln.Addr().String()
	_, err = (&ssh.Transport{}).Dial(t.Context(), other)
	require.ErrorIs(t, err, transport.ErrTrust)
}

// TestAcceptNewTogether: of several who are seen for the first time under one name
// one is recorded, and only that one is accepted.
func TestAcceptNewTogether(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), strings.Repeat("# reading this takes a while\n", 20_000)+"# a line without an end", 0o644)
	first, second := seen(t, "[fe80::1%eth0]:2222"), seen(t, "[FE80:0::1%eth0]:2222")
	accept := ssh.AcceptNew(file)
	var accepted [2]atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		who := i % 2
		wg.Go(func() {
			if i%4 < 2 {
				accept := ssh.AcceptNew(file) // as of another process
				if accept(t.Context(), []transport.SeenIdentity{first, second}[who]) == nil {
					accepted[who].Add(1)
				}
			} else if accept(t.Context(), []transport.SeenIdentity{first, second}[who]) == nil {
				accepted[who].Add(1)
			}
		})
		wg.Go(func() { _ = accept(t.Context(), seen(t, fmt.Sprintf("other%d:22", i))) })
	}
	wg.Wait()
	require.ElementsMatch(t, []int32{0, 10}, []int32{accepted[0].Load(), accepted[1].Load()})
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(content), "[fe80::1%eth0]:2222 "))
	require.Equal(t, 20_000+1+1+20, strings.Count(string(content), "\n"))
	require.Contains(t, string(content), "\n# a line without an end\n")

	require.NoError(t, accept(t.Context(), seen(t, "fe80::1%eth0")), "another port is another host")
	writeFile(t, file, "rubbish\n", 0o600)
	require.Error(t, accept(t.Context(), seen(t, "new:22")))
	require.Error(t, ssh.AcceptNew(file+"/none")(t.Context(), seen(t, "new:22")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, accept(ctx, seen(t, "new:22")))
}
