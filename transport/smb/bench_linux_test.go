package smb_test

import (
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// The benchmarks move one file to and from smbd on loopback, by turns with smbclient and
// with this package, and report medians as ratios. Both ends, and the proxy of the lab in
// front of smbd, share the processors of this machine. smbclient's time includes its
// start; a Put's includes reading all back.
//
//	go test ./transport/smb -run '^$' -bench . -benchtime 5x

const benchSize = 256 << 20

func benchFile(b *testing.B, size int64) (transport.File, string) {
	dir, err := os.MkdirTemp("/dev/shm", "smbbench")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	name := filepath.Join(dir, "source")
	out, err := os.Create(name)
	require.NoError(b, err)
	_, err = io.CopyN(out, rand.Reader, size)
	require.NoError(b, err)
	require.NoError(b, out.Close())
	file, err := transport.DiskFile(b.Context(), "file", name)
	require.NoError(b, err)
	return file, name
}

func BenchmarkThroughput(b *testing.B) {
	for _, mode := range []struct {
		name, protection string
		cfg              smbtest.Config
	}{
		{"plain", "off", smbtest.Config{Signing: "optional"}},
		{"signed", "sign", smbtest.Config{}},
		{"encrypted", "encrypt", smbtest.Config{Encryption: true}},
	} {
		b.Run(mode.name, func(b *testing.B) {
			smbclient := realtest.Need(b, "smbclient")
			srv := serve(b, mode.cfg)
			file, source := benchFile(b, benchSize)
			host, port, err := net.SplitHostPort(srv.Addr())
			require.NoError(b, err)
			peer := func(command string) time.Duration {
				begin := time.Now()
				out, err := exec.CommandContext(b.Context(), smbclient, "//"+host+"/ADMIN$", "-p", port, "-m", "SMB3_11", "--client-protection="+mode.protection,
					"-U", srv.Domain()+`\`+srv.User()+"%"+srv.Password(), "-c", command).CombinedOutput()
				require.NoError(b, err, "%s", out)
				return time.Since(begin)
			}
			ours := func(f func(conn transport.Conn) error) time.Duration {
				begin := time.Now()
				conn, err := (&smb.Transport{}).Dial(b.Context(), endpoint(srv))
				require.NoError(b, err)
				require.NoError(b, f(conn))
				require.NoError(b, conn.Close(b.Context()))
				return time.Since(begin)
			}
			var put, sent, get, peerPut, peerGet []time.Duration
			b.SetBytes(benchSize)
			for b.Loop() {
				begin, arrived := time.Now(), time.Duration(0)
				put = append(put, ours(func(conn transport.Conn) error {
					_, err := transport.Put(b.Context(), conn, "ours", file, transport.PutOptions{Progress: func(n int64) {
						if n == file.Size && arrived == 0 {
							arrived = time.Since(begin)
						}
					}})
					return err
				}))
				sent = append(sent, arrived)
				get = append(get, ours(func(conn transport.Conn) error {
					out, err := os.Create(source + ".back")
					require.NoError(b, err)
					defer out.Close()
					_, err = transport.Get(b.Context(), conn, "ours", out, transport.GetOptions{})
					return err
				}))
				b.StopTimer()
				peerPut = append(peerPut, peer("put "+source+" theirs"))
				peerGet = append(peerGet, peer("get theirs "+source+".peer"))
				require.NoError(b, os.Remove(filepath.Join(srv.Admin(), "ours")))
				b.StartTimer()
			}
			b.ReportMetric(median(peerPut)/median(put), "put-speedup-vs-smbclient")
			b.ReportMetric(median(peerPut)/median(sent), "sent-speedup-vs-smbclient")
			b.ReportMetric(median(peerGet)/median(get), "get-speedup-vs-smbclient")
		})
	}
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2])
}

// BenchmarkPeakHeap moves 1 GiB there and back and reports the largest heap that was
// seen, which must stay under 32 MiB.
func BenchmarkPeakHeap(b *testing.B) {
	srv := serve(b, smbtest.Config{})
	file, _ := benchFile(b, 1<<30)
	conn := dial(b, endpoint(srv))
	var peak uint64
	for b.Loop() {
		heap := watchHeap()
		_, err := transport.Put(b.Context(), conn, "big", file, transport.PutOptions{})
		require.NoError(b, err)
		n, err := transport.Get(b.Context(), conn, "big", io.Discard, transport.GetOptions{})
		require.NoError(b, err)
		require.Equal(b, file.Size, n)
		require.NoError(b, transport.Remove(b.Context(), conn, "big"))
		peak = max(peak, heap())
	}
	b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
	require.Less(b, peak, uint64(maxHeap))
}
